"""Compares measured runs: mean and deviation over seeds of every quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.analysis.disentanglement.features import CLOTHING, IDENTITY, PROBED, RANKED
from runner.analysis.disentanglement.gates import MEANS
from runner.analysis.disentanglement.retrieval import SHOWN, TRUTH
from runner.results.finished_runs import Estimate, FinishedRun, RunGroup, estimate, group_runs

CHANCE = "chance"


@dataclass(frozen=True)
class Line:
    """Table line: one quantity of every run.

    Attributes:
        section: section of the table.
        name: name within the section.
        path: keys of the quantity in disentangle.json.
        scale: factor for display.
        decimals: number of displayed decimals.
    """

    section: str
    name: str
    path: tuple[str, ...]
    scale: float = 1.0
    decimals: int = 1


@dataclass(frozen=True)
class MeasuredGroup:
    """Runs that differ only in their seeds, with their results."""

    group: RunGroup
    measured: tuple[Mapping[str, Any], ...]

    def estimate(self, line: Line) -> Estimate | None:
        """Estimate of a line over seeds; None if a run lacks it."""
        return estimate(_at(results, line.path) for results in self.measured)


def group_measured(
    runs: Sequence[FinishedRun], measured: Sequence[Mapping[str, Any]]
) -> tuple[MeasuredGroup, ...]:
    """Groups runs over seeds, with the results of each.

    Raises:
        ValueError: a run is given twice.
    """
    of_folder = {run.folder: results for run, results in zip(runs, measured, strict=True)}
    return tuple(
        MeasuredGroup(group, tuple(of_folder[member.folder] for member in group.members))
        for group in group_runs(runs)
    )


def lines(groups: Sequence[MeasuredGroup]) -> list[Line]:
    """Lines for which some group has an estimate, in display order."""
    every = [*_probe_lines(), *_dependence_lines(), *_gate_lines(), *_retrieval_lines()]
    return [line for line in every if any(group.estimate(line) for group in groups)]


def other_people(groups: Sequence[MeasuredGroup]) -> list[str]:
    """Sentences for groups that were measured on other people than the first one."""
    first = groups[0]
    return [
        f"{group.group.label}: measured on {_people(group)}; {first.group.label} on "
        f"{_people(first)}: compare with care."
        for group in groups[1:]
        if _people(group) != _people(first)
    ]


def _people(group: MeasuredGroup) -> str:
    results = group.measured[0]
    return f"{results['num_people']} people of {', '.join(results['domains'])}"


def to_json(groups: Sequence[MeasuredGroup]) -> list[dict[str, Any]]:
    """Groups with unrounded estimates."""
    return [
        {
            "label": group.group.label,
            "runs": [member.folder.name for member in group.group.members],
            "seeds": [member.config.seed for member in group.group.members],
            "numbers": {
                "/".join(line.path): {"mean": estimated.mean, "deviation": estimated.deviation}
                for line in lines([group])
                if (estimated := group.estimate(line)) is not None
            },
        }
        for group in groups
    ]


def _probe_lines() -> list[Line]:
    probe_lines: list[Line] = []
    for group in ("identity", "clothing"):
        section = f"probes of {group} (%)"
        at = ("probes", "groups", group)
        probe_lines += [
            Line(section, name, (*at, "features", name, "balanced_accuracy"), 100.0)
            for name in PROBED
        ]
        probe_lines.append(Line(section, CHANCE, (*at, "chance"), 100.0))
    return probe_lines


def _dependence_lines() -> list[Line]:
    section = f"{IDENTITY} against {CLOTHING}"
    dependence_lines: list[Line] = []
    for kernel in ("linear", "rbf"):
        at = ("dependence", f"{IDENTITY}, {CLOTHING}", kernel)
        dependence_lines += [
            Line(section, f"HSIC, {kernel} (1e-3)", (*at, "hsic"), 1e3, 3),
            Line(section, "  null", (*at, "null_mean"), 1e3, 3),
            Line(section, f"CKA, {kernel}", (*at, "alignment"), 1.0, 3),
        ]
    return dependence_lines


def _gate_lines() -> list[Line]:
    section = "gates"
    gate_lines = [Line(section, name, path, 1.0, 2) for path, name in MEANS.items()]
    for gate, name in (("gate", "s.d. of g"), ("fusion_gate", "s.d. of the fusion gate")):
        gate_lines.append(Line(section, name, (gate, "standard_deviation"), 1.0, 2))
    return gate_lines


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
