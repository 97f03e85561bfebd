"""Augmentation: a deterministic function of pixels, view, seed and configuration."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from tasks.loading import randaugment as operations
from tasks.loading.kernels import HostKernels
from tasks.loading.randaugment import OPERATIONS
from tasks.loading.transforms import VIEWS, TransformConfig, augment, normalise

CONFIG = TransformConfig(pad_pixels=4)
PLAIN = TransformConfig(flip_probability=0, pad_pixels=0, erase_probabilities=(), randaugment_ops=0)


def random_images(count, height=32, width=16, seed=0):
    """Smooth gradients with noise, sensitive to changes of geometry and colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slopes = rng.uniform(-3, 3, (2, count, 1, 1, 3))
    images = 128 + slopes[0] * (x - width / 2)[..., None] + slopes[1] * (y - height / 2)[..., None]
    return (images + rng.normal(0, 12, images.shape)).clip(0, 255).astype(np.uint8)


def random_seeds(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count)


def randaugment(images, codes, signs, magnitude):
    planar = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    result = operations.randaugment(planar, codes, signs, magnitude, HostKernels())
    return result.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("view", VIEWS)
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 39))
def test_result_of_an_image_does_not_depend_on_its_batch(view, seed, cut):
    images, seeds = random_images(40, seed=seed), random_seeds(40, seed)
    whole = augment(images, view, seeds, CONFIG)
    order = np.random.default_rng(seed).permutation(40)
    assert torch.equal(augment(images[order], view, seeds[order], CONFIG), whole[order])
    parts = [augment(images[p], view, seeds[p], CONFIG) for p in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), whole)
    alone = augment(images[cut : cut + 1], view, seeds[cut : cut + 1], CONFIG)
    assert torch.equal(alone[0], whole[cut])


@pytest.mark.parametrize("view", VIEWS)
def test_shape_dtype_and_unmodified_input(view):
    images = random_images(6)
    before = images.copy()
    images.flags.writeable = False
    result = augment(images, view, random_seeds(6), CONFIG)
    assert result.shape == (6, 3, 32, 16)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    np.testing.assert_array_equal(images, before)
    assert augment(images[:0], view, random_seeds(0), CONFIG).shape == (0, 3, 32, 16)


