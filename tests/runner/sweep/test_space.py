"""Search spaces: parsing, error messages, sampling, and overrides of a configuration."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.config.run_config import ConfigError, RunConfig, flatten, load_config
from runner.sweep.parameters import Choices, FloatRange, IntRange, same
from runner.sweep.space import (
    SearchSpace,
    SpaceError,
    as_overrides,
    as_params,
    check_space,
    load_space,
    space_names,
)

K = "learner.num_attributes"
MODE, ALPHA = "learner.interpolation.mode", "learner.interpolation.alpha"
PRESET = "demo-sweep"

CONDITIONAL = f"""
{MODE}: {{type: categorical, choices: [none, fixed, adaptive]}}
{ALPHA}: {{type: float, low: 0.25, high: 0.75, when: {{{MODE}: fixed}}}}
learner.interpolation.keep_diagonal:
  {{type: categorical, choices: [true, false], when: {{{MODE}: [adaptive]}}}}
"""


def write_space(folder: Path, text: str) -> str:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.fixture
def read(tmp_path):
    return lambda text: load_space(write_space(tmp_path, text))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(PRESET)


class HypothesisTrial:
    """A trial whose values are chosen by hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        assert not (log and step)
        if step is None:
            return self.data.draw(st.floats(low, high))
        return min(high, low + step * self.data.draw(st.integers(0, round((high - low) / step))))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return low + step * self.data.draw(st.integers(0, (high - low) // step))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.data.draw(st.sampled_from(list(choices)))


# Parsing


def test_parameters_keep_the_order_of_the_file(tmp_path):
    text = f"# On top.\npreset: {PRESET}\n{K}: {{type: int, low: 1, high: 7, step: 3}}\n" + (
        "learner.icar.optimizer.lr: {type: float, low: 1e-5, high: 1, log: true}\n"
        "learner.views: {type: categorical, choices: [weak]}\n"
    )
    space = load_space(write_space(tmp_path, text))
    assert (space.name, space.preset, space.text) == ("x", PRESET, text)
    assert list(space.parameters) == [K, "learner.icar.optimizer.lr", "learner.views"]
    whole, real, one = space.parameters.values()
    assert isinstance(whole, IntRange)
    assert isinstance(real, FloatRange)
    assert isinstance(one, Choices)
    assert (whole.low, whole.high, whole.step, whole.log) == (1, 7, 3, False)
    assert (real.low, real.high, real.step, real.log) == (1e-5, 1.0, None, True)
    assert one.choices == ("weak",)


def test_a_copy_of_the_text_gives_the_same_space(tmp_path):
    original = load_space("vladr")
    copy = load_space(write_space(tmp_path, original.text))
    assert copy.parameters == original.parameters
    assert copy.preset == original.preset


def test_numbers_with_and_without_a_point_are_of_one_kind(read):
    parameter = read("learner.losses.cma.weight: {type: categorical, choices: [null, 1, 0.5]}")
    choices = parameter.parameters["learner.losses.cma.weight"].choices
    assert [type(each) for each in choices] == [type(None), float, float]


def test_a_space_can_be_pickled():
    space = load_space("demo")
    assert pickle.loads(pickle.dumps(space)) == space


# Malformed files

INT = f"{K}: {{type: int, low: 1, high: 8}}"
VIEWS = "learner.views: {type: categorical, choices: [weak, both]}"
TYPES = "expected a mapping with type: float, int or categorical; got"
NONE_FOUND = "expected parameters like learner.num_attributes: {type: int, low: 1, high: 8}; got"

MALFORMED = {
    "": f"{NONE_FOUND} none",
    "# nothing\n": f"{NONE_FOUND} none",
    "preset: vladr": f"{NONE_FOUND} none",
    "- 1": "expected a mapping of configuration keys, got a list",
    "5": "expected YAML; Invalid loaded object type: int",
    "word": f"word: {TYPES} nothing",
    "preset: [vladr]\n" + INT: "preset: expected the name of a preset, got ['vladr']",
    "1: {type: int}": "expected configuration paths as keys, got 1",
    f"{K}: 3": f"{K}: {TYPES} 3",
    f"{K}: {{low: 1, high: 2}}": f"{K}: {TYPES} low, high",
    "learner: {losses: {cma: {weight: {type: float}}}}": f"learner: {TYPES} losses; keys are "
    "complete paths, like learner.losses.cma.weight",
}

RANGES = {
    "type: foat, low: 1, high: 2": ".type: expected float, int or categorical; got 'foat'",
    "type: int, low: 1": ".high: expected a value, got none",
    "type: int, low: 1, high: 2, lgo: true": ".lgo: unknown; type int has when, type, low, high, "
    "log, step",
    "type: categorical, low: 1, choices: [1]": ".low: unknown; type categorical has when, type, "
    "choices",
    "type: int, low: 1.0, high: 2": ".low: expected an integer without a decimal point, got 1.0",
    "type: int, low: true, high: 2": ".low: expected an integer without a decimal point, got True",
    "type: float, low: a, high: 2": ".low: expected a number, got 'a'",
    "type: float, low: '1', high: 2": ".low: expected a number, got '1'",
    "type: float, low: true, high: 2": ".low: expected a number, got True",
    "type: float, low: .nan, high: 2": ".low: expected a finite number, got nan",
    "type: float, low: 1, high: .inf": ".high: expected a finite number, got inf",
    "type: float, low: 1, high: 2, log: 1": ".log: expected true or false, got 1",
    "type: int, low: 8, high: 1": ": expected low < high, got an inverted range from 8 to 1",
    "type: int, low: 2, high: 2": ": expected low < high, got 2 for both; to fix the value, use "
    "an override, or {type: categorical, choices: [2]}",
    "type: float, low: 0, high: 2, log: true": ": expected low > 0 in a logarithmic range, got 0.0",
    "type: float, low: 1, high: 2, log: true, step: 0.5": ": expected log or step, got both; a "
    "logarithmic range has no steps",
    "type: int, low: 1, high: 2, log: true, step: 1": ": expected log or step, got both; a "
    "logarithmic range has no steps",
    "type: float, low: 0.1, high: 1, step: 0.4": ": expected steps of 0.4 from 0.1 to 1.0; the "
    "last step is at 0.9, so high would never be sampled",
    "type: int, low: 1, high: 8, step: 9": ": expected steps of 9 from 1 to 8; the last "
    "step is at 1, so high would never be sampled",
    "type: int, low: 1, high: 8, step: 0": ".step: Input should be greater than 0 (got 0)",
}

QUOTE = "quote values that are meant as text"
ONE_KIND = ".choices: expected values of one kind (or null), got"
OTHERWISE = "; ${...} and ??? have a special meaning in configurations"
CHOICES = {
    "[]": ".choices: expected at least one choice, got []",
    "none": ".choices: expected a list, got 'none'",
    "[1, true]": f"{ONE_KIND} 1 (number), true (true or false); {QUOTE}",
    "[none, off]": f'{ONE_KIND} "none" (text), false (true or false); {QUOTE}',
    "[1, '1']": f'{ONE_KIND} 1 (number), "1" (text); {QUOTE}',
    "[[a], a]": f'{ONE_KIND} ["a"] (list), "a" (text); {QUOTE}',
    "[1, 1.0]": ".choices: expected different values, got 1.0 twice",
    "[null, null]": ".choices: expected different values, got null twice",
    "[[a], [a]]": '.choices: expected different values, got ["a"] twice',
    "[.inf]": ".choices: expected finite numbers, got inf",
    "[{a: 1}]": ".choices: expected scalars or lists of scalars, got {'a': 1}",
    "[[1, a]]": ".choices: expected lists of scalars of one kind, got [1, 'a']",
    "[[[1]]]": ".choices: expected lists of scalars of one kind, got [[1]]",
    "['${seed}']": ".choices: expected printable text without interpolation, got '${seed}'"
    + OTHERWISE,
    "['???']": ".choices: expected printable text without interpolation, got '???'" + OTHERWISE,
    '["a\\n"]': ".choices: expected printable text without interpolation, got 'a\\n'" + OTHERWISE,
}

LATER = f"{INT[:-1]}, when: {{learner.views: weak}}}}\n{VIEWS}"
NEVER = f"{VIEWS}\n{INT[:-1]}, when: {{learner.views: [weak, strong]}}}}"
CONDITIONS = {
    f"{INT[:-1]}, when: weak}}": f"{K}.when: expected a mapping from keys to values, got 'weak'",
    f"{INT[:-1]}, when: {{seed: []}}}}": f"{K}.when: seed: expected a value or a list of values, "
    "got []",
    f"{INT[:-1]}, when: {{{K}: 1}}}}": f"{K}.when: expected another key, got the key "
    "of the parameter itself",
    LATER: f"{K}.when: learner.views is listed later; list it before this parameter",
    NEVER: f'{K}.when: learner.views is never "strong"; expected one of "weak", "both"',
    f"{INT}\n{ALPHA}: {{type: float, low: 0, high: 1, when: {{{K}: 9}}}}": f"{ALPHA}.when: {K} is "
    "never 9; expected 1 to 8",
}


def refusals() -> dict[str, str]:
    ranges = {f"{K}: {{{inner}}}": f"{K}{message}" for inner, message in RANGES.items()}
    choices = {
        f"{K}: {{type: categorical, choices: {inner}}}": f"{K}{message}"
        for inner, message in CHOICES.items()
    }
    return {**MALFORMED, **ranges, **choices, **CONDITIONS}


@pytest.mark.parametrize(("text", "message"), refusals().items())
def test_a_malformed_space_raises(text, message, tmp_path):
    file = write_space(tmp_path, text)
    with pytest.raises(SpaceError) as error:
        load_space(file)
    assert str(error.value) == f"{file}: {message}"


def test_a_duplicate_key_raises(tmp_path):
    file = write_space(tmp_path, f"{INT}\n{INT}")
    with pytest.raises(SpaceError) as error:
        load_space(file)
    assert str(error.value).startswith(f"{file}: expected YAML; ")
    assert f"found duplicate key {K}" in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "\x00", f"{K}: {{type: int, low: ${{}}"])
