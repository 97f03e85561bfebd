"""Speed and memory on one GPU: `python -m runner.bench --gpu`. Imports neither Ray nor MLflow.

Each row states what it measures. Times are those of CUDA events around several calls, after
warm-up, so the CPU does not wait for the GPU within them. Peak memory is torch's, of tensors.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbones import clip
from models.backbones.config import BackboneConfig
from models.backbones.tower import ImageTextBackbone
from models.backbones.vit_bert import assemble
from models.backbones.vit_bert_weights import TOKENIZER_FILE, random_towers, read_tokenizer
from models.learners.vladr import IMAGE_STAGE
from runner.bench.measurements import BenchResult, Measurement
from runner.bench.ranking import SCALES, Scale, random_split
from runner.bench.training_step import described_domain, learner_in_second_domain, random_batch
from runner.config.sections import Precision
from runner.training.optim import build_optimizer, set_learning_rate, set_trainable
from runner.training.precision import autocast, float32_products
from tasks.loading.kernels import DeviceKernels, send
from tasks.loading.transforms import (
    TransformConfig,
    draw_view,
    normalise,
    normalise_pixels,
    view_pixels,
)
from tasks.retrieval.ranking import evaluate_ranking

IMAGES_PER_PERSON = 4
NUM_WARMUP = 3


@dataclass(frozen=True)
class GpuSizes:
    """Amount of work of each row.

    Attributes:
        image_height: height of the images in pixels; the width is half of it.
        num_persons: persons in a training batch, with four images each.
        num_steps: training steps of one timing.
        num_layers: layers of each tower (ViT-B/16 has 12).
        width: width of each tower, a multiple of 64 (ViT-B/16 has 768).
        num_views: images of one timing of the views.
        ranking: size of the test split.
    """

    image_height: int = 256
    num_persons: int = 16
    num_steps: int = 20
    num_layers: int = 12
    width: int = 768
    num_views: int = 64
    ranking: Scale = SCALES[1]

    @staticmethod
    def quick() -> GpuSizes:
        """Minimal sizes to check that the rows work; the measurements are meaningless."""
        return GpuSizes(64, 2, 1, 1, 64, 8, SCALES[1].divided(200))


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of the row, and prefix of its measurements.
        description: what is measured.
        measure: measures on a device, `repeats` times.
    """

    name: str
    description: str
    measure: Callable[[torch.device, GpuSizes, int], Sequence[Measurement]]


def measure_rows(
    rows: Sequence[Row],
    device: torch.device,
    sizes: GpuSizes,
    repeats: int,
    budget_s: float,
    report: Callable[[str], None],
) -> Iterator[BenchResult]:
    """Measures the rows one after another, and skips those that begin after `budget_s` seconds."""
    start_s = time.perf_counter()
    for row in rows:
        elapsed_s = time.perf_counter() - start_s
        if elapsed_s > budget_s:
            report(f"{row.name}: skipped, {elapsed_s:.0f} s of {budget_s:.0f} s are used")
            continue
        gc.collect()
        yield BenchResult(tuple(row.measure(device, sizes, repeats)))
        report(f"{row.name}: {time.perf_counter() - start_s - elapsed_s:.0f} s")


def step_row(
    precision: Precision, compiled: bool
) -> Callable[[torch.device, GpuSizes, int], list[Measurement]]:
    """Measurement of VLADR's image step: forward and backward passes of two views, and Adam."""
    name = step_name(precision, compiled)

    def measure(device: torch.device, sizes: GpuSizes, repeats: int) -> list[Measurement]:
        with float32_products(precision, device), _released_compiler(compiled):
            step = _build_step(device, sizes, precision, compiled)
            num_images = sizes.num_persons * IMAGES_PER_PERSON
            return _speed_and_memory(name, step, num_images, sizes.num_steps, device, repeats)

    return measure


def step_name(precision: Precision, compiled: bool) -> str:
    """Returns the name of a row of the step."""
    return f"gpu.step.{precision}{'.compiled' if compiled else ''}"


@contextmanager
def _released_compiler(compiled: bool) -> Iterator[None]:
    yield
    if compiled:
        torch.compiler.reset()


def _build_step(
    device: torch.device, sizes: GpuSizes, precision: Precision, compiled: bool
) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    first = described_domain(0, 1, sizes.num_persons)
    second = described_domain(1, IMAGES_PER_PERSON, sizes.num_persons)
    backbone = build_vit_b16(sizes)
    learner = learner_in_second_domain(backbone, sizes.image_height, first, second, generator)
    learner.to(device).train()
    (stage,) = [stage for stage in learner.stages() if stage.name == IMAGE_STAGE]
    set_trainable(learner, stage.trainable)
    optimizer = build_optimizer(learner, stage.optimizer)
    set_learning_rate(optimizer, stage.optimizer.lr)
    if compiled:
        learner.network.image.compile()
    batch = random_batch(second, sizes.image_height, generator).to(device)

    def step() -> None:
        with autocast(precision, device):
            loss = learner(batch, stage.name).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def has_open_clip() -> bool:
    """Whether open_clip can be imported."""
    try:
        importlib.import_module("open_clip")
    except ImportError:
        return False
    return True


