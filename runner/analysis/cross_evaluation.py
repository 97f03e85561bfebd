"""A finished run scored on a benchmark that may be another than its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.analysis.trained_run import TrainedRun, embedding
from runner.config.run_config import ConfigError, RunConfig, override_values
from runner.experiment import resolve_folders
from runner.results.run_folder import git_revision, write_atomically
from runner.training.evaluation import (
    check_protocol,
    check_queries,
    evaluate_domains,
    pinned_settings,
)
from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.protocol.lock import leaked_test_identities
from tasks.retrieval.metrics import METRICS
from tasks.schema import Benchmark

SECTIONS = ("benchmark", "evaluation")
"""What may be set anew for a trained model; the rest made it what it is."""

_OF_ITS_OWN_ORDER = ("order", "unseen", "identities", "num_validation_identities", "synthetic")


@dataclass(frozen=True)
class Scored:
    """Where the scores were written, and what results.json there holds."""

    folder: Path
    results: dict[str, Any]


def settings_for(run: TrainedRun, benchmark: str | None, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with another benchmark.

    Another benchmark keeps where data are and which variants are read, and drops what belonged to
    the old one's domains.

    Raises:
        ConfigError: a key that would change the trained model, or a wrong value.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == each or key.startswith(f"{each}.") for each in SECTIONS):
            raise ConfigError(
                f"override {override!r}: the model is trained; only {', '.join(SECTIONS)} "
                "can be set here"
            )
    values = run.config.model_dump(mode="json")
    if benchmark is not None and benchmark != run.config.benchmark.name:
        kept = BenchmarkConfig().model_dump(mode="json", include=set(_OF_ITS_OWN_ORDER))
        values["benchmark"] |= kept | {"name": benchmark}
    return override_values(values, overrides)


def benchmark_to_test(run: TrainedRun, settings: RunConfig) -> Benchmark:
    """The settings' benchmark, every domain only to be tested on.

    Raises:
        FileNotFoundError, ValueError: data are missing or wrong.
    """
    backbone = run.config.backbone
    return load_benchmark(
        resolve_folders(settings.benchmark),
        image_height=backbone.image_height,
        image_width=backbone.image_width,
        pinned=pinned_settings(settings.evaluation),
        learn=False,
    )


def score(run: TrainedRun, settings: RunConfig) -> Scored:
    """Ranks every domain of the benchmark, all of them as unseen ones, under a lock of their own.

    Raises:
        FileNotFoundError, ValueError: data are missing or wrong; the run has trained on people
            that the benchmark tests on; the learner cannot make the benchmark's queries.
    """
    benchmark = benchmark_to_test(run, settings)
    if leaked := leaked_test_identities(run.lock, benchmark):
        domain, people = next(iter(leaked.items()))
        raise ValueError(
            f"{run.storage.folder.name} was trained on {len(people)} of the test people of "
            f"{domain} (the first is {people[0]}): a score on them would say nothing. Choose the "
            "variant or split that the run was trained with."
        )
    splits = {domain.name: domain.test for domain in benchmark.domains}
    check_queries(type(run.learner), run.config.learner.name, splits)
    check_protocol(settings.evaluation.protocol, splits)
    for domain in benchmark.domains:
        type(run.learner).check_gallery(run.config.learner, domain)
    name = f"{benchmark.name}-{_hash(benchmark.lock, run.facts())}"
    folder = run.storage.folder / "evaluations" / name
    folder.mkdir(parents=True, exist_ok=True)
    with embedding(run, benchmark, folder / "quarantine.jsonl") as embedder:
        row = evaluate_domains(embedder, benchmark, settings.evaluation, seed=settings.seed)
    scores = row.scores["test"]
    results = {
        **run.facts(),
        "benchmark": benchmark.name,
        "git_revision": git_revision(),
        "scores": scores,
        "num_valid_queries": row.num_valid_queries["test"],
        "average": {
            metric: fmean(domain[metric] for domain in scores.values()) for metric in METRICS
        },
        "num_images": row.num_images,
        "num_unreadable_test_images": row.num_unreadable,
        "seconds": row.seconds,
    }
    write_atomically(
        folder / "protocol.lock.json", json.dumps(benchmark.lock, indent=1, sort_keys=True)
    )
    write_atomically(folder / "results.json", json.dumps(results, indent=1))
    return Scored(folder, results)


def _hash(lock: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    text = json.dumps([lock, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