def test_invalid_yaml_raises(text, tmp_path):
    file = write_space(tmp_path, text)
    with pytest.raises(SpaceError, match=r"x\.yaml: expected YAML; "):
        load_space(file)


def test_undecodable_text_raises(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"a: \x80")
    with pytest.raises(SpaceError, match="expected YAML; 'utf-8' codec"):
        load_space(str(tmp_path / "x.yaml"))


def test_all_problems_of_a_parameter_are_reported_together(tmp_path):
    file = write_space(tmp_path, f"{K}: {{type: int, low: a, lgo: true}}")
    with pytest.raises(SpaceError) as error:
        load_space(file)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "hint"), [("vlad", "; did you mean vladr?"), ("zzzzz", ""), ("", "")]
)
def test_an_unknown_space_raises(name, hint):
    with pytest.raises(SpaceError) as error:
        load_space(name)
    known = ", ".join(space_names())
    assert str(error.value) == f"SPACE: expected a file or one of {known}; got {name!r}{hint}"


# Spaces that do not fit a preset


def when(conditions: str) -> str:
    return f"{INT[:-1]}, when: {{{conditions}}}}}"


UNFIT = {
    f"{K}: {{type: int, low: 0, high: 2}}": f"{K}: 0 (low) is not a valid setting: {K}: Input "
    "should be greater than or equal to 1 (got 0)",
    f"{ALPHA}: {{type: float, low: 0.5, high: 1.5}}": f"{ALPHA}: 1.5 (high) is not a valid "
    f"setting: {ALPHA}: Input should be less than or equal to 1 (got 1.5)",
    f"{K}: {{type: float, low: 1, high: 6}}": f"{K}: 2.91 (a value between) is not a valid "
    f"setting: {K}: Input should be a valid integer, got a number with a "
    "fractional part (got 2.91)",
    f"{MODE}: {{type: categorical, choices: [none, fixd]}}": f'{MODE}: "fixd" (choice 2) is not '
    f"a valid setting: {MODE}: Input should be 'none', 'fixed' or 'adaptive' (got 'fixd')",
    "learner.icar.optimizer.lr: {type: categorical, choices: [null, 1e-3]}": "learner.icar."
    "optimizer.lr: null (choice 1) is not a valid setting: learner.icar.optimizer.lr: Input should "
    "be a valid number (got None)",
    f"{K}: {{type: categorical, choices: ['1']}}": f'{K}: "1" (choice 1) would be read as 1; write '
    "it in that form",
    f"{K}: {{type: categorical, choices: [true]}}": f"{K}: true (choice 1) would be read as 1; "
    "write it in that form",
    "learner.num_atributes: {type: int, low: 1, high: 2}": "learner.num_atributes: unknown key of "
    "learner vladr; did you mean learner.num_attributes?",
    "zzz: {type: int, low: 1, high: 2}": "zzz: unknown key of learner vladr",
    "learner.fusion.mixer: {type: categorical, choices: [none]}": "learner.fusion.mixer: unknown "
    "key of learner vladr; it belongs to learner bdam",
    "learner.losses.cma: {type: float, low: 1, high: 2}": "learner.losses.cma: is a section of 5 "
    "settings; use one, like learner.losses.cma.weight",
    "seed: {type: int, low: 0, high: 3}": "seed: the seed cannot be searched; set --seeds",
    "learner.name: {type: categorical, choices: [bdam]}": "learner.name: the learner cannot be "
    "searched; choose it with --preset",
    "cluster.num_workers: {type: int, low: 1, high: 2}": "cluster.num_workers: does not change "
    "the results of a run and cannot be searched",
    "storage.root: {type: categorical, choices: [a]}": "storage.root: does not change the results "
    "of a run and cannot be searched",
    "benchmark.num_validation_identities: {type: int, low: 8, high: 16}": "benchmark."
    "num_validation_identities: cannot be searched; scores on different benchmarks "
    "are not comparable",
    when("learner.viws: weak"): f"{K}.when: learner.viws: unknown key of learner vladr; did you "
    "mean learner.views?",
    when(
        "learner.views: strong"
    ): f'{K}.when: learner.views: "strong" is not a valid value: Input should be '
    "'weak' or 'both'",
    when("learner.losses.cma.weight: true"): f"{K}.when: learner.losses.cma.weight: true "
    "is read as 1.0; write that",
    f"{MODE}: {{type: categorical, choices: [none, fixed], when: {{learner.views: both}}}}\n"
    f"{ALPHA}: {{type: float, low: 0, high: 9, when: {{{MODE}: fixed}}}}": "no parameter applies "
    f"to preset {PRESET}; the conditions of {MODE}, {ALPHA} do not hold",
    f"{VIEWS}\n{MODE}: {{type: categorical, choices: [fixed], when: {{learner.views: weak}}}}\n"
    f"{ALPHA}: {{type: float, low: 0, high: 1, when: {{{MODE}: fixed, learner.views: both}}}}": (
        f"{ALPHA}: never applies: its conditions and those of the parameters it depends on require "
        "different values of learner.views"
    ),
    f"{MODE}: {{type: categorical, choices: [fixed, none]}}\n"
    f"{ALPHA}: {{type: float, low: 0, high: 9, when: {{{MODE}: fixed}}}}": f"{ALPHA}: 9.0 (high) "
    f'is not a valid setting with {MODE}="fixed": {ALPHA}: Input should be less than or equal to 1 '
    "(got 9.0)",
}