def test_no_global_generator_is_used():
    images, seeds = random_images(8), random_seeds(8)
    expected = [augment(images, view, seeds, CONFIG) for view in VIEWS]

    def draw():
        return float(torch.rand(1)), float(np.random.random()), random.random()

    def seed_all():
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)

    seed_all()
    untouched = draw()
    seed_all()
    again = [augment(images, view, seeds, CONFIG) for view in VIEWS]
    assert draw() == untouched
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize(
    ("mean_std", "mean", "std"),
    [
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_normalise(mean_std, mean, std):
    images = random_images(3)
    config = TransformConfig(mean_std=mean_std)
    result = normalise(images, config)
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    assert torch.equal(normalise(images, config, torch.device("cpu")), result)
    assert torch.equal(augment(images, "test", random_seeds(3), config), result)
    assert torch.equal(normalise(images[:, ::-1, ::-1], config), result.flip(2, 3))


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_view_without_augmentation_is_normalised_only(view):
    images = random_images(5)
    result = augment(images, view, random_seeds(5), PLAIN)
    assert torch.equal(result, normalise(images, PLAIN))


@pytest.mark.parametrize(("view", "mode"), [("weak", "constant"), ("strong", "reflect")])
def test_flip_and_crop_windows_are_uniform(view, mode):
    pad, count = 2, 3000
    config = PLAIN.model_copy(update={"flip_probability": 0.25, "pad_pixels": pad})
    image = random_images(1, 6, 7)[0]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    windows = {}
    for flipped in (False, True):
        for top in range(5):
            for left in range(5):
                window = padded[top : top + 6, left : left + 7]
                window = window[:, ::-1] if flipped else window
                key = normalise(window[None], config).numpy().tobytes()
                windows[key] = (flipped, top, left)
    result = augment(np.stack([image] * count), view, random_seeds(count), config).numpy()
    found = np.array([windows[row.tobytes()] for row in result])
    assert 0.22 < found[:, 0].mean() < 0.28
    for offset in (1, 2):
        assert np.all(np.bincount(found[:, offset], minlength=5) > 0.17 * count)


def test_erasing_fills_rectangles_of_configured_size_with_mean():
    config = PLAIN.model_copy(update={"erase_probabilities": (0.5,)})
    images = np.full((2000, 64, 32, 3), 255, np.uint8)
    erased = (augment(images, "weak", random_seeds(2000), config) == 0).all(dim=1).numpy()
    touched = erased.any(axis=(1, 2))
    assert 0.46 < touched.mean() < 0.54
    rows, columns = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(erased.sum(axis=(1, 2)), rows * columns)
    shares = (rows * columns / (64 * 32))[touched]
    # Sides are rounded to whole pixels, so the area is approximate.
    assert shares.min() > 0.015
    assert shares.max() < 0.42
    assert (rows[touched] / columns[touched]).min() > 0.25
    assert (rows[touched] / columns[touched]).max() < 4


def test_two_erasings_are_independent():
    images = np.full((4000, 32, 16, 3), 255, np.uint8)
    config = PLAIN.model_copy(update={"erase_probabilities": (0.5, 0.3)})
    touched = (augment(images, "weak", random_seeds(4000), config) == 0).flatten(1).any(dim=1)
    assert 0.62 < float(touched.float().mean()) < 0.68  # 1 - 0.5 * 0.7


def test_views_of_one_seed_are_unrelated():
    config = PLAIN.model_copy(update={"flip_probability": 0.5})
    images = np.repeat(random_images(1), 2000, axis=0)
    weak, strong = (augment(images, v, random_seeds(2000), config) for v in ("weak", "strong"))
    agree = (weak == strong).flatten(1).all(dim=1).float().mean()
    assert 0.45 < float(agree) < 0.55


def test_consecutive_seeds_are_uncorrelated():
    config = PLAIN.model_copy(update={"flip_probability": 0.5})
    images = np.repeat(random_images(1), 2000, axis=0)
    weak = augment(images, "weak", np.arange(2000), config)
    flipped = (weak != normalise(images, config)).flatten(1).any(dim=1).float()
    assert 0.45 < float(flipped.mean()) < 0.55
    assert abs(float(torch.corrcoef(torch.stack([flipped[1:], flipped[:-1]]))[0, 1])) < 0.1


def reference(name, image, sign, magnitude):
    """Apply one operation of torchvision or PIL to [3, H, W] uint8."""
    strength = magnitude / 30
    factor = 1 + 0.9 * strength * sign
    height, width = image.shape[1:]
    if name in ("shear_x", "shear_y"):
        degrees = float(np.degrees(np.arctan(0.3 * strength * sign)))
        shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
        return functional.affine(
            image, 0.0, [0, 0], 1.0, shear, InterpolationMode.NEAREST, center=[0, 0]
        )
    if name in ("translate_x", "translate_y"):
        side = width if name == "translate_x" else height
        shift = int(150 / 331 * side * strength * sign)
        shifts = [float(shift), 0.0] if name == "translate_x" else [0.0, float(shift)]
        return functional.affine(image, 0.0, shifts, 1.0, [0.0, 0.0], InterpolationMode.NEAREST)
    if name == "rotate":
        return functional.rotate(image, 30 * strength * sign, InterpolationMode.NEAREST)
    pil_image = Image.fromarray(image.permute(1, 2, 0).numpy())
    by_pil = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}
    if name in by_pil:
        return torch.from_numpy(np.array(by_pil[name](pil_image))).permute(2, 0, 1)
    return {
        "identity": lambda: image,
        "brightness": lambda: functional.adjust_brightness(image, factor),
        "color": lambda: functional.adjust_saturation(image, factor),
        "contrast": lambda: functional.adjust_contrast(image, factor),
        "sharpness": lambda: functional.adjust_sharpness(image, factor),
        "posterize": lambda: functional.posterize(image, 8 - round(4 * strength)),
        "solarize": lambda: functional.solarize(image, 255 * (30 - magnitude) / 30),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("magnitude", [0, 10, 30])
def test_operations_agree_with_torchvision(name, sign, magnitude):
    images = random_images(8, 48, 24)
    code = np.full((8, 1), OPERATIONS.index(name))
    result = randaugment(images, code, np.full((8, 1), sign), magnitude).transpose(0, 3, 1, 2)
    expected = np.stack(
        [
            reference(name, torch.from_numpy(image).permute(2, 0, 1), sign, magnitude).numpy()
            for image in images
        ]
    )
    difference = np.abs(result.astype(int) - expected.astype(int))
    if name in OPERATIONS[1:6]:
        # A source coordinate on the border of two pixels may be rounded either way.
        assert (difference.max(axis=1) == 0).mean() > 0.98
    else:
        # The references truncate, this implementation rounds.
        assert difference.max() <= 2
        assert difference.mean() < 1.2


def test_constant_images():
    levels = np.array([0, 1, 127, 255], dtype=np.uint8)
    images = np.repeat(levels, 3 * 8 * 4).reshape(4, 8, 4, 3)
    for code in range(len(OPERATIONS)):
        for magnitude in (0, 30):
            result = randaugment(images, np.full((4, 1), code), np.ones((4, 1), int), magnitude)
            assert result.dtype == np.uint8
    for name in ("autocontrast", "equalize"):
        code = np.full((4, 1), OPERATIONS.index(name))
        np.testing.assert_array_equal(randaugment(images, code, np.ones((4, 1), int), 10), images)


def test_operations_are_applied_in_order():
    images = random_images(3)
    solarize, shear = OPERATIONS.index("solarize"), OPERATIONS.index("shear_x")
    one = np.ones((3, 1), int)
    expected = randaugment(randaugment(images, solarize * one, one, 20), shear * one, one, 20)
    both = np.tile([solarize, shear], (3, 1))
    np.testing.assert_array_equal(randaugment(images, both, np.ones((3, 2), int), 20), expected)


def test_strong_samples_every_operation():
    config = PLAIN.model_copy(update={"randaugment_ops": 1})
    images = np.repeat(random_images(1), 1500, axis=0)
    result = augment(images, "strong", random_seeds(1500), config)
    # Nine operations with a direction give two images each, five give one (including posterize at
    # this magnitude).
    assert len({row.numpy().tobytes() for row in result}) == 9 * 2 + 5


@pytest.mark.parametrize(
    ("images", "view", "seeds", "message"),
    [
        (
            random_images(2),
            "week",
            random_seeds(2),
            "view: expected one of test, weak.* got 'week'",
        ),
        (random_images(2), "weak", random_seeds(3), r"seeds: expected 2 integers.*got \[3\]"),
        (random_images(2), "weak", np.zeros(2), "seeds: .* of float64"),
        (random_images(2) / 255, "weak", random_seeds(2), "images: expected uint8 .* of float64"),
        (random_images(2)[0], "test", random_seeds(2), r"\[B, H, W, 3\], got \[32, 16, 3\]"),
        (random_images(2).transpose(0, 3, 1, 2), "test", random_seeds(2), r"got \[2, 3, 32, 16\]"),
    ],
)
def test_invalid_input_is_rejected(images, view, seeds, message):
    with pytest.raises(ValueError, match=message):
        augment(images, view, seeds, CONFIG)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("erase_probabilities", (0.5, 1.5), r"probabilities in \[0, 1\], got \(0\.5, 1\.5\)"),
        ("erase_area", (0.4, 0.02), "0 < minimum <= maximum"),
        ("erase_area", (0.5, 2.0), "fractions of the image"),
        ("erase_aspect", (0.0, 2.0), "0 < minimum <= maximum"),
        ("randaugment_magnitude", 31, "less than or equal to 30"),
        ("pad_pixels", -1, "greater than or equal to 0"),
        ("mean_std", "cifar", "'clip', 'imagenet' or 'half'"),
    ],
)
def test_invalid_configuration_is_rejected(field, value, message):
    with pytest.raises(ValueError, match=message):
        TransformConfig(**{field: value})
