"""Quantities of finished runs that an ablation table shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.results.finished_runs import Column, FinishedRun
from runner.results.format import format_score
from runner.training.model_selection import Which


@dataclass(frozen=True)
class Quantity:
    """Quantity of a finished run.

    Attributes:
        name: key in table.json.
        heading: head of the column.
        column: domains that a score is averaged over; None if the quantity is not a score.
        checkpoint: checkpoint that the score is of.
    """

    name: str
    heading: str
    column: Column | None = None
    checkpoint: Which = "last"

    @property
    def metric(self) -> str:
        """Metric of a score: mAP, R1, ..."""
        return self.name.rpartition("_")[2]


@dataclass(frozen=True)
class Quantities:
    """Quantities that a table shows.

    Attributes:
        scores: scores in percent after the last domain; lower forgetting is better.
        costs: quantities that are not scores.
        compared: scores whose differences from the reference are shown.
        groups: scores that the console shows in one cell each.
        plotted: scores of the figure's panels, with titles.
    """

    scores: tuple[Quantity, ...]
    costs: tuple[Quantity, ...]
    compared: tuple[Quantity, ...]
    groups: tuple[tuple[Quantity, ...], ...]
    plotted: tuple[tuple[Quantity, str], ...]

    @property
    def all(self) -> tuple[Quantity, ...]:
        """Scores, then costs."""
        return self.scores + self.costs


_SEEN, _UNSEEN = Column("seen average"), Column("unseen average")
_EPOCH = Quantity("chosen_epoch", "epoch")
_TRAINED = Quantity("num_trainable_parameters", "trained parameters")
_STORED = Quantity("stored_bytes_per_domain", "bytes kept per domain")
_THROUGHPUT = Quantity("train_images_per_s", "images/s")


def _of_domains() -> Quantities:
    seen = tuple(Quantity(f"seen_{each}", f"seen {each}", _SEEN) for each in ("mAP", "R1"))
    unseen = tuple(Quantity(f"unseen_{each}", f"unseen {each}", _UNSEEN) for each in ("mAP", "R1"))
    forgetting = Quantity("forgetting_mAP", "forgetting", Column("forgetting"))
    return Quantities(
        scores=(*seen, *unseen, forgetting),
        costs=(_TRAINED, _STORED, _THROUGHPUT),
        compared=(seen[0], unseen[0], forgetting),
        groups=(seen, unseen, (forgetting,)),
        plotted=((seen[0], "seen domains"), (unseen[0], "unseen domains")),
    )


def _of_one_domain(checkpoint: Which) -> Quantities:
    """With one domain there are no averages and no forgetting; more ranks are shown instead."""
    scores = tuple(
        Quantity(f"seen_{metric}", metric, _SEEN, checkpoint)
        for metric in ("R1", "R5", "R10", "mAP", "mINP")
    )
    first, average = scores[0], scores[3]
    return Quantities(
        scores=scores,
        costs=(*(_EPOCH,) * (checkpoint == "validation"), _TRAINED, _THROUGHPUT),
        compared=(first, average),
        groups=tuple((each,) for each in scores),
        plotted=((first, "R1"), (average, "mAP")),
    )


OF_DOMAINS = _of_domains()
OF_ONE_DOMAIN: Mapping[Which, Quantities] = {
    "last": _of_one_domain("last"),
    "validation": _of_one_domain("validation"),
}


def quantities_for(checkpoint: Which, domains: Mapping[str, Any] | None) -> Quantities:
    """Selects the quantities for runs over these domains.

    Args:
        checkpoint: checkpoint that the scores are of.
        domains: names by `seen` and `unseen`; None if unknown or different between runs.
    """
    if checkpoint == "validation":
        # Model selection uses one domain, and the selected model is only tested on that domain.
        return OF_ONE_DOMAIN[checkpoint]
    is_single = domains is not None and len(domains["seen"]) == 1 and not domains["unseen"]
    return OF_ONE_DOMAIN[checkpoint] if is_single else OF_DOMAINS


def value_of(run: FinishedRun, quantity: Quantity) -> float | None:
    """Value of a finished run; None if the run does not have it."""
    return value_in(run.results, quantity)


def value_in(results: Mapping[str, Any], quantity: Quantity) -> float | None:
    """Value in results.json; None if it is missing."""
    value = _raw(results, quantity)
    # Without training there is no throughput.
    if quantity == _THROUGHPUT and not value:
        return None
    return None if value is None else float(value)


def scores_line(results: Mapping[str, Any], checkpoint: Which) -> str:
    """Scores of a run that ended, as short text."""
    shown = quantities_for(checkpoint, results["domains"])

    def values(*quantities: Quantity) -> str:
        return "/".join(format_score(value_in(results, each)) for each in quantities)

    if shown is OF_DOMAINS:
        seen, unseen, (forgetting,) = shown.groups
        return f"mAP/R1 seen {values(*seen)}, unseen {values(*unseen)}, " + (
            f"forgetting {values(forgetting)}"
        )
    text = f"R1/mAP {values(*shown.compared)}"
    if checkpoint == "validation":
        epoch = value_in(results, _EPOCH)
        text += " of no epoch" if epoch is None else f" of epoch {epoch:.0f}"
    return text


def _raw(results: Mapping[str, Any], quantity: Quantity) -> Any:
    if quantity == _EPOCH:
        return (_selected(results) or {}).get("epoch")
    if quantity.checkpoint == "validation":
        return (_selected(results) or {}).get("test", {}).get(quantity.metric)
    if quantity.column is None:
        section = results.get("timings") or {} if quantity == _THROUGHPUT else results
        return section.get(quantity.name)
    summary = results.get("summary") or {}
    if quantity.name in summary or quantity not in OF_ONE_DOMAIN["last"].scores:
        return summary.get(quantity.name)
    return results["scores"][quantity.metric][-1][0]


def _selected(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Entry of `selection` for the epoch selected on validation identities."""
    return (results.get("selection") or {}).get("validation")
