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
from runner.config.run_config import RunConfig
from runner.profiling.interleave import interleaved
from runner.training.collectives import LocalGroup
from runner.training.device import compute_device
from runner.training.evaluation import evaluating
from runner.training.precision import autocast
from runner.training.worker import build_learner
from tasks.synthetic.captions import write_captions
from tasks.synthetic.domains import training_domains
from tasks.synthetic.people import sample_person

BATCH = 32
CALLS_PER_REPEAT = 5

SCAN_OPERATIONS = 9
"""FLOPs of Mamba's scan per state and position: exp(dt A), dt B x, h = exp(dt A) h + dt B x, C h.

Papers on such scans use the same count (9 L D N). FlopCounterMode does not count them.
"""


@dataclass(frozen=True)
class FusionCost:
    """Cost of one fusion module.

    Attributes:
        num_parameters: parameters of the fusion module.
        flops: FLOPs (multiplications and additions) of the fusion module per image.
        image_flops: FLOPs per image of the whole embedding with its description, including towers.
        fusion_ms: time of the fusion module per image of a batch, one value per repeat.
        image_ms: time of the whole embedding per image of a batch, one value per repeat.
        memory_bytes: peak memory allocated while embedding a batch, without parameters and inputs.
    """

    num_parameters: int
    flops: float
    image_flops: float
    fusion_ms: tuple[float, ...]
    image_ms: tuple[float, ...]
    memory_bytes: int


def measure_costs(configs: Mapping[str, RunConfig], repeats: int) -> dict[str, FusionCost]:
    """Measures the costs of several configurations of BDAM, in turn.

    Times are measured on a GPU if `cluster.use_gpu` asks for one, otherwise with one CPU thread.
    FLOPs are counted on the CPU, where Mamba is a loop, so they do not depend on the machine.

    Args:
        configs: configurations with learner bdam, by name.
        repeats: number of repeats; each time is the median of five consecutive batches.

    Raises:
        ValueError: a configuration has another learner, or asks for a GPU where there is none.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like the runs of an ablation table
    try:
        return _measure_costs(configs, repeats)
    finally:
        torch.set_num_threads(threads)


def _measure_costs(configs: Mapping[str, RunConfig], repeats: int) -> dict[str, FusionCost]:
    learners = {
        name: _ProfiledLearner(config, compute_device(config.cluster.use_gpu))
        for name, config in configs.items()
    }
    for learner in learners.values():
        learner.embed_batch()  # warm-up
    image_ms = interleaved({name: each.time_image for name, each in learners.items()}, repeats)
    fusion_ms = interleaved({name: each.time_fusion for name, each in learners.items()}, repeats)
    return {
        name: FusionCost(
            learner.num_parameters,
            *learner.flops(),
            fusion_ms=tuple(fusion_ms[name]),
            image_ms=tuple(image_ms[name]),
            memory_bytes=learner.peak_bytes(),
        )
        for name, learner in learners.items()
    }


class _ProfiledLearner:
    """A BDAM learner with a batch of images and descriptions."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.learner = _build_bdam(config).to(device)
        size = config.backbone.image_height, config.backbone.image_width
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, 3, *size, generator=generator).to(device)
        self.texts = generate_descriptions(BATCH)

    @property
    def num_parameters(self) -> int:
        """Parameters of the fusion module; 0 without a fusion module."""
        fusion = self.learner.network.fusion
        return sum(each.numel() for each in fusion.parameters()) if fusion else 0

    def embed_batch(self) -> Tensor:
        """Embeds the batch like an evaluation does."""
        precision = autocast(self.config.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), precision:
            return self.learner.embed_gallery(self.images, self.texts)

    def time_image(self) -> float:
        """Times the whole embedding: milliseconds per image."""
        return self._time(self.embed_batch)

    def time_fusion(self) -> float:
        """Times the fusion module only: milliseconds per image."""
        fusion = self.learner.network.fusion
        if fusion is None:
            return 0.0
        inputs = _inputs_of(fusion, self.embed_batch)
        precision = autocast(self.config.precision, self.device)
        with torch.no_grad(), evaluating(fusion), precision:
            return self._time(lambda: fusion(*inputs))

    def peak_bytes(self) -> int:
        """Measures the peak memory allocated while embedding the batch, in bytes.

        On a GPU, torch's statistics are used. On the CPU, only tensors returned by operations are
        counted, not the temporary memory within an operation.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.embed_batch()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        with TensorMemory() as memory:
            self.embed_batch()
        return memory.peak_bytes

    def flops(self) -> tuple[float, float]:
        """Counts the FLOPs per image of the fusion module and of the whole embedding."""
        learner = _build_bdam(self.config).eval()
        images = self.images.cpu()

        def embed() -> Tensor:
            return learner.embed_gallery(images, self.texts)

        with _countable_operations():
            total, fusion = _count_flops(embed), learner.network.fusion
            if fusion is None:
                return 0.0, total / BATCH
            inputs = _inputs_of(fusion, embed)
            total += _mamba_flops(fusion, inputs)
            return fusion_flops(fusion, inputs) / BATCH, total / BATCH

    def _time(self, call: Callable[[], Tensor | Fused]) -> float:
        """Times consecutive calls; returns the median in milliseconds per image."""
        times_ms: list[float] = []
        for _ in range(CALLS_PER_REPEAT):
            self._synchronize()
            start_s = time.perf_counter()
            call()
            self._synchronize()
            times_ms.append(1e3 * (time.perf_counter() - start_s) / BATCH)
        return median(times_ms)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class TensorMemory(TorchDispatchMode):
    """Tracks the memory of all live tensors that were returned by operations.

    Attributes:
        current_bytes: current memory in bytes.
        peak_bytes: peak memory in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation and counts the storage of its results until it is freed."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        num_bytes = storage.nbytes()
        self._known[storage] = num_bytes
        self.current_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        weakref.finalize(storage, self._release, num_bytes)

    def _release(self, num_bytes: int) -> None:
        self.current_bytes -= num_bytes


