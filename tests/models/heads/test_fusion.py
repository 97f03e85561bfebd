import copy

import pytest
import torch
from pydantic import ValidationError

from models.heads.fusion import Fusion, FusionConfig, Modality
from tests.models.heads.random_modules import draw, scrambled

MIXERS = ["mamba", "transformer", "simple"]


def build(seed=0, **values):
    sizes = {"dim": 8, "state_size": 3, "num_heads": 2, "mlp_ratio": 2.0, "dropout": 0.0}
    config = FusionConfig(**(sizes | values))
    return Fusion(config, 6, 5, 7, torch.Generator().manual_seed(seed)).eval()


def pair(num=3, num_image_tokens=4, num_text_tokens=3, mask=None):
    image_tokens = draw(num, num_image_tokens, 6)
    text_tokens = draw(num, num_text_tokens, 5, seed=2)
    image = Modality(image_tokens.mean(1), image_tokens)
    return image, Modality(text_tokens.mean(1), text_tokens, mask)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_pooled_input_has_no_sequence(mixer):
    fusion = scrambled(build(mixer=mixer, sequence="pooled"))
    lengths = []
    fusion.mixer.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    image, text = pair()
    wanted = fusion(image, text).embedding
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(4, generator=generator)
    for other in (image.tokens[:, order], 5 * draw(3, 9, 6, seed=4)):
        found = fusion(image._replace(tokens=other), text._replace(tokens=2 * text.tokens))
        assert torch.equal(found.embedding, wanted)
    assert set(lengths) == {1}
    # A sequence of length 1: the convolution has its last tap alone, and no state is ever read.
    if mixer == "mamba":
        for layer in fusion.mixer.layers:
            layer.block.A_log.add_(1.0)
            layer.block.conv1d.weight[..., :-1].add_(1.0)
        assert torch.equal(fusion(image, text).embedding, wanted)


@pytest.mark.parametrize("mixer", ["mamba", "transformer"])
@torch.no_grad()
def test_tokens_are_mixed_along_the_sequence(mixer):
    fusion = scrambled(build(mixer=mixer, sequence="tokens"))
    outcome = []
    fusion.mixer.register_forward_hook(lambda _, __, output: outcome.append(output))
    image, text = pair()
    changed = image.tokens.clone()
    changed[:, 0] += 1.0
    first = fusion(image, text).embedding
    assert not torch.allclose(first, fusion(image._replace(tokens=changed), text).embedding)
    # What another image patch holds reaches a text token.
    assert outcome[0].shape == (3, 4 + 3, 8)
    assert not torch.allclose(outcome[0][:, -1], outcome[1][:, -1])
    turned = fusion(image._replace(tokens=image.tokens.flip(1)), text).embedding
    # Only Mamba has an order; the encoders' tokens know their places.
    assert torch.allclose(first, turned, atol=1e-5) is (mixer == "transformer")


@pytest.mark.parametrize("mixer", ["mamba", "transformer"])
@torch.no_grad()
def test_padding_does_not_count(mixer):
    fusion = scrambled(build(mixer=mixer))
    image, text = pair(mask=torch.tensor([[True, True, False]] * 3))
    changed = text.tokens.clone()
    changed[:, 2] = 100.0
    found = fusion(image, text).embedding
    assert torch.allclose(found, fusion(image, text._replace(tokens=changed)).embedding, atol=1e-5)
    shorter = Modality(text.pooled, text.tokens[:, :2])
    assert torch.allclose(found, fusion(image, shorter).embedding, atol=1e-5)


