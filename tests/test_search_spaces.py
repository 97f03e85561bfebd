"""Search spaces in search_spaces/ fit the presets they are written for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.config.run_config import flatten, load_config, preset_names
from runner.sweep.parameters import same
from runner.sweep.space import (
    SPACES,
    SearchSpace,
    as_overrides,
    check_space,
    load_space,
    space_names,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=space_names())
def space(request) -> SearchSpace:
    return load_space(request.param)


def test_there_are_search_spaces():
    assert ROOT / "search_spaces" == SPACES
    assert {"vladr", "bdam", "demo", "smoke"} <= set(space_names())


def test_a_space_has_a_header_and_a_preset(space):
    assert space.text.startswith("# Search space of ")
    assert space.preset in preset_names()


def test_keys_and_values_are_valid(space):
    check_space(space, space.preset)


def test_the_values_of_the_preset_are_in_the_space(space):
    config = load_config(space.preset)
    point = space.default_point(config)
    assert point.reason is None
    again = load_config(space.preset, as_overrides(point.values))
    assert again.hash == config.hash


def test_all_parameters_can_apply_to_the_preset(space):
    assert list(space.within(load_config(space.preset)).parameters) == list(space.parameters)


@pytest.mark.parametrize("space", ["vladr", "bdam", "demo"], indirect=True)
def test_weights_that_gradnorm_learns_are_sampled_only_without_it(space):
    assert "learner.gradnorm.enabled" in space.parameters
    balanced = load_config(space.preset, ["learner.gradnorm.enabled=true"]).learner.balanced
    settings = flatten(load_config(space.preset))
    weights = {
        key for key in space.parameters if re.fullmatch(r"learner\.losses\.\w+\.weight", key)
    }
    assert weights
    for key in weights:
        on, off = ({**settings, "learner.gradnorm.enabled": each} for each in (True, False))
        is_balanced = key.split(".")[2] in balanced
        # Conditions on other parameters may exclude the key in both cases.
        assert not (is_balanced and space.parameters[key].applies(on)), key
        if not is_balanced:
            assert space.parameters[key].applies(on) == space.parameters[key].applies(off), key
        else:
            assert space.parameters[key].applies(off), key
    alpha = space.parameters["learner.gradnorm.alpha"]
    assert alpha.applies({**settings, "learner.gradnorm.enabled": True})
    assert not alpha.applies({**settings, "learner.gradnorm.enabled": False})


def test_both_ends_are_valid_overrides_of_the_command_line(space):
    """`check_space` uses a faster merge of overrides; this test uses the one of `load_config`."""
    for what in (0, -1):
        values = {
            key: list(parameter.values_to_validate().values())[what]
            for key, parameter in space.parameters.items()
        }
        settings = flatten(load_config(space.preset, as_overrides(values)))
        assert all(same(settings[key], value) for key, value in values.items())


def test_the_example_in_the_documentation_is_a_valid_space(tmp_path):
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(# Search space of .*?)```", page, flags=re.DOTALL)
    file = tmp_path / "example.yaml"
    file.write_text(example, encoding="utf-8")
    space = load_space(str(file))
    config = check_space(space, str(space.preset))
    assert list(space.within(config).parameters) == list(space.parameters)
    assert space.default_point(config).reason is None
