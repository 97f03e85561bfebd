"""Report of a finished run: tables for the terminal, and two plots.

All functions read the content of results.json: `scores[metric]` has one row per step 0..T (step 0
is before training) and one column per domain, seen domains first, in percent; null if missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.text import Text

from runner.results.format import MISSING, format_bytes, format_score
from tasks.retrieval.metrics import METRICS, ResultMatrix

if TYPE_CHECKING:
    from rich.table import Table


def write_figures(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `matrix.png` (mAP matrix) and `curves.png` (mAP over the steps) into `folder`.

    Needs no display and does not change matplotlib's global state.

    Raises:
        ValueError: the rows of the scores do not match the domains.
    """
    # matplotlib is slow to import
    from runner.plotting.result_matrix import draw_curves, draw_matrix
    from runner.plotting.style import save_figure

    matrix = _matrix(results)
    title = f"{results['learner']} on {results['benchmark']}, seed {results['seed']}"
    figures = {"matrix.png": draw_matrix(matrix, title), "curves.png": draw_curves(matrix, title)}
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def results_table(results: Mapping[str, Any]) -> Table:
    """Table of a run, in percent.

    Each domain has a row with mAP and R1 after the last step. Seen domains also have the mAP before
    training, the mAP right after learning the domain, and the forgetting (best mAP after steps
    1..T-1 minus the last mAP). If the learner published prototypes, a column has the version that
    each domain published. Averages follow, and a summary below the table.

    Raises:
        ValueError: the rows of the scores do not match the domains.
    """
    from rich.table import Table

    matrix, summary = _matrix(results), results["summary"]
    table = Table(
        title=f"{results['learner']} on {results['benchmark']}, seed {results['seed']} (%)",
        caption=_caption(results),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
        pad_edge=False,
    )
    table.add_column("step", justify="right", style="dim")
    table.add_column("domain", no_wrap=True)
    table.add_column("mAP", justify="right", style="bold")
    table.add_column("R1", justify="right")
    # The drop is from the best score since, not from the score just after learning.
    for heading in ("mAP\nuntrained", "mAP\nlearned", "forgotten\nfrom best"):
        table.add_column(heading, justify="right", style="dim", min_width=len("forgotten"))
    versions: Mapping[str, int] = results.get("memory_versions") or {}
    if versions:
        table.add_column("memory\nversion", justify="right", style="dim")
    for index, domain in enumerate(matrix.seen):
        learned = matrix.score("mAP", index + 1, domain)
        forgotten = _forgotten(matrix, index)
        version = [str(versions.get(domain, MISSING))] if versions else []
        _add_domain(table, matrix, domain, str(index + 1), learned, forgotten, *version)
    _add_average(table, "seen average", summary["seen_mAP"], summary["seen_R1"])
    for domain in matrix.unseen:
        _add_domain(table, matrix, domain, "", None, None)
    if matrix.unseen:
        _add_average(table, "unseen average", summary["unseen_mAP"], summary["unseen_R1"])
    return table


def scores_table(results: Mapping[str, Any]) -> Table:
    """Table of the scores of `evaluate`: one row per domain and their average, in percent."""
    from rich.table import Table

    table = Table(
        title=f"{results['run']} ({results['checkpoint']}) on {results['benchmark']} (%)",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("domain", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, justify="right")
    table.add_column("queries", justify="right", style="dim")
    for domain, scores in results["scores"].items():
        cells = [format_score(scores[metric]) for metric in METRICS]
        table.add_row(Text(domain), *cells, str(results["num_valid_queries"][domain]))
    table.add_section()
    average = [format_score(results["average"][metric]) for metric in METRICS]
    table.add_row("average", *average, style="cyan")
    return table


def _matrix(results: Mapping[str, Any]) -> ResultMatrix:
    domains = results["domains"]
    scores = {metric: results["scores"][metric] for metric in ("mAP", "R1")}
    return ResultMatrix.from_json(scores, tuple(domains["seen"]), tuple(domains["unseen"]))


def _add_domain(
    table: Table,
    matrix: ResultMatrix,
    domain: str,
    step: str,
    learned: float | None,
    forgotten: float | None,
    *more_cells: str,
) -> None:
    last = matrix.num_steps
    values = (matrix.score("mAP", last, domain), matrix.score("R1", last, domain))
    before = matrix.score("mAP", 0, domain)
    cells = [format_score(value) for value in (*values, before, learned, forgotten)]
    table.add_row(step, Text(domain), *cells, *more_cells)


def _add_average(table: Table, name: str, mean_ap: float | None, rank_1: float | None) -> None:
    table.add_section()
    table.add_row("", name, format_score(mean_ap), format_score(rank_1), style="cyan")
    table.add_section()


def _forgotten(matrix: ResultMatrix, domain_index: int) -> float | None:
    last = matrix.num_steps
    if domain_index + 1 == last:
        return None
    domain = matrix.seen[domain_index]
    scores = [matrix.score("mAP", step, domain) for step in range(1, last + 1)]
    known = [score for score in scores if score is not None]
    return max(known[:-1]) - known[-1] if len(known) == last else None


def _caption(results: Mapping[str, Any]) -> str:
    keys = {
        "forgetting": "forgetting_mAP",
        "backward transfer": "backward_transfer_mAP",
        "forward transfer": "forward_transfer_mAP",
        "average incremental": "average_incremental_mAP",
    }
    summary = results["summary"]
    scores = ", ".join(f"{name} {format_score(summary[key])}" for name, key in keys.items())
    lines, version = [f"mAP: {scores}"], results.get("memory_version")
    if stored := results.get("stored_bytes_per_domain"):
        lines.append(f"stored per domain: {format_bytes(stored)}")
        lines[-1] += f", prototypes version {version}" if version else ""
    return "\n".join(lines)
