"""Events -> what each MLflow run is to receive. Plain data: nothing here knows MLflow's client.

A lifelong run is one parent run, and one nested run per domain. The parent has the result matrix
(`test.mAP.<domain>` at step 0..T), the averages over learned and unseen domains, the summary and
the timings; a domain's run has its iterations (`loss`, `terms.*`, `lr`, `images_per_s`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.tracking.event_log import Event, as_number

PARENT = "run"
"""The key of the parent run; a domain's run has a key like "02-market1501"."""


class MetricPoint(NamedTuple):
    """One value of one metric.

    The time is the event's, not the moment of sending: a database keys metrics by (run, name,
    time, step, value), so the same point sent twice is stored once.
    """

    name: str
    value: float
    time_ms: int
    step: int


@dataclass
class Delivery:
    """What one MLflow run is to receive.

    Attributes:
        run: PARENT or a domain's key.
        time_ms: when its first event happened.
        metrics: points in the order of the events.
        params: values that never change once sent.
        tags: values that the latest start overwrites.
        status: "RUNNING", "FINISHED" or "FAILED"; None leaves it as it is.
        status_time_ms: when it took this status.
    """

    run: str
    time_ms: int
    metrics: list[MetricPoint] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    status_time_ms: int = 0


class RunHistory:
    """Folds the events of one run into deliveries, every (run, metric, step) once.

    A resumed run repeats the iterations after its checkpoint under their old numbers: the first
    report of a number is the one that counts. What was delivered before is known again by folding
    the same events anew, so no list of it is ever stored.
    """

    def __init__(self) -> None:
        self._attempt = 1
        self._seen_domains: list[str] = []
        self._unseen_domains: list[str] = []
        self._iterations: set[int] = set()
        self._points: set[tuple[str, str, int]] = set()
        self._params: set[tuple[str, str]] = set()
        self._weights: dict[tuple[str, str], float] = {}
        self._status: dict[str, str] = {}
        self._pending: dict[str, Delivery] = {}

    def take(self, events: Iterable[Event]) -> list[Delivery]:
        """What these events, which follow those taken before, add; the parent run comes first."""
        handlers = {
            "run": self._take_run,
            "stage": self._take_stage,
            "iteration": self._take_iteration,
            "evaluation": self._take_evaluation,
            "domain_finished": self._take_domain_finished,
            "finished": self._take_finished,
            "failed": self._take_failed,
        }
        for event in events:
            if event["event"] in handlers:
                handlers[event["event"]](event)
        deliveries = sorted(self._pending.values(), key=lambda delivery: delivery.run != PARENT)
        self._pending = {}
        return deliveries

    def _take_run(self, event: Event) -> None:
        parent = self._delivery(PARENT, event)
        self._attempt = int(event.get("attempt") or 1)
        self._seen_domains = list(event.get("seen") or [])
        self._unseen_domains = list(event.get("unseen") or [])
        self._add_params(parent, event.get("params") or {})
        names = ("name", "preset", "learner", "benchmark", "seed", "git_revision", "attempt")
        parent.tags.update(
            {name: str(event[name]) for name in names if event.get(name) is not None}
        )
        if event.get("git_revision"):
            parent.tags["mlflow.source.git.commit"] = str(event["git_revision"])
        self._set_status(parent, "RUNNING", event)

    def _take_stage(self, event: Event) -> None:
        domain = self._domain_delivery(event)
        facts = {name: event.get(name) for name in ("epochs", "iterations_per_epoch")}
        self._add_params(domain, {f"{event['stage']}.{name}": facts[name] for name in facts})
        self._set_status(domain, "RUNNING", event)

    def _take_iteration(self, event: Event) -> None:
        iteration = int(event["iteration"])
        if iteration in self._iterations:
            return
        self._iterations.add(iteration)
        domain = self._domain_delivery(event)
        values = {name: event.get(name) for name in ("loss", "lr", "images_per_s")}
        values |= {f"terms.{name}": value for name, value in (event.get("terms") or {}).items()}
        for name, value in (event.get("weights") or {}).items():
            # Most weights never change, and a straight line says nothing.
            if self._weights.get((domain.run, name)) != value:
                self._weights[domain.run, name] = value
                values[f"weights.{name}"] = value
        domain.metrics += _points(values, event, iteration)

    def _take_evaluation(self, event: Event) -> None:
        step, split, scores = int(event["step"]), event["split"], event["scores"]
        values: dict[str, Any] = {f"{split}.seconds": event.get("seconds")}
        for domain, row in scores.items():
            values |= {f"{split}.{metric}.{domain}": value for metric, value in row.items()}
        for metric in next(iter(scores.values()), {}):
            learned, unseen = self._seen_domains[:step], self._unseen_domains
            values[f"{split}.seen_{metric}"] = mean_score(scores, metric, learned)
            values[f"{split}.unseen_{metric}"] = mean_score(scores, metric, unseen)
        self._add_points(self._delivery(PARENT, event), values, event, step)

    def _take_domain_finished(self, event: Event) -> None:
        domain = self._domain_delivery(event)
        self._add_points(domain, _flat("seconds", event.get("timings") or {}), event, 0)
        self._set_status(domain, "FINISHED", event)

    def _take_finished(self, event: Event) -> None:
        values = _flat("summary", event.get("summary") or {})
        values |= _flat("seconds", event.get("timings") or {})
        self._add_points(self._delivery(PARENT, event), values, event, 0)
        self._end("FINISHED", event)

    def _take_failed(self, event: Event) -> None:
        parent = self._delivery(PARENT, event)
        parent.tags[f"error.attempt_{self._attempt}"] = str(event.get("error"))
        self._end("FAILED", event)

    def _end(self, status: str, event: Event) -> None:
        running = [run for run, was in self._status.items() if was == "RUNNING"]
        for run in {PARENT: None} | dict.fromkeys(running):
            self._set_status(self._delivery(run, event), status, event)

    def _delivery(self, run: str, event: Event) -> Delivery:
        return self._pending.setdefault(run, Delivery(run, _time_ms(event)))

    def _domain_delivery(self, event: Event) -> Delivery:
        domain, index = event["domain"], int(event["domain_index"])
        delivery = self._delivery(f"{index + 1:02d}-{domain}", event)
        delivery.tags |= {"domain": domain, "domain_index": str(index)}
        return delivery

    def _set_status(self, delivery: Delivery, status: str, event: Event) -> None:
        self._status[delivery.run] = status
        delivery.status, delivery.status_time_ms = status, _time_ms(event)

    def _add_params(self, delivery: Delivery, values: Mapping[str, Any]) -> None:
        # A param cannot change on the server; where a later start differs, the first one's stays.
        for name, value in values.items():
            if (delivery.run, name) not in self._params:
                self._params.add((delivery.run, name))
                text = value if isinstance(value, str) else json.dumps(value)
                delivery.params[_server_name(name)] = text

    def _add_points(
        self, delivery: Delivery, values: Mapping[str, Any], event: Event, step: int
    ) -> None:
        for point in _points(values, event, step):
            if (delivery.run, point.name, step) not in self._points:
                self._points.add((delivery.run, point.name, step))
                delivery.metrics.append(point)


def mean_score(
    scores: Mapping[str, Mapping[str, Any]], metric: str, domains: Sequence[str]
) -> float | None:
    """Mean of one metric over these domains; None without domains or where one has no value."""
    values = [as_number(scores.get(domain, {}).get(metric)) for domain in domains]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _points(values: Mapping[str, Any], event: Event, step: int) -> Iterator[MetricPoint]:
    for name, value in values.items():
        number = as_number(value)
        if number is not None:
            yield MetricPoint(_server_name(name), number, _time_ms(event), step)


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}"
        flat |= _flat(path, value) if isinstance(value, Mapping) else {path: value}
    return flat


def _server_name(name: str) -> str:
    """`name` with the characters MLflow refuses replaced, at most 250 characters long."""
    return re.sub(r"[^\w\-. :]", "_", name)[:250]


def _time_ms(event: Event) -> int:
    return int(float(event["time"]) * 1000)
