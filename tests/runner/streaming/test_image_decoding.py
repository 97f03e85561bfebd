from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from runner.config.sections import DataConfig
from runner.streaming.image_decoding import decode_image, decode_many

ROOT = Path(__file__).resolve().parents[3]


def save(path: Path, pixels: np.ndarray, **options: object) -> str:
    Image.fromarray(pixels).save(path, **options)
    return str(path)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)


def test_an_image_of_the_target_size_is_not_resampled(tmp_path: Path, noise: np.ndarray) -> None:
    pixels = decode_image(save(tmp_path / "a.png", noise), 32, 16)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, noise)


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    pixels = decode_image(save(tmp_path / "a.png", stripes), 16, 8)
    assert pixels.shape == (16, 8, 3)
    # Without antialiasing every row would be black or white.
    assert np.abs(pixels[2:-2].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_every_mode_is_converted_to_rgb(tmp_path: Path, noise: np.ndarray, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(noise).convert(mode).save(path)
    assert decode_image(str(path), 32, 16).shape == (32, 16, 3)


def test_unreadable_files_are_reported_and_zero(tmp_path: Path, noise: np.ndarray) -> None:
    good = save(tmp_path / "good.jpg", noise)
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(Path(good).read_bytes()[:300])
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    paths = [str(truncated), good, str(text), str(tmp_path / "missing.jpg")]
    decoded = decode_many(paths, 32, 16)
    assert sorted(decoded.errors) == [0, 2, 3]
    assert "OSError" in decoded.errors[0]
    assert "cannot identify image file" in decoded.errors[2]
    assert "FileNotFoundError" in decoded.errors[3]
    assert not decoded.pixels[[0, 2, 3]].any()
    np.testing.assert_array_equal(decoded.pixels[1], decode_image(good, 32, 16))


def test_no_files(tmp_path: Path) -> None:
    decoded = decode_many([], 32, 16)
    assert decoded.pixels.shape == (0, 32, 16, 3)
    assert not decoded.errors


def test_decoding_imports_neither_torch_nor_ray() -> None:
    script = (
        "import sys, runner.streaming.image_decoding, runner.streaming.unreadable_images; "
        "sys.exit(str({'torch', 'ray'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert process.stderr.strip() == "set()"


@pytest.mark.parametrize(
    ("field", "value"),
    [("persons_per_batch", 0), ("max_bad_share", 1.0), ("object_store_share", 0.9)],
)
def test_values_out_of_range_are_rejected(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        DataConfig.model_validate({field: value})
