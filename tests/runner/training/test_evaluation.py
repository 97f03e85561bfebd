"""The evaluation protocol of a run: scores, protocol lock, refusals."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runner.analysis.cross_evaluation import benchmark_to_test, score, settings_for
from runner.analysis.trained_run import embedding, load_run
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.training.evaluation import check_protocol, evaluate_domains
from tasks.protocol.lock_differences import is_test_comparable, lock_differences
from tasks.retrieval.random_baseline import chance_average
from tasks.retrieval.single_shot import evaluate_single_shot
from tasks.schema import Split

MakeConfig = Callable[..., RunConfig]
SINGLE_SHOT = "evaluation.protocol=single_gallery_shot"


@pytest.fixture(scope="module")
def single_shot(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    config = tiny_config(tmp_path_factory.mktemp("runs"), "finetune", SINGLE_SHOT, "seed=3")
    return run_experiment(config)


def test_a_run_scores_by_evaluate_single_shot(single_shot: RunResult, tmp_path: Path) -> None:
    run = load_run(str(single_shot.folder), "runs")
    settings = settings_for(run, None, [])
    benchmark = benchmark_to_test(run, settings)
    names = [*single_shot.results["domains"]["seen"], *single_shot.results["domains"]["unseen"]]
    with embedding(run, benchmark, tmp_path / "quarantine.jsonl") as embedder:
        row = evaluate_domains(embedder, benchmark, settings.evaluation, seed=3)
        other_seed = evaluate_domains(embedder, benchmark, settings.evaluation, seed=4)
        for domain in benchmark.domains:
            query, gallery = domain.test.query, domain.test.gallery
            features, _ = embedder.images([*query, *gallery])
            parts = features[: len(query)], features[len(query) :]
            ids = [torch.tensor([each.person_id for each in part]) for part in (query, gallery)]
            cameras = [torch.tensor([each.camera_id for each in part]) for part in (query, gallery)]
            expected = evaluate_single_shot(*parts, *ids, *cameras, seed=3).percent()
            assert row.scores["test"][domain.name] == expected
            for metric in ("mAP", "R1", "R5", "R10", "mINP"):
                recorded = single_shot.results["scores"][metric][-1][names.index(domain.name)]
                assert recorded == pytest.approx(expected[metric], abs=1e-9)
    assert row.scores != other_seed.scores
    unseen = single_shot.results["domains"]["unseen"]
    expected_chance = chance_average(
        [each for each in benchmark.domains if each.name in unseen], "single_gallery_shot"
    )
    assert single_shot.results["chance"]["unseen_R1"] == expected_chance["R1"]


def test_lock_names_the_protocol_and_differs_in_words(single_shot: RunResult) -> None:
    run = load_run(str(single_shot.folder), "runs")
    assert run.lock["evaluation_protocol"] == "single_gallery_shot"
    standard = score(run, settings_for(run, None, ["evaluation.protocol=standard"]))
    lock = json.loads((standard.folder / "protocol.lock.json").read_text())
    assert "evaluation_protocol" not in lock
    again = score(run, settings_for(run, None, []))
    differences = lock_differences(
        {"A": lock, "B": json.loads((again.folder / "protocol.lock.json").read_text())}
    )
    (difference,) = differences
    assert difference.text == "evaluation protocol standard in A, single_gallery_shot in B"
    assert not is_test_comparable(differences, run.lock["order"][0])
    assert standard.results["scores"] != again.results["scores"]


def test_compare_states_the_difference(
    single_shot: RunResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standard = tmp_path / "standard"
    shutil.copytree(single_shot.folder, standard)
    lock = json.loads((standard / "protocol.lock.json").read_text())
    del lock["evaluation_protocol"]
    (standard / "protocol.lock.json").write_text(json.dumps(lock))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", str(single_shot.folder), str(standard), "--no-published"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "evaluation protocol" in words
    assert re.search(r"single_gallery_shot in .*standard in ", words)


def test_text_queries_are_refused() -> None:
    image, text = Split((), ()), replace(Split((), ()), query_by="text")
    check_protocol("single_gallery_shot", {"market1501": image})
    check_protocol("standard", {"cuhkpedes": text})
    with pytest.raises(ValueError, match=r"evaluation\.protocol: .*cuhkpedes has text queries"):
        check_protocol("single_gallery_shot", {"market1501": image, "cuhkpedes": text})


def test_text_benchmark_is_refused_before_any_work(tmp_path: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config(tmp_path, "bdam", SINGLE_SHOT)
    with pytest.raises(ValueError, match=r"evaluation\.protocol: .*has text queries"):
        run_experiment(config)
