"""The CLIP backbone computes what open_clip computes, and says clearly what does not fit."""

import copy
import json

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from models.backbones import clip_weights
from models.backbones.clip import (
    BackboneConfig,
    ClipBackbone,
    ImageEncoder,
    TextEncoder,
    build,
    resize_positions,
)
from models.backbones.weights import file_sha256

WORDS = ["a man in a red coat", "a woman", "grey trousers, white sneakers and a backpack", ""]


def small_clip(quick_gelu: bool = False) -> open_clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        clip = open_clip.CLIP(
            embed_dim=24,
            vision_cfg={
                "image_size": 32,
                "patch_size": 8,
                "width": 32,
                "layers": 2,
                "head_width": 8,
            },
            text_cfg={
                "context_length": 20,
                "vocab_size": 49408,
                "width": 16,
                "heads": 2,
                "layers": 2,
            },
            quick_gelu=quick_gelu,
        )
    return clip.eval()


def wrapped(clip: open_clip.CLIP, image_size: tuple[int, int] = (32, 32)) -> ClipBackbone:
    return ClipBackbone(ImageEncoder(clip.visual, image_size), TextEncoder(clip))


@pytest.fixture(scope="module")
def tiny() -> ClipBackbone:
    return build(BackboneConfig(weights="random"), seed=0)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_both_towers_equal_open_clip_on_square_input(quick_gelu):
    clip = small_clip(quick_gelu)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    full_tokens = open_clip.tokenize(WORDS, context_length=20)
    with torch.no_grad():
        expected_image, expected_text = clip.encode_image(images), clip.encode_text(full_tokens)
        backbone = wrapped(clip)
        features = backbone.image(images)
    torch.testing.assert_close(features.projected, expected_image)
    torch.testing.assert_close(features.class_token @ clip.visual.proj, expected_image)
    torch.testing.assert_close(backbone.text.encode_texts(WORDS), expected_text)


def test_patch_tokens_equal_open_clip():
    clip = small_clip()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        clip.visual.output_tokens = True
        _, tokens = clip.visual(images)
        patches = wrapped(clip).image(images).patches
    torch.testing.assert_close(patches, tokens @ clip.visual.proj)


def test_vit_b_16_takes_person_shaped_images():
    config = BackboneConfig(
        name="ViT-B-16-quickgelu", weights="random", image_height=256, image_width=128
    )
    backbone = build(config, seed=0)
    with torch.no_grad():
        features = backbone.image(torch.zeros(1, 3, 256, 128))
    assert features.class_token.shape == (1, 768)
    assert features.projected.shape == (1, 512)
    assert features.patches.shape == (1, 16 * 8, 512)
    sizes = (
        backbone.image.width,
        backbone.image.embed_dim,
        backbone.text.width,
        backbone.text.context_length,
    )
    assert sizes == (768, 512, 512, 77)
    activation = backbone.image.visual.transformer.resblocks[0].mlp.gelu
    assert type(activation).__name__ == "QuickGELU"


def test_tiny_shapes_keys_and_size(tiny):
    features = tiny.image(torch.zeros(2, 3, 64, 32))
    assert features.class_token.shape == (2, 96)
    assert features.projected.shape == (2, 96)
    assert features.patches.shape == (2, 8 * 4, 96)
    assert {key.split(".")[0] for key in tiny.state_dict()} == {"image", "text"}
    assert not any(parameter.requires_grad for parameter in tiny.text.parameters())
    assert all(parameter.requires_grad for parameter in tiny.image.parameters())
    assert 0.30e6 < sum(parameter.numel() for parameter in tiny.image.parameters()) < 0.36e6
    assert tiny.text.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_random_weights_depend_only_on_the_seed():
    config = BackboneConfig(weights="random")
    before = torch.random.get_rng_state()
    first, again, other = build(config, 3), build(config, 3), build(config, 4)
    assert torch.equal(before, torch.random.get_rng_state())
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    proj = "image.visual.proj"
    assert not torch.equal(first.state_dict()[proj], other.state_dict()[proj])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=3))
def test_ordinary_texts_are_tokenised_as_by_open_clip(tiny, texts: list[str]) -> None:
    tokens = tiny.text.tokenize(texts)
    expected = open_clip.tokenize(texts, context_length=64)[:, : tokens.shape[1]]
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize(
    "name", ["<end_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;", "<start_of_text>"]
)
def test_the_name_of_a_special_token_is_text(tiny, name: str) -> None:
    tokens = tiny.text.tokenize([f"a man {name} in a red coat"])[0].tolist()
    assert [tokens.count(special) for special in (49406, 49407)] == [1, 1]
    assert tokens[-1] == 49407
    assert tokens[-5:-1] == tiny.text.tokenize(["in a red coat"])[0].tolist()[1:-1]


