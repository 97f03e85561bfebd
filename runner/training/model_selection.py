"""Selection of the best epoch of a run over one domain by validation mAP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from tasks.schema import Benchmark

Scores = dict[str, float]

Which = Literal["last", "validation"]
"""The learner after the last epoch, or after the epoch selected on validation identities."""


class Candidate(TypedDict):
    """Scores in percent, by metric, of the learner after `epoch` epochs of the last stage."""

    epoch: int
    validation: Scores
    test: Scores


def check_selection(every_epochs: int, benchmark: Benchmark) -> None:
    """Checks that model selection is possible.

    Args:
        every_epochs: epochs between candidates; 0 disables model selection.
        benchmark: the benchmark in the order that the method learns it.

    Raises:
        ValueError: the run does not learn exactly one domain, or that domain has no validation
            identities.
    """
    if not every_epochs:
        return
    names = [domain.name for domain in benchmark.seen]
    if len(benchmark.steps) != 1 or len(names) != 1:
        raise ValueError(
            f"evaluation.every_epochs={every_epochs}: expected a run that learns one domain, got "
            f"{len(benchmark.steps)} steps of {', '.join(names)}; set it to 0, or select one "
            f"domain with benchmark.order=[{names[0]}] benchmark.unseen=[]"
        )
    split = benchmark.seen[0].validation
    if not split.query or not split.gallery:
        raise ValueError(
            f"evaluation.every_epochs={every_epochs}: expected validation identities, but "
            f"{names[0]} has none; raise benchmark.num_validation_identities, or set it to 0"
        )


def best_candidate(
    candidates: Sequence[Candidate], split: Literal["validation", "test"]
) -> Candidate | None:
    """Returns the candidate with the highest mAP on a split; the earliest one on a tie.

    Candidates with mAP NaN (no query had a match) are ignored; None if no candidate is left.
    """
    scored = [each for each in candidates if not math.isnan(each[split]["mAP"])]
    return max(scored, key=lambda each: each[split]["mAP"], default=None)


def selected_epoch(candidates: Sequence[Candidate]) -> int | None:
    """Returns the epoch of the best candidate on the validation split so far, or None."""
    selected = best_candidate(candidates, "validation")
    return selected["epoch"] if selected else None


def selection_summary(
    every_epochs: int, domain: str, candidates: Sequence[Candidate]
) -> dict[str, Any] | None:
    """Returns the section "selection" of results.json; None if model selection is disabled.

    Test scores do not influence the selection. `best_on_test` is the score that selecting the
    epoch on the test split would have reported.
    """
    if not every_epochs:
        return None
    return {
        "domain": domain,
        "every_epochs": every_epochs,
        "num_candidates": len(candidates),
        "last": _entry(candidates[-1]),
        "validation": _entry(best_candidate(candidates, "validation")),
        "best_on_test": _entry(best_candidate(candidates, "test"), {"not_to_be_reported": True}),
    }


def _entry(candidate: Candidate | None, extra: Mapping[str, Any] | None = None) -> Any:
    """Converts a candidate to JSON, with null for NaN scores."""
    if candidate is None:
        return None
    splits = {
        split: {name: None if math.isnan(value) else value for name, value in scores.items()}
        for split, scores in (("validation", candidate["validation"]), ("test", candidate["test"]))
    }
    return {"epoch": candidate["epoch"], **splits, **(extra or {})}
