"""Runs on a ResNet: configuration, and runs of the learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.analysis.trained_run import load_run
from runner.config.run_config import ConfigError, RunConfig, learner_names, load_config, to_yaml
from runner.experiment import run_experiment
from runner.training.checkpoints import CheckpointStore
from runner.training.collectives import LocalGroup
from runner.training.worker import build_learner

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]

RESNET = ("backbone.name=tiny-resnet", "backbone.weights=random")
CONTINUED = ("lstkc", "dask", "krkc")
WITH_TEXTS = ("bdam", "clip_reid", "vladr")


@pytest.mark.parametrize("learner", WITH_TEXTS)
def test_learners_with_texts_reject_a_resnet(learner: str) -> None:
    others = [name for name in learner_names() if name not in WITH_TEXTS]
    with pytest.raises(ConfigError) as error:
        load_config(f"demo-{learner}", RESNET)
    assert str(error.value) == (
        f"backbone.name: learner {learner} reads texts, but tiny-resnet has no text tower; "
        f"choose a CLIP model, or an image-only learner: {', '.join(others)}"
    )


@pytest.mark.parametrize("learner", ["vladr", "clip_reid"])
def test_separately_trained_towers_are_rejected_by_contrastive_learners(
    learner: str,
) -> None:
    towers = ("backbone.name=vit-bert", "backbone.weights=pretrained")
    with pytest.raises(ConfigError, match=r"backbone\.weights: .* joint space"):
        load_config(f"demo-{learner}", towers)
    load_config(f"demo-{learner}", (towers[0], "backbone.weights=joint.safetensors"))
    assert load_config("demo-finetune", towers).data.transform.mean_std == "half"
    plain = load_config("demo-finetune")
    assert plain.hash != load_config("demo-finetune", towers).hash
    other = load_config("demo-finetune", (*towers, "backbone.text_tower=elsewhere"))
    assert other.hash != load_config("demo-finetune", towers).hash


def test_normalisation_follows_the_backbone(tmp_path: Path) -> None:
    def chosen(*overrides: str, preset: str = "demo-finetune") -> str:
        return load_config(preset, overrides).data.transform.mean_std

    given = "data.transform.mean_std="
    assert (chosen(), chosen(*RESNET)) == ("clip", "imagenet")
    assert chosen(given + "imagenet") == chosen(*RESNET, given + "imagenet") == "imagenet"
    assert chosen(*RESNET, given + "clip") == "clip"
    saved = tmp_path / "saved.yaml"
    saved.write_text(to_yaml(load_config("demo-finetune", RESNET)))
    assert load_config(str(saved)).hash == load_config("demo-finetune", RESNET).hash
    assert chosen(preset=str(saved)) == "imagenet"


@pytest.mark.parametrize("name", ["lstkc", "dask", "krkc"])
def test_backbones_of_the_presets(name: str) -> None:
    authors, shared, other = (load_config(each) for each in (name, f"{name}-clip", "finetune"))
    assert (authors.backbone.name, authors.backbone.pooling_exponent) == ("resnet50", 3)
    assert authors.data.transform.mean_std == "imagenet"
    assert authors.data.transform.erase_probabilities == (0.5,)
    assert shared.backbone == other.backbone
    assert shared.data.transform == other.data.transform
    lengths = [config.learner.model_dump()["epochs"] for config in (authors, shared)]
    assert lengths == [60, 60]


@pytest.mark.slow
@pytest.mark.parametrize("learner", CONTINUED)
def test_a_resumed_run_equals_an_uninterrupted_run(
    learner: str, tmp_path: Path, tiny_config: MakeConfig, numbers_of: Numbers
) -> None:
    """Interrupts the second domain, where the learner holds an old or second model."""
    whole = run_experiment(tiny_config(tmp_path / "whole", learner, *RESNET))
    config = tiny_config(tmp_path / "resumed", learner, *RESNET)

    class Failing(CheckpointStore):
        """Fails once."""

        def save(self, checkpoint: Any) -> Path:
            path = super().save(checkpoint)
            position = checkpoint.position
            if (position.domain, position.epoch) == (1, 1) and not (tmp_path / "cut").exists():
                (tmp_path / "cut").touch()
                raise KeyboardInterrupt
            return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.training.worker.CheckpointStore", Failing)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config)
        resumed = run_experiment(config)
    assert numbers_of(resumed.results) == numbers_of(whole.results)
    trained = load_run(str(resumed.folder), "runs").learner.state_dict()
    untrained = build_learner(config, LocalGroup()).state_dict()
    for name in ("running_mean", "running_var", "weight"):
        path = f"network.image.visual.layer4.0.bn1.{name}"
        assert not torch.equal(trained[path].cpu(), untrained[path]), path


@pytest.mark.parametrize("learner", ["finetune", "joint", "lwf", "zero_shot"])
def test_a_run_on_a_resnet_has_scores(
    learner: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    results = run_experiment(tiny_config(tmp_path, learner, *RESNET)).results
    assert all(score is not None for score in results["scores"]["mAP"][-1])
    assert 0.32e6 < results["num_parameters"] < 0.34e6
