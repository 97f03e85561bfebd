"""Tables of a disentanglement measurement for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.analysis.disentanglement.comparison import CHANCE, Line, MeasuredGroup, lines
from runner.analysis.disentanglement.features import PROBED, RANKED
from runner.analysis.disentanglement.gates import MEANS
from runner.analysis.disentanglement.retrieval import SHOWN, TRUTH
from runner.analysis.synthetic_attributes import GROUPS
from runner.results.finished_runs import Estimate
from runner.results.format import MISSING


def show(console: Console, results: Mapping[str, Any]) -> None:
    """Prints the tables and remarks of one run."""
    tables = (
        probes_table(results) if "probes" in results else None,
        dependence_table(results),
        gates_table(results),
        retrieval_table(results) if "retrieval" in results else None,
    )
    for table in tables:
        if table is not None:
            console.print(table)
    for sentence in remarks(results):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def probes_table(results: Mapping[str, Any]) -> Table:
    """Balanced accuracy per attribute and feature; the mean of a group comes first."""
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
                table.add_row(f"  {_label(name)}", *cells)
        table.add_section()
    return table


def dependence_table(results: Mapping[str, Any]) -> Table:
    """HSIC of pairs of features, and its null distribution."""
    table = _table("Dependence of the two features of an image: HSIC (1e-3)")
    table.add_column("features", no_wrap=True)
    for heading in ("kernel", "HSIC", "null", "null 95%", "p", "CKA"):
        justify = "left" if heading == "kernel" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for pair, kernels in results["dependence"].items():
        for kernel, each in kernels.items():
            values = [f"{1e3 * each[name]:.3f}" for name in ("hsic", "null_mean", "null_95")]
            last = f"{each['p_value']:.3f}", f"{each['alignment']:.3f}"
            table.add_row(pair, kernel, *values, *last)
    return table


def gates_table(results: Mapping[str, Any]) -> Table | None:
    """Means and deviations of both gates beside the printed ones; None without a gate."""
    published = results["published"]
    table = _table("Gates: shares from 0 to 1")
    table.add_column("gate", no_wrap=True)
    for heading in ("mean", "s.d.", "paper: mean", "s.d."):
        table.add_column(heading, justify="right", no_wrap=True)
    for (section, key), name in MEANS.items():
        if section in results:
            cells = [
                f"{each[section][value]:.2f}"
                for each in (results, published)
                for value in (key, "standard_deviation")
            ]
            table.add_row(name, *cells)
    return table if table.row_count else None


def retrieval_table(results: Mapping[str, Any]) -> Table:
    """Retrieval scores with the same clothes and with other clothes."""
    table = _table("Image search, queries in old clothes (%)")
    table.add_column("by", no_wrap=True)
    for heading in ("gallery in\nsame clothes", "gallery in\nother clothes"):
        for metric in SHOWN:
            shown = heading if metric == SHOWN[0] else "\n"
            table.add_column(f"{shown}\n{metric}", justify="right")
    scores = results["retrieval"]
    for name in (*RANKED, *TRUTH.values(), "chance"):
        if name not in scores["same_clothes"]:
            continue
        cells = [
            f"{scores[kind][name][metric]:.1f}"
            for kind in ("same_clothes", "other_clothes")
            for metric in SHOWN
        ]
        table.add_row(name, *cells, style="" if name in RANKED else "dim")
    return table


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Notes on how to read the numbers."""
    domains = results["domains"]
    over = f"{len(domains)} domains, mean" if len(domains) > 1 else domains[0]
    notes = [
        f"{results['num_people']} people not used for training, {results['num_images']} images, of "
        f"{over}; checkpoint {results['checkpoint']}.",
        "null: HSIC with the clothing features of other people, mean and 95% quantile; CKA: HSIC "
        "as a share of its largest, 0 to 1.",
    ]
    if "probes" in results:
        notes.append(f"{PROBED[-1]}: mean of the image tower's patches, not disentangled.")
    if "retrieval" in results:
        notes.append("true identity, true clothing: retrieval by ground-truth attributes.")
    if "gate" in results or "fusion_gate" in results:
        notes.append(
            f"paper: {results['published']['source']}, on CUHK-PEDES; some values are approximate."
        )
    if gate := results.get("gate"):
        notes.append(
            f"The gate assigns {100 * gate['mean']:.1f}% to identity; "
            f"{100 * gate['below_0.1']:.1f}% of its values are below 0.1, "
            f"{100 * gate['above_0.9']:.1f}% above 0.9."
        )
    notes += [f"Note: {note}." for note in results["notes"]]
    for name in domains:
        of_domain = results["by_domain"][name].get("left_out", {})
        if of_domain:
            reasons = "; ".join(f"{_label(each)} ({why})" for each, why in of_domain.items())
            notes.append(f"Not probed in {name}: {reasons}.")
    return notes


def comparison_table(groups: Sequence[MeasuredGroup]) -> Table:
    """One column per group of runs, one row per quantity."""
    table = _table("Disentanglement, measured")
    table.add_column("", no_wrap=True)
    for group in groups:
        num = len(group.group.members)
        seeds = f"{num} seeds" if num > 1 else f"seed {group.group.first.config.seed}"
        table.add_column(f"{group.group.label}\n{seeds}", justify="right", no_wrap=True)
    section = ""
    for line in lines(groups):
        if line.section != section:
            table.add_section()
            table.add_row(Text(line.section, style="bold"))
            section = line.section
        cells = [_cell(group.estimate(line), line) for group in groups]
        table.add_row(f"  {line.name}", *cells, style="dim" if line.name == CHANCE else "")
    return table


def names_of(groups: Sequence[MeasuredGroup]) -> list[str]:
    """Runs of each column label."""
    return [
        f"{group.group.label}: {', '.join(member.folder.name for member in group.group.members)}"
        for group in groups
    ]


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        title_justify="left", title_style="bold",
    )  # fmt: skip


def _probe_cells(probe: Mapping[str, Any]) -> list[str]:
    accuracies = [probe["features"][name]["balanced_accuracy"] for name in PROBED]
    return [f"{100 * value:.1f}" for value in (probe["chance"], *accuracies)]


def _cell(estimated: Estimate | None, line: Line) -> str:
    if estimated is None:
        return MISSING
    deviation = ""
    if estimated.deviation is not None:
        deviation = f" ±{line.scale * estimated.deviation:.{line.decimals}f}"
    return f"{line.scale * estimated.mean:.{line.decimals}f}{deviation}"


def _label(attribute: str) -> str:
    return attribute.replace("_", " ")