@pytest.mark.parametrize(("text", "message"), UNFIT.items())
def test_a_space_that_does_not_fit_the_preset_raises(text, message, read):
    space = read(text)
    with pytest.raises(SpaceError) as error:
        check_space(space, PRESET)
    assert str(error.value) == f"search space x: {message}"


@pytest.mark.parametrize("override", [f"{K}=3", "learner={num_attributes: 3}"])
def test_an_override_of_a_searched_key_raises(override, read):
    with pytest.raises(SpaceError) as error:
        check_space(read(INT), PRESET, [override])
    assert str(error.value) == (
        f"search space x: {K}: searched and overridden; remove the override, or the key from "
        "the space"
    )


def test_overrides_of_other_keys_are_applied(read):
    config = check_space(read(INT), PRESET, ["learner.losses.cma={weight: 2}", "seed=3"])
    assert config == load_config(PRESET, ["learner.losses.cma.weight=2", "seed=3"])


def test_an_unknown_override_raises(read):
    with pytest.raises(ConfigError, match=r"^learner\.num_attribute: unknown key"):
        check_space(read(INT), PRESET, ["learner.num_attribute=3"])


def test_a_setting_that_resets_other_settings_raises(read, tmp_path):
    """A section that only has the learner's defaults is empty under a single override."""
    preset = tmp_path / "bare.yaml"
    preset.write_text("base: [_demo]\nbackbone: {name: tiny-vit-bert}\nlearner: {name: bdam}\n")
    space = read("learner.optimizer.lr: {type: float, low: 1e-4, high: 1e-3, log: true}")
    with pytest.raises(SpaceError) as error:
        check_space(space, str(preset))
    assert str(error.value) == (
        "search space x: learner.optimizer.lr: 0.0001 (low) would also reset "
        "learner.optimizer.schedule.kind, learner.optimizer.weight_decay: the preset does not "
        "define learner.optimizer, so an override of one setting starts from an empty "
        "section; define the section in your own preset"
    )


