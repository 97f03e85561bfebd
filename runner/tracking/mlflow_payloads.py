"""Converts the events of a run to MLflow payloads: plain data, independent of the MLflow package.

A lifelong run is one parent run and one nested run per domain. MLflow sorts metrics by name and
groups those with a slash, so the names of the parent put the averages first: `R1_seen`,
`R1_unseen`, `mAP_forgetting`, `mAP_seen` and `mAP_unseen` over the steps 0..T. The result matrix
follows (`test/mAP/<domain>`, `test/R1/<domain>`), with `memory/*`, `time/*` and the validation
averages. A domain's run holds its iterations by stage (`<stage>/loss`, `<stage>/lr`, ...): curves
of different stages are not joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.config.hashed_fields import in_hash
from runner.tracking.event_log import Event, as_number
from runner.tracking.mlflow_client import MetricPoint, Status
from runner.tracking.mlflow_note import NOTE_TAG, run_note
from tasks.retrieval.metrics import ResultMatrix

_METRICS = ("mAP", "R1")
_SUMMARY = ("forgetting", "backward_transfer", "forward_transfer", "average_incremental")
_TAGS = ("name", "preset", "learner", "benchmark", "seed", "git_revision", "lock", "attempt")

PARENT = "run"
"""The key of the parent run; a domain's run has a key like "02-market1501"."""


@dataclass
class Payload:
    """Data to send to one MLflow run.

    Attributes:
        run: PARENT or a domain's key.
        time_ms: Unix time of its first event.
        metrics: points in the order of the events.
        params: values that never change once sent.
        tags: values that the latest start overwrites.
        status: new status; None leaves it unchanged.
        status_time_ms: Unix time of the change of status.
    """

    run: str
    time_ms: int
    metrics: list[MetricPoint] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: Status | None = None
    status_time_ms: int = 0


