"""Terminal view of failures and of the quality of a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from runner.descriptions.quality import Quality
from runner.descriptions.store import Row

_NUM_REASONS = 5


def show_failures(console: Console, rows: Iterable[Row]) -> None:
    """Prints the reasons of the failed rows, most frequent first."""
    reasons = Counter(re.sub(r"\s+", " ", row.reason)[:160] for row in rows if not row.is_done)
    for reason, number in reasons.most_common(_NUM_REASONS):
        console.print(f"  {number:,} x {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(reasons) > _NUM_REASONS:
        console.print(f"  and {len(reasons) - _NUM_REASONS} further reasons")


def show_quality(console: Console, quality: Quality) -> None:
    """Prints a table of lines and images, and a table of the parts."""
    console.print(str(quality.path), markup=False, highlight=False, soft_wrap=True)
    total = Table(box=None, pad_edge=False)
    total.add_column("what")
    total.add_column("number", justify="right")
    total.add_column("of images", justify="right")
    for name, number in (
        ("lines", quality.num_lines),
        ("malformed lines", quality.num_malformed),
        ("lines replaced by a later one", quality.num_repeated),
    ):
        total.add_row(name, f"{number:,}", "")
    total.add_row("images", f"{quality.num_images:,}", "")
    for name, number in (
        ("with an empty part", quality.num_empty),
        ("described like another image", quality.num_duplicated),
        ("contradictory (two colours)", quality.num_contradictory),
    ):
        total.add_row(name, f"{number:,}", f"{number / quality.num_images:.1%}")
    console.print(total)
    parts = Table(box=None, pad_edge=False)
    parts.add_column("part")
    for name in ("empty", "words", "different", "entropy (bits)", "implausible"):
        parts.add_column(name, justify="right")
    for name, part in quality.parts.items():
        parts.add_row(
            name, f"{part.num_empty:,}", f"{part.num_words:,}", f"{part.num_different_words:,}",
            f"{part.entropy_bits:.2f}", f"{part.implausible_share:.2%}",
        )  # fmt: skip
    console.print(parts)
    for name, values in quality.examples.items():
        if values:
            console.print(f"{name}: {', '.join(values)}", markup=False, highlight=False)
