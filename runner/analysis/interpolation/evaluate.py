"""Old and new weights of a finished run mixed after the fact, and how well every mixture ranks.

For a step t >= 2, `old` is the learner as the run kept it after domain t-1 and `new` as it kept it
after domain t. Their networks are mixed by the rule that training uses; nothing is trained. Every
finished evaluation is a line of its own in a file that is only appended to, so a killed command
loses at most the evaluation that it was making.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.components.interpolation import interpolate
from models.learner import LearnerState
from runner.analysis.cross_evaluation import settings_for
from runner.analysis.interpolation.results import Mixture, mixture_of_event, summarise_mixtures
from runner.analysis.trained_run import TrainedRun, embedding, load_run
from runner.config.run_config import RunConfig, flatten
from runner.experiment import read_benchmark
from runner.results.run_folder import RunStorage, find_run, git_revision, write_atomically
from runner.tracking.event_log import EventLog, read_events
from runner.training.evaluation import Embedder, evaluate_domains
from tasks.protocol.lock import trained_test_people
from tasks.protocol.lock_differences import lock_differences
from tasks.schema import Benchmark

NETWORK = "network."
"""Prefix of what learners interpolate between domains (`models.components.reid_network.blend`)."""

MAX_ALPHAS = 1000


@dataclass(frozen=True)
class MixingStep:
    """A step whose weights can be mixed with those of the step before.

    Attributes:
        number: t, from 2.
        domain: what the step learned.
        old: checkpoint of step t-1.
        new: checkpoint of step t.
    """

    number: int
    domain: str
    old: Path
    new: Path


@dataclass(frozen=True)
class Mixed:
    """Where the evaluations are, and what results.json there holds."""

    folder: Path
    results: dict[str, Any]


Report = Callable[[MixingStep, float, int, int], None]
"""Told before each evaluation: step, alpha, evaluations done or found, evaluations in all."""


def parse_alphas(text: str) -> tuple[float, ...]:
    """Shares of the new weights, ascending, with both end points 0 and 1.

    Args:
        text: `start:stop:step` (stop is part of it, whatever rounding says), or a comma list.

    Raises:
        ValueError: anything else, a share outside [0, 1], or more than 1000 of them.
    """
    try:
        if ":" in text:
            start, stop, step = (_share(part) for part in text.split(":"))
            shares = _span(start, stop, step)
        else:
            shares = [_share(part) for part in text.split(",")]
    except (InvalidOperation, ValueError) as error:
        reason = "" if isinstance(error, InvalidOperation) else f" ({error})"
        raise ValueError(
            "--alphas: expected start:stop:step such as 0.1:0.9:0.1, or a list such as "
            f"0.25,0.5,0.75, with every number in [0, 1]; got {text!r}{reason}"
        ) from error
    return tuple(sorted({0.0, 1.0, *(float(share) for share in shares)}))


def _share(text: str) -> Decimal:
    share = Decimal(text.strip())
    if not share.is_finite() or not 0 <= share <= 1:
        raise ValueError(f"{text.strip()} is not in [0, 1]")
    return share


def _span(start: Decimal, stop: Decimal, step: Decimal) -> list[Decimal]:
    """Decimal, so that 0.1:0.9:0.1 is the nine numbers that a reader would write down."""
    if step == 0 or start > stop:
        raise ValueError("start must not be above stop, and step must be above 0")
    num_steps = int((stop - start) / step + Decimal("1e-6"))
    if num_steps >= MAX_ALPHAS:
        raise ValueError(f"that is {num_steps + 1} numbers; at most {MAX_ALPHAS} make sense")
    return [min(start + number * step, stop) for number in range(num_steps + 1)]


def mixing_steps(storage: RunStorage, domains: Sequence[str] = ()) -> list[MixingStep]:
    """The steps of a finished run whose weights can be mixed.

    Args:
        storage: the run's folder.
        domains: those that learned one of these domains; default: all from the second on.

    Raises:
        ValueError: the run is not finished or has one domain, or a domain is no such one.
        FileNotFoundError: a checkpoint is not there.
    """
    results = storage.results()
    if results is None:
        raise ValueError(
            f"{storage.folder} holds a run that is not finished (it has no results.json); give the "
            "command that began it again to finish it"
        )
    seen: list[str] = results["domains"]["seen"]
    if len(seen) < 2:
        raise ValueError(
            f"{storage.folder.name} learned one domain, {seen[0]}: no older weights are there to "
            "mix with. Choose a run over at least two domains."
        )
    if wrong := [domain for domain in domains if domain not in seen[1:]]:
        why = "it was learned first, from no older weights" if wrong[0] == seen[0] else "unknown"
        raise ValueError(
            f"--domain: expected any of {', '.join(seen[1:])}; got {wrong[0]!r} ({why})"
        )
    files = [
        storage.checkpoints / f"after-{number:02d}-{domain}.safetensors"
        for number, domain in enumerate(seen, start=1)
    ]
    steps = [
        MixingStep(number, domain, files[number - 2], files[number - 1])
        for number, domain in enumerate(seen, start=1)
        if number > 1 and (not domains or domain in domains)
    ]
    for file in dict.fromkeys(file for step in steps for file in (step.old, step.new)):
        if not file.is_file():
            raise FileNotFoundError(
                f"expected {file}, the learner as it was after that domain; it is not there. A run "
                "keeps such files unless checkpoints.keep_domains=false, if its learner learns one "
                "domain after another; run it again with checkpoints.keep_domains=true and --fresh"
            )
    return steps


def mixed_state(old: LearnerState, new: LearnerState, alpha: float) -> LearnerState:
    """`new` with its network mixed as training does it; all outside the network is as in `new`.

    Args:
        old: the learner before the domain.
        new: the learner after it; not modified.
        alpha: share of the new weights in [0, 1].

    Raises:
        ValueError: there is no network, or two tensors differ in more than new leading rows.
    """
    before, after = (
        {path: tensor for path, tensor in state.tensors.items() if path.startswith(NETWORK)}
        for state in (old, new)
    )
    if not after:
        raise ValueError(
            f"expected tensors under {NETWORK!r}, which is what learners interpolate; the "
            "checkpoint has none, so there is nothing to mix"
        )
    return LearnerState({**new.tensors, **interpolate(after, before, alpha)}, new.facts)


def mix_run(
    run: str,
    storage_root: str,
    alphas: Sequence[float],
    *,
    domains: Sequence[str] = (),
    overrides: Sequence[str] = (),
    use_gpu: bool = False,
    report: Report = lambda *_: None,
) -> Mixed:
    """Evaluates every mixture that was not evaluated before, on validation and test identities.

    Each is scored on the domains learned by its step and on all unseen ones.

    Args:
        run: the run's folder, or its name under `storage_root`.
        storage_root: folder of runs.
        alphas: shares of the new weights, from `parse_alphas`.
        domains: only steps that learned one of these; default: all from the second on.
        overrides: `key=value` of the sections benchmark and evaluation.
        use_gpu: compute on the first CUDA device.
        report: told before each evaluation.

    Raises:
        FileNotFoundError, ValueError: there is nothing to mix, or the data are not those that the
            run was trained on.
    """
    storage = RunStorage(find_run(run, storage_root))
    steps = mixing_steps(storage, domains)
    if use_gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: this machine has no CUDA device; leave --gpu out")
    trained = load_run(str(storage.folder), storage_root, use_gpu=use_gpu)
    settings = settings_for(trained, None, overrides)
    benchmark = read_benchmark(settings)
    check_training_data(trained, benchmark)
    protocol = hashlib.sha256(_lock_text(benchmark.lock).encode()).hexdigest()
    folder = storage.folder / "interpolation" / protocol[:8]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "protocol.lock.json", _lock_text(benchmark.lock))
    _evaluate_missing(trained, settings, benchmark, folder, steps, alphas, report)
    mixtures = read_mixtures(folder, trained.device.type)
    found = [[mixtures[step.number, alpha] for alpha in alphas] for step in steps]
    results = _results(trained, benchmark, protocol, alphas, found)
    write_atomically(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))
    return Mixed(folder, results)


def _results(
    run: TrainedRun,
    benchmark: Benchmark,
    protocol: str,
    alphas: Sequence[float],
    mixtures: Sequence[Sequence[Mixture]],
) -> dict[str, Any]:
    """What results.json holds; see docs/storage.md."""
    seen, unseen = (
        [domain.name for domain in domains] for domains in (benchmark.seen, benchmark.unseen)
    )
    is_own_protocol = run.lock == json.loads(_lock_text(benchmark.lock))
    recorded = run.storage.results() if is_own_protocol else None
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
        "mixed_while_training": _mixed_while_training(run.config),
        **summarise_mixtures(mixtures, seen, unseen, recorded),
    }


def check_training_data(run: TrainedRun, benchmark: Benchmark) -> None:
    """Refuses data that say something else about the run than what it learned from.

    Other unseen domains and other rankings are fine: they are scored under a lock of their own.

    Raises:
        ValueError: other domains, people or training images, or tests on people trained on.
    """
    locks = {"the run's lock": run.lock, "the data now": benchmark.lock}
    for difference in lock_differences(locks):
        if difference.affects in ("people", "training", "order"):
            raise ValueError(
                f"the data are not those that {run.storage.folder.name} learned from "
                f"({difference.sentence}); restore them, or leave the override out"
            )
    for domain, people in trained_test_people(run.lock, benchmark).items():
        raise ValueError(
            f"{run.storage.folder.name} was trained on {len(people)} of the test people of "
            f"{domain} (the first is {people[0]}): a score on them would say nothing"
        )


def read_mixtures(folder: Path, device: str) -> dict[tuple[int, float], Mixture]:
    """Finished evaluations by step and alpha.

    Args:
        folder: of one protocol, below the run's `interpolation/`.
        device: "cpu" or "cuda"; rounding differs, and a curve is of one kind.
    """
    events = read_events(folder / "evaluations.jsonl").events
    mixtures = [mixture_of_event(event) for event in events if event["event"] == "mixture"]
    return {(each.step, each.alpha): each for each in mixtures if each.device == device}


def _evaluate_missing(
    run: TrainedRun,
    settings: RunConfig,
    benchmark: Benchmark,
    folder: Path,
    steps: Sequence[MixingStep],
    alphas: Sequence[float],
    report: Report,
) -> None:
    spool = EventLog(folder / "evaluations.jsonl")
    done = read_mixtures(folder, run.device.type).keys()
    # The end points first: they are what can be held against the run's own record.
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
                old, new = _read_state(step.old), _read_state(step.new)
                learned = replace(benchmark, seen=benchmark.seen[: step.number])
                for alpha in left:
                    report(step, alpha, num_all - num_left, num_all)
                    run.learner.load_state(mixed_state(old, new, alpha))
                    mixture = _evaluate(configured, embedder, learned, step, alpha)
                    spool.emit("mixture", **mixture.fields())
                    num_left -= 1


def _evaluate(
    run: TrainedRun, embedder: Embedder, learned: Benchmark, step: MixingStep, alpha: float
) -> Mixture:
    """Scores the learner as it stands."""
    run.learner.to(run.device).eval()
    row = evaluate_domains(embedder, learned, run.config.evaluation)
    return Mixture(
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


def _read_state(file: Path) -> LearnerState:
    with safe_open(file, framework="pt") as opened:
        facts = json.loads((opened.metadata() or {})["facts"])
    return LearnerState(load_file(file), facts)


def _mixed_while_training(config: RunConfig) -> dict[str, Any] | None:
    """How the run itself mixed the weights that it kept; None if it did not."""
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