def backbone_of_step() -> str:
    """Describes the backbone of the step: open_clip's if installed, else that of transformers."""
    if has_open_clip():
        return "CLIP ViT-B/16 of open_clip"
    return "ViT-B/16 and BERT-base of transformers, because open_clip is not installed"


def build_vit_b16(sizes: GpuSizes) -> ImageTextBackbone:
    """Builds ViT-B/16 and a text tower of 12 layers with random weights, without any file."""
    height, width = sizes.image_height, sizes.image_height // 2
    if has_open_clip() and (sizes.num_layers, sizes.width) == (12, 768):
        config = BackboneConfig(
            name="ViT-B-16", weights="random", image_height=height, image_width=width
        )
        return clip.build(config, 0)
    from transformers import BertConfig, ViTConfig  # takes seconds

    tokenizer = read_tokenizer(TOKENIZER_FILE)
    shape: dict[str, Any] = {
        "num_hidden_layers": sizes.num_layers,
        "hidden_size": sizes.width,
        "num_attention_heads": sizes.width // 64,
        "intermediate_size": 4 * sizes.width,
    }
    bert = BertConfig(vocab_size=tokenizer.get_vocab_size(), **shape)
    towers = random_towers(ViTConfig(**shape), bert, tokenizer)
    backbone = assemble(towers)
    backbone.image.resize((height, width))
    return backbone


def measure_views(device: torch.device, sizes: GpuSizes, repeats: int) -> list[Measurement]:
    """Measures both training views, augmented on the CPU or on the GPU, and the test view."""
    rng = np.random.default_rng(0)
    shape = (sizes.num_views, sizes.image_height, sizes.image_height // 2, 3)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    seeds, settings = np.arange(sizes.num_views), TransformConfig()

    def view(name: str, on_gpu: bool) -> Tensor:
        draws = draw_view(name, seeds, (shape[1], shape[2]), settings)
        if on_gpu:
            pixels = view_pixels(send(images, device), draws, settings, DeviceKernels())
        else:
            pixels = send(view_pixels(images, draws, settings), device)
        return normalise_pixels(pixels, settings, send(torch.from_numpy(draws.erased), device))

    calls: dict[str, Callable[[], Tensor]] = {
        f"gpu.views.{name}_on_{'gpu' if on_gpu else 'cpu'}": lambda name=name, on_gpu=on_gpu: view(
            name, on_gpu
        )
        for name in ("weak", "strong")
        for on_gpu in (False, True)
    }
    calls["gpu.views.test_on_gpu"] = lambda: normalise(images.numpy(), settings, device)
    return [
        _speed_and_memory(name, call, sizes.num_views, sizes.num_steps, device, repeats)[0]
        for name, call in calls.items()
    ]


def measure_ranking(device: torch.device, sizes: GpuSizes, repeats: int) -> list[Measurement]:
    """Measures the ranking of random features, from features on the GPU to all scores."""
    split = random_split(sizes.ranking)
    query, gallery = (torch.from_numpy(each).to(device) for each in split.features)

    def call() -> object:
        return evaluate_ranking(query, gallery, *split.person_ids, *split.camera_ids)

    speed, memory = _speed_and_memory("gpu.ranking", call, 1, 1, device, repeats)
    seconds = tuple(1.0 / value for value in speed.values)
    return [Measurement("gpu.ranking.time", "s", seconds), memory]


ROWS = (
    *(
        Row(
            step_name(precision, compiled),
            f"stage-2 step of VLADR, 64 images of 256 x 128, {precision}"
            + (", image tower compiled" if compiled else ""),
            step_row(precision, compiled),
        )
        for precision in ("float32", "tf32", "bfloat16")
        for compiled in (False, True)
        if (precision, compiled) != ("tf32", True)
    ),
    Row(
        "gpu.views",
        "weak and strong views on the CPU with their copy, and on the GPU; test view",
        measure_views,
    ),
    Row("gpu.ranking", "exact ranking of 11,659 queries against 82,161 images", measure_ranking),
)


def _speed_and_memory(
    name: str,
    call: Callable[[], object],
    num_images: int,
    num_calls: int,
    device: torch.device,
    repeats: int,
) -> list[Measurement]:
    """Times `call`: images per second, one value per repeat, and the peak memory in MB."""
    for _ in range(NUM_WARMUP):
        call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(call, num_calls, device) for _ in range(repeats)]
    speed = tuple(num_images * num_calls / value for value in seconds)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return [
        Measurement(f"{name}.speed", "images/s", speed),
        Measurement(f"{name}.memory", "MB", (peak / 1e6,)),
    ]


def _seconds(call: Callable[[], object], num_calls: int, device: torch.device) -> float:
    """Times consecutive calls, waiting for the GPU only before the first and after the last."""
    if device.type != "cuda":
        start_s = time.perf_counter()
        for _ in range(num_calls):
            call()
        return time.perf_counter() - start_s
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(num_calls):
        call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3
