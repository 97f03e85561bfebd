"""Evaluation of a finished run on its own and on other benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.learner import Learner
from runner.analysis.cross_evaluation import score, settings_for
from runner.analysis.trained_run import load_run
from runner.config.run_config import ConfigError, RunConfig
from runner.config.sections import DataConfig, EvaluationConfig
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.streaming.image_stream import LocalStream
from runner.training.collectives import LocalGroup
from runner.training.evaluation import Embedder, check_queries, evaluate_domains
from tasks.protocol.identities import text_split
from tasks.schema import Benchmark, Domain, Record, Split
from tests.tasks.datasets.miniatures.painting import paint

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    return run_experiment(tiny_config(tmp_path_factory.mktemp("runs"), "vladr"))


def test_same_benchmark_reproduces_last_row(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "runs")
    scored = score(run, settings_for(run, None, []))
    domains = [*finished.results["domains"]["seen"], *finished.results["domains"]["unseen"]]
    for metric in ("mAP", "R1", "mINP"):
        again = [scored.results["scores"][domain][metric] for domain in domains]
        assert again == finished.results["scores"][metric][-1]
    assert scored.folder.is_relative_to(finished.folder / "evaluations")
    lock = json.loads((scored.folder / "protocol.lock.json").read_text())
    assert (lock["order"], lock["unseen"], lock["reranking"]) == ([], domains, None)


def test_the_model_after_an_earlier_domain(finished: RunResult) -> None:
    first, second = finished.results["domains"]["seen"]
    run = load_run(str(finished.folder), "runs", after=first)
    scored = score(run, settings_for(run, None, []))
    row = finished.results["scores"]["mAP"][1]
    assert scored.results["scores"][second]["mAP"] == row[1]
    assert scored.results["checkpoint"] == f"after-01-{first}.safetensors"
    with pytest.raises(ValueError, match=rf"expected one of {first}, {second}, got 'moon'"):
        load_run(str(finished.folder), "runs", after="moon")


def test_reranking_is_in_the_lock_and_changes_the_numbers(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "runs")
    plain = score(run, settings_for(run, None, []))
    settings = settings_for(run, None, ["evaluation.reranking.enabled=true"])
    reranked = score(run, settings)
    lock = json.loads((reranked.folder / "protocol.lock.json").read_text())
    assert lock["reranking"]["k1"] == 20
    assert reranked.folder != plain.folder
    assert reranked.results["scores"] != plain.results["scores"]


def test_training_settings_cannot_be_overridden(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "runs")
    with pytest.raises(ConfigError, match=r"only benchmark, evaluation can be set"):
        settings_for(run, None, ["backbone.image_height=96"])


def test_a_trained_run_uses_the_threads_of_its_configuration(finished: RunResult) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run = load_run(str(finished.folder), "runs")
        assert torch.get_num_threads() == run.config.cluster.threads_per_worker == 1
    finally:
        torch.set_num_threads(before)


def test_another_benchmark_resets_order(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "runs")
    benchmark = settings_for(run, "lreid-1", ["benchmark.unseen=[viper]"]).benchmark
    assert (benchmark.name, benchmark.order, benchmark.unseen) == ("lreid-1", (), ("viper",))
    assert benchmark.root == run.config.benchmark.root


def test_training_people_are_rejected_for_testing(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "runs")
    lock = run.lock
    domain = finished.results["domains"]["seen"][0]
    lock["domains"][domain]["identities"]["train"]["ids"].append(1001)
    stored = run.storage.lock_file.read_text()
    run.storage.lock_file.write_text(json.dumps(lock))
    try:
        with pytest.raises(
            ValueError, match=rf"{domain}: expected test people not used in training, got 1"
        ):
            score(run, settings_for(run, None, []))
    finally:
        run.storage.lock_file.write_text(stored)


def test_the_command(
    finished: RunResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    storage, name = str(finished.folder.parent), finished.folder.name
    override = "evaluation.reranking.k1=5"
    assert main(["evaluate", name, override, "--runs", storage]) == 0
    shown = capsys.readouterr().out
    assert "average" in shown
    assert "protocol.lock.json" in shown
    assert main(["evaluate", "nobody", "--runs", storage]) == 2
    assert "found no run at" in capsys.readouterr().err


def test_unfinished_run(finished: RunResult, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((finished.folder / "config.yaml").read_text())
    with pytest.raises(ValueError, match=r"not finished; repeat the command"):
        load_run(str(tmp_path), "runs")


class Twin(Learner):
    """Embeds an image as its mean colour, and a text as the colour it names."""

    embeds_texts = True

    def begin_domain(self, domain, probe): ...
    def stages(self):
        return ()

    def forward(self, batch, stage):
        raise NotImplementedError

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(each) for each in text.split()] for text in texts])


class Mute(Twin):
    embeds_texts = False


def test_text_queries_are_ranked_without_a_camera_rule(tmp_path: Path) -> None:
    records = []
    for person in range(4):
        path = tmp_path / f"{person}.png"
        paint(path, person)
        records.append(Record(str(path), person, 0))
    data = DataConfig()
    empty = Benchmark("none", (), (), {})
    stream = LocalStream(empty, data, 32, 16, tmp_path / "quarantine.jsonl")
    embedder = Embedder(Twin(), stream, LocalGroup(), torch.device("cpu"), data, "float32")
    colours, _ = embedder.images(records)
    spelt = [
        Record(each.image_path, each.person_id, 0, (" ".join(map(str, colour.tolist())),))
        for each, colour in zip(records, colours, strict=True)
    ]
    domain = Domain("drawn", (), Split((), ()), text_split(spelt))
    row = evaluate_domains(embedder, Benchmark("t", (), (domain,), {}), EvaluationConfig())
    stream.close()
    # All images are of one camera: under the camera rule no query would have a match.
    assert row.num_valid_queries["test"] == {"drawn": 4}
    assert row.scores["test"]["drawn"]["mAP"] == pytest.approx(100.0)
    assert row.num_images == 4
    check_queries(Twin, "twin", {"drawn": domain.test})
    with pytest.raises(
        ValueError, match=r"drawn has text queries, but learner mute does not embed"
    ):
        check_queries(Mute, "mute", {"drawn": domain.test})
