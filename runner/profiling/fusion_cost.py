"""Parameters, FLOPs, latency and memory of the fusion modules of BDAM.

Parameters and FLOPs are counted; latency and memory are measured on batches of 32 random images and
the identity descriptions of 32 synthetic people, with untrained weights.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from models.heads.fusion import Fused, Fusion, Modality
from models.heads.mamba import MambaStack
from models.learners.bdam import Method
from runner.config.run_config import RunConfig, override_values
from runner.profiling.interleave import interleaved
from runner.training.collectives import LocalGroup
from runner.training.evaluation import evaluating
from runner.training.precision import autocast
from runner.training.worker import build_learner
from tasks.synthetic.captions import write_captions
from tasks.synthetic.domains import training_domains
from tasks.synthetic.people import sample_person

BATCH = 32


CALLS_PER_REPEAT = 5


SCAN_OPERATIONS = 9
"""Of one state in one position: exp(dt A), dt B x, h = exp(dt A) h + dt B x, and its part of C h.

The count that papers on such scans use (9 L D N); FlopCounterMode does not see them.
"""


@dataclass(frozen=True)
class FusionCost:
    """What one kind of fusion costs.

    Attributes:
        num_parameters: of the fusion.
        flops: of the fusion for one image, multiplications and additions.
        image_flops: of all that embeds the image with its description, towers included.
        fusion_ms: of the fusion, per image of a batch, one value for each repeat.
        image_ms: the same of all that embeds the image.
        memory_bytes: most that is allocated at once while a batch is embedded, parameters and
            inputs not counted.
    """

    num_parameters: int
    flops: float
    image_flops: float
    fusion_ms: tuple[float, ...]
    image_ms: tuple[float, ...]
    memory_bytes: int


def measure_costs(configs: Mapping[str, RunConfig], repeats: int) -> dict[str, FusionCost]:
    """The costs of several configurations of BDAM, measured one after the other in turns.

    A GPU is used where there is one, else one thread. FLOPs are counted on the CPU, of
    transformers' Mamba block, so they are the same everywhere.

    Args:
        configs: each with learner bdam, by name.
        repeats: turns; each value of a time is the median of five batches in a row.

    Raises:
        ValueError: one is of another learner.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a table's runs have it
    try:
        return _measured(configs, repeats)
    finally:
        torch.set_num_threads(threads)


def _measured(configs: Mapping[str, RunConfig], repeats: int) -> dict[str, FusionCost]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    subjects = {name: _Subject(config, device) for name, config in configs.items()}
    for subject in subjects.values():
        subject.embed_batch()  # warms up
    whole = interleaved({name: each.time_image for name, each in subjects.items()}, repeats)
    alone = interleaved({name: each.time_fusion for name, each in subjects.items()}, repeats)
    return {
        name: FusionCost(
            subject.num_parameters,
            *subject.flops(),
            fusion_ms=tuple(alone[name]),
            image_ms=tuple(whole[name]),
            memory_bytes=subject.peak_bytes(),
        )
        for name, subject in subjects.items()
    }


