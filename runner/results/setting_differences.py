"""Settings in which runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.config.run_config import ConfigError, RunConfig, flatten, load_config

ABSENT = "-"
"""Value of a setting that a run does not have."""

_SHOWN = ("seed", "learner.name", "backbone.name", "benchmark.name")


def setting_differences(configs: Sequence[RunConfig]) -> dict[str, tuple[Any, ...]]:
    """Settings that may change the result and differ between runs that have them.

    A setting that only some learners have is included if it differs among these.

    Returns:
        The value in each run by dotted path; `ABSENT` in a run without it. Without the seed and
        the names of learner, backbone and benchmark, which are shown with every run.
    """
    values = [flatten(config) for config in configs]
    # A section that is switched off in every run changes nothing.
    keys = dict.fromkeys(key for config in configs for key in config.effective_settings)
    rows = {
        key: tuple(each.get(key, ABSENT) for each in values) for key in keys if key not in _SHOWN
    }
    return {key: row for key, row in rows.items() if _num_different(row) > 1}


def preset_of(config: RunConfig) -> RunConfig | None:
    """The preset of a run as it is now; None if it is not available."""
    try:
        return load_config(config.preset)
    except ConfigError:
        return None


def changed_settings(config: RunConfig, preset: RunConfig) -> dict[str, Any]:
    """Settings that may change the result and differ from the preset, by dotted path.

    Returns:
        The values of the run, without the seed.
    """
    before, now = preset.effective_settings, config.effective_settings
    return {
        key: value
        for key, value in now.items()
        if key != "seed" and before.get(key, ABSENT) != value
    }


def plain(value: Any) -> str:
    """A setting as an override spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {plain(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return str(value)


def _num_different(row: Sequence[Any]) -> int:
    different: list[Any] = []
    for value in row:  # values may be lists, which have no hash
        if value != ABSENT and value not in different:
            different.append(value)
    return len(different)
