"""Text retrieval in the runner: no query images are read, the gallery uses its descriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runner.config.run_config import RunConfig, load_config
from runner.experiment import read_benchmark, run_experiment
from runner.streaming.image_stream import LocalStream
from runner.training.collectives import LocalGroup
from runner.training.evaluation import Embedder, evaluate_domains
from runner.training.worker import build_learner
from tasks.schema import Benchmark, Domain, Record

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig
) -> Iterator[tuple[Embedder, Benchmark, RunConfig]]:
    """An untrained BDAM learner and a synthetic gallery."""
    folder = tmp_path_factory.mktemp("text-search")
    config = tiny_config(folder, "bdam")
    benchmark = read_benchmark(config)
    size = config.backbone.image_height, config.backbone.image_width
    stream = LocalStream(benchmark, config.data, *size, folder / "quarantine.jsonl")
    group = LocalGroup()
    learner = build_learner(config, group)
    device = torch.device("cpu")
    yield Embedder(learner, stream, group, device, config.data, "float32"), benchmark, config
    stream.close()


def scores(searched: tuple[Embedder, Benchmark, RunConfig], domain: Domain):
    embedder, benchmark, config = searched
    only = replace(benchmark, seen=(domain,), unseen=())
    return evaluate_domains(embedder, only, config.evaluation).scores["test"][domain.name]


def with_test(domain: Domain, query: tuple[Record, ...], gallery: tuple[Record, ...]) -> Domain:
    return replace(domain, test=replace(domain.test, query=query, gallery=gallery))


def test_query_images_are_not_read_and_gallery_uses_its_descriptions(searched) -> None:
    domain = searched[1].seen[0]
    query, gallery = domain.test.query, domain.test.gallery
    wanted = scores(searched, domain)
    assert wanted["R10"] >= wanted["R1"] >= 0
    nowhere = tuple(replace(each, image_path="/nowhere.jpg", identity="x") for each in query)
    assert scores(searched, with_test(domain, nowhere, gallery)) == wanted
    turned = gallery[7:] + gallery[:7]
    swapped = tuple(
        replace(each, identity=other.identity) for each, other in zip(gallery, turned, strict=True)
    )
    assert scores(searched, with_test(domain, query, swapped)) != wanted


def test_benchmark_without_descriptions_is_rejected_early(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    with pytest.raises(
        ValueError, match="expected an identity description for every gallery image"
    ):
        read_benchmark(tiny_config(tmp_path, "bdam", "benchmark.name=synthetic"))


@pytest.mark.slow
def test_short_demo_retrieves_people_by_captions(tmp_path: Path, people: Path) -> None:
    sizes = {"num_train_identities": 160, "num_test_identities": 50, "supersampling": 1}
    config = load_config(
        "demo-t2i",
        [
            *(f"benchmark.synthetic.{name}={value}" for name, value in sizes.items()),
            *(f"storage.root={tmp_path}", f"benchmark.root={people}", "tracking.uri=null"),
            *("cluster.num_workers=0", "benchmark.num_validation_identities=16"),
            *("learner.epochs=6", "learner.fusion.mixer=simple"),
        ],
    )
    results = run_experiment(config).results
    assert results["chance"]["seen_R1"] == pytest.approx(2)
    assert results["scores"]["R1"][-1][0] > 20
    assert results["selection"]["num_candidates"] == 3
