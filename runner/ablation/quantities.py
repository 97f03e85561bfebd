"""Which numbers of a finished run a table shows, and where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.results.finished_runs import Column, FinishedRun
from runner.training.model_selection import Which


@dataclass(frozen=True)
class Quantity:
    """A number of a finished run.

    Attributes:
        name: its key in table.json.
        heading: as it is shown.
        column: the domains it is an average over; None if it is no score.
        checkpoint: which network the score is of.
    """

    name: str
    heading: str
    column: Column | None = None
    checkpoint: Which = "last"

    @property
    def metric(self) -> str:
        """What a score measures: mAP, R1, ..."""
        return self.name.rpartition("_")[2]


@dataclass(frozen=True)
class Quantities:
    """What a table shows.

    Attributes:
        scores: in percent, after the last domain; forgetting is better when it is lower.
        costs: what is no score.
        compared: those of the scores whose differences are shown.
        by_two: the scores as the screen puts them side by side.
        drawn: those of the picture's panels, with their titles.
    """

    scores: tuple[Quantity, ...]
    costs: tuple[Quantity, ...]
    compared: tuple[Quantity, ...]
    by_two: tuple[tuple[Quantity, ...], ...]
    drawn: tuple[tuple[Quantity, str], ...]

    @property
    def all(self) -> tuple[Quantity, ...]:
        """Scores, then costs."""
        return self.scores + self.costs


_SEEN, _UNSEEN = Column("seen average"), Column("unseen average")
_EPOCH = Quantity("chosen_epoch", "epoch")
_TRAINED = Quantity("num_trainable_parameters", "trained parameters")
_STORED = Quantity("stored_bytes_per_domain", "bytes kept per domain")
_PACE = Quantity("train_images_per_s", "images/s")


def _of_domains() -> Quantities:
    seen = tuple(Quantity(f"seen_{each}", f"seen {each}", _SEEN) for each in ("mAP", "R1"))
    unseen = tuple(Quantity(f"unseen_{each}", f"unseen {each}", _UNSEEN) for each in ("mAP", "R1"))
    forgetting = Quantity("forgetting_mAP", "forgetting", Column("forgetting"))
    return Quantities(
        scores=(*seen, *unseen, forgetting),
        costs=(_TRAINED, _STORED, _PACE),
        compared=(seen[0], unseen[0], forgetting),
        by_two=(seen, unseen, (forgetting,)),
        drawn=((seen[0], "seen domains"), (unseen[0], "unseen domains")),
    )


def _of_one_domain(checkpoint: Which) -> Quantities:
    """With one domain there is no other to average with or to forget; its ranks are shown."""
    scores = tuple(
        Quantity(f"seen_{metric}", metric, _SEEN, checkpoint)
        for metric in ("R1", "R5", "R10", "mAP", "mINP")
    )
    first, average = scores[0], scores[3]
    return Quantities(
        scores=scores,
        costs=(*(_EPOCH,) * (checkpoint == "validation"), _TRAINED, _PACE),
        compared=(first, average),
        by_two=tuple((each,) for each in scores),
        drawn=((first, "R1"), (average, "mAP")),
    )


OF_DOMAINS = _of_domains()
OF_ONE_DOMAIN: Mapping[Which, Quantities] = {
    "last": _of_one_domain("last"),
    "validation": _of_one_domain("validation"),
}


def quantities_for(checkpoint: Which, domains: Mapping[str, Any] | None) -> Quantities:
    """What is shown of runs over these domains.

    Args:
        checkpoint: which network the scores are of.
        domains: names by `seen` and `unseen`; None if nothing is known of them.
    """
    if checkpoint == "validation":
        # Only one domain's people choose, and only on them the chosen network was scored.
        return OF_ONE_DOMAIN[checkpoint]
    alone = domains is not None and len(domains["seen"]) == 1 and not domains["unseen"]
    return OF_ONE_DOMAIN[checkpoint] if alone else OF_DOMAINS


def value_of(run: FinishedRun, quantity: Quantity) -> float | None:
    """A finished run's number; None if it does not have it."""
    return value_in(run.results, quantity)


def value_in(results: Mapping[str, Any], quantity: Quantity) -> float | None:
    """The number as results.json has it; None if it does not."""
    value = _raw(results, quantity)
    # Nothing is trained, so there is no pace.
    if quantity == _PACE and not value:
        return None
    return None if value is None else float(value)


def said_of(results: Mapping[str, Any], checkpoint: Which) -> str:
    """The scores of a run that just ended, in a few words."""
    found = quantities_for(checkpoint, results["domains"])

    def values(*quantities: Quantity) -> str:
        known = [value_in(results, each) for each in quantities]
        return "/".join("·" if value is None else f"{value:.1f}" for value in known)

    if found is OF_DOMAINS:
        seen, unseen, (forgetting,) = found.by_two
        return f"mAP/R1 seen {values(*seen)}, unseen {values(*unseen)}, " + (
            f"forgetting {values(forgetting)}"
        )
    words = f"R1/mAP {values(*found.compared)}"
    if checkpoint == "validation":
        epoch = value_in(results, _EPOCH)
        words += " of no epoch" if epoch is None else f" of epoch {epoch:.0f}"
    return words


def _raw(results: Mapping[str, Any], quantity: Quantity) -> Any:
    if quantity == _EPOCH:
        return (_chosen(results) or {}).get("epoch")
    if quantity.checkpoint == "validation":
        return (_chosen(results) or {}).get("test", {}).get(quantity.metric)
    if quantity.column is None:
        place = results.get("timings") or {} if quantity == _PACE else results
        return place.get(quantity.name)
    summary = results.get("summary") or {}
    if quantity.name in summary or quantity not in OF_ONE_DOMAIN["last"].scores:
        return summary.get(quantity.name)
    return results["scores"][quantity.metric][-1][0]


def _chosen(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What `selection` says of the epoch chosen on validation people."""
    return (results.get("selection") or {}).get("validation")
