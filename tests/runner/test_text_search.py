"""Search by text through the runner: queries read no image, the gallery its own descriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runner.collectives import LocalGroup
from runner.config import RunConfig
from runner.evaluation import Embedder, evaluate_domains
from runner.experiment import read_benchmark, run_experiment
from runner.inference import load_run
from runner.scoring import score, settings_for
from runner.stream import LocalStream
from runner.worker import build_learner
from tasks.benchmarks import load_benchmark
from tasks.schema import Benchmark, Domain, Record, Split

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig
) -> Iterator[tuple[Embedder, Benchmark, RunConfig]]:
    """An untrained BDAM, and the drawn people it is to find."""
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


def test_no_image_of_a_query_is_read_and_each_gallery_image_has_its_own_words(searched) -> None:
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


def with_noise_for_queries(benchmark: Benchmark, folder: Path) -> Benchmark:
    """The benchmark whose queries have their own words, and noise where they had an image."""
    pixels = np.random.default_rng(0)

    def noise(number: int) -> str:
        path = folder / f"{number}.png"
        Image.fromarray(pixels.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
        return str(path)

    def noisy(split: Split) -> Split:
        query = tuple(
            replace(each, image_path=noise(number), identity="x", clothing="y")
            for number, each in enumerate(split.query)
        )
        return replace(split, query=query)

    def changed(domain: Domain) -> Domain:
        return replace(domain, test=noisy(domain.test), validation=noisy(domain.validation))

    return replace(
        benchmark,
        seen=tuple(changed(each) for each in benchmark.seen),
        unseen=tuple(changed(each) for each in benchmark.unseen),
    )


def with_swapped_descriptions(benchmark: Benchmark) -> Benchmark:
    """The benchmark whose searched images have the descriptions of other people's images."""

    def changed(domain: Domain) -> Domain:
        gallery = domain.test.gallery
        turned = gallery[7:] + gallery[:7]
        swapped = tuple(
            replace(each, identity=other.identity)
            for each, other in zip(gallery, turned, strict=True)
        )
        return with_test(domain, domain.test.query, swapped)

    return replace(benchmark, seen=tuple(changed(each) for each in benchmark.seen))


def test_from_run_to_evaluate_no_query_shows_its_image_and_descriptions_count(
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    no_pictures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole path: learning, every evaluation of a run, and a finished run scored again."""
    real = load_benchmark
    (tmp_path / "noise").mkdir()

    def noisy(*arguments: Any, **named: Any) -> Benchmark:
        return with_noise_for_queries(real(*arguments, **named), tmp_path / "noise")

    def swapped(*arguments: Any, **named: Any) -> Benchmark:
        found = real(*arguments, **named)
        # `evaluate` tests every domain as an unseen one.
        return replace(
            found, unseen=with_swapped_descriptions(replace(found, seen=found.unseen)).seen
        )

    one = ("benchmark.synthetic.num_seen_domains=1", "benchmark.synthetic.num_unseen_domains=0")
    whole = run_experiment(tiny_config(tmp_path / "whole", "bdam", *one))
    with monkeypatch.context() as patch:
        patch.setattr("runner.experiment.load_benchmark", noisy)
        other = run_experiment(tiny_config(tmp_path / "noisy", "bdam", *one))
    assert numbers_of(other.results) == numbers_of(whole.results)

    def scored_again(read: Callable[..., Benchmark]) -> dict[str, float]:
        run = load_run(str(whole.folder), "")
        with monkeypatch.context() as patch:
            patch.setattr("runner.scoring.load_benchmark", read)
            return score(run, settings_for(run, None, [])).results["scores"]["plaza"]

    wanted = {metric: rows[-1][0] for metric, rows in whole.results["scores"].items()}
    assert scored_again(real) == scored_again(noisy) == wanted
    assert scored_again(swapped) != wanted


def test_a_benchmark_without_descriptions_is_refused_before_work(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match="has none; write them by"):
        read_benchmark(tiny_config(tmp_path, "bdam", "benchmark.name=synthetic"))
