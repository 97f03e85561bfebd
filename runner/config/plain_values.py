"""Nested plain values of a configuration: conversion from OmegaConf, dotted paths, references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.redaction import has_reference

_KEPT = (
    *("tracking.", "storage.", "checkpoints.", "cluster."),
    *("benchmark.root", "benchmark.derived"),
)
"""Prefixes of fields whose environment references are kept in everything written.

Fields that change a result or name the run are written as values, because reading a run must not
depend on the environment. tracking.uri holds its reference itself.
"""


class ConfigError(ValueError):
    """Invalid configuration; the message names the field, the value and a remedy."""


def plain_values(node: Any) -> dict[str, Any]:
    """Plain values without interpolations, except in tracking.uri, which is resolved when used.

    Reading a run therefore does not need the password of its server.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    raw = as_mapping(OmegaConf.to_container(node))
    tracking = raw.get("tracking")
    uri = tracking.get("uri") if isinstance(tracking, dict) else None
    try:
        if has_reference(uri):
            node = OmegaConf.create(with_values(raw, {"tracking.uri": None}))
        values = as_mapping(OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(reference_error(error)) from error
    return with_values(values, {"tracking.uri": uri}) if has_reference(uri) else values


def references_in(node: Any) -> dict[str, Any]:
    """Environment references to keep, by dotted path."""
    return {
        key: value
        for key, value in leaves(OmegaConf.to_container(node))
        if has_reference(value) and key.startswith(_KEPT) and key != "tracking.uri"
    }


def resolved(text: str, field: str) -> str:
    """Replaces the environment references of a text.

    Raises:
        ValueError: a variable is not set; the message names it and the field.
    """
    try:
        return str(OmegaConf.create({"text": text}).text)
    except OmegaConfBaseException as error:
        raise ValueError(reference_error(error, field)) from error


def reference_error(error: OmegaConfBaseException, field: str = "") -> str:
    """One line about a value that cannot be resolved, with the field and the reason."""
    key, reason = field or error.full_key or "configuration", str(error).partition("\n")[0]
    if variable := re.search(r"Environment variable '\w+' not found", reason):
        return f"{key}: {variable[0]}; set the variable, or override {key}"
    return f"{key}: {reason}"


def with_values(values: Mapping[str, Any], replacements: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values in which the leaves at the given dotted paths are replaced."""
    changed = dict(values)
    for path, value in replacements.items():
        key, _, rest = path.partition(".")
        changed[key] = with_values(changed.get(key) or {}, {rest: value}) if rest else value
    return changed


def as_mapping(value: Any) -> dict[str, Any]:
    """Converts the keys of an untyped YAML mapping to strings."""
    return {str(key): inner for key, inner in value.items()}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted path and value of all leaves of nested mappings; {} is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, inner in as_mapping(value).items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Nested mappings with one leaf at a path."""
    return {path[0]: nested(path[1:], value) if path[1:] else value}
