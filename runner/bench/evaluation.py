"""Evaluated images/s, decoding and ranking included: with the local stream and with Ray's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from runner.bench.measurements import Findings, Measurement
from runner.bench.workbench import Workbench
from runner.config.run_config import RunConfig
from runner.config.sections import EvaluationConfig
from runner.experiment import read_benchmark
from runner.profiling.interleave import interleaved
from runner.streaming.image_stream import DomainStream, LocalStream
from runner.training.collectives import LocalGroup
from runner.training.evaluation import Embedder, evaluate_domains
from runner.training.worker import build_learner
from tasks.schema import Benchmark


def measure(bench: Workbench) -> Findings:
    """The demo's network embeds every test split with as many threads as a worker has."""
    from runner.on_ray.cluster import connected
    from runner.on_ray.image_stream import RayStream, serve_stream

    config = bench.config("finetune", "cluster.num_workers=1")
    benchmark = copied(read_benchmark(config), bench.sizes.num_evaluated_copies)
    size = config.backbone.image_height, config.backbone.image_width
    quarantine = bench.folder / "quarantine.jsonl"
    threads = torch.get_num_threads()
    torch.set_num_threads(config.cluster.threads_per_worker)
    local = LocalStream(benchmark, config.data, *size, quarantine)
    try:
        with (
            connected(config),
            serve_stream("bench", benchmark, config.data, *size, quarantine),
        ):
            served = RayStream("bench", benchmark, config.data, *size)
            variants = {
                "in_process": _evaluator(config, benchmark, local),
                "ray": _evaluator(config, benchmark, served),
            }
            interleaved(variants, 1)
            found = interleaved(variants, bench.repeats)
            served.close()
    finally:
        local.close()
        torch.set_num_threads(threads)
    return Findings(
        tuple(
            Measurement(f"evaluation.{variant}", "images/s", tuple(values))
            for variant, values in found.items()
        )
    )


def copied(benchmark: Benchmark, num_copies: int) -> Benchmark:
    """The benchmark with each seen domain `num_copies` times, under names of their own."""
    seen = tuple(
        replace(domain, name=f"{domain.name}-{number}")
        for number in range(num_copies)
        for domain in benchmark.seen
    )
    return replace(benchmark, seen=seen)


def _evaluator(
    config: RunConfig, benchmark: Benchmark, stream: DomainStream
) -> Callable[[], float]:
    group = LocalGroup()
    learner = build_learner(config, group).eval()
    embedder = Embedder(learner, stream, group, torch.device("cpu"), config.data, "float32")

    def evaluate() -> float:
        began = time.perf_counter()
        row = evaluate_domains(embedder, benchmark, EvaluationConfig())
        return row.num_images / (time.perf_counter() - began)

    return evaluate
