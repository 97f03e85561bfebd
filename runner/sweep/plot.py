"""A sweep drawn. Own drawings: Optuna's warn that they are experimental and know no domains."""

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
_DPI = 160


def write_pictures(outcome: Outcome) -> list[Path]:
    """Draws every picture that the trials are enough for, and removes those they are not.

    `history.png`, `importances.png`, `parallel.png` and `slice.png`, `response-<key>.png` of each
    numeric parameter, and `pareto.png` of several objectives; needs no display.
    """
    folder = outcome.folder / FOLDER
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    for name, figure in _figures(outcome):
        partial = folder / f".{name}.partial"
        figure.savefig(partial, dpi=_DPI, format="png")
        partial.replace(folder / name)
        written.append(folder / name)
    for file in folder.glob("*.png"):
        if file not in written:
            file.unlink()
    return written


def _figures(outcome: Outcome) -> Iterator[tuple[str, Figure]]:
    # matplotlib takes its time to load
    from runner.sweep.plot_parameters import draw_parallel, draw_response, draw_slice
    from runner.sweep.plot_trials import draw_history, draw_importances, draw_pareto

    if not any(record.reports for record in outcome.records):
        return
    yield "history.png", draw_history(outcome)
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
