"""Runs on a GPU, without Ray, MLflow and open_clip: a demo run, and equality with the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.run_config import RunConfig
from runner.experiment import run_experiment

MakeConfig = Callable[..., RunConfig]
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_figures")]
BACKBONE = "backbone.name=tiny-vit-bert"
"""The tiny CLIP needs open_clip, which a GPU machine may lack."""


def test_a_demo_run_on_the_gpu(tmp_path: Path, tiny_config: MakeConfig) -> None:
    overrides = ("backbone.weights=warm", "learner.epochs=4", "cluster.use_gpu=true")
    results = run_experiment(tiny_config(tmp_path, "finetune", BACKBONE, *overrides)).results
    assert results["device"] != "cpu"
    assert results["summary"]["seen_mAP"] > results["chance"]["seen_mAP"]


@pytest.mark.parametrize("learner", ["finetune", "bdam"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_on_the_gpu_are_near_those_on_the_cpu(
    learner: str, precision: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    """After two epochs on few images; other rounding changes single ranks."""
    settings = (BACKBONE, f"precision={precision}", "cluster.deterministic=true")
    by_device = {
        use_gpu: run_experiment(
            tiny_config(tmp_path / use_gpu, learner, *settings, f"cluster.use_gpu={use_gpu}")
        ).results
        for use_gpu in ("false", "true")
    }
    cpu, gpu = by_device["false"], by_device["true"]
    assert gpu["num_iterations"] == cpu["num_iterations"]
    assert gpu["summary"] == pytest.approx(cpu["summary"], abs=8.0)


def test_a_deterministic_run_on_the_gpu_repeats_bit_for_bit(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    settings = (BACKBONE, "cluster.use_gpu=true", "cluster.deterministic=true")
    first, second = (
        run_experiment(tiny_config(tmp_path / name, "finetune", *settings)).results["scores"]
        for name in ("first", "second")
    )
    assert first == second
