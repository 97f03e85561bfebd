"""Which epoch of a run over one domain is chosen on validation people, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from tasks.schema import Benchmark

Scores = dict[str, float]

Which = Literal["last", "validation"]
"""The network as a run ends, or after the epoch that validation people chose."""


class Candidate(TypedDict):
    """Scores in percent by metric of the network after some epochs of the last stage."""

    epoch: int
    validation: Scores
    test: Scores


def check_selection(every_epochs: int, benchmark: Benchmark) -> None:
    """Refuses, before any work, to choose where there is nothing to choose by.

    Args:
        every_epochs: epochs between candidates; 0 chooses nothing.
        benchmark: as the method learns it.

    Raises:
        ValueError: not one domain is learned, or it has nobody to validate on.
    """
    if not every_epochs:
        return
    names = [domain.name for domain in benchmark.seen]
    if len(benchmark.steps) != 1 or len(names) != 1:
        raise ValueError(
            f"evaluation.every_epochs={every_epochs} chooses an epoch of a run that learns one "
            f"domain, and this one learns {len(benchmark.steps)} steps of {', '.join(names)}; set "
            f"it to 0, or name one domain by benchmark.order=[{names[0]}] benchmark.unseen=[]"
        )
    split = benchmark.seen[0].validation
    if not split.query or not split.gallery:
        raise ValueError(
            f"evaluation.every_epochs={every_epochs} chooses on validation people, and {names[0]} "
            "has none; raise benchmark.num_validation_identities, or set it to 0"
        )


def best(candidates: Sequence[Candidate], split: Literal["validation", "test"]) -> Candidate | None:
    """The candidate with the highest mAP on a split, the earliest of equal ones; None without any.

    A candidate without a score (no query had a match) is never the best.
    """
    scored = [each for each in candidates if not math.isnan(each[split]["mAP"])]
    return max(scored, key=lambda each: each[split]["mAP"], default=None)


def chosen_epoch(candidates: Sequence[Candidate]) -> int | None:
    """The epoch that is chosen on validation people so far."""
    chosen = best(candidates, "validation")
    return chosen["epoch"] if chosen else None


def selection(
    every_epochs: int, domain: str, candidates: Sequence[Candidate]
) -> dict[str, Any] | None:
    """What results.json says of a run's candidates; None where nothing is chosen.

    The test scores of an epoch decide nothing but `best_on_test`, which says what a report of the
    best epoch on the test people would have claimed.
    """
    if not every_epochs:
        return None
    chosen, flattering = best(candidates, "validation"), best(candidates, "test")
    return {
        "domain": domain,
        "every_epochs": every_epochs,
        "num_candidates": len(candidates),
        "last": _entry(candidates[-1]),
        "validation": _entry(chosen),
        "best_on_test": _entry(flattering, {"not_to_be_reported": True}),
    }


def _entry(candidate: Candidate | None, more: Mapping[str, Any] | None = None) -> Any:
    """A candidate as JSON, a score that does not exist as null."""
    if candidate is None:
        return None
    splits = {
        split: {name: None if math.isnan(value) else value for name, value in scores.items()}
        for split, scores in (("validation", candidate["validation"]), ("test", candidate["test"]))
    }
    return {"epoch": candidate["epoch"], **splits, **(more or {})}
