"""Execution of a sweep on a local Ray or on a Ray cluster."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import ray
import torch
from ray import tune
from rich.console import Console

from runner.config.run_config import RunConfig, base_folder
from runner.experiment import read_benchmark, tracking_uri
from runner.on_ray.cluster import connected, quiet_ray
from runner.on_ray.resources import wait_for_resources
from runner.on_ray.shared_images import SharedImages, share_images
from runner.on_ray.task_settings import connection_config
from runner.results.run_folder import write_atomically
from runner.sweep.console import SweepView
from runner.sweep.mlflow import SweepTracker
from runner.sweep.optuna_searcher import (
    StudySearcher,
    enqueued_numbers,
    num_ended,
    open_storage,
    open_study,
    running_trials,
)
from runner.sweep.outcome import Outcome
from runner.sweep.plan import SweepPlan, check_objectives
from runner.sweep.resources import Allocation, allocate, trial_bundles
from runner.sweep.samplers import check_sampler, make_sampler
from runner.sweep.schedulers import make_scheduler
from runner.sweep.settings import SPACE_FILE, write_settings
from runner.sweep.space import as_params
from runner.sweep.trial import TrialTask, drop_checkpoints, run_trial
from runner.sweep.trial_records import TrialRecord
from runner.sweep.tune_callback import Recorder, reconcile
from runner.sweep.write_outcome import write_outcome
from tasks.schema import Benchmark

TRACKING_WAIT_S = 60.0
_TUNE_ENVIRONMENT = {
    # Records, tables and figures are written by this package.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Forgetting is undefined after one domain, and failed trials have no metrics.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C reaches the command, which prints how to resume.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
}


def run_sweep(plan: SweepPlan, console: Console) -> Outcome:
    """Runs the missing trials and writes the outcome.

    Raises:
        ValueError: data, objective or sampler are invalid, or the trials do not fit the resources.
        ConnectionError: the cluster or the database of the study does not answer.
        RuntimeError: another driver runs the same sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_sampler(plan.settings.sampler)
    config = plan.trial_config
    tracking_uri(plan.config)  # an unusable URI is an error before the first trial
    benchmark = read_benchmark(config)
    check_objectives(plan.settings.objectives, benchmark, config.evaluation.every_epochs)
    plan = _with_concurrent(plan, _local_allocation(plan, config))
    with _sole_driver(plan.folder):
        study = open_study(plan.settings, open_storage(plan.settings.study_url(plan.folder)))
        records = reconcile(plan.folder, study) if plan.resumed else []
        if plan.resumed:
            console.print(
                _progress(plan, study, records), markup=False, highlight=False, soft_wrap=True
            )
        elif study.get_trials(deepcopy=False):
            raise ValueError(
                f"--study: study {plan.settings.name!r} already has trials; resume it with "
                "--resume in its folder, or start another sweep with --name"
            )
        for record in records:
            if record.state != "running":
                drop_checkpoints(plan.folder, record.number)
        if num_ended(study) >= plan.settings.num_trials:
            _write(plan)
            return _run(plan, None, config, benchmark, study, records, console)
        os.environ.update(_TUNE_ENVIRONMENT)
        with connected(connection_config(config)):
            _quiet()
            allocation = _cluster_allocation(plan, config)
            plan = _with_concurrent(plan, allocation)
            _write(plan)
            if plan.settings.default_first and not study.get_trials(deepcopy=False):
                _enqueue_default(plan, study, console)
            return _run(plan, allocation, config, benchmark, study, records, console)


def _run(
    plan: SweepPlan, allocation: Allocation | None, config: RunConfig, benchmark: Benchmark,
    study: optuna.Study, records: list[TrialRecord], console: Console,
) -> Outcome:  # fmt: skip
    """Runs the missing trials and writes the outcome; `allocation` is None if none is missing."""
    folder, settings = plan.folder, plan.settings
    view = SweepView(console, settings, folder, plan.space, plan.config)
    tracker = _tracker(plan, view)
    with view:
        for record in records:
            view.show(record)

        def on_end(_: TrialRecord) -> None:
            write_outcome(folder, settings, plan.space, plan.config, quick=True)
            if tracker:
                tracker.wake()

        if allocation is not None:
            recorder = Recorder(folder, view.show, on_end)
            shared = SharedImages()
            if plan.shares_images:
                shared = share_images([benchmark], config, plan.space.parameters)
                view.print(str(shared))
            _run_tuner(plan, allocation, config, benchmark, study, records, recorder, shared)
            recorder.drop_checkpoints()
        outcome = write_outcome(folder, settings, plan.space, plan.config)
        if tracker and (message := tracker.close(TRACKING_WAIT_S)):
            view.print(message)
        view.finish(outcome)
    return outcome