# Conditions


def suggested(space: SearchSpace, chosen: dict[str, Any]) -> dict[str, Any]:
    return space.suggest(optuna.trial.FixedTrial(chosen))


@pytest.mark.parametrize(
    ("mode", "inner"),
    [
        ("none", {}),
        ("fixed", {ALPHA: 0.5}),
        ("adaptive", {"learner.interpolation.keep_diagonal": False}),
    ],
)
def test_a_conditional_parameter_is_sampled_only_if_it_applies(mode, inner, read):
    everything = {ALPHA: 0.5, "learner.interpolation.keep_diagonal": False, MODE: mode}
    assert suggested(read(CONDITIONAL), everything) == {MODE: mode, **inner}


NESTED = f"""
{VIEWS}
{MODE}: {{type: categorical, choices: [none, fixed], when: {{learner.views: both}}}}
{ALPHA}: {{type: float, low: 0.2, high: 0.8, when: {{{MODE}: fixed}}}}
{K}: {{type: int, low: 1, high: 8, when: {{{MODE}: fixed, learner.views: [weak, both]}}}}
"""


def test_a_parameter_that_depends_on_an_absent_one_is_absent(read):
    chosen = {"learner.views": "weak", MODE: "fixed", ALPHA: 0.5, K: 2}
    assert suggested(read(NESTED), chosen) == {"learner.views": "weak"}
    assert suggested(read(NESTED), {**chosen, "learner.views": "both"}) == {
        **chosen,
        "learner.views": "both",
    }


