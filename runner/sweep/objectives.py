"""Objectives of a sweep: scores on validation identities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.sweep.trial_records import Report, TrialRecord
from tasks.suggestion import suggestion

Mode = Literal["max", "min"]

_MODES: dict[str, Mode] = {
    "seen_mAP": "max",
    "seen_R1": "max",
    "unseen_mAP": "max",
    "unseen_R1": "max",
    "average_incremental_mAP": "max",
    "backward_transfer_mAP": "max",
    "forgetting_mAP": "min",
}


@dataclass(frozen=True)
class Objective:
    """One score of `ResultMatrix.summary`, on validation identities.

    Attributes:
        name: name of the score.
        mode: `max` if higher is better, `min` if lower is better.
    """

    name: str
    mode: Mode

    def of(self, report: Report) -> float | None:
        """Value of the objective in a report; None if it is missing or not finite."""
        value = report.validation.get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better than `than`."""
        return value > than if self.mode == "max" else value < than


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Parses names separated by commas, such as `seen_mAP,forgetting_mAP`.

    Raises:
        ValueError: a name is unknown or given twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _MODES:
            raise ValueError(
                f"--objective: expected one or more of {', '.join(_MODES)}; got {name!r}"
                + suggestion(name, _MODES)
            )
    if len(set(names)) < len(names):
        raise ValueError(f"--objective: expected different names, got {text!r}")
    return tuple(Objective(name, _MODES[name]) for name in names)


def best_trial(records: Sequence[TrialRecord], objective: Objective) -> TrialRecord | None:
    """First finished trial with the best value; None if no trial has finished."""
    best: tuple[float, TrialRecord] | None = None
    for record in records:
        value = objective.of(record.last) if record.state == "finished" and record.last else None
        if value is not None and (best is None or objective.is_better(value, best[0])):
            best = value, record
    return best[1] if best else None


def pareto_front(
    records: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> list[TrialRecord]:
    """Finished trials that no other trial dominates.

    A trial dominates another if it is better in one objective and not worse in the others.
    """
    known: list[tuple[TrialRecord, list[float]]] = []
    for record in records:
        if record.state != "finished" or record.last is None:
            continue
        values = [objective.of(record.last) for objective in objectives]
        if None not in values:
            signs = [1.0 if each.mode == "max" else -1.0 for each in objectives]
            pairs = zip(signs, values, strict=True)
            known.append((record, [sign * value for sign, value in pairs if value is not None]))
    return [
        record
        for record, values in known
        if not any(_dominates(other, values) for _, other in known)
    ]


def _dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
