"""What a sweep optimises: scores on validation identities."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.sweep.trial_records import Report, TrialRecord

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
        name: of the score.
        mode: whether more is better.
    """

    name: str
    mode: Mode

    def of(self, report: Report) -> float | None:
        """The objective's value in a report; None where there is none, or not a finite one."""
        value = report.validation.get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def is_better(self, value: float, than: float) -> bool:
        """Whether the first value beats the second."""
        return value > than if self.mode == "max" else value < than


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Objectives from `seen_mAP` or `seen_mAP,forgetting_mAP`.

    Raises:
        ValueError: a name is none, or comes twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _MODES:
            near = difflib.get_close_matches(name, _MODES, n=1)
            raise ValueError(
                f"--objective: expected one or more of {', '.join(_MODES)}; got {name!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    if len(set(names)) < len(names):
        raise ValueError(f"--objective: expected different names, got {text!r}")
    return tuple(Objective(name, _MODES[name]) for name in names)


def best_trial(records: Sequence[TrialRecord], objective: Objective) -> TrialRecord | None:
    """The finished trial with the best value; the earlier one of equals; None if none finished."""
    best: tuple[float, TrialRecord] | None = None
    for record in records:
        value = objective.of(record.last) if record.state == "finished" and record.last else None
        if value is not None and (best is None or objective.is_better(value, best[0])):
            best = value, record
    return best[1] if best else None


def pareto_front(
    records: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> list[TrialRecord]:
    """Finished trials than which no other is better in one objective and as good in the rest."""
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
        record for record, mine in known if not any(_dominates(other, mine) for _, other in known)
    ]


def _dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
