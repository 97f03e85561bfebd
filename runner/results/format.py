"""Numbers and durations as text."""

from __future__ import annotations

from runner.results.finished_runs import Estimate

MISSING = "·"


def written(estimated: Estimate | None, sign: str = "") -> str:
    """`60.0 ± 0.5`, or without a deviation where there is one seed."""
    if estimated is None:
        return MISSING
    deviation = "" if estimated.deviation is None else f" ± {estimated.deviation:.1f}"
    return f"{estimated.mean:{sign}.1f}{deviation}"


def large(value: float) -> str:
    """Three digits and a letter: 2.13 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
