"""Numeric precision of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.losses.similarity import cosine_matrix
from runner.analysis.trained_run import embedding, load_run
from runner.config.run_config import RunConfig, load_config
from runner.experiment import read_benchmark, run_experiment
from runner.training.evaluation import evaluate_domains
from runner.training.precision import autocast

MakeConfig = Callable[..., RunConfig]


def test_precision_is_part_of_the_config_hash(tmp_path: Path, tiny_config: MakeConfig) -> None:
    full, half = (
        tiny_config(tmp_path, "finetune", f"precision={name}") for name in ("float32", "bfloat16")
    )
    assert full.hash != half.hash
    on_gpu = tiny_config(tmp_path, "finetune", "cluster.use_gpu=true")
    assert full.hash == on_gpu.hash, "the device does not affect the hash"


def test_precision_of_the_presets() -> None:
    assert load_config("vladr").precision == "bfloat16"
    assert load_config("vladr-authors-code").precision == "float32"
    assert load_config("demo").precision == "float32"


def test_autocast_excludes_similarities() -> None:
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    with autocast("bfloat16", torch.device("cpu")):
        assert (rows @ rows.T).dtype == torch.bfloat16
        assert cosine_matrix(rows, rows).dtype == torch.float32
    with autocast("float32", torch.device("cpu")):
        assert (rows @ rows.T).dtype == torch.float32


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("learner", ["finetune", "lwf", "vladr"])
def test_a_run_in_bfloat16(learner: str, tmp_path: Path, tiny_config: MakeConfig) -> None:
    run = run_experiment(tiny_config(tmp_path, learner, "precision=bfloat16"))
    # A later command must reproduce the scores of the run.
    trained = load_run(str(run.folder), str(tmp_path))
    benchmark, settings = read_benchmark(trained.config), trained.config.evaluation
    with embedding(trained, benchmark, tmp_path / "quarantine.jsonl") as embedder:
        half = evaluate_domains(embedder, benchmark, settings).scores["test"]
        other = replace(embedder, precision="float32")
        full = evaluate_domains(other, benchmark, settings).scores["test"]
    recorded = {metric: rows[-1] for metric, rows in run.results["scores"].items()}
    reproduced = {metric: [half[name][metric] for name in half] for metric in recorded}
    assert reproduced == recorded
    assert full != half