def test_all_conditions_must_hold(read):
    space = read(
        f"{VIEWS}\n{MODE}: {{type: categorical, choices: [none, fixed]}}\n"
        + when(f"{MODE}: fixed, learner.views: both")
    )
    for views in ("weak", "both"):
        for mode in ("none", "fixed"):
            values = suggested(space, {"learner.views": views, MODE: mode, K: 2})
            assert (K in values) == (views == "both" and mode == "fixed")


def test_within_resolves_conditions_on_the_fixed_configuration(read):
    space = read(when("learner.descriptions: whole, backbone.name: [tiny-clip]"))
    assert list(space.within(load_config(PRESET)).parameters) == [K]
    assert space.within(load_config(PRESET)).parameters[K].when == {}
    parts = load_config(PRESET, ["learner.descriptions=parts"])
    assert space.within(parts).parameters == {}


def test_within_removes_parameters_that_depend_on_removed_ones(read):
    space = read(
        f"{VIEWS}\n{MODE}: {{type: categorical, choices: [fixed], when: {{seed: 1}}}}\n"
        f"{ALPHA}: {{type: float, low: 0, high: 1, when: {{{MODE}: fixed}}}}"
    )
    # The configuration's value of a searched key does not resolve a condition.
    config = load_config(PRESET, [f"{MODE}=fixed"])
    assert list(space.within(config).parameters) == ["learner.views"]
    assert len(space.within(load_config(PRESET, ["seed=1"])).parameters) == 3
    assert space.within(config).within(config) == space.within(config)


