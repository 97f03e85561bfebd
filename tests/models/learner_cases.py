"""All learners, their settings under test, and shared checks."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import get_args

import pytest
import torch

import models.learners
from models.components.cross_domain_alignment import Alignment
from models.learner import LearnerState
from runner.config.run_config import load_config

LEARNERS = sorted(module.name for module in pkgutil.iter_modules(models.learners.__path__))
LEARNING = [
    name
    for name in LEARNERS
    if importlib.import_module(f"models.learners.{name}").Method.course != "none"
]
CLASSIFYING = [name for name in LEARNING if name != "bdam"]
"""Learners with identity classifiers; bdam uses captions instead."""

HEADS = ("head_class", "head_projected")

BDAM_TERMS = ("info", "fused", "triplet", "adversarial", "clothing", "decouple", "gate")


def only(*names):
    """Return loss settings of bdam with weight 1 of these terms and 0 of all others."""
    return {name: {"weight": float(name in names)} for name in BDAM_TERMS}


def settings(name):
    """Return settings by name that cover the optional parts of a learner."""
    settings_by_name = {"default": {}}
    fields = importlib.import_module(f"models.learners.{name}").Config.model_fields
    if "interpolation" in fields:
        settings_by_name["interpolated"] = {"interpolation": {"mode": "adaptive"}}
    if "first_epochs" in fields:
        settings_by_name["longer-first"] = {"epochs": 2, "first_epochs": 3}
    if "gradnorm" in fields:
        settings_by_name["balanced"] = {"gradnorm": {"enabled": True, "warm_iterations": 1}}
    if "alignment" in fields:
        settings_by_name["every-form"] = {"alignment": get_args(Alignment)}
    if "teacher" in fields:
        followed = ("centroid_relation", "affinity")
        settings_by_name["kept-features"] = {
            "alignment": followed,
            "teacher": "features",
            "granularity": "both",
        }
    if name == "bdam":
        settings_by_name["mamba"] = {"fusion": {"mixer": "mamba"}, "text_tower": "trained"}
        settings_by_name["own-projection"] = {"losses": {"adversarial": {"projection": "own"}}}
        settings_by_name["no-captions"] = {
            "losses": {
                "info": {"weight": 0},
                "fused": {"weight": 0},
                "caption_contrast": "optional",
            }
        }
    if name == "vladr":
        settings_by_name["attributes"] = {
            "embedding": "necks_attributes",
            "losses": {"image_text": {"texts": "identity_attributes"}},
            "alignment": ("prototype_relation", "embedding_prototype"),
        }
        settings_by_name["authors-code"] = load_config("vladr-authors-code").learner.model_dump(
            exclude={"name"}
        )
    return settings_by_name


CASES = [
    pytest.param(name, values, id=f"{name}-{case}")
    for name in LEARNERS
    for case, values in settings(name).items()
]
LEARNING_CASES = [case for case in CASES if case.values[0] in LEARNING]
INTERPOLATING = [name for name in LEARNERS if "interpolated" in settings(name)]


def assert_same_tensors(first, second):
    assert first.keys() == second.keys()
    for path, tensor in first.items():
        assert torch.equal(tensor, second[path]), path


def assert_same_results(first, second):
    assert torch.equal(first.loss, second.loss)
    assert_same_tensors(dict(first.terms), dict(second.terms))
    assert first.weights == second.weights


def embedded(trainer):
    return trainer.probe(lambda images: {"e": trainer.learner.embed_images(images)})["e"]


def assert_resumes(trainer, fresh, stage):
    """Whether `fresh` goes on from the trainer's state as the trainer does."""
    state = trainer.learner.save_state()
    assert not any(path.startswith(trainer.learner.unsaved) for path in state.tensors)
    facts = json.loads(json.dumps(state.facts))
    assert facts == state.facts
    kept = {path: tensor.clone() for path, tensor in state.tensors.items()}
    for parameter in fresh.learner.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    fresh.domain, fresh.images = trainer.domain, trainer.images
    fresh.learner.load_state(LearnerState(state.tensors, facts))
    assert_same_tensors(trainer.learner.state_dict(), fresh.learner.state_dict())
    assert fresh.learner.facts() == trainer.learner.facts()
    assert_same_tensors(dict(trainer.learner.memory_state()), dict(fresh.learner.memory_state()))
    assert [s.name for s in trainer.learner.stages()] == [s.name for s in fresh.learner.stages()]
    if stage is not None:
        for first, second in zip(trainer.train(stage), fresh.train(stage), strict=True):
            assert_same_results(first, second)
        assert_same_tensors(kept, state.tensors)
    for one in (trainer, fresh):
        one.learner.eval()
    with torch.no_grad():
        assert torch.equal(
            trainer.learner.embed_images(trainer.images[:4]),
            fresh.learner.embed_images(trainer.images[:4]),
        )
