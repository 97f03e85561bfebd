from __future__ import annotations

import math

import pytest
import torch

from tasks.retrieval.normalised_features import normalise_rows


def test_rows_have_norm_1_and_zero_rows_stay_zero():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    assert normalise_rows("features", features).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0.0, 0.0],
        [-1.0, 0.0],
    ]
    assert features.tolist() == [[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_result_is_at_least_float32(given, got):
    features = torch.ones(2, 3, dtype=given, requires_grad=True)
    result = normalise_rows("features", features)
    assert result.dtype == got
    assert not result.requires_grad
    assert normalise_rows("features", features[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), r"probes: expected a \[N, D\] float tensor, got \[3\]"),
        (torch.ones(3, 0), r"got \[3, 0\] of torch.float32"),
        (torch.ones(3, 2).int(), "of torch.int32"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), "in 2 of 3 rows, first in row 1"),
    ],
)
def test_invalid_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        normalise_rows("probes", features)