def _run_tuner(
    plan: SweepPlan, allocation: Allocation, config: RunConfig, benchmark: Benchmark,
    study: optuna.Study, records: list[TrialRecord], recorder: Recorder, shared: SharedImages,
) -> None:  # fmt: skip
    """Runs the missing trials with Ray Tune."""
    folder, settings = plan.folder, plan.settings
    # The sweep sends its trials to MLflow itself; Ray stores the settings of trials.
    overrides = tuple(each for each in plan.trial_overrides if not each.startswith("tracking.uri="))
    if allocation.cpus_per_worker:
        overrides = (*overrides, f"cluster.cpus_per_worker={allocation.cpus_per_worker:g}")
    task = TrialTask(
        folder=folder,
        home=base_folder(),
        preset=settings.preset,
        overrides=overrides,
        seeds=settings.seeds,
        objectives=settings.objectives,
        untested=tuple(each.name for each in benchmark.unseen if not each.validation.query),
    )
    searcher = StudySearcher(
        plan.space.suggest,
        settings.objectives,
        make_sampler(settings),
        open_storage(settings.study_url(folder)),
        settings.name,
    )
    every_epochs = config.evaluation.every_epochs
    num_domains = None if every_epochs else len(benchmark.seen) * len(settings.seeds)
    # Workers of a trial reserve their resources themselves.
    bundles = trial_bundles(config, 0.0)[:2]
    starts = folder / "tune"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, task=task, shared=shared),
            tune.PlacementGroupFactory([{**bundle} for bundle in bundles]),
        ),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(
                settings.scheduler,
                settings.objectives[0],
                num_domains,
                records,
                grace=settings.grace * max(1, every_epochs),
                protected=enqueued_numbers(study),
            ),
            num_samples=settings.num_trials - num_ended(study),
            max_concurrent_trials=settings.concurrent,
            trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"start-{len(list(starts.glob('start-*'))) + 1}",
            storage_path=str(starts),
            callbacks=[recorder],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.cluster.max_failures),
        ),
    )
    tuner.fit()


def _progress(plan: SweepPlan, study: optuna.Study, records: list[TrialRecord]) -> str:
    """Message on the trials of a resumed sweep."""
    ended = num_ended(study)
    counts = {
        state: sum(record.state == state for record in records)
        for state in ("finished", "stopped", "failed")
    }
    kinds = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    num_interrupted = len(running_trials(study))
    resuming = f"; {num_interrupted} resume from their checkpoints" if num_interrupted else ""
    return (
        f"Sweep {plan.settings.name}: found {ended} of {plan.settings.num_trials} trials ended"
        f"{f' ({kinds})' if kinds else ''}{resuming}"
    )


def _write(plan: SweepPlan) -> None:
    write_atomically(plan.folder / SPACE_FILE, plan.space_text)
    write_settings(plan.folder, plan.settings)


def _enqueue_default(plan: SweepPlan, study: optuna.Study, console: Console) -> None:
    """Enqueues a trial with the values of the preset, which other trials are compared with."""
    point = plan.space.default_point(plan.config)
    if point.values is not None:
        study.enqueue_trial(as_params(point.values))
    else:
        console.print(
            f"No trial has the values of the preset: {point.reason}",
            style="yellow", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _quiet() -> None:
    """Silences warnings of Tune on files that it was configured not to write."""
    quiet_ray()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def _tracker(plan: SweepPlan, view: SweepView) -> SweepTracker | None:
    uri = tracking_uri(plan.config)
    if uri is None:
        return None
    tracking = plan.config.tracking.model_copy(update={"uri": uri})
    return SweepTracker(plan.folder, plan.settings, tracking, view.print)


def _with_concurrent(plan: SweepPlan, allocation: Allocation | None) -> SweepPlan:
    if allocation is None:
        return plan
    return replace(plan, settings=replace(plan.settings, concurrent=allocation.concurrent))


def _local_allocation(plan: SweepPlan, config: RunConfig) -> Allocation | None:
    """Allocation on this machine, known before Ray starts; None if a cluster is used."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local" or ray.is_initialized():
        return None
    node = {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(torch.cuda.device_count()),
    }
    return allocate(config, [node], plan.settings.concurrent or None, plan.settings.num_trials)


def _cluster_allocation(plan: SweepPlan, config: RunConfig) -> Allocation:
    """Allocation on the cluster, after waiting for an autoscaler to add nodes."""
    cluster, settings = config.cluster, plan.settings
    bundles = trial_bundles(config, cluster.cpus_per_worker or 1.0)
    wait_for_resources(bundles * max(1, settings.concurrent), cluster.wait_s)
    nodes: list[Mapping[str, float]] = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    return allocate(config, nodes, settings.concurrent or None, settings.num_trials)


@contextmanager
def _sole_driver(folder: Path) -> Iterator[None]:
    """Locks the sweep's folder, because study and records must have a single writer."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".driver").open("a") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(
                f"{folder}: another process runs this sweep; wait for it, stop it, or choose "
                "another --name"
            ) from error
        yield