class _Subject:
    """One learner with a batch to embed."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.learner = _bdam(config).to(device)
        size = config.backbone.image_height, config.backbone.image_width
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, 3, *size, generator=generator).to(device)
        self.texts = descriptions(BATCH)

    @property
    def num_parameters(self) -> int:
        """Numbers in the fusion; 0 where none is trained."""
        fusion = self.learner.network.fusion
        return sum(each.numel() for each in fusion.parameters()) if fusion else 0

    def embed_batch(self) -> Tensor:
        """The batch embedded as `evaluate` embeds it."""
        half = autocast(self.config.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), half:
            return self.learner.embed_gallery(self.images, self.texts)

    def time_image(self) -> float:
        """Milliseconds of an image of the batch."""
        return self._timed(self.embed_batch)

    def time_fusion(self) -> float:
        """Milliseconds of an image of the batch in the fusion alone."""
        fusion = self.learner.network.fusion
        if fusion is None:
            return 0.0
        given = _inputs_of(fusion, self.embed_batch)
        half = autocast(self.config.precision, self.device)
        with torch.no_grad(), evaluating(fusion), half:
            return self._timed(lambda: fusion(*given))

    def peak_bytes(self) -> int:
        """Most that is allocated at once, beyond what is there before.

        On a GPU by torch's own statistics; on the CPU of all tensors that operations return, which
        leaves out what an operation needs while it runs.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.embed_batch()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        with HeldBytes() as held:
            self.embed_batch()
        return held.peak

    def flops(self) -> tuple[float, float]:
        """Of one image in the fusion, and in all that embeds it."""
        learner = _bdam(_with_plain_blocks(self.config)).eval()
        images = self.images.cpu()

        def embed() -> Tensor:
            return learner.embed_gallery(images, self.texts)

        with _countable():
            whole, fusion = _counted(embed), learner.network.fusion
            if fusion is None:
                return 0.0, whole / BATCH
            given = _inputs_of(fusion, embed)
            return fusion_flops(fusion, given) / BATCH, (
                whole + _flops_of_blocks(fusion, given)
            ) / BATCH

    def _timed(self, call: Callable[[], Tensor | Fused]) -> float:
        """Milliseconds per image, the median of some calls in a row."""
        found: list[float] = []
        for _ in range(CALLS_PER_REPEAT):
            self._wait()
            began = time.perf_counter()
            call()
            self._wait()
            found.append(1e3 * (time.perf_counter() - began) / BATCH)
        return median(found)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class HeldBytes(TorchDispatchMode):
    """Bytes of the tensors that operations returned and that are still there.

    Attributes:
        held: now.
        peak: at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, and counts the storage of what it returns until that is freed."""
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        num_bytes = storage.nbytes()
        self._known[storage] = num_bytes
        self.held += num_bytes
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._freed, num_bytes)

    def _freed(self, num_bytes: int) -> None:
        self.held -= num_bytes


def fusion_flops(fusion: Fusion, given: tuple[Modality, Modality | None]) -> int:
    """Of one call of the fusion, with transformers' Mamba block if it has one."""
    with _countable():
        return _counted(lambda: fusion(*given)) + _flops_of_blocks(fusion, given)


def descriptions(count: int) -> list[str]:
    """Identity descriptions of drawn people, the same at every call."""
    rng = np.random.default_rng(0)
    wardrobe = training_domains()[0].wardrobe
    return [write_captions(sample_person(wardrobe, rng), rng).identity for _ in range(count)]


def _bdam(config: RunConfig) -> Method:
    learner = build_learner(config, LocalGroup())
    if not isinstance(learner, Method):
        raise ValueError(f"the cost of a fusion is that of learner bdam; got {config.learner.name}")
    return learner


def _with_plain_blocks(config: RunConfig) -> RunConfig:
    return override_values(
        config.model_dump(mode="json"), ["learner.fusion.mamba_block=transformers"]
    )


def _inputs_of(fusion: Fusion, embed: Callable[[], Tensor]) -> tuple[Modality, Modality | None]:
    """What the fusion is given while a batch is embedded."""
    seen: list[tuple[Modality, Modality | None]] = []
    handle = fusion.register_forward_pre_hook(lambda _, given: seen.append(given))
    try:
        embed()
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def _countable() -> Iterator[None]:
    """Attention and transformer layers made of operations that FlopCounterMode knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _counted(call: Callable[[], Tensor | Fused]) -> int:
    """Matrix products, attention and convolutions of a call, those in Mamba blocks left out."""
    with FlopCounterMode(display=False) as counter:
        call()
    inside = sum(
        sum(operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name.endswith(".block")
    )
    return counter.get_total_flops() - inside


def _flops_of_blocks(fusion: Fusion, given: tuple[Modality, Modality | None]) -> int:
    """Of all Mamba blocks: 2 for each weight of projections and convolution, 9 for each state.

    In each position of the sequence and for each image.
    """
    if not isinstance(fusion.mixer, MambaStack):
        return 0
    num_positions: list[int] = []
    handle = fusion.mixer.register_forward_pre_hook(
        lambda _, tokens: num_positions.append(tokens[0].shape[0] * tokens[0].shape[1])
    )
    try:
        fusion(*given)
    finally:
        handle.remove()
    each = 0
    for name, parameter in fusion.mixer.named_parameters():
        if name.endswith(("_proj.weight", "conv1d.weight")):
            each += 2 * parameter.numel()
        elif name.endswith("A_log"):
            each += SCAN_OPERATIONS * parameter.numel()
    return num_positions[0] * each
