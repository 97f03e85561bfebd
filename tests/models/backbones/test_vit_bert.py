"""ViT and BERT behind the interface of CLIP: features, tokens, and messages for wrong weights."""

import copy
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel

from models.backbones import vit_bert_weights
from models.backbones.building import build_backbone
from models.backbones.config import BackboneConfig
from models.backbones.vit_bert import VitBertBackbone, assemble, build
from models.backbones.vit_bert_weights import Pretrained, random_towers, word_tokenizer
from models.backbones.weights import file_sha256

NAME = "tiny-vit-bert"
TEXTS = ["a man in a red coat", "a woman", "grey trousers, white sneakers and a backpack", ""]
FOREIGN = ["穿红色外套的男人", "мужчина в красном пальто", "رجل", "👒🧥", "\x00\n\t", "é" * 10_000]


@pytest.fixture(scope="module")
def tiny() -> VitBertBackbone:
    return build(BackboneConfig(name=NAME, weights="random"), seed=0).eval()


def some_images(num: int = 2, height: int = 64, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, height, width, generator=generator)


def test_shapes_keys_and_sizes(tiny):
    features = tiny.image(some_images())
    assert features.class_token.shape == features.projected.shape == (2, 64)
    assert features.patches.shape == (2, 8 * 4, 64)
    assert tiny.image.grid_size == (8, 4)
    assert {key: each.shape for key, each in tiny.image.features(some_images()).items()} == {
        "class_token": (2, 64),
        "projected": (2, 64),
    }
    assert tiny.image.feature_dims == {"class_token": 64, "projected": 64}
    assert (tiny.text.width, tiny.text.embed_dim, tiny.text.context_length) == (64, 64, 64)
    assert {key.split(".")[0] for key in tiny.state_dict()} == {"image", "text"}
    assert not any(parameter.requires_grad for parameter in tiny.text.parameters())
    assert all(parameter.requires_grad for parameter in tiny.image.parameters())
    assert sum(parameter.numel() for parameter in tiny.parameters()) < 0.55e6


def test_every_parameter_affects_the_features(tiny):
    backbone = copy.deepcopy(tiny)
    backbone.text.requires_grad_(True)
    image, text = (
        backbone.image(some_images()),
        backbone.text.features(backbone.text.tokenize(TEXTS)),
    )
    (image.projected.square().sum() + text.sentence.square().sum()).backward()
    unread = [key for key, each in backbone.named_parameters() if each.grad is None]
    assert unread == []
    assert list(backbone.image.last_layer()) == list(backbone.image.visual.layernorm.parameters())


def test_both_towers_equal_transformers(tiny):
    tokens = tiny.text.tokenize(TEXTS)
    with torch.no_grad():
        vit = tiny.image.visual(some_images()).last_hidden_state
        bert = tiny.text.bert(input_ids=tokens, attention_mask=(tokens != 0).long())
        features, text = tiny.image(some_images()), tiny.text.features(tokens)
    torch.testing.assert_close(features.class_token, vit[:, 0])
    torch.testing.assert_close(features.patches, vit[:, 1:] @ tiny.image.projection)
    expected = bert.last_hidden_state @ tiny.text.projection
    torch.testing.assert_close(text.tokens[text.mask], expected[tokens != 0])
    torch.testing.assert_close(text.sentence, expected[:, 0])
    torch.testing.assert_close(text.sentence, tiny.text.encode_texts(TEXTS))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 20), st.integers(0, 2**31 - 1))
def test_tokens_after_the_end_have_no_effect(tiny, padding, seed):
    tokens = tiny.text.tokenize(["a man in red"])
    embeddings, ends = tiny.text.embed_tokens(tokens), tiny.text.end_positions(tokens)
    noise = torch.randn(1, padding, 64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        tiny.text(torch.cat([embeddings, noise], dim=1), ends), tiny.text(embeddings, ends)
    )