@torch.no_grad()
def test_the_gate_and_the_weighted_sequence_written_out():
    fusion = scrambled(build(mixer="simple"))
    image, text = pair()
    found = fusion(image, text)
    for b in range(3):
        aligned = fusion.align_image(image.pooled[b]), fusion.align_text(text.pooled[b])
        scores = fusion.gate(torch.cat(aligned)).exp()
        weights = scores / scores.sum()
        mixed = fusion.mixer.mlp(weights[0] * aligned[0] + weights[1] * aligned[1])
        assert torch.allclose(found.gate[b], weights, atol=1e-6)
        assert torch.allclose(found.embedding[b], fusion.projection(mixed), atol=1e-5)
    sequences = []
    fusion = scrambled(build(mixer="transformer"))
    fusion.mixer.register_forward_hook(lambda _, inputs, __: sequences.append(inputs[0]))
    gate = fusion(image, text).gate
    for b in range(3):
        rows = [gate[b, 0] * fusion.align_image(token) for token in image.tokens[b]]
        rows += [gate[b, 1] * fusion.align_text(token) for token in text.tokens[b]]
        assert torch.allclose(sequences[0][b], torch.stack(rows), atol=1e-6)


@pytest.mark.parametrize("mixer", [*MIXERS, "none"])
@pytest.mark.parametrize("sequence", ["pooled", "tokens"])
@pytest.mark.parametrize("with_alignment", [True, False])
@pytest.mark.parametrize("with_gate", [True, False])
def test_every_switch_trains_all_it_holds(mixer, sequence, with_alignment, with_gate):
    fusion = build(
        mixer=mixer, sequence=sequence, with_alignment=with_alignment, with_gate=with_gate
    ).train()
    fused = fusion(*pair())
    assert fused.embedding.shape == (3, 7)
    if mixer == "none":
        assert fused.gate is None
    else:
        assert torch.allclose(fused.gate.sum(1), torch.ones(3))
        assert torch.equal(fused.gate, torch.full((3, 2), 0.5)) is not with_gate
    (fused.embedding * draw(3, 7, seed=5)).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    depth = [m for m in fusion.align_image.modules() if isinstance(m, torch.nn.Linear)]
    assert len(depth) == (2 if with_alignment else 1)


def test_none_needs_no_description_and_the_others_do():
    image, text = pair()
    fusion = build(mixer="none")
    wanted = fusion.projection(fusion.align_image(image.pooled))
    assert torch.equal(fusion(image, None).embedding, wanted)
    assert torch.equal(fusion(image, text).embedding, wanted)
    with pytest.raises(ValueError, match="expected a description, got none"):
        build(mixer="simple")(image, None)


@pytest.mark.parametrize("mixer", [*MIXERS, "none"])
@torch.no_grad()
def test_a_state_dict_carries_everything(mixer):
    first, second = scrambled(build(seed=1, mixer=mixer)), build(seed=2, mixer=mixer)
    inputs = pair()
    assert not torch.allclose(first(*inputs).embedding, second(*inputs).embedding)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*inputs).embedding, second(*inputs).embedding)
    assert torch.equal(first(*inputs).embedding, copy.deepcopy(first)(*inputs).embedding)


@pytest.mark.parametrize("mixer", MIXERS)
def test_initial_values_depend_only_on_the_generator(mixer):
    first = build(seed=3, mixer=mixer).state_dict()
    before = torch.get_rng_state()
    second, other = build(seed=3, mixer=mixer).state_dict(), build(seed=4, mixer=mixer).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["projection.weight"], other["projection.weight"])


@pytest.mark.parametrize("mixer", MIXERS)
def test_half_precision_runs(mixer):
    fusion = build(mixer=mixer).train()
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(*pair())
    fused.embedding.float().sum().backward()
    assert fused.embedding.isfinite().all()
    assert torch.allclose(fused.embedding.float(), fusion(*pair()).embedding, atol=0.05)


def test_one_sample_is_its_own_batch():
    image, text = pair()
    for mixer in MIXERS:
        fusion = build(mixer=mixer)
        whole = fusion(image, text).embedding
        one = fusion(*(Modality(m.pooled[:1], m.tokens[:1]) for m in (image, text))).embedding
        assert torch.allclose(whole[:1], one, atol=1e-5)


def test_heads_must_divide_the_size():
    with pytest.raises(ValidationError, match="multiple of num_heads=3, got 8"):
        FusionConfig(mixer="transformer", dim=8, num_heads=3)