def fusion_flops(fusion: Fusion, inputs: tuple[Modality, Modality | None]) -> int:
    """Counts the FLOPs of one call of a fusion module on the CPU."""
    with _countable_operations():
        return _count_flops(lambda: fusion(*inputs)) + _mamba_flops(fusion, inputs)


def generate_descriptions(count: int) -> list[str]:
    """Generates identity descriptions of synthetic people; each call returns the same texts."""
    rng = np.random.default_rng(0)
    wardrobe = training_domains()[0].wardrobe
    return [write_captions(sample_person(wardrobe, rng), rng).identity for _ in range(count)]


def _build_bdam(config: RunConfig) -> Method:
    learner = build_learner(config, LocalGroup())
    if not isinstance(learner, Method):
        raise ValueError(
            f"learner.name: expected bdam, got {config.learner.name}; only bdam has fusion modules"
        )
    return learner


def _inputs_of(fusion: Fusion, embed: Callable[[], Tensor]) -> tuple[Modality, Modality | None]:
    """Records the inputs of the fusion module while a batch is embedded."""
    recorded: list[tuple[Modality, Modality | None]] = []
    handle = fusion.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs))
    try:
        embed()
    finally:
        handle.remove()
    return recorded[0]


@contextmanager
def _countable_operations() -> Iterator[None]:
    """Disables fused attention and transformer kernels, which FlopCounterMode does not count."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _count_flops(call: Callable[[], Tensor | Fused]) -> int:
    """Counts matrix products, attention and convolutions of a call, except in Mamba blocks."""
    with FlopCounterMode(display=False) as counter:
        call()
    mamba_flops = sum(
        sum(operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name.endswith(".block")
    )
    return counter.get_total_flops() - mamba_flops


def _mamba_flops(fusion: Fusion, inputs: tuple[Modality, Modality | None]) -> int:
    """Counts the FLOPs of all Mamba blocks.

    Per image and position: 2 for each weight of projections and convolution, 9 for each state.
    """
    if not isinstance(fusion.mixer, MambaStack):
        return 0
    num_positions: list[int] = []
    handle = fusion.mixer.register_forward_pre_hook(
        lambda _, tokens: num_positions.append(tokens[0].shape[0] * tokens[0].shape[1])
    )
    try:
        fusion(*inputs)
    finally:
        handle.remove()
    per_position = 0
    for name, parameter in fusion.mixer.named_parameters():
        if name.endswith(("_proj.weight", "conv1d.weight")):
            per_position += 2 * parameter.numel()
        elif name.endswith("A_log"):
            per_position += SCAN_OPERATIONS * parameter.numel()
    return num_positions[0] * per_position
