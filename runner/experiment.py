"""One run from configuration to results.json; reads like a lab notebook."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.run_config import RunConfig, base_folder, flatten, learner_module
from runner.results.report import write_figures
from runner.results.run_folder import RunStorage, git_revision
from runner.streaming.decoded_cache import SharedFiles
from runner.tracking.console import EventView, follow
from runner.tracking.event_log import EventLog
from runner.tracking.mlflow_client import resolve_uri
from runner.tracking.tracker import DrainReport, Tracker
from runner.training.checkpoints import CheckpointStore
from runner.training.evaluation import check_queries, pinned_settings
from runner.training.model_selection import check_selection, selection
from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.retrieval.metrics import ResultMatrix
from tasks.retrieval.random_baseline import chance_average
from tasks.schema import Benchmark


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: the run's storage.
        results: what results.json holds.
        was_finished: the run had been finished by an earlier start; nothing was computed.
        tracking: how tracking ended; None if it was off or nothing was computed.
    """

    folder: Path
    results: dict[str, Any]
    was_finished: bool = False
    tracking: DrainReport | None = None


def run_experiment(
    config: RunConfig,
    *,
    fresh: bool = False,
    view: EventView | None = None,
    shared: SharedFiles | None = None,
) -> RunResult:
    """Runs, or goes on with, the run that `config` describes.

    Args:
        config: the run. With cluster.num_workers=0 it stays in this process and imports neither
            ray nor mlflow; `sync` tracks it afterwards.
        fresh: start over, dropping what an earlier start of the same run left.
        view: shows events while the run goes on.
        shared: files that need not be decoded again; see `runner.sweep.shared_images`.

    Raises:
        ValueError, OSError: the input is wrong; says what was expected, what came, what to do.
        RuntimeError: the run is in use by another process, or workers kept failing.
    """
    began = time.time()
    storage = RunStorage.of(config)
    benchmark = read_benchmark(config)
    attempt = storage.open(config, fresh=fresh)
    try:
        storage.write_lock(benchmark.lock)
        finished = storage.results()
        if finished is not None:
            return RunResult(storage.folder, finished, was_finished=True)
        spool = EventLog(storage.events_file)
        with _shown(storage, view):
            _announce(spool, config, benchmark, attempt)
            tracker = _tracker(storage, config)
            try:
                outcome = _compute(config, benchmark, storage, attempt, shared)
                results = summarise(config, benchmark, outcome, attempt, time.time() - began)
                storage.write_results(results)
                write_figures(results, storage.folder)
                spool.emit("finished", summary=results["summary"], timings=results["timings"])
            except BaseException as error:
                spool.emit("failed", error=f"{type(error).__name__}: {error}")
                raise
            finally:
                report = tracker.close(timeout_s=30.0) if tracker else None
        return RunResult(storage.folder, results, tracking=report)
    finally:
        storage.close()


def read_benchmark(config: RunConfig) -> Benchmark:
    """Reads the data, and asks the learner whether it can learn from them."""
    benchmark = load_benchmark(
        located(config.benchmark),
        image_height=config.backbone.image_height,
        image_width=config.backbone.image_width,
        pinned=pinned_settings(config.evaluation),
    )
    method = learner_module(config.learner.name).Method
    check_queries(method, config.learner.name, {each.name: each.test for each in benchmark.domains})
    for domain in benchmark.domains:
        method.check_gallery(config.learner, domain)
    benchmark = benchmark.for_course(method.course)
    check_selection(config.evaluation.every_epochs, benchmark)
    for domain in benchmark.steps:
        method.check_domain(config.learner, domain)
        if domain.num_persons < config.data.persons_per_batch:
            raise ValueError(
                f"data.persons_per_batch: a batch needs {config.data.persons_per_batch} different "
                f"people, and {domain.name} has {domain.num_persons} to train on; lower it"
            )
    return benchmark


def located(settings: BenchmarkConfig) -> BenchmarkConfig:
    """The section with its folders made absolute."""
    folders = {
        name: str(base_folder() / Path(getattr(settings, name)).expanduser())
        for name in ("root", "derived")
    }
    return settings.model_copy(update=folders)


