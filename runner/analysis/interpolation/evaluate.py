"""Interpolates old and new weights of a finished run and evaluates every interpolated model.

For a step t >= 2, `old` is the checkpoint after domain t-1 and `new` the checkpoint after domain t.
Their networks are interpolated by the same rule as in training; nothing is trained. Every finished
evaluation is appended to a file as one line, so a killed command loses at most the evaluation in
progress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from models.components.interpolation import interpolate
from models.learner import LearnerState
from runner.analysis.cross_evaluation import settings_for
from runner.analysis.interpolation.results import AlphaScores, scores_of_event, summarise
from runner.analysis.trained_run import TrainedRun, embedding, load_run
from runner.config.run_config import RunConfig, flatten
from runner.experiment import read_benchmark
from runner.results.run_folder import RunStorage, git_revision, write_atomically
from runner.results.run_lookup import find_run
from runner.tracking.event_log import EventLog, read_events
from runner.training.checkpoint_files import read_learner
from runner.training.evaluation import Embedder, evaluate_domains
from tasks.protocol.lock import leaked_test_identities
from tasks.protocol.lock_differences import lock_differences
from tasks.schema import Benchmark

NETWORK = "network."
"""Prefix of the tensors that learners interpolate between domains."""

MAX_ALPHAS = 1000


@dataclass(frozen=True)
class InterpolationStep:
    """A step whose weights can be interpolated with those of the step before.

    Attributes:
        number: step t >= 2.
        domain: domain learned in the step.
        old: checkpoint of step t-1.
        new: checkpoint of step t.
    """

    number: int
    domain: str
    old: Path
    new: Path


@dataclass(frozen=True)
class InterpolatedRun:
    """Folder of the evaluations, and the content of its results.json."""

    folder: Path
    results: dict[str, Any]


Report = Callable[[InterpolationStep, float, int, int], None]
"""Called before each evaluation: step, alpha, finished evaluations, total evaluations."""


def parse_alphas(text: str) -> tuple[float, ...]:
    """Parses coefficients of the new weights.

    Args:
        text: `start:stop:step` (includes stop, regardless of rounding), or a comma-separated list.

    Returns:
        Coefficients in ascending order, including 0 and 1.

    Raises:
        ValueError: another format, a value outside [0, 1], or more than 1000 values.
    """
    try:
        if ":" in text:
            start, stop, step = (_alpha(part) for part in text.split(":"))
            alphas = _span(start, stop, step)
        else:
            alphas = [_alpha(part) for part in text.split(",")]
    except (InvalidOperation, ValueError) as error:
        reason = "" if isinstance(error, InvalidOperation) else f" ({error})"
        raise ValueError(
            "--alphas: expected start:stop:step such as 0.1:0.9:0.1, or a list such as "
            f"0.25,0.5,0.75, with every number in [0, 1]; got {text!r}{reason}"
        ) from error
    return tuple(sorted({0.0, 1.0, *(float(alpha) for alpha in alphas)}))


def _alpha(text: str) -> Decimal:
    alpha = Decimal(text.strip())
    if not alpha.is_finite() or not 0 <= alpha <= 1:
        raise ValueError(f"{text.strip()} is not in [0, 1]")
    return alpha


def _span(start: Decimal, stop: Decimal, step: Decimal) -> list[Decimal]:
    """Evenly spaced values; Decimal makes 0.1:0.9:0.1 exactly nine numbers."""
    if step == 0 or start > stop:
        raise ValueError("start must not be above stop, and step must be above 0")
    num_steps = int((stop - start) / step + Decimal("1e-6"))
    if num_steps >= MAX_ALPHAS:
        raise ValueError(f"expected at most {MAX_ALPHAS} numbers, got {num_steps + 1}")
    return [min(start + number * step, stop) for number in range(num_steps + 1)]


def interpolation_steps(
    storage: RunStorage, domains: Sequence[str] = ()
) -> list[InterpolationStep]:
    """Lists the steps of a finished run whose weights can be interpolated.

    Args:
        storage: run folder.
        domains: only steps that learned one of these domains; default: all from the second on.

    Raises:
        ValueError: the run is not finished or has one domain, or a domain is invalid.
        FileNotFoundError: a checkpoint is missing.
    """
    results = storage.results()
    if results is None:
        raise ValueError(
            f"{storage.folder}: expected a finished run, got one without results.json; repeat the "
            "command that started it to finish it"
        )
    seen: list[str] = results["domains"]["seen"]
    if len(seen) < 2:
        raise ValueError(
            f"{storage.folder.name}: expected a run over at least two domains, got one "
            f"({seen[0]}), which has no older weights to interpolate with; choose another run"
        )
    if wrong := [domain for domain in domains if domain not in seen[1:]]:
        why = "learned first, so there are no older weights" if wrong[0] == seen[0] else "unknown"
        raise ValueError(
            f"--domain: expected any of {', '.join(seen[1:])}, got {wrong[0]!r} ({why})"
        )
    files = [
        storage.checkpoints / f"after-{number:02d}-{domain}.safetensors"
        for number, domain in enumerate(seen, start=1)
    ]
    steps = [
        InterpolationStep(number, domain, files[number - 2], files[number - 1])
        for number, domain in enumerate(seen, start=1)
        if number > 1 and (not domains or domain in domains)
    ]
    for file in dict.fromkeys(file for step in steps for file in (step.old, step.new)):
        if not file.is_file():
            raise FileNotFoundError(
                f"expected the checkpoint after a domain at {file}, got no file. A run with a "
                "sequential learner keeps these unless checkpoints.keep_domains=false; run it "
                "again with checkpoints.keep_domains=true and --fresh"
            )
    return steps


def interpolated_state(old: LearnerState, new: LearnerState, alpha: float) -> LearnerState:
    """Interpolates the network as in training; everything outside the network is taken from `new`.

    Args:
        old: learner state before the domain.
        new: learner state after the domain; not modified.
        alpha: coefficient of the new weights in [0, 1].

    Raises:
        ValueError: there is no network, or two tensors differ in more than added leading rows.
    """
    before, after = (
        {path: tensor for path, tensor in state.tensors.items() if path.startswith(NETWORK)}
        for state in (old, new)
    )
    if not after:
        raise ValueError(
            f"expected tensors with the prefix {NETWORK!r}, which learners interpolate, got a "
            "checkpoint without them"
        )
    return LearnerState({**new.tensors, **interpolate(after, before, alpha)}, new.facts)


def interpolate_run(
    run: str,
    storage_root: str,
    alphas: Sequence[float],
    *,
    domains: Sequence[str] = (),
    overrides: Sequence[str] = (),
    use_gpu: bool = False,
    report: Report = lambda *_: None,
) -> InterpolatedRun:
    """Evaluates every interpolated model not evaluated before, on validation and test identities.

    Each model is scored on the domains learned by its step and on all unseen domains.

    Args:
        run: run folder, or the run's name under `storage_root`.
        storage_root: folder of runs.
        alphas: coefficients of the new weights, from `parse_alphas`.
        domains: only steps that learned one of these; default: all from the second on.
        overrides: `key=value` of the sections benchmark and evaluation.
        use_gpu: compute on the first CUDA device.
        report: called before each evaluation.

    Raises:
        FileNotFoundError, ValueError: the run has no weights to interpolate, or the data differ
            from the training data of the run.
    """
    storage = RunStorage(find_run(run, storage_root))
    steps = interpolation_steps(storage, domains)
    trained = load_run(str(storage.folder), storage_root, use_gpu=use_gpu)
    settings = settings_for(trained, None, overrides)
    benchmark = read_benchmark(settings)
    check_training_data(trained, benchmark)
    protocol = hashlib.sha256(_lock_text(benchmark.lock).encode()).hexdigest()
    folder = storage.folder / "interpolation" / protocol[:8]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "protocol.lock.json", _lock_text(benchmark.lock))
    _evaluate_missing(trained, settings, benchmark, folder, steps, alphas, report)
    finished = read_evaluations(folder, trained.device.type)
    evaluations = [[finished[step.number, alpha] for alpha in alphas] for step in steps]
    results = _results(trained, benchmark, protocol, alphas, evaluations)
    write_atomically(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))
    return InterpolatedRun(folder, results)


def _results(
    run: TrainedRun,
    benchmark: Benchmark,
    protocol: str,
    alphas: Sequence[float],
    evaluations: Sequence[Sequence[AlphaScores]],
) -> dict[str, Any]:
    """Content of results.json; see docs/storage.md."""
    seen, unseen = (
        [domain.name for domain in domains] for domains in (benchmark.seen, benchmark.unseen)
    )
    is_same_protocol = not lock_differences({"run": run.lock, "now": benchmark.lock})
    recorded = run.storage.results() if is_same_protocol else None
    return {
        "run": run.storage.folder.name,
        "learner": run.config.learner.name,
        "seed": run.config.seed,
        "config_hash": run.config.hash,
        "benchmark": benchmark.name,
        "protocol_sha256": protocol,
        "device": run.device.type,
        "domains": {"seen": seen, "unseen": unseen},
        "alphas": list(alphas),
        "mixed_while_training": _interpolation_in_training(run.config),
        **summarise(evaluations, seen, unseen, recorded),
    }


def check_training_data(run: TrainedRun, benchmark: Benchmark) -> None:
    """Checks that the benchmark has the run's training data and no test people used in training.

    Unseen domains and rankings may differ: they are scored under a separate lock.

    Raises:
        ValueError: domains, people or training images differ, or test people were used in training.
    """
    locks = {"the run's lock": run.lock, "the data now": benchmark.lock}
    for difference in lock_differences(locks):
        if difference.affects in ("people", "training", "order"):
            raise ValueError(
                f"the data differ from the training data of {run.storage.folder.name} "
                f"({difference.sentence}); restore the data, or omit the override"
            )
    for domain, people in leaked_test_identities(run.lock, benchmark).items():
        raise ValueError(
            f"{domain}: expected test people not used in training, got {len(people)} that "
            f"{run.storage.folder.name} was trained on (the first is {people[0]})"
        )


def read_evaluations(folder: Path, device: str) -> dict[tuple[int, float], AlphaScores]:
    """Reads finished evaluations, by step and alpha.

    Args:
        folder: folder of one protocol, below the run's `interpolation/`.
        device: "cpu" or "cuda"; rounding differs, so a curve uses one of them only.
    """
    events = read_events(folder / "evaluations.jsonl").events
    evaluations = [scores_of_event(event) for event in events if event["event"] == "mixture"]
    return {(each.step, each.alpha): each for each in evaluations if each.device == device}


def _evaluate_missing(
    run: TrainedRun,
    settings: RunConfig,
    benchmark: Benchmark,
    folder: Path,
    steps: Sequence[InterpolationStep],
    alphas: Sequence[float],
    report: Report,
) -> None:
    event_log = EventLog(folder / "evaluations.jsonl")
    done = read_evaluations(folder, run.device.type).keys()
    # The end points come first because they can be compared with the scores recorded by the run.
    ordered = sorted(alphas, key=lambda alpha: (0 < alpha < 1, alpha))
    missing = {
        step: [alpha for alpha in ordered if (step.number, alpha) not in done] for step in steps
    }
    num_all = len(steps) * len(alphas)
    num_left = sum(len(each) for each in missing.values())
    configured = replace(run, config=settings)
    with embedding(configured, benchmark, folder / "quarantine.jsonl") as embedder:
        for step, left in missing.items():
            if left:
                old, new = read_learner(step.old), read_learner(step.new)
                learned = replace(benchmark, seen=benchmark.seen[: step.number])
                for alpha in left:
                    report(step, alpha, num_all - num_left, num_all)
                    run.learner.load_state(interpolated_state(old, new, alpha))
                    scores = _evaluate(configured, embedder, learned, step, alpha)
                    event_log.emit("mixture", **scores.fields())
                    num_left -= 1


def _evaluate(
    run: TrainedRun, embedder: Embedder, learned: Benchmark, step: InterpolationStep, alpha: float
) -> AlphaScores:
    """Scores the learner in its current state."""
    run.learner.to(run.device).eval()
    row = evaluate_domains(embedder, learned, run.config.evaluation, seed=run.config.seed)
    return AlphaScores(
        step=step.number,
        domain=step.domain,
        alpha=alpha,
        device=run.device.type,
        scores=row.scores,
        num_valid_queries=row.num_valid_queries,
        num_unreadable_test_images=row.num_unreadable,
        num_images=row.num_images,
        seconds=row.seconds,
        git_revision=git_revision(),
    )


def _interpolation_in_training(config: RunConfig) -> dict[str, Any] | None:
    """Interpolation that the run applied to its stored weights during training; None if none."""
    values = flatten(config)
    mode = values.get("learner.interpolation.mode", "none")
    if mode == "none":
        return None
    return {
        "mode": mode,
        "alpha": values["learner.interpolation.alpha"] if mode == "fixed" else None,
    }


def _lock_text(lock: Mapping[str, Any]) -> str:
    return json.dumps(lock, indent=1, sort_keys=True)
