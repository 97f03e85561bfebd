"""Interleaved timing, so that a slowdown of the machine affects all variants equally."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleaved(variants: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Calls all variants in turn, `repeats` times; returns the results of each variant."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            results[name].append(call())
    return results
