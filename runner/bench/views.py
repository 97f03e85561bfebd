"""Weak and strong views in images/s per thread, compared with torchvision on PIL images.

Both sides apply the same operations to decoded images and end with uint8 pixels: erasing and
normalisation, which run where the learner is trained, are not included. The speed per thread counts
the CPU time of the thread, so other processes affect it little. The speeds of both views together
on one and two threads count wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved
from tasks.loading.kernels import MAX_MAGNITUDE
from tasks.loading.transforms import TransformConfig, draw_view, view_pixels

BATCH = 64
THREADS = (1, 2)
VIEWS = ("weak", "strong")


def measure(workbench: Workbench) -> BenchResult:
    """Measures each view on one thread, and both views together on one and two threads."""
    images = _images(workbench.sizes.view_height)
    variants: dict[str, Callable[[], float]] = {}
    for view in VIEWS:
        variants[f"{view}.ours"] = lambda view=view: _our_speed(images, view)
        variants[f"{view}.torchvision"] = lambda view=view: _torchvision_speed(images, view)
    for threads in THREADS:
        variants[f"both.{threads}_threads"] = lambda threads=threads: _speed_of_both(
            images, threads
        )
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for call in variants.values():
            call()  # fills caches of pixel maps
        speeds = interleaved(variants, max(3, workbench.repeats))
    finally:
        torch.set_num_threads(torch_threads)
    results = {
        name: Measurement(f"views.{name}", "images/s", tuple(values))
        for name, values in speeds.items()
    }
    ratios = [
        ratio(
            f"views.{view}.ours / torchvision",
            results[f"{view}.ours"],
            results[f"{view}.torchvision"],
            Target(">=", 2.0) if view == "strong" else None,
        )
        for view in VIEWS
    ]
    one, two = (results[f"both.{threads}_threads"] for threads in THREADS)
    return BenchResult(
        tuple(results.values()), (*ratios, ratio("views.both.2_threads / 1_thread", two, one))
    )


def torchvision_view(
    view: str, size: tuple[int, ...], config: TransformConfig
) -> Callable[[Image.Image], Image.Image]:
    """Builds the view of `config` from torchvision's transforms of PIL images."""
    return transforms.Compose(
        [
            transforms.RandomHorizontalFlip(config.flip_probability),
            transforms.Pad(
                config.pad_pixels, padding_mode="reflect" if view == "strong" else "constant"
            ),
            transforms.RandomCrop(size),
            *(
                [
                    transforms.RandAugment(
                        config.randaugment_ops, config.randaugment_magnitude, MAX_MAGNITUDE + 1
                    )
                ]
                if view == "strong"
                else []
            ),
        ]
    )


def _images(height: int) -> np.ndarray:
    """[B, H, W, 3] uint8: gradients with noise, of a width of half the height."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : height // 2 * 1j][..., None]
    slopes = rng.uniform(-100, 100, (2, BATCH, 1, 1, 3))
    noise = rng.normal(0, 20, (BATCH, height, height // 2, 3))
    return (128 + slopes[0] * y + slopes[1] * x + noise).clip(0, 255).astype(np.uint8)


def _our_speed(images: np.ndarray, view: str) -> float:
    """Images per CPU second of one batch with one view."""
    start_s = time.thread_time()
    _augment(images, view, np.arange(BATCH))
    return BATCH / (time.thread_time() - start_s)


def _torchvision_speed(images: np.ndarray, view: str) -> float:
    """Images per CPU second of one batch with one view."""
    apply = torchvision_view(view, images.shape[1:3], TransformConfig.model_validate({}))
    opened = [Image.fromarray(image) for image in images]
    torch.manual_seed(0)
    start_s = time.thread_time()
    np.stack([np.asarray(apply(image)) for image in opened])
    return BATCH / (time.thread_time() - start_s)


def _speed_of_both(images: np.ndarray, num_threads: int) -> float:
    """Images per second of one batch, each with both views, on some threads."""
    parts = np.array_split(np.arange(BATCH), num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        start_s = time.perf_counter()
        tasks = [
            pool.submit(_augment, images[part[0] : part[-1] + 1], view, part)
            for view in VIEWS
            for part in parts
        ]
        for task in tasks:
            task.result()
        return BATCH / (time.perf_counter() - start_s)


def _augment(images: np.ndarray, view: str, seeds: np.ndarray) -> None:
    config = TransformConfig.model_validate({})
    draws = draw_view(view, seeds, images.shape[1:3], config)
    view_pixels(torch.from_numpy(images), draws, config)
