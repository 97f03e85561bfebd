"""Results of an interpolation: averages, the chosen coefficient, a check of the end points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.tracking.event_log import Event, as_number
from tasks.retrieval.metrics import METRICS

CHOSEN_BY = (
    "mean mAP over the domains learned so far, on validation identities alone; test identities "
    "are not used"
)
SPLITS = ("test", "validation")
_SHOWN = ("mAP", "R1")

Scores = Mapping[str, Mapping[str, float]]
"""Percent by domain and metric; NaN if no query has a match."""


@dataclass(frozen=True)
class AlphaScores:
    """Scores of the interpolated model of one step and coefficient.

    Attributes:
        step: step t, whose checkpoint holds the new weights.
        domain: domain learned in step t.
        alpha: coefficient of the new weights.
        device: "cpu" or "cuda".
        scores: percent by split ("test", "validation"), domain and metric.
        num_valid_queries: queries with a match, by split and domain.
        num_unreadable_test_images: by domain; domains without any are omitted.
        num_images: number of embedded images.
        seconds: time for decoding, embedding and ranking.
        git_revision: revision of the code that evaluated.
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
        """JSON values of a line in evaluations.jsonl."""
        return asdict(self)


def scores_of_event(event: Event) -> AlphaScores:
    """Converts a line of evaluations.jsonl, in which NaN is stored as text."""
    fields = {name: value for name, value in event.items() if name not in ("time", "event")}
    scores = {
        split: {
            domain: {metric: _number(value) for metric, value in values.items()}
            for domain, values in domains.items()
        }
        for split, domains in fields.pop("scores").items()
    }
    return AlphaScores(scores=scores, **fields)


def averages(scores: Scores, learned: Sequence[str], unseen: Sequence[str]) -> dict[str, Any]:
    """Mean mAP and R1 over the seen, old, new and unseen domains, in percent.

    Args:
        scores: scores of one split.
        learned: domains learned up to the step; the last one is new.
        unseen: unseen domains of the benchmark; those without people in this split are ignored.

    Returns:
        Means by `<seen|old|new|unseen>_<mAP|R1>`; None if a domain has no score or there is no
        domain.
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
    """Chooses the coefficient with the highest seen average on validation identities.

    Args:
        validation_means: seen average by alpha.

    Returns:
        The largest of the best coefficients; None if any average is missing.
    """
    known = {alpha: mean for alpha, mean in validation_means.items() if mean is not None}
    if not known or len(known) < len(validation_means):
        return None
    return max(known, key=lambda alpha: (known[alpha], alpha))


def summarise(
    steps: Sequence[Sequence[AlphaScores]],
    seen: Sequence[str],
    unseen: Sequence[str],
    recorded: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Summarises the evaluations for results.json.

    Args:
        steps: scores of each step, by ascending alpha, end points included.
        seen: seen domains in lifelong order.
        unseen: domains used only for testing.
        recorded: results.json of the run, if it was made under the same protocol.
    """
    differences = [
        _difference(end_point, recorded)
        for evaluations in steps
        for end_point in (evaluations[0], evaluations[-1])
        if recorded is not None
    ]
    return {
        "chosen_by": CHOSEN_BY,
        "largest_difference_from_record": max(differences, default=None),
        "steps": [_summarise_step(evaluations, seen, unseen) for evaluations in steps],
    }


def _summarise_step(
    evaluations: Sequence[AlphaScores], seen: Sequence[str], unseen: Sequence[str]
) -> dict[str, Any]:
    learned = seen[: evaluations[0].step]
    means = {
        each.alpha: {split: averages(each.scores[split], learned, unseen) for split in SPLITS}
        for each in evaluations
    }
    validation = {alpha: mean["validation"]["seen_mAP"] for alpha, mean in means.items()}
    return {
        "step": evaluations[0].step,
        "domain": evaluations[0].domain,
        "chosen_alpha": choose(validation),
        "mixtures": [
            {
                "alpha": each.alpha,
                "averages": means[each.alpha],
                "scores": _without_nan(each.scores),
                "num_valid_queries": each.num_valid_queries,
                "num_unreadable_test_images": each.num_unreadable_test_images,
                "num_images": each.num_images,
                "seconds": each.seconds,
                "git_revision": each.git_revision,
            }
            for each in evaluations
        ],
    }


def _difference(end_point: AlphaScores, recorded: Mapping[str, Any]) -> float:
    """Largest difference, in points, between an end point and the run's scores of its weights."""
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
