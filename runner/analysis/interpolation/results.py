"""What the evaluations of mixtures say: averages, the choice, and a check of the end points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.tracking.event_log import Event, as_number
from tasks.retrieval.metrics import METRICS

CHOSEN_BY = (
    "mean mAP over the domains learned so far, on validation identities alone; the test "
    "identities had no say"
)
SPLITS = ("test", "validation")
_SHOWN = ("mAP", "R1")

Scores = Mapping[str, Mapping[str, float]]
"""Percent by domain and metric; NaN where no query has a match."""


@dataclass(frozen=True)
class Mixture:
    """One finished evaluation.

    Attributes:
        step: t, whose weights are the new ones.
        domain: what step t learned.
        alpha: share of the new weights.
        device: "cpu" or "cuda".
        scores: in percent by split ("test", "validation"), domain and metric.
        num_valid_queries: queries that had a match, by split and domain.
        num_unreadable_test_images: by domain, where there are any.
        num_images: embedded images.
        seconds: decoding, embedding and ranking together.
        git_revision: the code that evaluated.
    """

    step: int
    domain: str
    alpha: float
    device: str
    scores: Mapping[str, Scores]
    num_valid_queries: Mapping[str, Mapping[str, int]]
    num_unreadable_test_images: Mapping[str, int]
    num_images: int
    seconds: float
    git_revision: str | None

    def fields(self) -> dict[str, Any]:
        """Plain values, as a line of evaluations.jsonl holds them."""
        return asdict(self)


def mixture_of_event(event: Event) -> Mixture:
    """A line of evaluations.jsonl read back; numbers that JSON lacks come as text there."""
    fields = {name: value for name, value in event.items() if name not in ("time", "event")}
    scores = {
        split: {
            domain: {metric: _number(value) for metric, value in values.items()}
            for domain, values in domains.items()
        }
        for split, domains in fields.pop("scores").items()
    }
    return Mixture(scores=scores, **fields)


def averages(scores: Scores, learned: Sequence[str], unseen: Sequence[str]) -> dict[str, Any]:
    """Means over domains: seen, old, new, unseen; each in mAP and R1, in percent.

    Args:
        scores: of one split.
        learned: the domains learned by the step, its own last.
        unseen: those of the benchmark; one without people in this split is left out.

    Returns:
        `<seen|old|new|unseen>_<mAP|R1>`; None where a domain has no score, or there is none.
    """
    groups = {
        "seen": learned,
        "old": learned[:-1],
        "new": learned[-1:],
        "unseen": [domain for domain in unseen if domain in scores],
    }
    return {
        f"{name}_{metric}": _mean([scores.get(each, {}).get(metric, math.nan) for each in group])
        for name, group in groups.items()
        for metric in _SHOWN
    }


def choose(validation_means: Mapping[float, float | None]) -> float | None:
    """The share with the highest seen average on validation identities; of equals the largest.

    Args:
        validation_means: that average by alpha.

    Returns:
        None if one is missing: the choice would be among what happens to be there.
    """
    known = {alpha: mean for alpha, mean in validation_means.items() if mean is not None}
    if not known or len(known) < len(validation_means):
        return None
    return max(known, key=lambda alpha: (known[alpha], alpha))


def summarise_mixtures(
    steps: Sequence[Sequence[Mixture]],
    seen: Sequence[str],
    unseen: Sequence[str],
    recorded: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The part of results.json that the evaluations give.

    Args:
        steps: the mixtures of each step, by ascending alpha, end points included.
        seen: the lifelong order.
        unseen: domains that are only tested.
        recorded: the run's own results.json, if it was made under the same protocol.
    """
    differences = [
        _difference(mixture, recorded)
        for mixtures in steps
        for mixture in (mixtures[0], mixtures[-1])
        if recorded is not None
    ]
    return {
        "chosen_by": CHOSEN_BY,
        "largest_difference_from_record": max(differences, default=None),
        "steps": [_summarise_step(mixtures, seen, unseen) for mixtures in steps],
    }


def _summarise_step(
    mixtures: Sequence[Mixture], seen: Sequence[str], unseen: Sequence[str]
) -> dict[str, Any]:
    learned = seen[: mixtures[0].step]
    means = {
        mixture.alpha: {split: averages(mixture.scores[split], learned, unseen) for split in SPLITS}
        for mixture in mixtures
    }
    validation = {alpha: each["validation"]["seen_mAP"] for alpha, each in means.items()}
    return {
        "step": mixtures[0].step,
        "domain": mixtures[0].domain,
        "chosen_alpha": choose(validation),
        "mixtures": [
            {
                "alpha": mixture.alpha,
                "averages": means[mixture.alpha],
                "scores": _without_nan(mixture.scores),
                "num_valid_queries": mixture.num_valid_queries,
                "num_unreadable_test_images": mixture.num_unreadable_test_images,
                "num_images": mixture.num_images,
                "seconds": mixture.seconds,
                "git_revision": mixture.git_revision,
            }
            for mixture in mixtures
        ],
    }


def _difference(end_point: Mixture, recorded: Mapping[str, Any]) -> float:
    """Largest distance in points of an end point from the run's own row for the same weights."""
    row = end_point.step if end_point.alpha == 1 else end_point.step - 1
    columns = [*recorded["domains"]["seen"], *recorded["domains"]["unseen"]]
    matrices = {"test": recorded["scores"], "validation": recorded["validation"]}
    distances = [0.0]
    for split, domains in end_point.scores.items():
        for domain, values in domains.items():
            for metric in METRICS:
                before = matrices[split][metric][row][columns.index(domain)]
                if before is not None and not math.isnan(values[metric]):
                    distances.append(abs(values[metric] - before))
    return max(distances)


def _mean(values: Sequence[float]) -> float | None:
    if not values or any(math.isnan(value) for value in values):
        return None
    return math.fsum(values) / len(values)


def _number(value: object) -> float:
    number = as_number(value)
    assert number is not None, value
    return number


def _without_nan(scores: Mapping[str, Scores]) -> dict[str, Any]:
    return {
        split: {
            domain: {
                metric: None if math.isnan(value) else value for metric, value in values.items()
            }
            for domain, values in domains.items()
        }
        for split, domains in scores.items()
    }