def test_suggesting_with_unresolved_conditions_raises(read):
    with pytest.raises(ValueError, match=rf"^{K} depends on learner\.views of the fixed") as error:
        suggested(read(when("learner.views: weak")), {K: 1})
    assert str(error.value).endswith("call within(config) first")


def test_a_range_that_does_not_apply_to_the_preset_is_not_validated(read):
    text = f"{VIEWS}\n{K}: {{type: int, low: -5, high: 8, when: {{learner.descriptions: parts}}}}"
    check_space(read(text), PRESET)
    with pytest.raises(SpaceError, match=r"-5 \(low\) is not a valid setting"):
        check_space(read(text), PRESET, ["learner.descriptions=parts"])


# The default point


def test_the_default_point_has_the_parameters_that_apply(read, config):
    assert read(CONDITIONAL).default_point(config).values == {MODE: "none"}
    fixed = load_config(PRESET, [f"{MODE}=fixed", f"{ALPHA}=0.7"])
    assert read(CONDITIONAL).default_point(fixed).values == {MODE: "fixed", ALPHA: 0.7}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([f"{MODE}=fixed", f"{ALPHA}=0.8"], f"{ALPHA}=0.8 is not 0.25 to 0.75"),
        ([f"{MODE}=fixed", f"{ALPHA}=0.2"], f"{ALPHA}=0.2 is not 0.25 to 0.75"),
    ],
)
def test_values_outside_the_range_give_no_default_point(overrides, reason, read):
    point = read(CONDITIONAL).default_point(load_config(PRESET, overrides))
    assert (point.values, point.reason) == (None, reason)


@pytest.mark.parametrize(
    ("inner", "description"),
    [
        ("type: int, low: 1, high: 7, step: 2", "1 to 7 by 2"),
        ("type: categorical, choices: [1, 2]", "one of 1, 2"),
        ("type: float, low: 3.5, high: 4.5, step: 1", "3.5 to 4.5 by 1"),
    ],
)
def test_values_between_steps_or_choices_give_no_default_point(inner, description, read, config):
    point = read(f"{K}: {{{inner}}}").default_point(config)
    assert (point.values, point.reason) == (None, f"{K}=4 is not {description}")


# Values


AWKWARD = ["1", "1e-5", "null", "~", "true", "off", "0x1f", "1:30", "", " ", "a=b", "é", "'", "#"]

texts = st.sampled_from(AWKWARD) | st.text().filter(
    lambda text: text.isprintable() and "${" not in text and text != "???"
)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
scalars = numbers | st.booleans() | st.none() | texts


@settings(max_examples=40)
@given(scalars | st.lists(scalars, max_size=3))
def test_an_override_is_parsed_to_the_same_value(value):
    [override] = as_overrides({"a.b": value})
    read = OmegaConf.merge({"a": {"b": 1}}, OmegaConf.from_dotlist([override]))
    plain: Any = OmegaConf.to_container(read, resolve=True)
    back = plain["a"]["b"]
    assert type(back) is type(value)
    assert json.dumps(back) == json.dumps(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learner.icar.optimizer.lr", 0.1 + 0.2),
        ("learner.icar.optimizer.lr", 5e-324),
        ("learner.icar.optimizer.lr", 1e-05),
        (K, 3),
        ("learner.gradnorm.enabled", True),
        ("learner.losses.triplet.margin", None),
        ("learner.alignment", ["affinity", "prototype"]),
        ("learner.alignment", []),
        ("storage.root", "1e-5"),
        ("storage.root", "null"),
        ("storage.root", "a=b: [c], 'd' # \\e"),
    ],
)
def test_an_override_sets_exactly_the_value(key, value):
    read = flatten(load_config(PRESET, as_overrides({key: value})))[key]
    assert type(read) is type(value)
    assert read == value


