"""Plots of a sweep. Optuna's plots are experimental and do not know domains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.sweep.parameters import Choices
from runner.sweep.table import short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from runner.sweep.outcome import Outcome

FOLDER = "pictures"


def write_figures(outcome: Outcome) -> list[Path]:
    """Writes the figures for which there are enough trials, and deletes outdated figures.

    These are `history.png`, `importances.png`, `parallel.png` and `slice.png`,
    `response-<key>.png` for each numeric parameter, and `pareto.png` for several objectives.
    """
    from runner.plotting.style import save_figure  # matplotlib is slow to import

    folder = outcome.folder / FOLDER
    folder.mkdir(exist_ok=True)
    files = [save_figure(figure, folder / name) for name, figure in _figures(outcome)]
    for file in folder.glob("*.png"):
        if file not in files:
            file.unlink()
    return files


def _figures(outcome: Outcome) -> Iterator[tuple[str, Figure]]:
    # matplotlib is slow to import
    from runner.sweep.plot_parameters import draw_parallel, draw_response, draw_slice
    from runner.sweep.plot_trials import draw_history, draw_importances, draw_pareto

    if not any(record.reports for record in outcome.records):
        return
    yield "history.png", draw_history(outcome)
    if any(each.of for each in outcome.importances.values()):
        yield "importances.png", draw_importances(outcome)
    yield "slice.png", draw_slice(outcome)
    names = short_names(outcome.keys)
    for key, parameter in outcome.space.parameters.items():
        if not isinstance(parameter, Choices):
            safe = re.sub(r"[^A-Za-z0-9_.-]", "_", names[key])
            yield f"response-{safe}.png", draw_response(outcome, key)
    if outcome.best is not None:
        yield "parallel.png", draw_parallel(outcome)
    if outcome.front:
        yield "pareto.png", draw_pareto(outcome)
