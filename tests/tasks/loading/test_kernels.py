"""Views on the CPU and on a device: the same uint8 pixels, equal to a naive implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.loading.kernels import MAX_MAGNITUDE, DeviceKernels, HostKernels
from tasks.loading.randaugment import OPERATIONS, randaugment
from tasks.loading.transforms import (
    VIEWS,
    TransformConfig,
    draw_view,
    normalise_pixels,
    view_pixels,
)
from tests.tasks.loading.naive_randaugment import naive_operation

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def images_of(count, size, seed):
    """Smooth, noisy, constant and two-valued images, [count, height, width, 3] uint8."""
    height, width = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None]
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        if number % 4 == 1:
            image[:] = rng.integers(0, 256, 3)
        elif number % 4 == 2:
            slopes = rng.uniform(-4, 4, (2, 3))
            image[:] = (128 + slopes[0] * y + slopes[1] * x).clip(0, 255)
        elif number % 4 == 3:
            image[:] = np.where(image > 128, 254, 3)
    return images


def operated(images, name, sign, magnitude, kernels, device="cpu"):
    codes = np.full((len(images), 1), OPERATIONS.index(name))
    planar = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
    result = randaugment(planar, codes, np.full_like(codes, sign), magnitude, kernels)
    return result.cpu().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kernels", [HostKernels(), DeviceKernels()], ids=["host", "device"])
@pytest.mark.parametrize("name", OPERATIONS)
@settings(deadline=None, max_examples=12)
@given(
    size=SIZES,
    seed=st.integers(0, 2**32),
    sign=st.sampled_from((-1, 1)),
    magnitude=st.integers(0, MAX_MAGNITUDE),
)
def test_operations_equal_a_naive_implementation(kernels, name, size, seed, sign, magnitude):
    images = images_of(4, size, seed)
    expected = [naive_operation(name, image, sign, magnitude) for image in images]
    np.testing.assert_array_equal(operated(images, name, sign, magnitude, kernels), expected)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_a_device_equal_those_on_the_cpu(name, device):
    images = images_of(6, (64, 32), seed=3)
    for magnitude in (0, 1, 10, 20, 28, 30):
        for sign in (-1, 1):
            arguments = (images, name, sign, magnitude)
            on_device = operated(*arguments, DeviceKernels(), device)
            np.testing.assert_array_equal(on_device, operated(*arguments, HostKernels()))


def assert_same_views(images, seeds, config, device="cpu"):
    for view in VIEWS:
        draws = draw_view(view, seeds, images.shape[1:3], config)
        host = view_pixels(torch.from_numpy(images), draws, config, HostKernels())
        moved = torch.from_numpy(images).to(device)
        on_device = view_pixels(moved, draws, config, DeviceKernels())
        assert on_device.dtype == torch.uint8
        assert torch.equal(on_device.cpu(), host), view
        erased = torch.from_numpy(draws.erased)
        normalised = normalise_pixels(on_device, config, erased.to(device))
        assert torch.equal(normalised.cpu(), normalise_pixels(host, config, erased)), view


@settings(deadline=None, max_examples=25)
@given(
    size=SIZES,
    seed=st.integers(0, 2**32),
    pad=st.integers(0, 12),
    num_operations=st.integers(0, 3),
    magnitude=st.integers(0, MAX_MAGNITUDE),
    erase=st.lists(st.floats(0, 1), max_size=2),
)
def test_views_of_both_kernels_are_equal(size, seed, pad, num_operations, magnitude, erase):
    config = TransformConfig(
        pad_pixels=pad,
        randaugment_ops=num_operations,
        randaugment_magnitude=magnitude,
        erase_probabilities=tuple(erase),
    )
    seeds = np.random.default_rng(seed).integers(0, 2**63, 9)
    assert_same_views(images_of(9, size, seed), seeds, config)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mean_std", ["clip", "imagenet", "half"])
def test_views_on_a_device_equal_those_on_the_cpu(device, mean_std):
    seeds = np.random.default_rng(1).integers(0, 2**63, 48)
    assert_same_views(images_of(48, (64, 32), 5), seeds, TransformConfig(mean_std=mean_std), device)


@settings(deadline=None, max_examples=40)
@given(size=SIZES, seed=st.integers(0, 2**32), pad=st.integers(0, 12))
def test_crops_equal_those_of_padded_images(size, seed, pad):
    height, width = size
    images = images_of(5, size, seed)
    config = TransformConfig(pad_pixels=pad, randaugment_ops=0)
    for view in ("weak", "strong"):
        draws = draw_view(view, np.arange(5) + seed, size, config)
        pads = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        for image, padded, flipped, (top, left) in zip(
            view_pixels(torch.from_numpy(images), draws, config).permute(0, 2, 3, 1).numpy(),
            np.pad(images, pads, mode=draws.border),
            draws.flipped,
            draws.offsets,
            strict=True,
        ):
            window = padded[top : top + height, left : left + width]
            np.testing.assert_array_equal(image, window[:, ::-1] if flipped else window)


def test_draws_of_another_batch_are_rejected():
    config = TransformConfig()
    draws = draw_view("weak", np.arange(3), (8, 4), config)
    with pytest.raises(ValueError, match=r"seeds: expected 2 integers.*got \[3\]"):
        view_pixels(torch.zeros((2, 8, 4, 3), dtype=torch.uint8), draws, config)
