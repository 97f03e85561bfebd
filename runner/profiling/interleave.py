"""Timing of several variants in turn, so that a drift of the machine affects all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleaved(variants: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Calls every variant in turn, `repeats` times, and returns what each call returned."""
    found: dict[str, list[T]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            found[name].append(call())
    return found
