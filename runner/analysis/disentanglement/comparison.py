"""Measured runs beside one another: the same numbers of each, mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.analysis.disentanglement.features import CLOTHING, IDENTITY, PROBED, RANKED
from runner.analysis.disentanglement.retrieval import SHOWN, TRUTH
from runner.results.finished_runs import Estimate, FinishedRun, RunGroup, estimate, group_runs

CHANCE = "chance"


@dataclass(frozen=True)
class Line:
    """One number of every run.

    Attributes:
        section: what it belongs to.
        name: what it is.
        path: where it is in disentangle.json; a feature's mean over a group of attributes, say.
        scale: what it is multiplied by to be shown.
        decimals: how many are shown.
    """

    section: str
    name: str
    path: tuple[str, ...]
    scale: float = 1.0
    decimals: int = 1


@dataclass(frozen=True)
class Side:
    """Runs that differ by their seeds alone, measured."""

    group: RunGroup
    measured: tuple[Mapping[str, Any], ...]

    def number(self, line: Line) -> Estimate | None:
        """A line's number; None where a run lacks it."""
        return estimate(_at(results, line.path) for results in self.measured)


def sides(runs: Sequence[FinishedRun], measured: Sequence[Mapping[str, Any]]) -> tuple[Side, ...]:
    """Groups runs over seeds, with what was measured of each.

    Raises:
        ValueError: a run is given twice.
    """
    of_folder = {run.folder: results for run, results in zip(runs, measured, strict=True)}
    return tuple(
        Side(group, tuple(of_folder[member.folder] for member in group.members))
        for group in group_runs(runs)
    )


def lines(sides: Sequence[Side]) -> list[Line]:
    """Every line that a run has a number for, in the order in which they are shown."""
    every = [*_probe_lines(), *_dependence_lines(), *_retrieval_lines()]
    return [line for line in every if any(side.number(line) for side in sides)]


def to_json(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Groups with unrounded numbers."""
    return [
        {
            "label": side.group.label,
            "runs": [member.folder.name for member in side.group.members],
            "seeds": [member.config.seed for member in side.group.members],
            "numbers": {
                "/".join(line.path): {"mean": found.mean, "deviation": found.deviation}
                for line in lines([side])
                if (found := side.number(line)) is not None
            },
        }
        for side in sides
    ]


def _probe_lines() -> list[Line]:
    found: list[Line] = []
    for group in ("identity", "clothing"):
        section = f"probes of {group} (%)"
        at = ("probes", "groups", group)
        found += [
            Line(section, name, (*at, "features", name, "balanced_accuracy"), 100.0)
            for name in PROBED
        ]
        found.append(Line(section, CHANCE, (*at, "chance"), 100.0))
    return found


def _dependence_lines() -> list[Line]:
    section = f"{IDENTITY} against {CLOTHING}"
    found: list[Line] = []
    for kernel in ("linear", "rbf"):
        at = ("dependence", f"{IDENTITY}, {CLOTHING}", kernel)
        found += [
            Line(section, f"HSIC, {kernel} (1e-3)", (*at, "hsic"), 1e3, 3),
            Line(section, "  null", (*at, "null_mean"), 1e3, 3),
            Line(section, f"CKA, {kernel}", (*at, "alignment"), 1.0, 3),
        ]
    return found


def _retrieval_lines() -> list[Line]:
    return [
        Line(f"{words}, {metric} (%)", name, ("retrieval", kind, name, metric))
        for kind, words in (("same_clothes", "same clothes"), ("other_clothes", "other clothes"))
        for metric in SHOWN
        for name in (*RANKED, *TRUTH.values(), CHANCE)
    ]


def _at(results: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = results
    for name in path:
        if name not in value:
            return None
        value = value[name]
    return float(value)
