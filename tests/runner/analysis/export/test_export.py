"""Exported models compute the same as their run, and are accepted in place of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models.learner import Learner
from models.learners.krkc import Method as Krkc
from runner.analysis.cross_evaluation import score, settings_for
from runner.analysis.export import write
from runner.analysis.export.exported_model import load_export, load_model
from runner.analysis.export.graphs import SAMPLE_TEXTS, query_tower
from runner.analysis.export.onnx_graph import check_packages
from runner.analysis.export.parity import Parity, check_parity
from runner.analysis.export.write import ExportSettings, export_run
from runner.analysis.trained_run import UNTRAINED, TrainedRun, load_run
from runner.config.run_config import RunConfig, learner_names, to_yaml
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.results.run_folder import RunStorage
from runner.training.collectives import LocalGroup
from runner.training.worker import build_learner
from tasks.loading.transforms import TransformConfig, denormalise, normalise

MakeConfig = Callable[..., RunConfig]

ATTRIBUTES = ("vladr", "learner.embedding=necks_attributes")
RESNET = ("finetune", "backbone.name=tiny-resnet", "backbone.pooling_exponent=3")
TRANSFORMER = (
    *("bdam", "backbone.name=tiny-vit-bert", "learner.fusion.mixer=transformer"),
    *("learner.text_tower=trained", "learner.fusion.num_transformer_layers=1"),
)
MAMBA = (
    *("bdam", "learner.fusion.mixer=mamba", "learner.fusion.num_layers=1"),
    *("learner.fusion.state_size=2", "backbone.context_length=12"),
)


def randomise(learner: Learner) -> None:
    """Gives every weight and statistic a value that affects the embedding."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, tensor in learner.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor += noise if path.endswith("running_var") else 0.1 * (noise - 0.5)


