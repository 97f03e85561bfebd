"""Evaluates a finished run on its own or another benchmark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from models.backbones.caption_encoder import load_caption_encoder
from runner.analysis.trained_run import TrainedRun, embedding
from runner.config.run_config import ConfigError, RunConfig, learner_module, override_values
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
"""Sections that may change for a trained model; the others determine its weights."""

_BENCHMARK_SPECIFIC = (
    *("order", "unseen", "identities", "num_validation_identities", "synthetic"),
    *("style", "style_options"),
)


@dataclass(frozen=True)
class Scored:
    """Folder of the scores, and the content of its results.json."""

    folder: Path
    results: dict[str, Any]


def settings_for(run: TrainedRun, benchmark: str | None, overrides: Sequence[str]) -> RunConfig:
    """Returns the run's configuration with another benchmark.

    Paths and variants of the data are kept; settings specific to the domains of the old benchmark
    are reset to their defaults.

    Raises:
        ConfigError: a key would change the trained model, or a value is invalid.
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
        kept = BenchmarkConfig().model_dump(mode="json", include=set(_BENCHMARK_SPECIFIC))
        values["benchmark"] |= kept | {"name": benchmark}
    return override_values(values, overrides)


def benchmark_to_test(run: TrainedRun, settings: RunConfig) -> Benchmark:
    """Loads the benchmark of the settings with all domains for testing only.

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
        load_encoder=load_caption_encoder,
    )


def refuse_trained_people(run: TrainedRun, benchmark: Benchmark) -> None:
    """Checks that the run was not trained on test people of the benchmark.

    Raises:
        ValueError: it was; names the first domain.
    """
    if leaked := leaked_test_identities(run.lock, benchmark):
        domain, people = next(iter(leaked.items()))
        raise ValueError(
            f"{domain}: expected test people not used in training, got {len(people)} that "
            f"{run.storage.folder.name} was trained on (the first is {people[0]}); choose the "
            "variant or split of the training"
        )


def score(run: TrainedRun, settings: RunConfig) -> Scored:
    """Scores every domain of the benchmark as an unseen domain, under a separate lock.

    Raises:
        FileNotFoundError, ValueError: data are missing or wrong; the run was trained on test people
            of the benchmark; the learner cannot embed the benchmark's queries.
    """
    benchmark = benchmark_to_test(run, settings)
    refuse_trained_people(run, benchmark)
    splits = {domain.name: domain.test for domain in benchmark.domains}
    method = learner_module(run.config.learner.name).Method
    check_queries(method, run.config.learner.name, splits)
    check_protocol(settings.evaluation.protocol, splits)
    for domain in benchmark.domains:
        method.check_gallery(run.config.learner, domain)
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
