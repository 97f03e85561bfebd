"""The result matrix against its definitions, with missing and undefined values."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval.metrics import METRICS, ResultMatrix


def full_matrix(num_seen, num_unseen, seed=0):
    """A full matrix and its mAP as an array [steps, domains]."""
    values = np.random.default_rng(seed).uniform(0, 100, (num_seen + 1, num_seen + num_unseen))
    seen = tuple(f"seen{j}" for j in range(num_seen))
    unseen = tuple(f"unseen{j}" for j in range(num_unseen))
    matrix = ResultMatrix(seen, unseen)
    for step, row in enumerate(values):
        for domain, value in zip(seen + unseen, row, strict=True):
            matrix.record(step, domain, {"mAP": value, "R1": value / 2})
    return matrix, values


@settings(deadline=None, max_examples=25)
@given(T=st.integers(2, 6), num_unseen=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_summary_agrees_with_the_definitions(T, num_unseen, seed):
    matrix, R = full_matrix(T, num_unseen, seed)
    expected = {
        "seen_mAP": np.mean([R[T, j] for j in range(T)]),
        "unseen_mAP": np.mean([R[T, j] for j in range(T, T + num_unseen)]),
        "forgetting_mAP": np.mean(
            [max(R[i, j] for i in range(1, T)) - R[T, j] for j in range(T - 1)]
        ),
        "backward_transfer_mAP": np.mean([R[T, j] - R[j + 1, j] for j in range(T - 1)]),
        "forward_transfer_mAP": np.mean([R[j, j] - R[0, j] for j in range(1, T)]),
        "average_incremental_mAP": np.mean(
            [np.mean([R[i, j] for j in range(i)]) for i in range(1, T + 1)]
        ),
    }
    expected["seen_R1"] = expected["seen_mAP"] / 2
    expected["unseen_R1"] = expected["unseen_mAP"] / 2
    summary = matrix.summary()
    assert summary.keys() == expected.keys()
    assert summary == pytest.approx(expected, abs=1e-9)


def test_forgetting_excludes_row_zero():
    matrix = ResultMatrix(("a", "b"))
    for step, score in enumerate((99.0, 50.0, 40.0)):
        matrix.record(step, "a", {"mAP": score})
    assert matrix.forgetting("mAP") == 10.0
    assert matrix.backward_transfer("mAP") == -10.0


def test_averages_after_a_given_step():
    matrix, R = full_matrix(3, 2)
    assert matrix.seen_average("mAP", 2) == pytest.approx(R[2, :2].mean())
    assert matrix.unseen_average("mAP", 0) == pytest.approx(R[0, 3:].mean())
    assert matrix.seen_average("mAP", 0) is None


def test_one_domain_has_no_forgetting_and_no_transfer():
    matrix, R = full_matrix(1, 0)
    assert matrix.summary() == {
        "seen_mAP": pytest.approx(R[1, 0]),
        "seen_R1": pytest.approx(R[1, 0] / 2),
        "unseen_mAP": None,
        "unseen_R1": None,
        "forgetting_mAP": None,
        "backward_transfer_mAP": None,
        "forward_transfer_mAP": None,
        "average_incremental_mAP": pytest.approx(R[1, 0]),
    }


def test_values_depending_on_missing_cells_are_none():
    matrix = ResultMatrix(("a", "b", "c"), ("x", "y"))
    assert all(value is None for value in matrix.summary().values())
    matrix.record(3, "a", {"mAP": 1.0})
    matrix.record(3, "b", {"mAP": 2.0})
    matrix.record(3, "x", {"mAP": 2.0})
    assert matrix.seen_average("mAP") is None
    assert matrix.unseen_average("mAP") is None
    matrix.record(3, "c", {"mAP": 6.0})
    assert matrix.seen_average("mAP") == 3.0
    assert matrix.forgetting("mAP") is None


def test_json_round_trip():
    matrix, R = full_matrix(2, 1)
    matrix.record(2, "seen0", {"mINP": 12.5})
    written = json.loads(json.dumps(matrix.to_json(), allow_nan=False))
    assert tuple(written) == METRICS
    np.testing.assert_array_equal(written["mAP"], R)
    assert written["R5"] == [[None] * 3] * 3
    assert written["mINP"][2] == [12.5, None, None]
    read = ResultMatrix.from_json(written, matrix.seen, matrix.unseen)
    assert read.to_json() == matrix.to_json()


def test_later_records_replace_and_nan_is_missing():
    matrix = ResultMatrix(("a",))
    matrix.record(1, "a", {"mAP": 10.0, "R1": 20.0})
    matrix.record(1, "a", {"mAP": math.nan})
    assert matrix.score("mAP", 1, "a") is None
    assert matrix.score("R1", 1, "a") == 20.0


@pytest.mark.parametrize(
    ("step", "domain", "scores", "message"),
    [
        (3, "a", {"mAP": 1.0}, r"step: expected 0 \(before training\) to 2.*got 3"),
        (-1, "a", {"mAP": 1.0}, "step: .*got -1"),
        (1, "market", {"mAP": 1.0}, "domain: expected one of a, b, x; got 'market'"),
        (1, "a", {"map": 1.0}, "metric: expected one of mAP, R1.*got 'map'"),
        (1, "a", {"mAP": 101.0}, "mAP on a after step 1: expected a percentage"),
    ],
)
def test_an_invalid_record_changes_nothing(step, domain, scores, message):
    matrix = ResultMatrix(("a", "b"), ("x",))
    with pytest.raises(ValueError, match=message):
        matrix.record(step, domain, {"R5": 1.0} | scores)
    assert matrix.to_json() == ResultMatrix(("a", "b"), ("x",)).to_json()


def test_invalid_arguments_and_tables_are_refused():
    matrix = ResultMatrix(("a", "b"))
    with pytest.raises(ValueError, match=r"step: .*got 9"):
        matrix.seen_average("mAP", 9)
    with pytest.raises(ValueError, match=r"metric: .*got 'R2'"):
        matrix.forgetting("R2")
    with pytest.raises(ValueError, match="seen: expected at least one"):
        ResultMatrix((), ("x",))
    with pytest.raises(ValueError, match="distinct domains"):
        ResultMatrix(("a",), ("a",))
    with pytest.raises(ValueError, match=r"expected 3 rows .* of 2 domains, got .* \[2, 1\]"):
        ResultMatrix.from_json({"mAP": [[1.0, 2.0], [3.0]]}, ("a", "b"))


def test_averages_without_some_unseen_domains():
    matrix = ResultMatrix(("a", "b"), ("c", "d"))
    for step in range(3):
        matrix.record(step, "a", {"mAP": 10.0 * step})
        matrix.record(step, "b", {"mAP": 20.0 * step})
        matrix.record(step, "c", {"mAP": 30.0})
    assert matrix.unseen_average("mAP") is None
    rest = matrix.without(["d"])
    assert rest.unseen == ("c",)
    assert rest.unseen_average("mAP") == 30.0
    assert rest.seen_average("mAP") == matrix.seen_average("mAP") == 30.0
    assert matrix.without(["c", "d"]).unseen_average("mAP") is None
