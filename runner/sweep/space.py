"""Search spaces: YAML files whose keys are configuration paths (docs/sweeps.md).

A sampled value enters a run's configuration as a `key=value` override, like one that is typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from runner.config.run_config import (
    ConfigError,
    RunConfig,
    flatten,
    in_hash,
    learner_names,
    load_config,
    schema_fields,
    schema_keys,
    validate,
)
from runner.sweep.parameters import AnyParameter, Suggests, alternatives, as_text, same, stored
from runner.sweep.space_file import SpaceError, nearest, read_space_file

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"

_FOLLOWING = ("data.transform.mean_std",)
"""Settings that follow others: images are normalised as the searched backbone expects."""


@dataclass(frozen=True)
class DefaultPoint:
    """A configuration's own values of a space's parameters.

    Attributes:
        values: by key, those that apply; None where one of them lies outside its range.
        reason: why there are none.
    """

    values: dict[str, Any] | None
    reason: str | None = None


@dataclass(frozen=True)
class SearchSpace:
    """Parameters and their ranges.

    Attributes:
        name: of the file, without .yaml.
        preset: the one it was made for, where the file says it.
        parameters: by configuration path, in the file's order.
        text: the file's, comments and all.
    """

    name: str
    preset: str | None
    parameters: Mapping[str, AnyParameter]
    text: str

    def within(self, config: RunConfig) -> SearchSpace:
        """The space with every condition on the fixed configuration decided.

        Parameters whose conditions do not hold are left out, and with them what depends on them;
        conditions on other parameters of the space stay.
        """
        settings, kept = flatten(config), dict[str, AnyParameter]()
        fixed = {key: settings[key] for key in settings if key not in self.parameters}
        for key, parameter in self.parameters.items():
            inner = {each: wanted for each, wanted in parameter.when.items() if each in kept}
            outer = {each: wanted for each, wanted in parameter.when.items() if each not in inner}
            if parameter.model_copy(update={"when": outer}).applies(fixed):
                kept[key] = parameter.model_copy(update={"when": inner})
        return replace(self, parameters=kept)

    def suggest(self, trial: Suggests) -> dict[str, Any]:
        """A value of every parameter that applies, in the file's order.

        Args:
            trial: an Optuna trial.

        Returns:
            Plain values by key.

        Raises:
            ValueError: conditions on the fixed configuration are not decided (`within`).
        """
        for key, parameter in self.parameters.items():
            if undecided := parameter.when.keys() - self.parameters.keys():
                raise ValueError(
                    f"{key} depends on {', '.join(sorted(undecided))} of the fixed configuration: "
                    "call within(config) first"
                )
        values: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if parameter.applies(values):
                values[key] = parameter.suggest(key, trial)
        return values

    def default_point(self, config: RunConfig) -> DefaultPoint:
        """The configuration's own values, if a trial could have suggested them."""
        settings, values = flatten(config), dict[str, Any]()
        for key, parameter in self.within(config).parameters.items():
            if not parameter.applies(values):
                continue
            if not parameter.contains(settings.get(key)):
                return DefaultPoint(
                    None, f"{key}={as_text(settings.get(key))} is not {parameter.spelled}"
                )
            values[key] = settings[key]
        return DefaultPoint(values)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """`key=value` overrides that give a configuration exactly these values."""
    return [f"{key}={as_text(value)}" for key, value in values.items()]


def as_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Suggested values as an Optuna study keeps them (`enqueue_trial`): lists are JSON there."""
    return {key: stored(value) for key, value in values.items()}


def space_names() -> list[str]:
    """The search spaces that ship with the project."""
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def load_space(name_or_file: str) -> SearchSpace:
    """Reads a search space: a name in search_spaces/, or a YAML file.

    Raises:
        SpaceError: there is none, or it is not well formed; the message has the file and the key.
    """
    file = SPACES / f"{name_or_file}.yaml"
    file = file if file.is_file() else Path(name_or_file)
    if not file.is_file():
        raise SpaceError(
            f"SPACE: expected a file or one of {', '.join(space_names())}; got {name_or_file!r}"
            + nearest(name_or_file, space_names())
        )
    content = read_space_file(file)
    return SearchSpace(file.stem, content.preset, content.parameters, content.text)


def check_space(space: SearchSpace, preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration every trial begins with, once the space is known to fit it.

    Both ends of every range and every choice are tried as settings, one parameter at a time, with
    its conditions made true. Values that do not go together are found by the trials that draw them.

    Args:
        space: as read.
        preset: name or file.
        overrides: of every trial.

    Raises:
        ConfigError: the configuration itself is wrong, or a `SpaceError`: a key that the learner
            does not have, that cannot be searched or that is overridden; a value that is no
            setting; no parameter that applies.
    """
    config = load_config(preset, overrides)
    given = dict(_leaves(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))))
    for key, parameter in space.parameters.items():
        _check_key(key, space, config)
        if key in given:
            raise SpaceError(
                f"{_where(space, key)}: searched and overridden; drop the override, or take the "
                "key out of the space"
            )
        for other, wanted in parameter.when.items():
            if other not in space.parameters:
                place = f"{_where(space, key)}.when: {other}"
                _check_wanted(other, alternatives(wanted), config, place)
    inside = space.within(config)
    if not inside.parameters:
        raise SpaceError(
            f"search space {space.name}: no parameter applies to preset {preset}: the conditions "
            f"of {', '.join(space.parameters)} do not hold"
        )
    # What is not said has to stay unsaid, as it is when a trial's overrides arrive.
    values = config.model_dump(mode="json", exclude_unset=True)
    for key in inside.parameters:
        _check_settings(inside, key, values)
    return config


