from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import flatten, load_config, schema_keys

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
LIMITS = {"float": float, "int": int}


def read(file: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


PARAMETERS = [
    pytest.param(key, spec, id=f"{file.stem}-{key}")
    for file in FILES
    for key, spec in read(file).items()
]


def test_there_are_search_spaces():
    assert {"vladr", "smoke"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_space_says_on_top_what_it_searches(file):
    assert file.read_text(encoding="utf-8").startswith("# Search space of ")


@pytest.mark.parametrize(("key", "spec"), PARAMETERS)
def test_a_parameter_is_well_formed(key, spec):
    assert key in set(schema_keys("vladr"))
    if spec["type"] == "categorical":
        assert spec.keys() == {"type", "choices"}
        assert spec["choices"]
        return
    number = LIMITS[spec["type"]]
    assert spec.keys() - {"log", "step"} == {"type", "low", "high"}
    assert type(spec["low"]) is type(spec["high"]) is number
    assert spec["low"] < spec["high"]
    if spec.get("log"):
        assert spec["low"] > 0
        assert "step" not in spec, "a logarithmic range has no steps"
    if "step" in spec:
        steps = (spec["high"] - spec["low"]) / spec["step"]
        assert steps == pytest.approx(round(steps)), "the upper end is never drawn"


@pytest.mark.parametrize(("key", "spec"), PARAMETERS)
def test_both_ends_and_every_choice_are_valid_settings(key, spec):
    values = spec["choices"] if spec["type"] == "categorical" else (spec["low"], spec["high"])
    for value in values:
        assert flatten(load_config("demo", [f"{key}={value}"]))[key] == value