def test_a_text_is_the_same_alone_and_in_a_longer_batch(tiny):
    together = tiny.text.features(tiny.text.tokenize(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = tiny.text.features(tiny.text.tokenize([text]))
        length = alone.tokens.shape[1]
        torch.testing.assert_close(together.sentence[row : row + 1], alone.sentence)
        torch.testing.assert_close(together.tokens[row : row + 1, :length], alone.tokens)
        assert together.mask[row].sum() == length
        assert alone.mask.all()
    batched = tiny.text.encode_texts([*TEXTS, *TEXTS], batch_size=2)
    torch.testing.assert_close(batched, together.sentence.repeat(2, 1))


def test_training_mode_uses_no_random_numbers(tiny):
    backbone = copy.deepcopy(tiny).train()
    tokens = backbone.text.tokenize(TEXTS)
    before = torch.random.get_rng_state()
    first, again = backbone.text.features(tokens), backbone.text.features(tokens)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(backbone.image(some_images()).patches, tiny.image(some_images()).patches)
    assert torch.equal(before, torch.random.get_rng_state())


def test_dropout_is_active_only_while_a_tower_is_trained():
    config = BackboneConfig(name="tiny-vit-bert", weights="random", dropout=0.3)
    backbone, plain = build(config, 0), build(config.model_copy(update={"dropout": 0.0}), 0)
    images, tokens = some_images(), plain.text.tokenize(TEXTS)

    def outputs(towers):
        return towers.image(images).patches, towers.text.features(tokens).sentence

    with torch.no_grad():
        expected = outputs(plain)
        for is_trained in (False, True):
            backbone.requires_grad_(is_trained)
            backbone.train()
            for first, again, target in zip(
                outputs(backbone), outputs(backbone), expected, strict=True
            ):
                assert torch.equal(first, again) == (not is_trained)
                assert torch.equal(first, target) == (not is_trained)
        backbone.eval()
        for value, target in zip(outputs(backbone), expected, strict=True):
            assert torch.equal(value, target)


def test_dropout_of_another_backbone_is_rejected():
    with pytest.raises(ValidationError, match=r"backbone\.dropout: expected 0 for tiny-clip"):
        BackboneConfig(dropout=0.1)


def test_tokens_are_trimmed_and_cut_texts_keep_their_end(tiny):
    tokens = tiny.text.tokenize(["a man", "a man in a red coat"])
    assert tokens.shape == (2, 8)
    assert tiny.text.end_positions(tokens).tolist() == [3, 7]
    cut = tiny.text.tokenize(["red " * 5000])
    assert cut.shape == (1, 64)
    assert tiny.text.end_positions(cut).tolist() == [63]
    assert cut[0, -1] == tiny.text.last
    assert tiny.text.tokenize(["red " * 90], max_tokens=5).shape == (1, 5)
    assert tiny.text.tokenize([]).shape == (0, 2)
    assert tiny.text.encode_texts([]).shape == (0, 64)
    short = build(BackboneConfig(name=NAME, weights="random", context_length=6), seed=0)
    assert short.text.tokenize(["red " * 50]).shape == (1, 6)
    with pytest.raises(ValueError, match="at most 64 tokens; got 65"):
        tiny.text(torch.zeros(1, 65, 64), torch.tensor([64]))


def test_unknown_words_are_spelled_and_foreign_ones_unknown(tiny):
    unknown = tiny.text.tokenizer.token_to_id("[UNK]")
    spelled = tiny.text.tokenize(["flabbergasted", "flabbergasting"])
    assert not (spelled == unknown).any()
    assert not spelled[0].equal(spelled[1])
    assert (tiny.text.tokenize(FOREIGN[:1])[0, 1:-1] == unknown).all()
    assert tiny.text.encode_texts(FOREIGN).isfinite().all()
    assert tiny.text.tokenize(["A RED Café"]).equal(tiny.text.tokenize(["a red cafe"]))


def test_special_tokens_written_in_a_text_are_text(tiny):
    tokens = copy.deepcopy(tiny).text.tokenize(["a [SEP] b [PAD] [CLS]"])
    assert (tokens == tiny.text.last).sum() == 1
    assert (tokens == tiny.text.first).sum() == 1
    assert not (tokens == tiny.text.padding).any()


def test_equal_words_give_equal_tokenizers():
    words = ["Red", "coat", "t", ",", "a"]
    assert word_tokenizer(words).to_str() == word_tokenizer([*words[::-1], "red"]).to_str()


def test_prompt_vectors_get_gradients_through_the_frozen_text_tower(tiny):
    tokens = tiny.text.tokenize(["a red cap"])
    prompt = torch.zeros(1, 2, tiny.text.width, requires_grad=True)
    embedded = tiny.text.embed_tokens(tokens)
    embeddings = torch.cat([embedded[:, :1], prompt, embedded[:, 1:]], dim=1)
    tiny.text(embeddings, tiny.text.end_positions(tokens) + 2).sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum() > 0


def test_random_weights_depend_only_on_the_seed(tiny):
    config = BackboneConfig(name=NAME, weights="random")
    before = torch.random.get_rng_state()
    again, other = build_backbone(config, 0), build_backbone(config, 4)
    assert torch.equal(before, torch.random.get_rng_state())
    for key, tensor in tiny.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    projection = "image.projection"
    assert not torch.equal(tiny.state_dict()[projection], other.state_dict()[projection])


def test_weights_round_trip_through_a_file_and_resize(tiny, tmp_path):
    save_file(tiny.state_dict(), path := tmp_path / "joint.safetensors")
    loaded = build(BackboneConfig(name=NAME, weights=str(path)), seed=7).eval()
    torch.testing.assert_close(
        loaded.image(some_images()).patches, tiny.image(some_images()).patches, rtol=0, atol=0
    )
    assert torch.equal(loaded.text.encode_texts(TEXTS), tiny.text.encode_texts(TEXTS))
    size = {"image_height": 128, "image_width": 48}
    larger = build(BackboneConfig(name=NAME, weights=str(path), **size), seed=7)
    assert larger.image(some_images(1, 128, 48)).patches.shape == (1, 16 * 6, 64)
    assert larger.image.grid_size == (16, 6)
    with pytest.raises(
        ValueError, match=r"expected images of shape \[B, 3, 128, 48\].*image_height"
    ):
        larger.image(some_images())
    with pytest.raises(ValueError, match="multiples of the 8x8 patch; got 60x32"):
        build(BackboneConfig(name=NAME, weights=str(path), image_height=60), seed=0)
    save_file({"image.projection": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"into tiny-vit-bert: of \d+ tensors \d+ missing"):
        build(BackboneConfig(name=NAME, weights=str(path)), seed=0)
    with pytest.raises(
        FileNotFoundError, match=r"backbone\.weights: expected an existing file, .*gone.pt"
    ):
        build(BackboneConfig(name=NAME, weights=str(tmp_path / "gone.pt")), seed=0)


def test_the_real_size_builds_from_its_configurations():
    with torch.device("meta"):
        backbone = assemble(random_towers(ViTConfig(), BertConfig(), word_tokenizer(["a"])))
        backbone.image.resize((256, 128))
        features = backbone.image(torch.zeros(2, 3, 256, 128))
        text = backbone.text(torch.zeros(2, 20, 768), torch.tensor([7, 19]))
    assert features.projected.shape == text.shape == (2, 768)
    assert features.patches.shape == (2, 16 * 8, 768)
    assert 190e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 200e6


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A ViT and a BERT with other shapes than tiny-vit-bert's, as transformers saves them."""
    root = tmp_path_factory.mktemp("towers")
    small = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**small, intermediate_size=8, image_size=32, patch_size=16)).save_pretrained(
        root / "vit"
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "coat", "##s", "."]
    small |= {"hidden_size": 16}
    bert = BertConfig(**small, intermediate_size=8, vocab_size=10, max_position_embeddings=12)
    BertModel(bert).save_pretrained(root / "bert")
    BertTokenizer({word: number for number, word in enumerate(words)}).save_pretrained(
        root / "bert"
    )
    return {"image_tower": root / "vit", "text_tower": root / "bert"}


def from_folders(folders: dict[str, Path], weights: str = "pretrained", **more) -> BackboneConfig:
    towers = {field: str(folder) for field, folder in folders.items()}
    return BackboneConfig(name="vit-bert", weights=weights, **(towers | more))


def test_local_folders_load(folders):
    backbone = build(from_folders(folders), seed=3).eval()
    assert backbone.image(some_images()).patches.shape == (2, 4 * 2, 16)
    assert backbone.image.feature_dims == {"class_token": 24, "projected": 16}
    saved = load_file(folders["image_tower"] / "model.safetensors")
    own = backbone.image.visual.state_dict()
    assert torch.equal(own["layernorm.weight"], saved["layernorm.weight"])
    patches = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(own[patches], saved[patches])
    assert backbone.text.tokenize(["A red coats."]).tolist() == [[2, 5, 6, 7, 8, 9, 3]]
    assert backbone.text.tokenize(["red " * 99]).shape == (1, 12)
    with torch.no_grad():
        bert = BertModel.from_pretrained(folders["text_tower"]).eval()
        hidden = bert(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[:, 0]
    torch.testing.assert_close(
        backbone.text.encode_texts(["a red"]), hidden @ backbone.text.projection
    )
    again, other = build(from_folders(folders), seed=3), build(from_folders(folders), seed=4)
    assert torch.equal(again.text.projection, backbone.text.projection)
    assert not torch.equal(other.text.projection, backbone.text.projection)
    assert backbone.text.bert.config.hidden_dropout_prob == 0


def test_random_weights_take_the_folders_architecture_alone(folders):
    backbone = build(from_folders(folders, "random"), seed=3)
    pretrained = build(from_folders(folders), seed=3)
    patches = "image.visual.embeddings.patch_embeddings.projection.weight"
    assert backbone.state_dict()[patches].shape == pretrained.state_dict()[patches].shape
    assert not torch.equal(backbone.state_dict()[patches], pretrained.state_dict()[patches])


def copied(folders: dict[str, Path], to: Path, field: str) -> Path:
    to.mkdir()
    for file in folders[field].iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_incomplete_folders_are_rejected(folders, tmp_path):
    folder = copied(folders, tmp_path / "bert", "text_tower")
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    expected = (
        r"backbone\.text_tower: .*bert has no tokenizer.json or vocab.txt and no \*.safetensors"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        build(from_folders(folders, text_tower=str(folder)), seed=0)
    folder = copied(folders, tmp_path / "vit", "image_tower")
    state = load_file(folder / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"image_tower: .*lacks 1 tensors .*layernorm.weight"):
        build(from_folders(folders, image_tower=str(folder)), seed=0)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"backbone\.image_tower: cannot read .*vit"):
        build(from_folders(folders, image_tower=str(folder)), seed=0)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_tower: .*vit has no config.json"):
        build(from_folders(folders, image_tower=str(folder)), seed=0)
    with pytest.raises(
        FileNotFoundError, match=r"image_tower: expected an existing folder, .*gone"
    ):
        build(from_folders(folders, image_tower=str(tmp_path / "gone")), seed=0)


def test_towers_of_another_type_are_rejected(folders):
    swapped = {"image_tower": folders["text_tower"], "text_tower": folders["text_tower"]}
    with pytest.raises(ValueError, match=r"image_tower: expected .* type vit; .* has type bert"):
        build(from_folders(swapped), seed=0)


def test_tokenizer_of_another_model_is_rejected():
    tokenizer = word_tokenizer(["a"])
    towers = random_towers(ViTConfig(num_hidden_layers=0), tiny_bert(9), tokenizer)
    with pytest.raises(
        ValueError, match=r"text_tower: expected a tokenizer with at most 9 words.* got \d+"
    ):
        assemble(towers)
    from tokenizers import Tokenizer, models

    bare = Tokenizer(models.WordLevel({"[CLS]": 0, "a": 1}, unk_token="a"))
    with pytest.raises(ValueError, match=r"without \[SEP\], \[PAD\]"):
        assemble(Pretrained(towers.vit, towers.bert, bare))


def tiny_bert(vocab_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size, hidden_size=8, num_hidden_layers=0, num_attention_heads=1
    )


def test_unreachable_hub_name_raises_with_remedy(monkeypatch, folders):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = from_folders(folders, image_tower="nobody/no-such-vit")
    expected = r"backbone\.image_tower: nobody/no-such-vit is not a local folder"
    with pytest.raises(RuntimeError, match=expected + r".*save_pretrained and set backbone"):
        build(config, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit-bert"}, "expected pretrained, random or a local file for vit-bert.*'warm'"),
        ({"name": NAME, "weights": "pretrained"}, "expected warm, random or a local file"),
        ({"image_tower": "x"}, r"image_tower: expected backbone.name=vit-bert, got tiny-clip"),
        ({"name": NAME, "text_tower": "x"}, r"text_tower: expected backbone.name=vit-bert"),
        ({"name": NAME, "pooling_exponent": 3}, "pooling_exponent: expected 1 for tiny-vit-bert"),
    ],
)
def test_inconsistent_settings_are_rejected(settings, message):
    with pytest.raises(ValidationError, match=message):
        BackboneConfig(**settings)


def test_images_are_normalised_as_the_towers_were_trained():
    config = BackboneConfig(name="vit-bert", weights="pretrained")
    assert (config.mean_std, config.is_joint) == ("half", False)
    assert (BackboneConfig(name=NAME).mean_std, BackboneConfig(name=NAME).is_joint) == (
        "clip",
        True,
    )


def test_changed_or_missing_warm_file_is_rejected(tiny, tmp_path, monkeypatch):
    path = tmp_path / "tiny_vit_bert.safetensors"
    monkeypatch.setattr(vit_bert_weights, "WARM_FILE", path)
    with pytest.raises(FileNotFoundError, match=r"train_tiny_backbones --backbone tiny-vit-bert"):
        build(BackboneConfig(name=NAME), seed=0)
    save_file(tiny.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(path)}))
    warm = build(BackboneConfig(name=NAME), seed=5)
    assert torch.equal(warm.image.projection, tiny.image.projection)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"expected sha256 .* --backbone tiny-vit-bert"):
        build(BackboneConfig(name=NAME), seed=0)
    monkeypatch.setattr(vit_bert_weights, "TOKENIZER_FILE", tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"gone\.json is missing; create it with"):
        build(BackboneConfig(name=NAME, weights="random"), seed=0)