def summarise(
    config: RunConfig,
    benchmark: Benchmark,
    outcome: Mapping[str, Any],
    attempt: int,
    wall_s: float,
) -> dict[str, Any]:
    """What results.json holds; see docs/storage.md."""
    seen = tuple(domain.name for domain in benchmark.seen)
    unseen = tuple(domain.name for domain in benchmark.unseen)
    test = ResultMatrix.from_json(outcome["test"], seen, unseen)
    validation = ResultMatrix.from_json(outcome["validation"], seen, unseen)
    # A data set that is for tests alone has nobody to validate on; its average is the others'.
    untested = [domain.name for domain in benchmark.unseen if not domain.validation.query]
    seconds, counts = outcome["seconds"], outcome["counts"]
    timings = {f"{name}_s": value for name, value in seconds.items()} | {
        "wall_s": wall_s,
        # A method that learns nothing has trained on no image, in no time.
        "train_images_per_s": counts.get("trained_images", 0)
        / max(seconds.get("training", 0.0), 1e-9),
        "evaluation_images_per_s": counts["evaluated_images"] / max(seconds["evaluation"], 1e-9),
    }
    return {
        "learner": config.learner.name,
        "benchmark": benchmark.name,
        "seed": config.seed,
        "git_revision": git_revision(),
        "config_hash": config.hash,
        "domains": {"seen": list(seen), "unseen": list(unseen)},
        "scores": test.to_json(),
        "validation": validation.to_json(),
        "summary": test.summary(),
        "validation_summary": validation.without(untested).summary(),
        "chance": {
            f"{group}_{metric}": value
            for group, domains in (("seen", benchmark.seen), ("unseen", benchmark.unseen))
            for metric, value in chance_average(domains).items()
        },
        "selection": selection(config.evaluation.every_epochs, seen[0], outcome["candidates"]),
        "num_iterations": outcome["iteration"],
        "num_unreadable_training_images": sum(outcome["unreadable_images"].values()),
        "num_unreadable_test_images": outcome["unreadable_test_images"],
        "num_parameters": outcome["num_parameters"],
        "num_trainable_parameters": outcome["num_trainable_parameters"],
        "stored_bytes_per_domain": outcome["stored_bytes_per_domain"],
        "num_starts": attempt,
        "timings": timings,
    }


def _compute(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    shared: SharedFiles | None,
) -> dict[str, Any]:
    if config.cluster.num_workers == 0:
        from runner.training.worker import run_in_process

        return run_in_process(config, benchmark, storage, attempt, shared)
    from runner.on_ray.cluster import run_on_ray

    checkpoint = CheckpointStore(storage.checkpoints, config.hash).latest()
    first_domain = checkpoint.position.domain if checkpoint else 0
    last = max(0, len(benchmark.steps) - 1)
    return run_on_ray(config, benchmark, storage, attempt, min(first_domain, last), shared)


def _announce(spool: EventLog, config: RunConfig, benchmark: Benchmark, attempt: int) -> None:
    spool.emit(
        "run",
        name=config.run_name,
        preset=config.preset,
        learner=config.learner.name,
        benchmark=benchmark.name,
        seed=config.seed,
        seen=[domain.name for domain in benchmark.seen],
        unseen=[domain.name for domain in benchmark.unseen],
        params=flatten(config),
        git_revision=git_revision(),
        attempt=attempt,
    )


def tracking_uri(config: RunConfig) -> str | None:
    """`tracking.uri` with a relative database path made absolute."""
    uri = config.tracking.uri
    return resolve_uri(uri, base_folder()) if uri else None


def _tracker(storage: RunStorage, config: RunConfig) -> Tracker | None:
    if config.cluster.num_workers == 0 or config.tracking.uri is None:
        return None
    settings = config.tracking.model_copy(update={"uri": tracking_uri(config)})
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    return Tracker(storage.folder, settings).start()


@contextmanager
def _shown(storage: RunStorage, view: EventView | None) -> Iterator[None]:
    """Shows the run's events on a thread of their own while the block runs."""
    if view is None:
        yield
        return
    stop = threading.Event()
    thread = follow(storage.events_file, view, stop)
    try:
        yield
    finally:
        stop.set()
        thread.join()
