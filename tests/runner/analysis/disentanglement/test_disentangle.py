"""Disentanglement: pure functions on toy data with known results, and the command."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from models.losses.decoupling import hsic
from runner import experiment
from runner.analysis.disentanglement import measure as measuring  # RENAMED
from runner.analysis.disentanglement import plot as figures  # RENAMED
from runner.analysis.disentanglement.comparison import group_measured, lines, other_people
from runner.analysis.disentanglement.features import (
    IDENTITY,
    PROBED,
    extract_fusion_gate,
    learner_of,
)
from runner.analysis.disentanglement.gates import fusion_gate_statistics, gate_statistics
from runner.analysis.disentanglement.hsic import dependence, permuted_images
from runner.analysis.disentanglement.measure import Settings, mean_of, measure, panel_cache
from runner.analysis.disentanglement.probes import probe
from runner.analysis.disentanglement.retrieval import search
from runner.analysis.disentanglement.view import comparison_table, names_of, show
from runner.analysis.synthetic_attributes import (
    GROUPS,
    ProbeTask,
    attribute_indicators,
    attribute_of,
    probe_tasks,
)
from runner.config.run_config import RunConfig, to_yaml
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.results.finished_runs import read_finished
from tasks.synthetic.domains import training_domains
from tasks.synthetic.studio import person_of
from tests.tasks.datasets.miniatures.captioned import build, entry

MakeConfig = Callable[..., RunConfig]

NUM_PEOPLE, NUM_IMAGES = 60, 4
POSITIONS = np.repeat(np.arange(NUM_PEOPLE), NUM_IMAGES)


def toy(seed: int = 0) -> tuple[np.ndarray, np.ndarray, ProbeTask]:
    """Features with one three-valued attribute, features without it, and the task."""
    rng = np.random.default_rng(seed)
    labels = np.arange(NUM_PEOPLE) % 3
    noise = rng.normal(size=(NUM_PEOPLE * NUM_IMAGES, 8))
    knowing = noise.copy()
    knowing[:, :3] += 4 * np.eye(3)[labels[POSITIONS]]
    folds = np.arange(NUM_PEOPLE) // 3 % 5
    return knowing, noise, ProbeTask("x", ("a", "b", "c"), np.arange(NUM_PEOPLE), labels, folds)


# Probes -------------------------------------------------------------------------------------------


def test_probe_detects_only_present_attributes() -> None:
    knowing, noise, question = toy()
    actual = probe(knowing, POSITIONS, question)
    assert len(actual) == 5
    assert min(actual) > 0.9
    assert abs(np.mean(probe(noise, POSITIONS, question)) - question.chance) < 0.1
    # Scale and offset of a feature have no effect.
    assert probe(1000 * knowing + 50, POSITIONS, question) == pytest.approx(actual)


def test_probe_is_scored_on_held_out_people() -> None:
    # Every person has a separate channel, so memorised people carry no information about others.
    _, _, question = toy()
    features = np.eye(NUM_PEOPLE)[POSITIONS] + 0.01 * toy()[1][:, :1]
    labels = np.random.default_rng(3).permutation(question.labels)
    interpolated = replace(question, labels=labels)
    assert np.mean(probe(features, POSITIONS, interpolated)) < 0.5


def test_classes_are_weighted_equally() -> None:
    # 48 people of one class and 12 of the other: always predicting the frequent one is chance.
    labels = (np.arange(NUM_PEOPLE) % 5 == 0).astype(int)
    folds = np.arange(NUM_PEOPLE) // 5 % 5
    question = ProbeTask("x", ("a", "b"), np.arange(NUM_PEOPLE), labels, folds)
    noise = toy()[1]
    assert abs(np.mean(probe(noise, POSITIONS, question)) - 0.5) < 0.15


def test_excluded_people_are_not_used() -> None:
    knowing, _, question = toy()
    some = question.people[question.people % 4 != 1]
    fewer = replace(question, people=some, labels=question.labels[some], folds=question.folds[some])
    spoilt = knowing.copy()
    spoilt[POSITIONS % 4 == 1] = 1e6
    assert probe(spoilt, POSITIONS, fewer) == probe(knowing, POSITIONS, fewer)


# Attributes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd():
    domain = training_domains()[4]
    return [person_of(0, domain, 1001 + number) for number in range(150)]


def test_probe_tasks_have_balanced_folds(crowd) -> None:
    asked, left_out = probe_tasks(crowd, 5, 10, 0)
    names = [name for group in GROUPS.values() for name in group]
    assert [each.attribute for each in asked] + list(left_out) == names
    for each in asked:
        words = [attribute_of(crowd[at], each.attribute) for at in each.people]
        assert words == [each.classes[answer] for answer in each.labels]
        for answer in range(len(each.classes)):
            folds = each.folds[each.labels == answer]
            assert len(folds) >= 10
            assert set(folds) == set(range(5))
        assert not set(each.rare) & set(each.classes)
        assert each.chance == 1 / len(each.classes)


def test_constant_and_rare_attributes_are_omitted(crowd) -> None:
    same = [replace(each, skin="tan", sex="man") for each in crowd]
    asked, left_out = probe_tasks(same, 5, 10, 0)
    assert {"skin", "sex"} <= set(left_out)
    assert "only tan" in left_out["skin"]
    assert not {"skin", "sex"} & {each.attribute for each in asked}
    _, everything = probe_tasks(crowd[:8], 5, 10, 0)
    assert "no value" in everything["upper_colour"]
    (colours,) = (
        each for each in probe_tasks(crowd, 5, 13, 0)[0] if each.attribute == "upper_colour"
    )
    assert colours.rare


def test_invisible_attributes_are_omitted(crowd) -> None:
    person = replace(crowd[0], headwear="headscarf", hair="long", sex="woman", upper="jacket")
    for name in ("hair", "hair_colour", "beard", "pattern"):
        assert attribute_of(person, name) is None
    bald = replace(person, headwear="none", hair="bald", sex="man", beard=True, upper="coat")
    assert attribute_of(bald, "hair") == "bald"
    assert attribute_of(bald, "hair_colour") is None
    assert attribute_of(bald, "beard") == "beard"
    assert attribute_of(bald, "pattern") == bald.pattern


def test_attribute_indicators(crowd) -> None:
    pair = crowd[0], replace(crowd[0], upper="coat", headwear="none", bag="none")
    rows = attribute_indicators(pair, "identity")
    assert (rows[0] == rows[1]).all()
    assert rows[0].sum() == sum(
        attribute_of(pair[0], each) is not None for each in GROUPS["identity"]
    )
    rows = attribute_indicators((crowd[0], crowd[1]), "clothing")
    alike = [
        attribute_of(crowd[0], each) == attribute_of(crowd[1], each) is not None
        for each in GROUPS["clothing"]
    ]
    assert rows[0] @ rows[1] == sum(alike)


# Dependence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_dependence_and_null(kernel) -> None:
    rng = np.random.default_rng(0)

    # Images of one person are alike, as they are in data.
    def feature() -> torch.Tensor:
        own = rng.normal(size=(NUM_PEOPLE, 6))[POSITIONS]
        return torch.tensor(own + 0.3 * rng.normal(size=own.shape), dtype=torch.float32)

    first, second = feature(), feature()
    free = dependence(first, second, POSITIONS, kernel, 60, rng)
    assert free.hsic == pytest.approx(float(hsic(first, second, kernel)), rel=1e-5)
    # Unrelated features lie inside the null, although their rows are clustered ...
    assert np.quantile(free.null, 0.02) <= free.hsic <= np.quantile(free.null, 0.98)
    interpolated = first + 0.7 * second
    bound = dependence(first, interpolated, POSITIONS, kernel, 60, rng)
    # ... and related ones above all of it.
    assert bound.hsic > max(bound.null)
    assert 0 <= free.alignment < bound.alignment < 1
    itself = dependence(first, 3 * first, POSITIONS, kernel, 1, rng)
    assert itself.alignment == pytest.approx(1, abs=1e-5)
    order = torch.from_numpy(permuted_images(POSITIONS, np.random.default_rng(5)))
    again = dependence(first, second, POSITIONS, kernel, 1, np.random.default_rng(5))
    assert again.null == [pytest.approx(float(hsic(first, second[order], kernel)), rel=1e-4)]


def test_permutation_moves_people_as_blocks() -> None:
    ids = np.tile(np.arange(5), 3)  # images of a person need not be neighbours
    order = permuted_images(ids, np.random.default_rng(1))
    assert sorted(order) == list(range(15))
    for person in range(5):
        assert len(set(ids[order][ids == person])) == 1
    assert (ids[order] != ids).any()
    with pytest.raises(ValueError, match="got 1 to 2"):
        permuted_images(np.array([0, 0, 1]), np.random.default_rng(0))


# Search -------------------------------------------------------------------------------------------


def test_search_uses_separate_query_and_gallery_features() -> None:
    num_people, rng = 5, np.random.default_rng(0)
    person_ids = np.repeat(np.arange(num_people), 4)
    camera_ids = np.tile([0, 0, 1, 1], num_people)
    is_query = np.tile([True, False], 2 * num_people)
    body = torch.eye(num_people)[torch.from_numpy(person_ids)]
    clothes = torch.eye(num_people).roll(1, 0)[torch.from_numpy(person_ids)]
    noise = torch.tensor(0.01 * rng.normal(size=body.shape), dtype=torch.float32)
    old = {"body": body + noise, "clothes": body + noise}
    new = {"body": body - noise, "clothes": clothes - noise}
    same, other = (
        search(old, old, person_ids, camera_ids, is_query),
        search(old, new, person_ids, camera_ids, is_query),
    )
    assert same["body"] == same["clothes"] == other["body"] == {"R1": 100, "mAP": 100}
    assert other["clothes"]["R1"] == 0
    # 10 images, of which the query's camera took one of the person: 1 of 9 is a match.
    assert same["chance"]["R1"] == other["chance"]["R1"] == pytest.approx(100 / 9)


def test_means_over_domains() -> None:
    one = {"a": {"x": 1.0, "folds": [1.0, 2.0]}, "said": "word"}
    other = {"a": {"x": 3.0, "folds": [3.0, 6.0], "more": 5.0}, "said": "other"}
    assert mean_of([one, other]) == {"a": {"x": 2.0, "folds": [2.0, 4.0], "more": 5.0}}


# Command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


SMALL = (
    "learner.epochs=1", "benchmark.synthetic.num_seen_domains=1", "benchmark.unseen=[]",
    "learner.decoupling.dim=16", "learner.fusion.dim=16",
)  # fmt: skip
WITHOUT = ("learner.decoupling.enabled=false", "learner.losses.gate.weight=0")


@pytest.fixture(scope="module")
def finished(folder: Path, tiny_config: MakeConfig) -> tuple[RunResult, RunResult]:
    """A run of bdam, and one without its module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        full = run_experiment(tiny_config(folder, "bdam", *SMALL))
        return full, run_experiment(tiny_config(folder, "bdam", *SMALL, *WITHOUT))