def test_truncated_texts_are_counted_once(tiny):
    tower = copy.deepcopy(tiny.text)
    tower.take_num_truncated()
    tower.tokenize(["count " * 200, "count " * 62, "count " * 63])
    assert tower.take_num_truncated() == 2
    tower.tokenize(["count " * 200])
    assert tower.take_num_truncated() == 0


def test_tokens_are_trimmed_and_cut_texts_keep_their_end(tiny):
    tokens = tiny.text.tokenize(["a man", "a man in a red coat"])
    assert tokens.shape == (2, 8)
    assert tiny.text.end_positions(tokens).tolist() == [3, 7]
    cut = tiny.text.tokenize(["word " * 200])
    assert cut.shape == (1, 64)
    assert tiny.text.end_positions(cut).tolist() == [63]
    assert tiny.text.tokenize(["word " * 200], max_tokens=5).tolist()[0][-1] == 49407
    assert tiny.text.tokenize([]).shape == (0, 2)
    assert tiny.text.encode_texts([]).shape == (0, 96)


def test_context_length_caps_the_tokens():
    backbone = build(BackboneConfig(weights="random", context_length=6), seed=0)
    assert backbone.text.context_length == 6
    assert backbone.text.tokenize(["word " * 50]).shape == (1, 6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 8), st.integers(0, 2**31 - 1))
def test_tokens_after_the_end_have_no_effect(padding, seed):
    backbone = wrapped(small_clip())
    tokens = backbone.text.tokenize(["a man in red"])
    embeddings, ends = backbone.text.embed_tokens(tokens), backbone.text.end_positions(tokens)
    noise = torch.randn(1, padding, 16, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        backbone.text(torch.cat([embeddings, noise], dim=1), ends),
        backbone.text(embeddings, ends),
    )


def test_a_frozen_text_tower_passes_gradients_to_prompt_vectors(tiny):
    tokens = tiny.text.tokenize(["a red cap"])
    prompt = torch.zeros(1, 2, tiny.text.width, requires_grad=True)
    embeddings = torch.cat([prompt, tiny.text.embed_tokens(tokens)], dim=1)
    tiny.text(embeddings, tiny.text.end_positions(tokens) + 2).sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum() > 0


def test_too_long_texts_are_rejected(tiny):
    with pytest.raises(ValueError, match="at most 64 tokens; got 65"):
        tiny.text(torch.zeros(1, 65, 96), torch.tensor([64]))


def test_encode_texts_equals_one_by_one_in_any_batch_size(tiny):
    texts = ["a red cap", "blue jeans and brown boots", "a red cap", "a cap", "a"]
    together = tiny.text.encode_texts(texts, batch_size=2)
    assert torch.equal(together[0], together[2])
    one_by_one = torch.cat([tiny.text.encode_texts([text]) for text in texts])
    torch.testing.assert_close(together, one_by_one)


def test_the_image_tower_alone_is_a_frozen_teacher(tiny):
    teacher = copy.deepcopy(tiny.image).requires_grad_(False)
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(teacher(images).projected, tiny.image(images).projected)
    assert teacher.visual.proj is not tiny.image.visual.proj


def test_positions_resize_keeps_the_class_token_and_constant_fields():
    positions = torch.cat([torch.full((1, 5), 7.0), torch.full((16, 5), 2.0)])
    resized = resize_positions(positions, (4, 4), (8, 3))
    assert resized.shape == (25, 5)
    assert torch.equal(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], torch.full((24, 5), 2.0))
    assert resize_positions(positions, (4, 4), (4, 4)) is positions


def test_positions_resize_runs_down_rows_first():
    rows = torch.arange(4.0).repeat_interleave(4)[:, None]
    resized = resize_positions(torch.cat([torch.zeros(1, 1), rows]), (4, 4), (4, 2))
    torch.testing.assert_close(resized[1:, 0], torch.arange(4.0).repeat_interleave(2))


def test_positions_resize_equals_open_clips_on_squares():
    clip, larger = small_clip(), small_clip()
    larger.visual.grid_size = (6, 6)
    state = clip.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    own = resize_positions(clip.visual.positional_embedding.detach(), (4, 4), (6, 6))
    torch.testing.assert_close(own, state["visual.positional_embedding"])


def test_images_of_another_size_are_rejected(tiny):
    with pytest.raises(
        ValueError, match=r"expected images of shape \[B, 3, 64, 32\].*backbone.image_height"
    ):
        tiny.image(torch.zeros(1, 3, 128, 64))
    with pytest.raises(ValueError, match="multiples of the 8x8 patch; got 60x32"):
        build(BackboneConfig(weights="random", image_height=60), seed=0)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ViT-B-61", "random", "did you mean ViT-B-16"),
        ("RN50", "random", "got RN50 .ResNet image tower"),
        ("ViT-B-16-SigLIP", "random", "got ViT-B-16-SigLIP .custom_text"),
        ("ViT-B-16", "opnai", "one of ViT-B-16's tags .*openai"),
        ("ViT-B-16", "openai", "with QuickGELU.*backbone.name=ViT-B-16-quickgelu"),
        ("tiny-clip", "openai", "it has none"),
    ],
)
def test_invalid_names_and_tags_are_rejected(name, weights, message):
    with pytest.raises(ValueError, match=message):
        build(BackboneConfig(name=name, weights=weights), seed=0)


