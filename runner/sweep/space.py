"""Search spaces: YAML files whose keys are configuration paths (docs/sweeps.md).

A sampled value is applied to the configuration of a run as a `key=value` override.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from runner.config.hashed_fields import in_hash
from runner.config.run_config import (
    ConfigError,
    RunConfig,
    flatten,
    learner_names,
    load_config,
    schema_fields,
    schema_keys,
    validate,
)
from runner.sweep.parameters import (
    AnyParameter,
    TrialProtocol,
    accepted_values,
    as_text,
    same,
    to_optuna,
)
from runner.sweep.space_file import SpaceError, read_space_file
from tasks.suggestion import suggestion

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"

_FOLLOWING = ("data.transform.mean_std",)
"""Settings that depend on others: the backbone determines how images are normalised."""


@dataclass(frozen=True)
class DefaultPoint:
    """Values of a configuration for the parameters of a space.

    Attributes:
        values: values of the parameters that apply, by key; None if one is outside its range.
        reason: reason why `values` is None.
    """

    values: dict[str, Any] | None
    reason: str | None = None


@dataclass(frozen=True)
class SearchSpace:
    """Parameters and their ranges.

    Attributes:
        name: name of the file without .yaml.
        preset: preset the space is written for; None if the file has none.
        parameters: parameters by configuration path, in the order of the file.
        text: text of the file, with comments.
    """

    name: str
    preset: str | None
    parameters: Mapping[str, AnyParameter]
    text: str

    def within(self, config: RunConfig) -> SearchSpace:
        """Resolves all conditions on keys that are not searched.

        Parameters whose conditions do not hold are removed, together with parameters that depend
        on them; conditions on other parameters of the space remain.
        """
        settings, kept = flatten(config), dict[str, AnyParameter]()
        fixed = {key: settings[key] for key in settings if key not in self.parameters}
        for key, parameter in self.parameters.items():
            inner = {each: wanted for each, wanted in parameter.when.items() if each in kept}
            outer = {each: wanted for each, wanted in parameter.when.items() if each not in inner}
            if parameter.model_copy(update={"when": outer}).applies(fixed):
                kept[key] = parameter.model_copy(update={"when": inner})
        return replace(self, parameters=kept)

    def suggest(self, trial: TrialProtocol) -> dict[str, Any]:
        """Samples a value of every parameter that applies, in the order of the file.

        Args:
            trial: Optuna trial.

        Returns:
            Values by key.

        Raises:
            ValueError: conditions on keys that are not searched are unresolved; see `within`.
        """
        for key, parameter in self.parameters.items():
            if unresolved := parameter.when.keys() - self.parameters.keys():
                raise ValueError(
                    f"{key} depends on {', '.join(sorted(unresolved))} of the fixed configuration; "
                    "call within(config) first"
                )
        values: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if parameter.applies(values):
                values[key] = parameter.suggest(key, trial)
        return values

    def default_point(self, config: RunConfig) -> DefaultPoint:
        """Values of the configuration, if a trial can have them."""
        settings, values = flatten(config), dict[str, Any]()
        for key, parameter in self.within(config).parameters.items():
            if not parameter.applies(values):
                continue
            if not parameter.contains(settings.get(key)):
                return DefaultPoint(
                    None, f"{key}={as_text(settings.get(key))} is not {parameter.description}"
                )
            values[key] = settings[key]
        return DefaultPoint(values)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """`key=value` overrides that set a configuration to exactly these values."""
    return [f"{key}={as_text(value)}" for key, value in values.items()]


def as_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as to_optuna in an Optuna study, for `enqueue_trial`: lists become JSON."""
    return {key: to_optuna(value) for key, value in values.items()}


def space_names() -> list[str]:
    """Names of the search spaces in search_spaces/."""
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def load_space(name_or_file: str) -> SearchSpace:
    """Reads a search space.

    Args:
        name_or_file: name in search_spaces/, or path of a YAML file.

    Raises:
        SpaceError: the file does not exist or is malformed; the message has the file and the key.
    """
    file = SPACES / f"{name_or_file}.yaml"
    file = file if file.is_file() else Path(name_or_file)
    if not file.is_file():
        raise SpaceError(
            f"SPACE: expected a file or one of {', '.join(space_names())}; got {name_or_file!r}"
            + suggestion(name_or_file, space_names(), 0.5)
        )
    content = read_space_file(file)
    return SearchSpace(file.stem, content.preset, content.parameters, content.text)


