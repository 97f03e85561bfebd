"""Images, an endpoint, and the command `describe` with its environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.lifelong import main
from tests.runner.descriptions.endpoint import Endpoint, serving

KEY = "SECRET_OF_THE_TEST"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY, "abc123")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def images_folder(tmp_path: Path) -> Path:
    """A folder of twelve different images."""
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture
def describe(
    endpoint: Endpoint, images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs `describe` on the images with the endpoint, with short waits."""
    monkeypatch.setattr("runner.descriptions.chat_client.FIRST_WAIT_S", 0.01)

    def run(*further: str) -> int:
        return main([*arguments(images_folder, endpoint.url, tmp_path / "kept"), *further])

    return run


def arguments(folder: Path, url: str, output: Path) -> list[str]:
    return [
        "describe", "--data", str(folder), "--backend", "openai", "--url", url,
        "--model", "tiny", "--key-variable", KEY, "--output", str(output),
    ]  # fmt: skip


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[], list[dict[str, str]]]:
    """The exported dual texts."""
    return lambda: json.loads((tmp_path / "kept" / "people_dual.json").read_text())