def test_warm_weights_require_tiny_clip():
    with pytest.raises(ValidationError, match=r"set backbone\.weights to an open_clip tag"):
        BackboneConfig(name="ViT-B-16")


def tiny_state() -> dict[str, torch.Tensor]:
    state = clip_weights.create_clip("tiny-clip", "random", 9).state_dict()
    return {key: tensor for key, tensor in state.items() if "token_embedding" not in key}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_local_files_load(tmp_path, suffix):
    path, state = tmp_path / f"weights{suffix}", tiny_state()
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pt":
        torch.save(state, path)
    else:
        torch.save({"epoch": 1, "state_dict": {"module." + k: v for k, v in state.items()}}, path)
    backbone = build(BackboneConfig(weights=str(path)), seed=0)
    assert torch.equal(backbone.image.visual.proj, state["visual.proj"])
    assert torch.equal(backbone.text.text_projection, state["text_projection"])
    larger = build(BackboneConfig(weights=str(path), image_height=128, image_width=64), seed=0)
    assert larger.image(torch.zeros(1, 3, 128, 64)).patches.shape == (1, 16 * 8, 96)


def test_openai_torchscript_archives_load_and_need_quick_gelu(tmp_path, monkeypatch):
    path, clip = tmp_path / "ViT.pt", small_clip()
    torch.jit.trace_module(
        clip, {"encode_image": (torch.zeros(1, 3, 32, 32),)}, check_trace=False
    ).save(path)
    with pytest.raises(ValueError, match="OpenAI's archives were trained with QuickGELU"):
        build(BackboneConfig(weights=str(path)), seed=0)
    architecture = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 8,
            "width": 32,
            "layers": 2,
            "head_width": 8,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    monkeypatch.setattr(clip_weights, "_architecture", lambda name: architecture)
    config = BackboneConfig(name="small", weights=str(path), image_height=32, image_width=16)
    backbone = build(config, seed=1)
    assert torch.equal(backbone.image.visual.proj, clip.visual.proj)


def test_invalid_files_are_rejected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"backbone\.weights: expected an existing file, .*gone.pt"
    ):
        build(BackboneConfig(weights=str(tmp_path / "gone.pt")), seed=0)
    (broken := tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"cannot read .* as a weights file"):
        build(BackboneConfig(weights=str(broken)), seed=0)
    state = tiny_state()
    del state["visual.proj"]
    state["extra"] = torch.zeros(1)
    state["ln_final.weight"] = torch.zeros(7)
    save_file(state, path := tmp_path / "other.safetensors")
    expected = (
        r"1 missing \(visual.proj.*1 unexpected \(extra.*1 with another shape \(ln_final.weight"
    )
    with pytest.raises(ValueError, match=expected):
        build(BackboneConfig(weights=str(path)), seed=0)


def test_changed_or_missing_warm_file_is_rejected(tmp_path, monkeypatch):
    path = tmp_path / "tiny_clip.safetensors"
    monkeypatch.setattr(clip_weights, "WARM_FILE", path)
    with pytest.raises(FileNotFoundError, match=r"python -m runner\.tools\.train_tiny_backbones"):
        build(BackboneConfig(), seed=0)
    save_file(tiny_state(), path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(path)}))
    warm = build(BackboneConfig(), seed=0)
    assert torch.equal(warm.image.visual.proj, load_file(path)["visual.proj"])
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        ValueError, match=r"expected sha256 .* python -m runner\.tools\.train_tiny_backbones"
    ):
        build(BackboneConfig(), seed=0)


def test_token_features_match_the_sentence_and_mask(tiny):
    tokens = tiny.text.tokenize(["a man", "a man in a red coat"])
    with torch.no_grad():
        features = tiny.text.features(tokens)
        padded = tiny.text.features(torch.cat([tokens, tokens.new_zeros(2, 3)], dim=1))
        shorter = tiny.text(tiny.text.embed_tokens(tokens[:1, :3]), torch.tensor([2]))
    torch.testing.assert_close(features.sentence, tiny.text.encode_texts(["a man", WORDS[0]]))
    assert features.tokens.shape == (2, 8, 96)
    assert features.mask.sum(1).tolist() == [4, 8]
    assert not features.mask[0, 4:].any()
    torch.testing.assert_close(features.sentence, features.tokens[[0, 1], [3, 7]])
    torch.testing.assert_close(features.tokens[0, 2], shorter[0])
    torch.testing.assert_close(padded.tokens[:, :8], features.tokens)
    assert padded.mask.sum(1).tolist() == [4, 8]
