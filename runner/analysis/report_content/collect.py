"""Computes the content of a report that needs the trained model of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
from runner.analysis.report_content.attention_maps import attention_rows
from runner.analysis.report_content.learned_state import gate_histograms, prototype_similarity
from runner.analysis.report_content.rankings import (
    NUM_RESULTS,
    SplitRanking,
    broken_queries,
    domain_rankings,
    rank_split,
)
from runner.analysis.trained_run import TrainedRun, embedding, load_run
from runner.config.run_config import learner_module
from runner.html_report.model_content import BrokenQuery, ModelContent
from runner.results.finished_runs import FinishedRun
from runner.training.evaluation import Embedder, check_queries
from tasks.schema import Benchmark

_BUDGET_BYTES = 11_000_000  # of thumbnails, below the limit of a report
_THUMBNAIL_BYTES = 9_000  # of a photograph, base64
_MAX_QUERIES = 2  # of a kind in a domain
_MAX_BROKEN = 2  # queries of a domain

Report = Callable[[str], None]
"""Receives a short text about what is being computed."""

_FAILURES = (OSError, ValueError, RuntimeError, KeyError)


def collect_content(
    runs: Sequence[FinishedRun],
    overrides: Sequence[str] = (),
    *,
    use_gpu: bool = False,
    report: Report = lambda _: None,
) -> list[ModelContent]:
    """Content of each run; what cannot be computed is left out, with a sentence that says why.

    Args:
        runs: finished runs.
        overrides: benchmark settings, such as `benchmark.root=...`.
        use_gpu: compute on the first CUDA device.
        report: receives progress.
    """
    num_domains = sum(len(run.matrix.seen + run.matrix.unseen) for run in runs)
    count = queries_of_a_kind(num_domains)
    return [_collect(run, overrides, count, use_gpu, report) for run in runs]


def queries_of_a_kind(num_domains: int) -> int:
    """Number of best, median and worst queries of each domain, so that a report stays small.

    Args:
        num_domains: number of domains, summed over the runs.
    """
    ranked_list_bytes = (1 + NUM_RESULTS) * _THUMBNAIL_BYTES
    # A domain also has up to `_MAX_BROKEN` queries with two lists.
    by_domain = _BUDGET_BYTES / max(1, num_domains) / ranked_list_bytes - 2 * _MAX_BROKEN
    return max(1, min(_MAX_QUERIES, int(by_domain / 3)))


def _collect(
    finished: FinishedRun, overrides: Sequence[str], count: int, use_gpu: bool, report: Report
) -> ModelContent:
    name = finished.folder.name
    report(f"{name}: loading the model")
    after = finished.matrix.seen[-1] if _is_sequential(finished) else None
    try:
        run = load_run(str(finished.folder), "", after=after, use_gpu=use_gpu)
    except _FAILURES as error:
        return ModelContent(notes=(f"The trained model was left out: {_first_line(error)}",))
    content = ModelContent(
        checkpoint=run.checkpoint, prototypes=prototype_similarity(run, finished.matrix.seen)
    )
    try:
        benchmark = _benchmark(run, finished, overrides)
        with _embedder(run, benchmark) as embedder:
            rankings: dict[str, SplitRanking] = {}
            for domain in benchmark.domains:
                report(f"{name}: ranking {domain.name}")
                rankings[domain.name] = rank_split(embedder, domain.test)
    except _FAILURES as error:
        note = f"Ranked lists and images were left out: {_first_line(error)}"
        return replace(content, notes=(note,))
    broken, notes = _broken(finished, benchmark, rankings, use_gpu, report)
    return replace(
        content,
        notes=tuple(notes),
        rankings=tuple(
            domain_rankings(domain, ranking, count) for domain, ranking in rankings.items()
        ),
        broken=tuple(broken),
        attention=tuple(attention_rows(run, benchmark.domains)),
        gates=tuple(gate_histograms(run, benchmark.domains)),
    )


def _benchmark(run: TrainedRun, finished: FinishedRun, overrides: Sequence[str]) -> Benchmark:
    """Reads the test images and checks that they are those of the run.

    Raises:
        OSError, ValueError: data are missing, changed or unsuitable.
    """
    benchmark = benchmark_to_test(run, settings_for(run, None, overrides))
    splits = {domain.name: domain.test for domain in benchmark.domains}
    check_queries(type(run.learner), run.config.learner.name, splits)
    for domain in benchmark.domains:
        type(run.learner).check_gallery(run.config.learner, domain)
        hashes = [
            lock.get("domains", {}).get(domain.name, {}).get("records_sha256", {})
            for lock in (finished.lock, benchmark.lock)
        ]
        lists = ("test_query", "test_gallery")
        if any(hashes[0].get(each) != hashes[1].get(each) for each in lists):
            raise ValueError(
                f"{domain.name}: expected the test images in the protocol lock of the run, got "
                "others; restore the data, or set benchmark.root"
            )
    return benchmark


def _broken(
    finished: FinishedRun,
    benchmark: Benchmark,
    rankings: dict[str, SplitRanking],
    use_gpu: bool,
    report: Report,
) -> tuple[list[BrokenQuery], list[str]]:
    """Queries broken after their domain was learned, by the checkpoints after each domain."""
    broken: list[BrokenQuery] = []
    missing: list[str] = []
    if not _is_sequential(finished):
        return broken, missing
    by_name = {domain.name: domain for domain in benchmark.domains}
    for name in finished.matrix.seen[:-1]:
        report(f"{finished.folder.name}: ranking {name} with the model after it")
        try:
            before = load_run(str(finished.folder), "", after=name, use_gpu=use_gpu)
            with _embedder(before, benchmark) as embedder:
                ranking = rank_split(embedder, by_name[name].test)
        except _FAILURES:
            missing.append(name)
            continue
        broken += broken_queries(name, ranking, rankings[name], _MAX_BROKEN)
    notes = (
        [f"Queries broken by later domains need the checkpoint after {', '.join(missing)}."]
        if missing
        else []
    )
    return broken, notes


def _is_sequential(finished: FinishedRun) -> bool:
    """Whether the run has a checkpoint after each seen domain, not a joint one or none."""
    return learner_module(finished.config.learner.name).Method.course == "sequential"


@contextmanager
def _embedder(run: TrainedRun, benchmark: Benchmark) -> Iterator[Embedder]:
    """Embedder that does not add unreadable images to the list of the run."""
    with (
        tempfile.TemporaryDirectory(prefix="lifelong-report-") as folder,
        embedding(run, benchmark, Path(folder) / "quarantine.jsonl") as embedder,
    ):
        yield embedder


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