def _check_key(key: str, space: SearchSpace, config: RunConfig) -> None:
    place = _where(space, key)
    if key == "seed":
        raise SpaceError(f"{place}: a sweep has its own seeds (--seeds), which are not searched")
    if key == "learner.name":
        raise SpaceError(f"{place}: a space belongs to one learner; choose it by --preset")
    _check_known(key, config, place)
    if not in_hash(key):
        raise SpaceError(f"{place}: changes no result of a run, so there is nothing to search")
    if key.startswith("benchmark."):
        raise SpaceError(
            f"{place}: says what trials are measured on; scores of different benchmarks cannot be "
            "compared"
        )


def _check_known(key: str, config: RunConfig, place: str) -> None:
    """Refuses a key that the preset's learner does not have."""
    name, known = config.learner.name, list(schema_keys(config.learner.name))
    if key in known:
        return
    if inside := [each for each in known if each.startswith(f"{key}.")]:
        raise SpaceError(
            f"{place}: a section of {len(inside)} settings; name one, like {inside[0]}"
        )
    if owners := [each for each in learner_names() if key in set(schema_keys(each))]:
        raise SpaceError(
            f"{place}: unknown key of learner {name}; it belongs to learner {' and '.join(owners)}"
        )
    raise SpaceError(f"{place}: unknown key of learner {name}" + nearest(key, known))


def _check_wanted(key: str, wanted: Sequence[Any], config: RunConfig, place: str) -> None:
    """Refuses a condition on values that a setting of the fixed configuration cannot take."""
    _check_known(key, config, place)
    fields = schema_fields(config.learner.name)
    section, name = next((section, name) for path, section, name in fields if path == key)
    field: TypeAdapter[Any] = TypeAdapter(section.model_fields[name].rebuild_annotation())
    for value in wanted:
        try:
            read = field.dump_python(field.validate_python(value), mode="json")
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise SpaceError(f"{place}: never {as_text(value)}: {problem}") from error
        if not same(read, value):
            raise SpaceError(f"{place}: never {as_text(value)}; write {as_text(read)}")


def _check_settings(space: SearchSpace, key: str, values: Mapping[str, Any]) -> None:
    """Tries both ends or all choices of a parameter that applies to this configuration."""
    context = _made_true(space, key)
    for what, value in space.parameters[key].probes().items():
        place = f"{_where(space, key)}: {as_text(value)} ({what})"
        try:
            before = flatten(validate(_with_overrides(values, as_overrides(context))))
            after = flatten(
                validate(_with_overrides(values, as_overrides({**context, key: value})))
            )
        except ConfigError as error:
            given = f" with {' '.join(as_overrides(context))}" if context else ""
            raise SpaceError(f"{place} is no valid setting{given}: {error}") from error
        if not same(after.get(key), value):
            raise SpaceError(
                f"{place} would be read as {as_text(after.get(key))}; write it like that"
            )
        others = (before.keys() | after.keys()) - {key, *_FOLLOWING}
        if changed := sorted(each for each in others if before.get(each) != after.get(each)):
            section = key.rpartition(".")[0]
            raise SpaceError(
                f"{place} would also reset {', '.join(changed)}: the preset does not write "
                f"{section} out, so that an override of one setting begins from an empty section; "
                "write the section in a preset of your own"
            )


def _made_true(space: SearchSpace, key: str) -> dict[str, Any]:
    """Values of earlier parameters under which one applies: the first that all conditions allow."""
    allowed: dict[str, list[Any]] = {}
    waiting = [key]
    while waiting:
        for other, wanted in space.parameters[waiting.pop()].when.items():
            values = alternatives(wanted)
            if other in allowed:
                values = [old for old in allowed[other] if any(same(old, new) for new in values)]
            if not values:
                raise SpaceError(
                    f"{_where(space, key)}: never applies: its conditions and those of what it "
                    f"depends on ask for different values of {other}"
                )
            allowed[other] = values
            waiting.append(other)
    return {other: allowed[other][0] for other in space.parameters if other in allowed}


def _with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested values with single settings overridden: what `override_values` makes, 40 times faster.

    OmegaConf reads the overrides; that it also copies the whole configuration is what takes time.
    """
    merged = dict(values)
    for key, value in _leaves(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))):
        section, *rest = key.split(".")
        inner = merged
        for name in rest:
            inner[section] = dict(inner.get(section) or {})
            inner, section = inner[section], name
        inner[section] = value
    return merged


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested mappings that is not one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _where(space: SearchSpace, key: str) -> str:
    return f"search space {space.name}: {key}"