class RunHistory:
    """Converts the events of one run to payloads, with every (run, metric, step) at most once.

    A resumed run repeats the iterations after its checkpoint under their old numbers; only the
    first report of a number is sent. To restore this state after a restart, pass the events that
    were sent before through `take` again; nothing else is stored.
    """

    def __init__(self) -> None:
        self._attempt = 1
        self._seen_domains: list[str] = []
        self._unseen_domains: list[str] = []
        self._run: Event = {}
        self._rows: dict[int, Mapping[str, Mapping[str, Any]]] = {}
        self._iterations: set[int] = set()
        self._points: set[tuple[str, str, int]] = set()
        self._params: set[tuple[str, str]] = set()
        self._weights: dict[tuple[str, str], float] = {}
        self._status: dict[str, str] = {}
        self._pending: dict[str, Payload] = {}

    def take(self, events: Iterable[Event]) -> list[Payload]:
        """Returns the payloads of the next events of the run, the parent run first."""
        handlers = {
            "run": self._take_run,
            "stage": self._take_stage,
            "iteration": self._take_iteration,
            "evaluation": self._take_evaluation,
            "domain_finished": self._take_domain_finished,
            "finished": self._take_finished,
            "failed": self._take_failed,
            "stopped": self._take_stopped,
        }
        for event in events:
            if event["event"] in handlers:
                handlers[event["event"]](event)
        payloads = sorted(self._pending.values(), key=lambda payload: payload.run != PARENT)
        self._pending = {}
        return payloads

    def _take_run(self, event: Event) -> None:
        parent = self._payload(PARENT, event)
        self._attempt = int(event.get("attempt") or 1)
        self._seen_domains = list(event.get("seen") or [])
        self._unseen_domains = list(event.get("unseen") or [])
        self._run = event
        # Other settings are in the artefact config.yaml.
        params = (event.get("params") or {}).items()
        self._add_params(parent, {name: value for name, value in params if in_hash(name)})
        parent.tags.update(
            {name: str(event[name]) for name in _TAGS if event.get(name) is not None}
        )
        parent.tags[NOTE_TAG] = run_note(event)
        if event.get("git_revision"):
            parent.tags["mlflow.source.git.commit"] = str(event["git_revision"])
        self._set_status(parent, "RUNNING", event)

    def _take_stage(self, event: Event) -> None:
        domain = self._domain_payload(event)
        facts = {name: event.get(name) for name in ("epochs", "iterations_per_epoch")}
        self._add_params(domain, {f"{event['stage']}.{name}": facts[name] for name in facts})
        self._set_status(domain, "RUNNING", event)

    def _take_iteration(self, event: Event) -> None:
        iteration = int(event["iteration"])
        if iteration in self._iterations:
            return
        self._iterations.add(iteration)
        domain = self._domain_payload(event)
        stage = str(event["stage"])
        names = ("loss", "lr", "images_per_s", "gradient_norm")
        values = {f"{stage}/{name}": event.get(name) for name in names}
        terms = (event.get("terms") or {}).items()
        values |= {f"{stage}/term/{name}": value for name, value in terms}
        for name, value in (event.get("weights") or {}).items():
            # Most weights are constant, so only changes are sent.
            path = f"{stage}/weight/{name}"
            if self._weights.get((domain.run, path)) != value:
                self._weights[domain.run, path] = value
                values[path] = value
        domain.metrics += _points(values, event, iteration)

    def _take_evaluation(self, event: Event) -> None:
        step, split, scores = int(event["step"]), event["split"], event["scores"]
        is_test = split == "test"
        values: dict[str, Any] = {}
        for metric in _METRICS:
            prefix = "" if is_test else f"{split}/"
            learned, unseen = self._seen_domains[:step], self._unseen_domains
            values[f"{prefix}{metric}_seen"] = mean_score(scores, metric, learned)
            values[f"{prefix}{metric}_unseen"] = mean_score(scores, metric, unseen)
            for domain, row in scores.items() if is_test else ():
                values[f"test/{metric}/{domain.replace('/', '_')}"] = row.get(metric)
        if is_test:
            self._rows.setdefault(step, scores)
            values["mAP_forgetting"] = self._forgetting(step)
        self._add_points(self._payload(PARENT, event), values, event, step)

    def _take_domain_finished(self, event: Event) -> None:
        domain = self._domain_payload(event)
        self._add_points(domain, _flat("time", event.get("timings") or {}), event, 0)
        memory = {
            "memory/version": event.get("memory_version"),
            "memory/stored_bytes_per_domain": event.get("stored_bytes_per_domain"),
        }
        self._add_points(domain, memory, event, 0)
        step = int(event["domain_index"]) + 1
        self._add_points(self._payload(PARENT, event), memory, event, step)
        self._set_status(domain, "FINISHED", event)

    def _forgetting(self, step: int) -> float | None:
        """Forgetting in mAP after a step; None if a score is missing."""
        learned = tuple(self._seen_domains[:step])
        if not learned:
            return None
        matrix = ResultMatrix(learned, ())
        for each in range(1, step + 1):
            for domain in learned:
                score = as_number(self._rows.get(each, {}).get(domain, {}).get("mAP"))
                if score is None:
                    return None
                matrix.record(each, domain, {"mAP": score})
        return matrix.forgetting("mAP")

    def _take_finished(self, event: Event) -> None:
        parent, step = self._payload(PARENT, event), max(self._rows, default=0)
        summary = event.get("summary") or {}
        values = {f"mAP_{name}": summary.get(f"{name}_mAP") for name in _SUMMARY}
        self._add_points(parent, values, event, step)
        self._add_points(parent, _flat("time", event.get("timings") or {}), event, 0)
        parent.tags[NOTE_TAG] = run_note(self._run, self._rows.get(step, {}), summary)
        self._end("FINISHED", event)

    def _take_failed(self, event: Event) -> None:
        parent = self._payload(PARENT, event)
        parent.tags[f"error.attempt_{self._attempt}"] = str(event.get("error"))
        self._end("FAILED", event)

    def _take_stopped(self, event: Event) -> None:
        parent = self._payload(PARENT, event)
        parent.tags[f"stopped.attempt_{self._attempt}"] = str(event.get("reason"))
        self._end("KILLED", event)

    def _end(self, status: Status, event: Event) -> None:
        running = [run for run, was in self._status.items() if was == "RUNNING"]
        for run in {PARENT: None} | dict.fromkeys(running):
            self._set_status(self._payload(run, event), status, event)

    def _payload(self, run: str, event: Event) -> Payload:
        return self._pending.setdefault(run, Payload(run, _time_ms(event)))

    def _domain_payload(self, event: Event) -> Payload:
        domain, index = event["domain"], int(event["domain_index"])
        payload = self._payload(f"{index + 1:02d}-{domain}", event)
        payload.tags |= {"domain": domain, "domain_index": str(index)}
        return payload

    def _set_status(self, payload: Payload, status: Status, event: Event) -> None:
        self._status[payload.run] = status
        payload.status, payload.status_time_ms = status, _time_ms(event)

    def _add_params(self, payload: Payload, values: Mapping[str, Any]) -> None:
        # MLflow params cannot change; the value of the first start is kept.
        for name, value in values.items():
            if (payload.run, name) not in self._params:
                self._params.add((payload.run, name))
                payload.params[name] = value if isinstance(value, str) else json.dumps(value)

    def _add_points(
        self, payload: Payload, values: Mapping[str, Any], event: Event, step: int
    ) -> None:
        for point in _points(values, event, step):
            if (payload.run, point.name, step) not in self._points:
                self._points.add((payload.run, point.name, step))
                payload.metrics.append(point)


def mean_score(
    scores: Mapping[str, Mapping[str, Any]], metric: str, domains: Sequence[str]
) -> float | None:
    """Mean of one metric over domains; None if there are no domains or one has no value."""
    values = [as_number(scores.get(domain, {}).get(metric)) for domain in domains]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _points(values: Mapping[str, Any], event: Event, step: int) -> Iterator[MetricPoint]:
    for name, value in values.items():
        number = as_number(value)
        if number is not None:
            yield MetricPoint(name, number, _time_ms(event), step)


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}/{name}"
        flat |= _flat(path, value) if isinstance(value, Mapping) else {path: value}
    return flat


def _time_ms(event: Event) -> int:
    return int(float(event["time"]) * 1000)
