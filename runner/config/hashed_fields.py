"""Fields of the configuration that determine the result of a run, and therefore its hash."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NOT_IN_HASH = frozenset(
    {
        *("run", "preset", "storage", "tracking", "checkpoints", "cluster"),
        *("benchmark.root", "benchmark.roots", "benchmark.derived"),
        *("benchmark.table.file", "benchmark.table.images"),
        *("data.augment_on", "data.augment_threads", "data.evaluation_cache_share"),
        *("training.compile", "training.gradient_accumulation", "backbone.checkpoint_activations"),
    }
)
"""Fields that do not change a result: names, storage, tracking, checkpoints, hardware,
memory, caches.

The location of the data is among them because the protocol lock pins the data themselves.
"""

SWITCHES = MappingProxyType(
    {
        "learner.gradnorm.enabled": False,
        "backbone.image_tower": None,
        "backbone.text_tower": None,
        "benchmark.style": None,
        "benchmark.table.camera_filter": True,
        "evaluation.every_epochs": 0,
        "evaluation.protocol": "standard",
        "training.clip_norm": None,
    }
)
"""Fields that disable a section, or leave it at its default, at the value given here.

Such a section does not change a result, so the hash excludes it.
"""


def in_hash(key: str) -> bool:
    """Whether the field at a dotted path may change the result of a run."""
    return not any(key == each or key.startswith(f"{each}.") for each in NOT_IN_HASH)


def hashed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the fields by dotted path that may change the result, without disabled sections."""
    disabled = tuple(
        key.removesuffix("enabled")
        for key, neutral in SWITCHES.items()
        if values.get(key, neutral) == neutral
    )
    return {
        key: value for key, value in values.items() if in_hash(key) and not key.startswith(disabled)
    }
