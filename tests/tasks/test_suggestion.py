"""Suggestions of similar names."""

from __future__ import annotations

import pytest

from tasks.suggestion import suggestion


@pytest.mark.parametrize(
    ("name", "expected"),
    [("market1051", "; did you mean market1501?"), ("zzz", ""), ("", "")],
)
def test_a_similar_name_is_suggested(name: str, expected: str) -> None:
    assert suggestion(name, ["market1501", "viper"]) == expected


def test_a_cutoff_of_zero_always_suggests() -> None:
    assert suggestion("zzz", ["viper"], cutoff=0) == "; did you mean viper?"
