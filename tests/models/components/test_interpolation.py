import math

import pytest
import torch

from models.components.interpolation import adaptive_alpha, interpolate


def test_shared_tensors_are_interpolated_and_new_rows_kept():
    old = {
        "weight": torch.zeros(2, 3),
        "head": torch.zeros(2, 3),
        "scale": torch.tensor(0.0),
        "steps": torch.tensor(5),
        "gone": torch.zeros(1),
    }
    new = {
        "weight": torch.ones(2, 3),
        "head": torch.ones(5, 3),
        "scale": torch.tensor(1.0),
        "steps": torch.tensor(9),
        "born": torch.ones(4),
    }
    mixed = interpolate(new, old, 0.6)
    assert mixed.keys() == new.keys()
    assert torch.allclose(mixed["weight"], torch.full((2, 3), 0.6))
    assert torch.allclose(mixed["head"][:2], torch.full((2, 3), 0.6))
    assert torch.equal(mixed["head"][2:], torch.ones(3, 3))
    assert mixed["scale"].item() == pytest.approx(0.6)
    assert mixed["steps"] == 9
    assert torch.equal(mixed["born"], torch.ones(4))
    assert torch.equal(new["weight"], torch.ones(2, 3))


def test_ends():
    new, old = {"w": torch.randn(3)}, {"w": torch.randn(3)}
    assert torch.equal(interpolate(new, old, 1.0)["w"], new["w"])
    assert torch.equal(interpolate(new, old, 0.0)["w"], old["w"])


def test_refusals():
    with pytest.raises(ValueError, match=r"expected a value in \[0, 1\], got 1.5"):
        interpolate({}, {}, 1.5)
    for shape in ((4, 3), (2, 2), (6,)):
        with pytest.raises(ValueError, match="head: expected the shape"):
            interpolate({"head": torch.ones(3, 3)}, {"head": torch.ones(shape)}, 0.5)


def naive_alpha(new, old, keep_diagonal, scale):
    def affinities(features):
        rows = []
        for i, a in enumerate(features):
            powers = [
                math.exp(scale * float(a @ b / (a.norm() * b.norm())))
                if keep_diagonal or i != j
                else 0.0
                for j, b in enumerate(features)
            ]
            rows.append([power / sum(powers) for power in powers])
        return rows

    pairs = zip(affinities(new), affinities(old), strict=True)
    moved = [sum(abs(a - b) for a, b in zip(*rows, strict=True)) for rows in pairs]
    return min(max(1 - sum(moved) / len(moved), 0.0), 1.0)


@pytest.mark.parametrize("keep_diagonal", [True, False])
@pytest.mark.parametrize("rows_per_chunk", [1, 3, 100])
def test_adaptive_alpha_equals_the_naive_loop(keep_diagonal, rows_per_chunk):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    new = old + 0.1 * torch.randn(7, 4, generator=generator, dtype=torch.float64)
    alpha = adaptive_alpha(new, old, keep_diagonal, 10.0, rows_per_chunk)
    assert 0 < alpha < 1
    assert alpha == pytest.approx(naive_alpha(new, old, keep_diagonal, 10.0), abs=1e-10)


def test_adaptive_alpha_bounds():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert adaptive_alpha(features, features, keep_diagonal=False) == 1.0
    far = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    assert adaptive_alpha(features, far, keep_diagonal=False) == 0.0


def test_adaptive_alpha_needs_the_same_images():
    with pytest.raises(ValueError, match="at least 2; got 1 new and 1 old"):
        adaptive_alpha(torch.ones(1, 4), torch.ones(1, 4), keep_diagonal=False)
    with pytest.raises(ValueError, match="got 3 new and 2 old"):
        adaptive_alpha(torch.ones(3, 4), torch.ones(2, 4), keep_diagonal=True)
