"""Text towers that embed captions for style clustering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.backbones.caption_encoder import load_caption_encoder
from models.backbones.clip import TextEncoder
from models.backbones.clip_weights import WARM_FILE, create_clip

CAPTIONS = ["A person with hair, wearing upper.", "Dressed in upper and lower, a person."]


def test_embeddings_are_those_of_the_text_tower() -> None:
    encoder = load_caption_encoder("tiny-clip")
    rows = encoder.embed(CAPTIONS)
    tower = TextEncoder(create_clip("tiny-clip", "warm", seed=0)).eval()
    with torch.no_grad():
        expected = tower.features(tower.tokenize(CAPTIONS)).sentence
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_hash_identifies_the_weights_and_the_name_has_no_folder(tmp_path: Path) -> None:
    state = load_file(WARM_FILE)
    changed = {key: each + 0.01 * ("ln_final" in key) for key, each in state.items()}
    save_file(state, tmp_path / "same.safetensors")
    save_file(changed, tmp_path / "changed.safetensors")
    included = load_caption_encoder("tiny-clip")
    same, other = (
        load_caption_encoder(f"tiny-clip:{tmp_path}/{name}.safetensors")
        for name in ("same", "changed")
    )
    assert same.weights_sha256 == included.weights_sha256 != other.weights_sha256
    assert same.name == "tiny-clip:same.safetensors"
    # The image tower does not matter.
    image = {key: each + 0.01 * key.startswith("visual.") for key, each in state.items()}
    save_file(image, tmp_path / "image.safetensors")
    again = load_caption_encoder(f"tiny-clip:{tmp_path}/image.safetensors")
    assert again.weights_sha256 == included.weights_sha256


def test_openai_weights_select_the_architecture_with_their_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created: list[tuple[str, str]] = []

    def create(name: str, weights: str, seed: int) -> object:
        created.append((name, weights))
        return create_clip("tiny-clip", "random", seed)

    monkeypatch.setattr("models.backbones.clip_weights.create_clip", create)
    for name in ("ViT-B-32:openai", "ViT-B-32-quickgelu:openai", "ViT-B-32:laion2b_s34b_b79k"):
        assert load_caption_encoder(name).name == name
    assert created == [
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-B-32", "laion2b_s34b_b79k"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-32", "expected tfidf, tiny-clip, an architecture .*mean ViT-B-32:openai"),
        ("ViT-B-31:openai", "ViT-B-31:openai: architecture: .*did you mean"),
        ("ViT-B-32:nowhere.pt", "weights: expected an existing file"),
        ("tiny-clip:openai", "tiny-clip:openai: weights: expected"),
    ],
)
def test_unknown_encoders_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_caption_encoder(name)
