"""Decoded images/s of one training domain at 256x128: by Ray Data, and by one local thread."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from runner.bench.measurements import Findings, Measurement
from runner.bench.workbench import Workbench
from runner.config.sections import DataConfig
from runner.profiling.interleave import interleaved
from runner.streaming.image_stream import IMAGES_PER_BLOCK, LocalStream
from tasks.datasets import synthetic
from tasks.datasets.synthetic import SyntheticConfig
from tasks.schema import Benchmark, Domain, Record, Split

HEIGHT, WIDTH = 256, 128


def measure(bench: Workbench) -> Findings:
    """Files of Market-1501's size (128x64), repeated up to a domain; both variants warm."""
    from runner.on_ray.cluster import connected

    domain = decoded_domain(bench.folder / "data", bench.sizes.num_decoded_images)
    with connected(bench.config("finetune", "cluster.num_workers=1")):
        variants = {
            "in_process": lambda: _local_images_per_s(domain, bench.folder),
            "ray": lambda: _ray_images_per_s(domain),
        }
        interleaved(variants, 1)
        found = interleaved(variants, bench.repeats)
    return Findings(
        tuple(
            Measurement(f"decode.{variant}", "images/s", tuple(values))
            for variant, values in found.items()
        )
    )


def decoded_domain(root: Path, num_images: int) -> Domain:
    """A training domain of `num_images` records over a few hundred drawn files."""
    settings = SyntheticConfig(
        num_seen_domains=1,
        num_unseen_domains=0,
        num_train_identities=min(32, num_images),
        num_test_identities=2,
        height=128,
        width=64,
        supersampling=1,
    )
    (drawn,), _ = synthetic.read(root, settings)
    times = -(-num_images // len(drawn.train))
    records: tuple[Record, ...] = (drawn.train * times)[:num_images]
    train = tuple(replace(record, person_id=0) for record in records)
    return Domain(drawn.name, train, Split((), ()), Split((), ()))


def _local_images_per_s(domain: Domain, folder: Path) -> float:
    benchmark = Benchmark("decode", (domain,), (), {})
    began = time.perf_counter()
    stream = LocalStream(benchmark, DataConfig(), HEIGHT, WIDTH, folder / "quarantine.jsonl")
    try:
        stream.open(0)
        return len(domain.train) / (time.perf_counter() - began)
    finally:
        stream.close()


def _ray_images_per_s(domain: Domain) -> float:
    import ray

    from runner.on_ray.stream_actor import DecodeOptions, DomainFiles, decode_domain

    num_tasks = max(1, int(ray.cluster_resources()["CPU"]))
    task_cpus = DataConfig().decode_cpus
    options = DecodeOptions(HEIGHT, WIDTH, task_cpus, IMAGES_PER_BLOCK, num_tasks)
    files = DomainFiles(
        domain.name, tuple(each.image_path for each in domain.train), keep_pixels=True
    )
    began = time.perf_counter()
    decode_domain(files, options)
    return len(domain.train) / (time.perf_counter() - began)