def check_space(space: SearchSpace, preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Checks a space against a preset and returns the base configuration of all trials.

    Both ends of every range and all choices are validated as settings, one parameter at a time,
    with its conditions satisfied. Invalid combinations of values are only detected by the trials
    that sample them.

    Args:
        space: space as read from its file.
        preset: name or file.
        overrides: overrides of every trial.

    Raises:
        ConfigError: the configuration is invalid.
        SpaceError: a key is unknown to the learner, cannot be searched or is overridden; a value is
            not a valid setting; or no parameter applies.
    """
    config = load_config(preset, overrides)
    given = dict(_leaves(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))))
    for key, parameter in space.parameters.items():
        _check_key(key, space, config)
        if key in given:
            raise SpaceError(
                f"{_where(space, key)}: searched and overridden; remove the override, or the key "
                "from the space"
            )
        for other, wanted in parameter.when.items():
            if other not in space.parameters:
                place = f"{_where(space, key)}.when: {other}"
                _check_wanted(other, accepted_values(wanted), config, place)
    inside = space.within(config)
    if not inside.parameters:
        raise SpaceError(
            f"search space {space.name}: no parameter applies to preset {preset}; the conditions "
            f"of {', '.join(space.parameters)} do not hold"
        )
    # Unset fields must stay unset, as when the overrides of a trial are applied.
    values = config.model_dump(mode="json", exclude_unset=True)
    for key in inside.parameters:
        _check_settings(inside, key, values)
    return config


def _check_key(key: str, space: SearchSpace, config: RunConfig) -> None:
    place = _where(space, key)
    if key == "seed":
        raise SpaceError(f"{place}: the seed cannot be searched; set --seeds")
    if key == "learner.name":
        raise SpaceError(f"{place}: the learner cannot be searched; choose it with --preset")
    _check_known(key, config, place)
    if not in_hash(key):
        raise SpaceError(f"{place}: does not change the results of a run and cannot be searched")
    if key.startswith("benchmark."):
        raise SpaceError(
            f"{place}: cannot be searched; scores on different benchmarks are not comparable"
        )


def _check_known(key: str, config: RunConfig, place: str) -> None:
    """Rejects a key that the learner of the preset does not have."""
    name, known = config.learner.name, list(schema_keys(config.learner.name))
    if key in known:
        return
    if inside := [each for each in known if each.startswith(f"{key}.")]:
        raise SpaceError(
            f"{place}: is a section of {len(inside)} settings; use one, like {inside[0]}"
        )
    if owners := [each for each in learner_names() if key in set(schema_keys(each))]:
        raise SpaceError(
            f"{place}: unknown key of learner {name}; it belongs to learner {' and '.join(owners)}"
        )
    raise SpaceError(f"{place}: unknown key of learner {name}" + suggestion(key, known, 0.5))


def _check_wanted(key: str, wanted: Sequence[Any], config: RunConfig, place: str) -> None:
    """Rejects a condition on values that a setting of the fixed configuration cannot have."""
    _check_known(key, config, place)
    fields = schema_fields(config.learner.name)
    section, name = next((section, name) for path, section, name in fields if path == key)
    field: TypeAdapter[Any] = TypeAdapter(section.model_fields[name].rebuild_annotation())
    for value in wanted:
        try:
            read = field.dump_python(field.validate_python(value), mode="json")
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise SpaceError(
                f"{place}: {as_text(value)} is not a valid value: {problem}"
            ) from error
        if not same(read, value):
            raise SpaceError(f"{place}: {as_text(value)} is read as {as_text(read)}; write that")


def _check_settings(space: SearchSpace, key: str, values: Mapping[str, Any]) -> None:
    """Validates both ends or all choices of a parameter that applies to this configuration."""
    context = _satisfying_values(space, key)
    for what, value in space.parameters[key].values_to_validate().items():
        place = f"{_where(space, key)}: {as_text(value)} ({what})"
        try:
            before = flatten(validate(_with_overrides(values, as_overrides(context))))
            after = flatten(
                validate(_with_overrides(values, as_overrides({**context, key: value})))
            )
        except ConfigError as error:
            given = f" with {' '.join(as_overrides(context))}" if context else ""
            raise SpaceError(f"{place} is not a valid setting{given}: {error}") from error
        if not same(after.get(key), value):
            raise SpaceError(
                f"{place} would be read as {as_text(after.get(key))}; write it in that form"
            )
        others = (before.keys() | after.keys()) - {key, *_FOLLOWING}
        if changed := sorted(each for each in others if before.get(each) != after.get(each)):
            section = key.rpartition(".")[0]
            raise SpaceError(
                f"{place} would also reset {', '.join(changed)}: the preset does not define "
                f"{section}, so an override of one setting starts from an empty section; define "
                "the section in your own preset"
            )


def _satisfying_values(space: SearchSpace, key: str) -> dict[str, Any]:
    """Values of earlier parameters with which `key` applies: the first that conditions allow."""
    allowed: dict[str, list[Any]] = {}
    waiting = [key]
    while waiting:
        for other, wanted in space.parameters[waiting.pop()].when.items():
            values = accepted_values(wanted)
            if other in allowed:
                values = [old for old in allowed[other] if any(same(old, new) for new in values)]
            if not values:
                raise SpaceError(
                    f"{_where(space, key)}: never applies: its conditions and those of the "
                    f"parameters it depends on require different values of {other}"
                )
            allowed[other] = values
            waiting.append(other)
    return {other: allowed[other][0] for other in space.parameters if other in allowed}


def _with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested values with overrides applied: same result as `override_values`, 40 times faster.

    OmegaConf parses only the overrides; copying the whole configuration with it is slow.
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
    """Yields dotted path and value of all leaves of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _where(space: SearchSpace, key: str) -> str:
    return f"search space {space.name}: {key}"