def untrained(folder: Path, config: RunConfig) -> TrainedRun:
    """A run folder with a learner of random weights, without training."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    lock = {"benchmark": "none", "order": [], "domains": {}}
    (folder / "protocol.lock.json").write_text(json.dumps(lock))
    learner = build_learner(config, LocalGroup()).eval()
    if isinstance(learner, Krkc):
        learner.memory = copy.deepcopy(learner.network)
    randomise(learner)
    return TrainedRun(RunStorage(folder), config, UNTRAINED, learner, torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    overrides = ("backbone.name=tiny-resnet", "learner.epochs=1")
    return run_experiment(tiny_config(tmp_path_factory.mktemp("runs"), "finetune", *overrides))


@pytest.mark.parametrize("name", learner_names())
@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
def test_every_learner(tmp_path: Path, tiny_config: MakeConfig, name: str, kind: str) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, name))
    description = export_run(run, tmp_path / "out", ExportSettings(kind))
    assert description["parity"]["min_cosine"] > 0.99999
    assert ("text" in description["graphs"]) == run.learner.embeds_texts


@pytest.mark.parametrize(
    "words",
    [ATTRIBUTES, RESNET, TRANSFORMER, MAMBA],
    ids=["attributes", "resnet", "transformer", "mamba"],
)
@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
def test_backbones_and_heads(
    tmp_path: Path, tiny_config: MakeConfig, words: tuple[str, ...], kind: str
) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, *words))
    uint8 = kind == "torchscript"
    description = export_run(run, tmp_path / "out", ExportSettings(kind, uint8=uint8))
    assert description["parity"]["min_cosine"] > 0.99999


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(ATTRIBUTES, id="attributes"),
        pytest.param(RESNET, id="resnet"),
        pytest.param(TRANSFORMER, id="transformer"),
        # The exporter needs a minute for the unrolled layers.
        pytest.param(MAMBA, id="mamba", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_onnxruntime_computes_the_same(
    tmp_path: Path, tiny_config: MakeConfig, words: tuple[str, ...]
) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, *words))
    folder = tmp_path / "out"
    description = export_run(run, folder, ExportSettings("onnx", uint8=True))
    assert description["parity"]["min_cosine"] > 0.9999
    # The same without any code of this project, from the description alone.
    session = onnxruntime.InferenceSession(folder / "image.onnx")
    images = json.loads((folder / "preprocessing.json").read_text())["images"]
    shape = (3, images["height"], images["width"], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    inputs = {"images": pixels}
    texts = [SAMPLE_TEXTS[0]] * 3
    if run.learner.reads_gallery_descriptions:
        tower = query_tower(run.learner)
        assert tower is not None
        tokens = tower.tokenize(texts)
        length = session.get_inputs()[1].shape[1]
        if isinstance(length, int):
            tokens = torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))
        inputs["tokens"] = tokens.numpy()
    (rows,) = session.run(["test_embedding"], inputs)
    with torch.no_grad():
        expected = run.learner.embed_gallery(
            normalise(pixels, run.config.data.transform), texts
        ).numpy()
    assert rows.shape == expected.shape
    assert (rows * expected).sum(1).min() >= 0.9999
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_only_weights_of_the_embedding_are_written(tmp_path: Path, tiny_config: MakeConfig) -> None:
    from safetensors.torch import load_file

    run = untrained(tmp_path / "run", tiny_config(tmp_path, "vladr"))
    export_run(run, tmp_path / "out", ExportSettings("safetensors"))
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert {name.split(".")[1] for name in names} == {"image", "neck_class", "neck_projected"}


def test_exemplars_are_not_exported(tmp_path: Path, tiny_config: MakeConfig) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, "krkc"))
    assert isinstance(run.learner, Krkc)
    run.learner.exemplars.restore(
        run.learner.exemplars.facts() | {"records": [["people/secret.png", 0, 0]]}
    )
    export_run(run, tmp_path / "out", ExportSettings("safetensors"))
    assert all(b"secret" not in file.read_bytes() for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_an_export_in_place_of_a_run(
    finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = tmp_path / "model"
    words = ["export", str(finished.folder), "--format", kind, "--output", str(folder)]
    assert main([*words, *["--uint8"] * (kind == "onnx")]) == 0
    exported = load_model(str(folder), "runs")
    scores = score(exported, settings_for(exported, None, [])).results["scores"]
    domains = [*finished.results["domains"]["seen"], *finished.results["domains"]["unseen"]]
    last = finished.results["scores"]["mAP"][-1]
    assert [scores[name]["mAP"] for name in domains] == pytest.approx(last, abs=1e-6)
    saved = json.loads((folder / "scores.json").read_text())["scores"]
    assert [saved[name]["mAP"] for name in domains] == last
    assert main(["index", str(folder), "--domain", domains[0], "--quiet"]) == 0
    capsys.readouterr()
    assert main(["search", str(folder), "--queries", "1", "--domain", domains[0], "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["queries"][0]["hits"]) == 10
    assert main(["evaluate", str(folder), "--after", domains[0]]) == 2
    assert "neither --after nor --checkpoint" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a run, got an exported model"):
        load_run(str(folder), "runs")


def test_int8_measures_its_loss(finished: RunResult, tmp_path: Path) -> None:
    run = load_run(str(finished.folder), "runs")
    folder = tmp_path / "model"
    loss = export_run(run, folder, ExportSettings("onnx", int8=True))["int8_loss"]
    before, after = loss["average_mAP"]
    seen = finished.results["domains"]["seen"]
    assert [loss["mAP"][name][0] for name in seen] == finished.results["scores"]["mAP"][-1][
        : len(seen)
    ]
    assert loss["loss"] == before - after != 0
    assert f"a loss of {loss['loss']:.2f} points" in (folder / "README.md").read_text()
    assert not list(folder.glob("*float32*"))


def test_the_card_states_the_facts_of_the_run(finished: RunResult, tmp_path: Path) -> None:
    first = finished.results["domains"]["seen"][0]
    run = load_run(str(finished.folder), "runs", after=first)
    export_run(run, tmp_path / "model", ExportSettings("safetensors"))
    card = (tmp_path / "model" / "README.md").read_text()
    train = run.lock["domains"][first]
    counts = f"| {train['identities']['train']['count']} | {train['num_images']['train']} |"
    assert f"| {first} {counts}" in card
    score_text = f"{finished.results['scores']['mAP'][1][0]:.1f}"
    assert f"| {first} | yes | {score_text} |" in card
    assert f"| {finished.results['domains']['seen'][1]} | no |" in card
    assert "synthetic figures" in card
    assert str(finished.folder.parent) not in "".join(
        file.read_text() for file in (tmp_path / "model").glob("*.[jy]*")
    )


def test_only_an_export_of_the_same_run_is_replaced(
    finished: RunResult, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    run = load_run(str(finished.folder), "runs")
    folder = tmp_path / "model"
    export_run(run, folder, ExportSettings("safetensors"))
    (folder / "stale").touch()
    export_run(run, folder, ExportSettings("safetensors"))
    assert not (folder / "stale").exists()
    other = untrained(tmp_path / "other", tiny_config(tmp_path, "zero_shot"))
    with pytest.raises(FileExistsError, match=rf"got an export of {finished.folder.name}"):
        export_run(other, folder, ExportSettings("safetensors"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="got other files; choose another folder"):
        export_run(run, tmp_path / "mine", ExportSettings("safetensors"))


def test_a_failed_export_leaves_nothing(
    finished: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(str(finished.folder), "runs")
    monkeypatch.setattr(write, "parity", lambda *_: Parity(0.99, 0.1, 6))
    with pytest.raises(RuntimeError, match=r"at least 0\.9999 .* got 0\.990000"):
        export_run(run, tmp_path / "model", ExportSettings("safetensors"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ExportSettings("safetensors", uint8=True), "holds weights and no graph"),
        (ExportSettings("torchscript", int8=True), "expected --format onnx"),
        (ExportSettings("onnx", overrides=("benchmark.root=x",)), "only with --int8"),
    ],
)
def test_settings_that_do_not_fit(
    finished: RunResult, tmp_path: Path, settings: ExportSettings, message: str
) -> None:
    run = load_run(str(finished.folder), "runs")
    with pytest.raises(ValueError, match=message):
        export_run(run, tmp_path / "model", settings)
    assert list(tmp_path.iterdir()) == []


def test_torchscript_is_not_loaded_for_evaluation(tmp_path: Path, tiny_config: MakeConfig) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, "zero_shot"))
    export_run(run, tmp_path / "out", ExportSettings("torchscript"))
    with pytest.raises(ValueError, match="can execute code"):
        load_export(tmp_path / "out")


def test_a_missing_package_names_the_command() -> None:
    with pytest.raises(ValueError, match=r"package onnx.* pip install .*\[export\]"):
        check_packages(("onnx",), find=lambda _: None)


def test_not_a_number_fails_the_check() -> None:
    with pytest.raises(RuntimeError, match="got nan"):
        check_parity(Parity(float("nan"), 0.0, 1), "run")


@pytest.mark.parametrize("mean_std", ["clip", "imagenet", "half"])
def test_pixels_survive_normalisation(mean_std) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    transform = TransformConfig(mean_std=mean_std)
    assert torch.equal(denormalise(normalise(values, transform), transform), values)


def test_cuda_kernels_are_refused(tmp_path: Path, tiny_config: MakeConfig) -> None:
    run = untrained(tmp_path / "run", tiny_config(tmp_path, "zero_shot"))
    kernels = type("Mamba", (torch.nn.Module,), {"__module__": "mamba_ssm.modules.mamba_simple"})
    run.learner.add_module("kernels", kernels())
    with pytest.raises(ValueError, match=r"learner zero_shot with the CUDA kernels of mamba_ssm"):
        export_run(run, tmp_path / "out", ExportSettings("onnx"))
    assert not (tmp_path / "out").exists()
