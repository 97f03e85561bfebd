"""Files of settings that are laid over a preset: dotted paths or nested sections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runner.config.plain_values import ConfigError, as_mapping, leaves


def read_values(file: Path) -> list[str]:
    """Reads a file as overrides `key=value`.

    Raises:
        ConfigError: the file does not exist, or is no YAML mapping of configuration keys.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"--with: expected a YAML file of settings; {file} does not exist"
        ) from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--with: {file}: expected YAML; {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(
            f"--with: {file}: expected settings such as `learner.icar.epochs: 6`, got "
            f"{type(content).__name__}"
        )
    # JSON is YAML on one line, and quotes strings that look like numbers.
    return [f"{key}={json.dumps(value)}" for key, value in leaves(as_mapping(content))]


def values_text(values: Mapping[str, Any]) -> str:
    """Settings by dotted path as the text of such a file."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
