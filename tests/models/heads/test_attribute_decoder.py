import math

import pytest
import torch

from models.heads.attribute_decoder import AttributeDecoder


def build(seed=0):
    return AttributeDecoder(3, 8, 6, 2, torch.Generator().manual_seed(seed))


def test_equals_attention_written_out():
    decoder, patches = build(), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    attention = decoder.cross_attention
    project = attention.in_proj_weight.chunk(3)
    out = decoder(patches)
    for b in range(2):
        queries, keys, values = (
            x @ w.T for x, w in zip((decoder.queries, patches[b], patches[b]), project, strict=True)
        )
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            weights = (queries[:, h] @ keys[:, h].T / math.sqrt(4)).softmax(dim=1)
            heads.append(weights @ values[:, h])
        wanted = decoder.linear(attention.out_proj(torch.cat(heads, dim=1)))
        wanted = wanted / wanted.norm(dim=1, keepdim=True)
        assert torch.allclose(out[b], wanted, atol=1e-6)


def test_attention_weights_reproduce_the_forward_pass():
    decoder, patches = build(), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    weights = decoder.attention(patches)
    assert weights.shape == (2, 2, 3, 5)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 2, 3))
    attention = decoder.cross_attention
    values = patches @ attention.in_proj_weight[16:].T
    heads = [weights[:, h] @ values[..., 4 * h : 4 * h + 4] for h in range(2)]
    attributes = decoder.linear(attention.out_proj(torch.cat(heads, dim=-1)))
    wanted = torch.nn.functional.normalize(attributes, dim=-1)
    assert torch.allclose(decoder(patches), wanted, atol=1e-6)


def test_every_parameter_learns_and_is_selectable():
    decoder = build()
    decoder(torch.randn(2, 5, 8))[..., 0].sum().backward()
    groups = {name.split(".")[0] for name, _ in decoder.named_parameters()}
    assert groups == {"queries", "cross_attention", "linear"}
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_initial_values_depend_only_on_the_generator():
    torch.manual_seed(0)
    first = build().state_dict()
    torch.manual_seed(1)
    second, other = build().state_dict(), build(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["queries"], other["queries"])


def test_width_not_divisible_by_the_heads():
    with pytest.raises(ValueError, match="multiple of num_heads=3, got 8"):
        AttributeDecoder(3, 8, 6, 3, torch.Generator())


def test_identity_initialisation_starts_as_weighted_means_of_patches() -> None:
    decoder = AttributeDecoder(3, 8, 8, 2, torch.Generator().manual_seed(0), "identity")
    patches = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    weights = decoder.attention(patches)
    heads = patches.unflatten(2, (2, 4)).transpose(1, 2)
    means = torch.einsum("bhkl,bhld->bkhd", weights, heads).flatten(2)
    torch.testing.assert_close(decoder(patches), torch.nn.functional.normalize(means, dim=-1))
    features = decoder(patches)
    assert float((features[:, 0] - features[:, 1]).norm(dim=1).min()) > 0.05


def test_identity_initialisation_needs_equal_sizes() -> None:
    with pytest.raises(ValueError, match="initialisation=random"):
        AttributeDecoder(3, 8, 6, 2, torch.Generator(), "identity")
