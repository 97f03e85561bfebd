"""Numbers, durations and errors as text."""

from __future__ import annotations

from runner.results.finished_runs import Estimate

MISSING = "·"


def format_score(value: float | None, decimals: int = 1) -> str:
    """Score in percent, such as `60.0`; `MISSING` for None."""
    return MISSING if value is None else f"{value:.{decimals}f}"


def format_estimate(estimate: Estimate | None, sign: str = "") -> str:
    """Mean and standard deviation, such as `60.0 ± 0.5`.

    Args:
        estimate: None gives `MISSING`; without a deviation (one seed), only the mean is shown.
        sign: format option of the mean's sign: `+` to show it for positive numbers too.
    """
    if estimate is None:
        return MISSING
    deviation = "" if estimate.deviation is None else f" ± {estimate.deviation:.1f}"
    return f"{estimate.mean:{sign}.1f}{deviation}"


def format_count(value: float) -> str:
    """Three significant digits with an SI prefix, such as `2.13 M`."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def format_bytes(value: float) -> str:
    """Number of bytes with three significant digits, such as `1.54 kB`."""
    count = format_count(value)
    return f"{count}B" if count[-1].isalpha() else f"{count} B"


def format_duration(seconds: float) -> str:
    """Duration as `h:mm:ss`, rounded to seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def error_line(error: str | None) -> str:
    """One line of an error: the last of a traceback, otherwise the first."""
    lines = (error or "").strip().splitlines()
    if not lines:
        return "unknown reason"
    return lines[-1 if lines[0].startswith("Traceback") else 0]
