"""Execution of one run, from its configuration to results.json."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.backbones.caption_encoder import load_caption_encoder
from runner.config.disk_space import explain_full_disk
from runner.config.plain_values import leaves
from runner.config.run_config import RunConfig, base_folder, learner_module, public_values
from runner.config.sections import TrackingConfig
from runner.html_report.page import write_run_report
from runner.results.report import write_figures
from runner.results.run_folder import RunStorage, git_revision
from runner.streaming.decoded_cache import SharedFiles
from runner.tracking.console import EventView, follow
from runner.tracking.event_log import EventLog
from runner.tracking.mlflow_client import resolve_uri
from runner.tracking.tracker import DrainReport, Tracker
from runner.training.checkpoints import CheckpointStore
from runner.training.evaluation import check_protocol, check_queries, pinned_settings
from runner.training.model_selection import check_selection, selection_summary
from runner.training.termination import TerminatedError, on_sigterm, raise_terminated
from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.protocol.lock import lock_hash
from tasks.retrieval.metrics import ResultMatrix
from tasks.retrieval.random_baseline import chance_average
from tasks.schema import Benchmark, FrozenConfig


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: storage folder of the run.
        results: content of results.json.
        was_finished: whether an earlier start had finished the run, so nothing was computed.
        tracking: report of the tracker; None if tracking is disabled or nothing was computed.
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
    """Starts or resumes the run of a configuration.

    Args:
        config: configuration of the run. With cluster.num_workers=0 the run stays in this process
            and imports neither ray nor mlflow; `sync` tracks it afterwards.
        fresh: whether to delete the files of earlier starts of the same run.
        view: shows the events of the run on the console.
        shared: images that are already decoded, for one of several runs on a machine; this run
            keeps no others. See `runner.on_ray.shared_images`.

    Raises:
        ValueError, OSError: the configuration or the data is invalid.
        RuntimeError: another process uses the run, or workers failed too often.
        TerminatedError: the process received SIGTERM; a checkpoint was written if possible.
    """
    with on_sigterm(raise_terminated):
        return _run(config, fresh, view, shared)


def _run(
    config: RunConfig, fresh: bool, view: EventView | None, shared: SharedFiles | None
) -> RunResult:
    start_s = time.time()
    tracking = _tracking(config)
    storage = RunStorage.of(config)
    _check_gpus(config)
    benchmark = read_benchmark(config)
    attempt = storage.open(config, fresh=fresh)
    try:
        storage.write_lock(benchmark.lock, benchmark.contents)
        finished = storage.repaired_results()
        if finished is not None:
            if not (storage.folder / "matrix.png").exists():  # the storage was full
                _write_figures(finished, storage.folder)
            return RunResult(storage.folder, finished, was_finished=True)
        events = EventLog(storage.events_file)
        with _show_events(storage, view):
            _emit_run(events, config, benchmark, attempt)
            for note in storage.notes:
                events.emit("log", level="warning", message=note)
            tracker = Tracker(storage.folder, tracking).start() if tracking else None
            tracking_timeout_s = 30.0
            try:
                outcome = _compute(config, benchmark, storage, attempt, shared)
                results = summarise(config, benchmark, outcome, attempt, time.time() - start_s)
                storage.write_results(results)
                _write_figures(results, storage.folder)
                if config.storage.report:
                    _write_report(storage, events)
                events.emit("finished", summary=results["summary"], timings=results["timings"])
            except (TerminatedError, KeyboardInterrupt) as error:
                is_sigterm = isinstance(error, TerminatedError)
                # After SIGTERM the machine is about to be taken away; after Ctrl-C, a user waits.
                tracking_timeout_s = 2.0 if is_sigterm else 10.0
                with suppress(OSError):
                    events.emit("stopped", reason="SIGTERM" if is_sigterm else "Ctrl-C")
                raise
            except BaseException as error:
                with suppress(OSError):  # a full disk must not hide the error
                    events.emit("failed", error=f"{type(error).__name__}: {error}")
                raise
            finally:
                report = tracker.close(tracking_timeout_s) if tracker else None
        return RunResult(storage.folder, results, tracking=report)
    finally:
        storage.close()


def _check_gpus(config: RunConfig) -> None:
    """Refuses a run on missing GPUs of this machine before it has a folder."""
    cluster = config.cluster
    is_elsewhere = cluster.num_workers and (cluster.address or os.environ.get("RAY_ADDRESS"))
    num_needed = max(1, cluster.num_workers)
    if cluster.use_gpu and not is_elsewhere and torch.cuda.device_count() < num_needed:
        raise ValueError(
            f"cluster.use_gpu: expected a CUDA device for each worker, at least {num_needed}, got "
            f"{torch.cuda.device_count()}; set cluster.use_gpu=false"
            + (", or lower cluster.num_workers" if cluster.num_workers > 1 else "")
        )


def _write_figures(results: dict[str, Any], folder: Path) -> None:
    with explain_full_disk(folder / "matrix.png"):
        write_figures(results, folder)


def read_benchmark(config: RunConfig) -> Benchmark:
    """Reads the data and checks that the learner can be trained on them."""
    benchmark = load_benchmark(
        resolve_folders(config.benchmark),
        image_height=config.backbone.image_height,
        image_width=config.backbone.image_width,
        pinned=pinned_settings(config.evaluation),
        load_encoder=load_caption_encoder,
    )
    method = learner_module(config.learner.name).Method
    splits = {each.name: each.test for each in benchmark.domains}
    check_queries(method, config.learner.name, splits)
    check_protocol(config.evaluation.protocol, splits)
    for domain in benchmark.domains:
        method.check_gallery(config.learner, domain)
    benchmark = benchmark.for_course(method.course)
    check_selection(config.evaluation.every_epochs, benchmark)
    for domain in benchmark.steps:
        method.check_domain(config.learner, domain)
        if domain.num_persons < config.data.persons_per_batch:
            raise ValueError(
                f"data.persons_per_batch: expected at most {domain.num_persons}, the number of "
                f"training identities of {domain.name}, got {config.data.persons_per_batch}; "
                "lower it"
            )
    return benchmark


def resolve_folders(settings: BenchmarkConfig) -> BenchmarkConfig:
    """Makes the folders of the section, and the file of a table, absolute."""

    def absolute(section: FrozenConfig, *names: str) -> dict[str, str]:
        given = {name: getattr(section, name) for name in names}
        return {
            name: str(base_folder() / Path(path).expanduser())
            for name, path in given.items()
            if path is not None
        }

    table = settings.table.model_copy(update=absolute(settings.table, "file", "images"))
    return settings.model_copy(update=absolute(settings, "root", "derived") | {"table": table})


def summarise(
    config: RunConfig,
    benchmark: Benchmark,
    outcome: Mapping[str, Any],
    attempt: int,
    wall_s: float,
) -> dict[str, Any]:
    """Builds the content of results.json; see docs/storage.md."""
    seen = tuple(domain.name for domain in benchmark.seen)
    unseen = tuple(domain.name for domain in benchmark.unseen)
    test = ResultMatrix.from_json(outcome["test"], seen, unseen)
    validation = ResultMatrix.from_json(outcome["validation"], seen, unseen)
    # Test-only data sets have no validation split and are excluded from the validation average.
    test_only = [domain.name for domain in benchmark.unseen if not domain.validation.query]
    seconds, counts = outcome["seconds"], outcome["counts"]
    timings = {f"{name}_s": value for name, value in seconds.items()} | {
        "wall_s": wall_s,
        # Zero-shot methods train on no images, in no time.
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
        "validation_summary": validation.without(test_only).summary(),
        "chance": {
            f"{group}_{metric}": value
            for group, domains in (("seen", benchmark.seen), ("unseen", benchmark.unseen))
            for metric, value in chance_average(domains, config.evaluation.protocol).items()
        },
        "selection": selection_summary(
            config.evaluation.every_epochs, seen[0], outcome["candidates"]
        ),
        "num_iterations": outcome["iteration"],
        "num_unreadable_training_images": sum(outcome["unreadable_images"].values()),
        "num_unreadable_test_images": outcome["unreadable_test_images"],
        "num_parameters": outcome["num_parameters"],
        "num_trainable_parameters": outcome["num_trainable_parameters"],
        "stored_bytes_per_domain": outcome["stored_bytes_per_domain"],
        "memory_version": outcome["memory_version"],
        "memory_versions": outcome["memory_versions"],
        "num_starts": attempt,
        "device": outcome["device"],
        "timings": timings,
    }


def _compute(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    shared: SharedFiles | None,
) -> dict[str, Any]:
    if shared is not None:  # a cache in each run on the machine would multiply the memory
        data = config.data.model_copy(update={"evaluation_cache_share": 0.0})
        config = config.model_copy(update={"data": data})
    if config.cluster.num_workers == 0:
        from runner.training.worker import run_in_process

        return run_in_process(config, benchmark, storage, attempt, shared)
    from runner.on_ray.cluster import run_on_ray

    first_domain = CheckpointStore(storage.checkpoints, config.hash).newest_position().domain
    last = max(0, len(benchmark.steps) - 1)
    return run_on_ray(config, benchmark, storage, attempt, min(first_domain, last), shared)


def _write_report(storage: RunStorage, events: EventLog) -> None:
    """Writes report.html; a failure is a warning, because the results are already on disk."""
    try:
        write_run_report(storage.folder)
    except Exception as error:
        message = f"report.html was not written: {type(error).__name__}: {error}"
        events.emit("log", level="warning", message=message)


def _emit_run(events: EventLog, config: RunConfig, benchmark: Benchmark, attempt: int) -> None:
    events.emit(
        "run",
        name=config.run_name,
        preset=config.preset,
        learner=config.learner.name,
        benchmark=benchmark.name,
        seed=config.seed,
        seen=[domain.name for domain in benchmark.seen],
        unseen=[domain.name for domain in benchmark.unseen],
        lock=lock_hash(benchmark.lock),
        params=dict(leaves(public_values(config))),
        git_revision=git_revision(),
        attempt=attempt,
    )


def tracking_uri(config: RunConfig) -> str | None:
    """Returns `tracking.uri` with its password; the path of a database is made absolute.

    Raises:
        ValueError: an environment variable is not set, or the password was not stored.
    """
    uri = config.tracking.usable_uri()
    return resolve_uri(uri, base_folder()) if uri else None


def _tracking(config: RunConfig) -> TrackingConfig | None:
    """Settings of the tracker; None if the run is not tracked."""
    if config.cluster.num_workers == 0 or config.tracking.uri is None:
        return None
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    return config.tracking.model_copy(update={"uri": tracking_uri(config)})


@contextmanager
def _show_events(storage: RunStorage, view: EventView | None) -> Iterator[None]:
    """Shows the events of the run from a separate thread while the block runs."""
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