@pytest.fixture
def no_plots(monkeypatch) -> None:
    monkeypatch.setattr(figures, "write_figures", lambda _: [])


def test_the_command(finished, folder: Path, capsys, no_plots) -> None:
    full, without = (each.folder.name for each in finished)
    given = ["--runs", str(folder), "--people", "24"]
    assert main(["disentangle", full, without, *given, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    one, other = printed["runs"]
    assert [one["run"], other["run"]] == [full, without]
    assert json.loads((folder / full / measuring.FILE).read_text()) == one
    assert set(one["probes"]["groups"]["identity"]["features"]) == set(PROBED)
    assert one["domains"] == ["plaza"]
    assert 0 < one["gate"]["mean"] < 1
    assert one["gate"]["clothing_mean"] == pytest.approx(1 - one["gate"]["mean"])
    assert one["fusion_gate"]["image_mean"] + one["fusion_gate"]["text_mean"] == pytest.approx(1)
    assert (one["num_people"], one["num_images"]) == (24, 24 * 4)
    assert one["notes"] == []
    assert other["notes"] == ["no gate: f_id_gate is f_id, and f_clo_gate is f_clo"]
    assert "gate" not in other
    assert "fusion_gate" in other
    for kind in ("same_clothes", "other_clothes"):
        assert other["retrieval"][kind][IDENTITY] == other["retrieval"][kind]["f_id"]
        for name in ("true identity", "true clothing", "chance"):
            assert other["retrieval"][kind][name] == one["retrieval"][kind][name]
    same, changed = (one["retrieval"][kind] for kind in ("same_clothes", "other_clothes"))
    assert same["true clothing"]["R1"] > 80 > changed["true clothing"]["R1"]
    assert changed["true identity"] != same["true clothing"]
    assert [each["label"] for each in printed["groups"]] == ["A", "B"]
    actual = printed["groups"][0]["numbers"][f"retrieval/other_clothes/{IDENTITY}/R1"]["mean"]
    assert actual == one["retrieval"]["other_clothes"][IDENTITY]["R1"]

    console = Console(width=80, record=True, file=io.StringIO())
    show(console, one)
    shown = console.export_text()
    for words in (
        *("Linear probes", "chance", "sex", "HSIC", "other clothes", "Not probed in plaza"),
        *("fusion, image", "paper: mean", "0.62", "0.18"),
    ):
        assert words in shown
    assert "…" not in shown
    beside = group_measured(
        [read_finished(name, str(folder)) for name in (full, without)], [one, other]
    )
    console.print(comparison_table(beside))
    shown = console.export_text()
    assert "other clothes, R1 (%)" in shown
    assert "…" not in shown
    assert names_of(beside) == [f"A: {full}", f"B: {without}"]


def test_seeds_are_averaged(finished, folder: Path, no_plots) -> None:
    run = read_finished(finished[0].folder.name, str(folder))
    twin = replace(run, folder=Path("twin"), config=run.config.model_copy(update={"seed": 7}))
    at = ("retrieval", "same_clothes", IDENTITY, "R1")
    results = [{"retrieval": {"same_clothes": {IDENTITY: {"R1": value}}}} for value in (10.0, 14.0)]
    (side,) = group_measured([run, twin], results)
    (line,) = lines([side])
    assert line.path == at
    actual = side.estimate(line)
    assert (actual.mean, actual.deviation) == (12.0, pytest.approx(8**0.5))


@pytest.mark.slow
def test_run_is_measured_and_plotted(finished) -> None:
    full, without = finished
    settings = Settings(people=20, min_people=4, folds=2, permutations=5)
    panel_of = panel_cache(settings)
    actual = measure(str(full.folder), "runs", settings, [], panel_of)
    assert measure(str(full.folder), "runs", settings, [], panel_of).results == actual.results
    # The panel has independent people, in the order of their numbers.
    panel = panel_of(actual.run.config, "plaza")
    assert panel_of(actual.run.config, "plaza") is panel
    seed = actual.run.config.benchmark.synthetic.seed
    plaza = replace(training_domains()[0], family_size=1)
    assert panel.old.people[7] == person_of(seed, plaza, 1008)
    # `before` holds features of the initial network, not of the trained one.
    assert not torch.equal(actual.before[0].rows[IDENTITY], actual.after[0].rows[IDENTITY])
    plain = measure(str(without.folder), "runs", settings, [], panel_of)
    written = figures.write_figures(actual) + figures.write_figures(plain)
    assert len(written) == 8
    assert all(path.stat().st_size > 10_000 for path in written)
    assert not list(full.folder.glob(".*partial"))


def test_unsuitable_runs_are_rejected(folder: Path, tiny_config: MakeConfig, capsys) -> None:
    other = folder / "other"
    other.mkdir()
    config = tiny_config(folder, "finetune")
    (other / "config.yaml").write_text(to_yaml(config))
    assert main(["disentangle", str(other)]) == 2
    assert "got finetune in" in capsys.readouterr().err
    assert main(["disentangle", "nobody", "--runs", str(folder)]) == 2
    assert "found no run at" in capsys.readouterr().err
    assert main(["disentangle", "seed=1"]) == 2
    assert "at least one run" in capsys.readouterr().err


# Real data ----------------------------------------------------------------------------------------

NUM_TEST_PEOPLE = 12


@pytest.fixture(scope="module")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RSTPReid with few people and machine texts; the last person has fewer images."""
    root = tmp_path_factory.mktemp("data")
    splits = {"train": range(8), "val": (8, 9), "test": range(10, 10 + NUM_TEST_PEOPLE)}
    entries = [
        entry(split, person, f"{person:04d}_c{camera}_0031.jpg", "A man.", f"Number {person}.",
              key="img_path")
        for split, people in splits.items() for person in people
        for camera in range(1, 4 if person == 10 + NUM_TEST_PEOPLE - 1 else 6)
    ]  # fmt: skip
    build(root / "RSTPReid", "data_captions.json", entries, "img_path")
    texts = [
        {
            "file_path": f"imgs/{each['img_path']}",
            "identity": f"Number {each['id']}, tall.",
            "clothing": "A red shirt.",
        }
        for each in entries
    ]
    (root / "rstpreid_dual.json").write_text(json.dumps(texts))
    return root


@pytest.fixture(scope="module")
def real_run(folder: Path, real_data: Path, tiny_config: MakeConfig) -> RunResult:
    settings = ("benchmark.name=rstpreid", "benchmark.order=[]", f"benchmark.root={real_data}")
    config = tiny_config(folder, "bdam", *SMALL, *settings, "learner.alignment=[]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        return run_experiment(config)


def test_run_of_real_data_is_measured(
    real_run: RunResult, folder: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    name = real_run.folder.name
    assert main(["disentangle", name, "--runs", str(folder), "--json"]) == 0
    (results,) = json.loads(capsys.readouterr().out)["runs"]
    assert json.loads((real_run.folder / measuring.FILE).read_text()) == results
    assert results["domains"] == ["rstpreid"]
    # At most four images of a person, of which the last one has three.
    assert (results["num_people"], results["num_images"]) == (NUM_TEST_PEOPLE, 4 * 12 - 1)
    assert not {"probes", "retrieval"} & set(results)
    (note,) = results["notes"]
    assert "left out, because they need people with known attributes" in note
    assert 0 < results["gate"]["mean"] < 1
    assert 0 < results["gate"]["standard_deviation"] < 0.5
    gate = results["fusion_gate"]
    assert gate["image_mean"] + gate["text_mean"] == pytest.approx(1)
    assert results["published"]["gate"]["mean"] == 0.62
    for kernels in results["dependence"].values():
        assert 0 <= kernels["linear"]["alignment"] <= 1
        assert 0 < kernels["rbf"]["p_value"] <= 1
    console = Console(width=80, record=True, file=io.StringIO())
    show(console, results)
    shown = console.export_text()
    assert "Linear probes" not in shown
    assert "clothing, 1 - g" in shown


def test_figures_of_real_data(real_run: RunResult, folder: Path) -> None:
    settings = Settings(people=10, images_per_person=2, permutations=5)
    actual = measure(real_run.folder.name, str(folder), settings, [], panel_cache(settings))
    assert actual.panel is None
    assert (actual.results["num_people"], actual.results["num_images"]) == (10, 20)
    written = figures.write_figures(actual)
    assert [path.name for path in written] == ["disentangle-tsne.png", "disentangle-gate.png"]
    assert all(path.stat().st_size > 10_000 for path in written)
    # The fusion gate is that of `embed_gallery`: other descriptions give other weights.
    sample, learner = actual.sample, learner_of(actual.run)
    config, device = actual.run.config, actual.run.device
    gate = actual.after[0].fusion_gate
    assert gate is not None
    assert gate.shape == (20, 2)
    other = tuple("A short woman." for _ in sample.descriptions)
    changed = extract_fusion_gate(learner, sample.pixels, other, config, device)
    assert changed is not None
    assert not torch.equal(gate, changed)
    described = ("", *sample.descriptions[1:])
    kept = extract_fusion_gate(learner, sample.pixels, described, config, device)
    assert kept is not None
    torch.testing.assert_close(kept, gate[1:], rtol=1e-4, atol=1e-5)
    nothing = ("",) * len(sample.descriptions)
    assert extract_fusion_gate(learner, sample.pixels, nothing, config, device) is None


def test_gate_statistics_of_known_values() -> None:
    gate = torch.tensor([[0.05, 0.95], [0.5, 0.5]])
    actual = gate_statistics(gate)
    assert (actual["mean"], actual["clothing_mean"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert actual["standard_deviation"] == pytest.approx(float(np.std(gate.numpy(), ddof=1)))
    assert (actual["below_0.1"], actual["above_0.9"]) == (0.25, 0.25)
    fusion = fusion_gate_statistics(torch.tensor([[0.2, 0.8], [0.6, 0.4]]))
    assert fusion["image_mean"] == pytest.approx(0.4)
    assert fusion["text_mean"] == pytest.approx(0.6)
    assert fusion["standard_deviation"] == pytest.approx(0.2 * 2**0.5)
    assert fusion_gate_statistics(torch.tensor([[0.3, 0.7]]))["standard_deviation"] == 0


def test_groups_on_other_people_are_reported(finished, folder: Path) -> None:
    runs = [read_finished(each.folder.name, str(folder)) for each in finished]
    measured = [{"num_people": 24, "domains": [name]} for name in ("plaza", "rstpreid")]
    assert other_people(group_measured(runs, measured)) == [
        "B: measured on 24 people of rstpreid; A on 24 people of plaza: compare with care."
    ]
    assert other_people(group_measured(runs, [measured[0]] * 2)) == []