def test_numbers_equal_across_types_but_booleans_are_not_numbers():
    assert same(1, 1.0)
    assert same(["a", 1], ("a", 1.0))
    assert not same(True, 1)
    assert not same(0, False)
    assert not same([1], [True])
    assert not same("1", 1)
    assert not same([1], 1)
    assert not same([1], [1, 2])
    assert same(None, None)


def test_a_study_stores_lists_as_json(read):
    space = read("learner.alignment: {type: categorical, choices: [[affinity], null, []]}")
    study = optuna.create_study()
    for value in (["affinity"], None, []):
        params = as_params({"learner.alignment": value})
        study.enqueue_trial(params)
        trial = study.ask()
        assert space.suggest(trial) == {"learner.alignment": value}
        assert trial.params == params
    assert as_params({K: 3, "learner.alignment": ["affinity"]}) == {
        K: 3,
        "learner.alignment": '["affinity"]',
    }


# Properties


@st.composite
def ranges(draw: st.DrawFn) -> FloatRange | IntRange:
    low, span = draw(st.integers(-50, 50)), draw(st.integers(1, 60))
    if draw(st.booleans()):
        step = draw(st.sampled_from([None, *(each for each in (1, 2, 3, span) if not span % each)]))
        log = step is None and low > 0 and draw(st.booleans())
        return IntRange(type="int", low=low, high=low + span, step=step, log=log)
    unit = draw(st.sampled_from([0.001, 0.05, 0.1, 0.25, 1.0]))
    step = draw(st.sampled_from([None, unit]))
    log = step is None and low > 0 and draw(st.booleans())
    bounds = (round(low * unit, 6), round((low + span) * unit, 6))
    return FloatRange(type="float", low=bounds[0], high=bounds[1], step=step, log=log)


@settings(max_examples=40)
@given(ranges(), st.integers(0, 2**31))
def test_values_sampled_by_optuna_are_in_the_range(parameter, seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    value = parameter.suggest("key", study.ask())
    assert type(value) is (int if parameter.type == "int" else float)
    assert parameter.contains(value)
    assert parameter.low <= value <= parameter.high
    for outside in (parameter.low - 1, parameter.high + 1, True, None, "1"):
        assert not parameter.contains(outside)


@settings(max_examples=40)
@given(ranges())
def test_both_ends_can_be_sampled(parameter):
    for end in (parameter.low, parameter.high):
        chosen = optuna.trial.FixedTrial({"key": end})
        assert same(parameter.suggest("key", chosen), end)
        assert parameter.contains(end)


@settings(max_examples=40)
@given(ranges(), st.floats(0.01, 0.99))
def test_values_between_two_steps_are_outside(parameter, part):
    if parameter.step:
        assert not parameter.contains(parameter.low + part * parameter.step)


@pytest.mark.parametrize("name", space_names())
def test_sampled_values_are_the_default_point_of_their_configuration(name):
    """Sampled values are in the space, and in the configuration made from them."""
    whole = load_space(name)
    space = whole.within(load_config(str(whole.preset)))

    @settings(max_examples=3)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        values = space.suggest(HypothesisTrial(data))
        assert all(space.parameters[key].contains(value) for key, value in values.items())
        config = load_config(str(space.preset), as_overrides(values))
        assert space.default_point(config).values == values

    holds()


@pytest.mark.slow
def test_ray_captures_the_sampled_values(read):
    from ray.tune.search.optuna.optuna_search import _OptunaTrialSuggestCaptor

    captor = _OptunaTrialSuggestCaptor(optuna.create_study().ask())
    assert read(CONDITIONAL).suggest(captor) == captor.captured_values
