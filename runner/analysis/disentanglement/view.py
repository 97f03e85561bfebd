"""What was measured, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.analysis.disentanglement.comparison import CHANCE, Line, Side, lines
from runner.analysis.disentanglement.features import PROBED, RANKED
from runner.analysis.disentanglement.retrieval import SHOWN, TRUTH
from runner.analysis.drawn_attributes import GROUPS
from runner.results.finished_runs import Estimate

_MISSING = "·"


def show(console: Console, results: Mapping[str, Any]) -> None:
    """One run."""
    for table in (probes_table(results), dependence_table(results), retrieval_table(results)):
        console.print(table)
    for sentence in remarks(results):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def probes_table(results: Mapping[str, Any]) -> Table:
    """Balanced accuracy of each attribute from each feature, groups first."""
    table = _table("Linear probes: balanced accuracy (%)")
    table.add_column("attribute", no_wrap=True)
    table.add_column("chance", justify="right", style="dim", no_wrap=True)
    for name in PROBED:
        table.add_column(name, justify="right", no_wrap=True)
    probes = results["probes"]
    for group, names in GROUPS.items():
        if group not in probes["groups"]:
            continue
        mean = probes["groups"][group]
        table.add_row(f"{group}, mean", *_probe_cells(mean), style="bold")
        spread = [f"±{100 * mean['features'][name]['spread']:.1f}" for name in PROBED]
        table.add_row("  ± over folds", "", *spread, style="dim")
        for name in names:
            if name in probes["attributes"]:
                cells = _probe_cells(probes["attributes"][name])
                table.add_row(f"  {_said(name)}", *cells)
        table.add_section()
    return table


def dependence_table(results: Mapping[str, Any]) -> Table:
    """HSIC with the null beside it."""
    table = _table("Dependence of the two features of an image: HSIC (1e-3)")
    table.add_column("features", no_wrap=True)
    for heading in ("kernel", "HSIC", "null", "null 95%", "p", "CKA"):
        justify = "left" if heading == "kernel" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for pair, kernels in results["dependence"].items():
        for kernel, found in kernels.items():
            values = [f"{1e3 * found[name]:.3f}" for name in ("hsic", "null_mean", "null_95")]
            last = f"{found['p_value']:.3f}", f"{found['alignment']:.3f}"
            table.add_row(pair, kernel, *values, *last)
    return table


def retrieval_table(results: Mapping[str, Any]) -> Table:
    """The same search in the same and in other clothes."""
    table = _table("Image search, queries in old clothes (%)")
    table.add_column("by", no_wrap=True)
    for heading in ("gallery in\nsame clothes", "gallery in\nother clothes"):
        for metric in SHOWN:
            shown = heading if metric == SHOWN[0] else "\n"
            table.add_column(f"{shown}\n{metric}", justify="right")
    found = results["retrieval"]
    for name in (*RANKED, *TRUTH.values(), "chance"):
        if name not in found["same_clothes"]:
            continue
        cells = [
            f"{found[kind][name][metric]:.1f}"
            for kind in ("same_clothes", "other_clothes")
            for metric in SHOWN
        ]
        table.add_row(name, *cells, style="" if name in RANKED else "dim")
    return table


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers."""
    settings, domains = results["settings"], results["domains"]
    over = f"{len(domains)} domains, mean" if len(domains) > 1 else domains[0]
    said = [
        f"{settings['people']} people who were never trained on, of {over}; checkpoint "
        f"{results['checkpoint']}; {PROBED[-1]}: mean of the image tower's patches.",
        "null: HSIC with the clothing features of other people, mean and 95% quantile; CKA: HSIC "
        "as a share of its largest, 0 to 1.",
        "true identity, true clothing: search by the words that are known to be true.",
    ]
    if gate := results.get("gate"):
        said.append(
            f"The gate gives {100 * gate['mean']:.1f}% to identity; {100 * gate['below_0.1']:.1f}% "
            f"of its values are below 0.1, {100 * gate['above_0.9']:.1f}% above 0.9."
        )
    said += [f"Note: {note}." for note in results["notes"]]
    for name in domains:
        of_domain = results["by_domain"][name].get("left_out", {})
        if of_domain:
            words = "; ".join(f"{_said(each)} ({why})" for each, why in of_domain.items())
            said.append(f"Not probed in {name}: {words}.")
    return said


def comparison_table(sides: Sequence[Side]) -> Table:
    """A column for each group of runs, a row for each number."""
    table = _table("Disentanglement, measured")
    table.add_column("", no_wrap=True)
    for side in sides:
        num = len(side.group.members)
        seeds = f"{num} seeds" if num > 1 else f"seed {side.group.first.config.seed}"
        table.add_column(f"{side.group.label}\n{seeds}", justify="right", no_wrap=True)
    section = ""
    for line in lines(sides):
        if line.section != section:
            table.add_section()
            table.add_row(Text(line.section, style="bold"))
            section = line.section
        cells = [_cell(side.number(line), line) for side in sides]
        table.add_row(f"  {line.name}", *cells, style="dim" if line.name == CHANCE else "")
    return table


def names_of(sides: Sequence[Side]) -> list[str]:
    """What the letters of the columns stand for."""
    return [
        f"{side.group.label}: {', '.join(member.folder.name for member in side.group.members)}"
        for side in sides
    ]


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        title_justify="left", title_style="bold",
    )  # fmt: skip


def _probe_cells(found: Mapping[str, Any]) -> list[str]:
    accuracies = [found["features"][name]["balanced_accuracy"] for name in PROBED]
    return [f"{100 * value:.1f}" for value in (found["chance"], *accuracies)]


def _cell(found: Estimate | None, line: Line) -> str:
    if found is None:
        return _MISSING
    spread = found.deviation
    deviation = "" if spread is None else f" ±{line.scale * spread:.{line.decimals}f}"
    return f"{line.scale * found.mean:.{line.decimals}f}{deviation}"


def _said(attribute: str) -> str:
    return attribute.replace("_", " ")
