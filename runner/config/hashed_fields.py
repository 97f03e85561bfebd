"""Fields of the configuration that determine the result of a run, and therefore its hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_IN_HASH = frozenset(
    {
        *("run", "preset", "storage", "tracking", "checkpoints", "cluster"),
        *("benchmark.root", "benchmark.roots", "benchmark.derived"),
        *("data.augment_on", "data.augment_threads", "data.evaluation_cache_share"),
        *("training.compile", "training.gradient_accumulation", "backbone.checkpoint_activations"),
    }
)
"""Fields that do not change a result: names, storage, tracking, checkpoints, hardware,
memory, caches.

The location of the data is among them because the protocol lock pins the data themselves.
"""

SWITCHES = (
    *("learner.gradnorm.enabled", "backbone.image_tower", "backbone.text_tower"),
    *("evaluation.every_epochs", "evaluation.protocol", "benchmark.style", "training.clip_norm"),
)
"""Fields that disable a section, or leave it at its default, if false, none, 0 or "standard".

Such a section does not change a result, so the hash excludes it.
"""


def in_hash(key: str) -> bool:
    """Whether the field at a dotted path may change the result of a run."""
    return not any(key == each or key.startswith(f"{each}.") for each in NOT_IN_HASH)


def hashed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the fields by dotted path that may change the result, without disabled sections."""
    disabled = tuple(
        key.removesuffix("enabled")
        for key in SWITCHES
        if not values.get(key) or values[key] == "standard"
    )
    return {
        key: value for key, value in values.items() if in_hash(key) and not key.startswith(disabled)
    }
