"""Change of the scores by int8 quantisation, on the test splits of the learned domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
from runner.analysis.trained_run import TrainedRun, embedding
from runner.config.run_config import RunConfig
from runner.training.evaluation import evaluate_domains
from tasks.schema import Benchmark, Split


def learned_test_sets(run: TrainedRun, overrides: Sequence[str]) -> tuple[Benchmark, RunConfig]:
    """Loads the domains that the run learned, with their test splits only.

    Args:
        run: trained run.
        overrides: benchmark settings, such as benchmark.root=...

    Raises:
        FileNotFoundError, ValueError: data are missing or wrong.
    """
    settings = settings_for(run, None, overrides)
    benchmark = benchmark_to_test(run, settings)
    learned = [domain for domain in benchmark.domains if domain.name in run.lock["order"]]
    tested = tuple(replace(domain, train=(), validation=Split((), ())) for domain in learned)
    return replace(benchmark, seen=(), unseen=tested), settings


def quantisation_loss(
    run: TrainedRun,
    exported: TrainedRun,
    tests: tuple[Benchmark, RunConfig],
    unreadable_file: Path,
) -> dict[str, Any]:
    """Evaluates the learner and the quantised model in the same way.

    Returns:
        mAP in percent of both by domain, their averages, and `loss`: average of the learner minus
        that of the quantised model, in percentage points.
    """
    benchmark, settings = tests
    scores: list[dict[str, float]] = []
    for each in (run, exported):
        with embedding(each, benchmark, unreadable_file) as embedder:
            row = evaluate_domains(embedder, benchmark, settings.evaluation, seed=settings.seed)
        scores.append({name: values["mAP"] for name, values in row.scores["test"].items()})
    before, after = (fmean(each.values()) for each in scores)
    return {
        "mAP": {name: [scores[0][name], scores[1][name]] for name in scores[0]},
        "average_mAP": [before, after],
        "loss": before - after,
    }
