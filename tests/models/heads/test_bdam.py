import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from models.heads.bdam import Bdam, BdamConfig
from tests.models.heads.random_modules import draw, scrambled


def build(seed=0, **values):
    sizes = {"dim": 8, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2.0} | values
    return Bdam(BdamConfig(**sizes), 6, torch.Generator().manual_seed(seed)).eval()


def norm(layer, row):
    centred = row - row.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def attend(attention, queries, keys):
    """Rows of one image: softmax attention, head after head, patch after patch."""
    dim, num_heads = attention.embed_dim, attention.num_heads
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    sources = (queries, keys, keys)
    q, k, v = (
        [w @ row + b for row in rows] for rows, w, b in zip(sources, weights, biases, strict=True)
    )
    size, out = dim // num_heads, []
    for query in q:
        heads = []
        for h in range(num_heads):
            part = slice(h * size, (h + 1) * size)
            scores = torch.stack([query[part] @ key[part] / math.sqrt(size) for key in k])
            shares = scores.softmax(0)
            heads.append(sum(s * value[part] for s, value in zip(shares, v, strict=True)))
        out.append(attention.out_proj(torch.cat(heads)))
    return out


def naive_branch(branch, rows):
    rows = [branch.projection(row) for row in rows]
    for layer in branch.layers:
        normed = [norm(layer.norm1, row) for row in rows]
        seen = attend(layer.self_attn, normed, normed)
        rows = [row + more for row, more in zip(rows, seen, strict=True)]
        rows = [
            row + layer.linear2(functional.gelu(layer.linear1(norm(layer.norm2, row))))
            for row in rows
        ]
    return rows


def naive_cross(branch, own, other):
    if branch.cross is not None:
        queries = [norm(branch.cross.norm_own, row) for row in own]
        keys = [norm(branch.cross.norm_other, row) for row in other]
        seen = attend(branch.cross.attention, queries, keys)
        own = [row + more for row, more in zip(own, seen, strict=True)]
    return torch.stack([norm(branch.norm, row) for row in own])


@pytest.mark.parametrize("cross_attention", [True, False])
@pytest.mark.parametrize("num_layers", [0, 2])
@torch.no_grad()
def test_equals_attention_written_out(cross_attention, num_layers):
    module = scrambled(build(cross_attention=cross_attention, num_layers=num_layers))
    patches = draw(2, 3, 6)
    found = module(patches)
    for b in range(2):
        read = [naive_branch(branch, patches[b]) for branch in (module.identity, module.clothing)]
        own = naive_cross(module.identity, read[0], read[1])
        worn = naive_cross(module.clothing, read[1], read[0])
        identity, clothing = own.mean(0), worn.mean(0)
        gate = 1 / (1 + (-module.gate(torch.cat([identity, clothing]))).exp())
        wanted = {
            "identity": identity,
            "clothing": clothing,
            "gate": gate,
            "gated_identity": gate * identity,
            "gated_clothing": (1 - gate) * clothing,
            "identity_tokens": gate * own,
        }
        for name, value in wanted.items():
            assert torch.allclose(getattr(found, name)[b], value, atol=1e-5), name


def test_without_the_module_two_projections_are_averaged():
    module, patches = build(enabled=False), draw(3, 4, 6)
    found = module(patches)
    assert torch.allclose(found.identity, module.identity.projection(patches.mean(1)), atol=1e-6)
    assert torch.allclose(found.clothing, module.clothing.projection(patches.mean(1)), atol=1e-6)
    assert found.gate is None
    assert found.gated_identity is found.identity
    assert found.gated_clothing is found.clothing
    names = {name for name, _ in module.named_parameters()}
    kinds = ("identity.projection", "clothing.projection")
    assert names == {f"{kind}.{part}" for kind in kinds for part in ("weight", "bias")}


def test_without_a_gate_the_features_stay_as_they_are():
    found = build(gate=False)(draw(2, 4, 6))
    assert found.gate is None
    assert torch.equal(found.gated_identity, found.identity)
    assert torch.equal(found.gated_clothing, found.clothing)


def test_only_cross_attention_joins_the_branches():
    patches = draw(2, 4, 6)
    for cross_attention in (False, True):
        module = build(cross_attention=cross_attention)
        before = module(patches)
        with torch.no_grad():
            module.clothing.projection.weight[0].add_(3.0)
        after = module(patches)
        assert not torch.allclose(before.clothing, after.clothing)
        assert torch.allclose(before.identity, after.identity) is not cross_attention


@pytest.mark.parametrize("num_layers", [3, 6])
def test_branch_depth_is_configurable(num_layers):
    module = build(num_layers=num_layers)
    assert len(module.identity.layers) == len(module.clothing.layers) == num_layers


@torch.no_grad()
def test_the_tokens_are_what_is_pooled_and_patches_have_no_order():
    module, patches = build(), draw(2, 5, 6)
    found = module(patches)
    assert torch.allclose(found.identity_tokens.mean(1), found.gated_identity, atol=1e-6)
    turned = module(patches.flip(1))
    assert torch.allclose(turned.gated_identity, found.gated_identity, atol=1e-5)


@pytest.mark.parametrize("num_patches", [1, 4])
@pytest.mark.parametrize("num_images", [1, 2])
def test_every_parameter_learns(num_images, num_patches):
    module = build().train()
    found = module(draw(num_images, num_patches, 6))
    weights = draw(num_images, 8, seed=2)
    ((found.gated_identity + found.gated_clothing) * weights).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_initial_values_depend_only_on_the_generator():
    first = build(seed=3).state_dict()
    torch.rand(5)
    second, other = build(seed=3).state_dict(), build(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["gate.weight"], other["gate.weight"])
    assert not torch.equal(first["identity.projection.weight"], first["clothing.projection.weight"])
    before = torch.get_rng_state()
    build()
    assert torch.equal(before, torch.get_rng_state())


def test_heads_must_divide_the_size():
    with pytest.raises(ValidationError, match="multiple of num_heads=3, got 8"):
        BdamConfig(dim=8, num_heads=3)
