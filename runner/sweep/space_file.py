"""Parser of the YAML file of a search space.

Checks everything that does not depend on a configuration; `space.check_space` checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from runner.config.run_config import ConfigError
from runner.sweep.parameters import (
    AnyParameter,
    Choices,
    FloatRange,
    Parameter,
    accepted_values,
    as_text,
)

_PARAMETER: TypeAdapter[AnyParameter] = TypeAdapter(Parameter)
_EXPECTED = {
    "missing": "a value",
    "tuple_type": "a list",
    "too_short": "at least one choice",
    "dict_type": "a mapping from keys to values",
    "mapping_type": "a mapping from keys to values",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "an integer without a decimal point",
    "bool_type": "true or false",
}
"""Expected values by error types of pydantic."""


class SpaceError(ConfigError):
    """Invalid search space; the message has the file, the key, the value, and what was expected."""


class SpaceFile(NamedTuple):
    """Content of a search space file.

    Attributes:
        text: whole text.
        preset: preset the space is written for.
        parameters: parameters by configuration path, in the order of the file.
    """

    text: str
    preset: str | None
    parameters: Mapping[str, AnyParameter]


def read_space_file(file: Path) -> SpaceFile:
    """Reads an existing file.

    Raises:
        SpaceError: the file is malformed.
    """
    text, entries = _entries(file)
    preset = entries.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise SpaceError(f"{file}: preset: expected the name of a preset, got {preset!r}")
    if not entries:
        raise SpaceError(
            f"{file}: expected parameters like learner.num_attributes: "
            "{type: int, low: 1, high: 8}; got none"
        )
    parameters = {key: _parameter(file, key, entry) for key, entry in entries.items()}
    _check_conditions(file, parameters)
    return SpaceFile(text, preset, parameters)


def _entries(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        loaded = OmegaConf.load(file)
        entries = OmegaConf.to_container(loaded, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise SpaceError(f"{file}: expected YAML; {error}") from error
    if not isinstance(loaded, DictConfig) or not isinstance(entries, dict):
        raise SpaceError(f"{file}: expected a mapping of configuration keys, got a list")
    for key in entries:
        if not isinstance(key, str):
            raise SpaceError(f"{file}: expected configuration paths as keys, got {key!r}")
    return text, {str(key): entry for key, entry in entries.items()}


def _parameter(file: Path, key: str, entry: Any) -> AnyParameter:
    kinds = "type: float, int or categorical"
    if not isinstance(entry, dict):
        given = "nothing" if entry is None else repr(entry)
        raise SpaceError(f"{file}: {key}: expected a mapping with {kinds}; got {given}")
    if "type" not in entry:
        given = ", ".join(str(each) for each in entry) or "nothing"
        path = _complete_path(key, entry)
        hint = f"; keys are complete paths, like {path}" if path != key else ""
        raise SpaceError(f"{file}: {key}: expected a mapping with {kinds}; got {given}{hint}")
    try:
        return _PARAMETER.validate_python(entry)
    except ValidationError as error:
        problems = [f"{file}: {_problem(key, entry, each)}" for each in error.errors()]
        raise SpaceError("\n".join(problems)) from error


def _complete_path(key: str, entry: Any) -> str:
    """Complete path of the first nested key, for a suggestion."""
    while isinstance(entry, dict) and "type" not in entry:
        inner = next((each for each in entry if isinstance(entry[each], dict)), None)
        if inner is None:
            break
        key, entry = f"{key}.{inner}", entry[inner]
    return key


def _problem(key: str, entry: Mapping[Any, Any], item: ErrorDetails) -> str:
    """Message of one line: key, field, expected and given value."""
    # The first part of the location is the type of the parameter.
    path = ".".join([key, *(str(part) for part in item["loc"][1:])])
    if item["type"] == "union_tag_invalid":
        return f"{key}.type: expected float, int or categorical; got {entry['type']!r}"
    if item["type"] == "extra_forbidden":
        fields = Choices.model_fields if entry["type"] == "categorical" else FloatRange.model_fields
        return f"{path}: unknown; type {entry['type']} has {', '.join(fields)}"
    if expected := _EXPECTED.get(item["type"]):
        given = "none" if item["type"] == "missing" else repr(item["input"])
        return f"{path}: expected {expected}, got {given}"
    cause = item.get("ctx", {}).get("error")
    return f"{path}: {cause}" if cause else f"{path}: {item['msg']} (got {item['input']!r})"


def _check_conditions(file: Path, parameters: Mapping[str, AnyParameter]) -> None:
    """Rejects conditions on later parameters, and on values that a parameter never takes."""
    earlier: dict[str, AnyParameter] = {}
    for key, parameter in parameters.items():
        for other, wanted in parameter.when.items():
            place = f"{file}: {key}.when"
            if other == key:
                raise SpaceError(
                    f"{place}: expected another key, got the key of the parameter itself"
                )
            if other in parameters and other not in earlier:
                raise SpaceError(f"{place}: {other} is listed later; list it before this parameter")
            for value in accepted_values(wanted) if other in earlier else ():
                if not earlier[other].contains(value):
                    raise SpaceError(
                        f"{place}: {other} is never {as_text(value)}; expected "
                        f"{earlier[other].description}"
                    )
        earlier[key] = parameter
