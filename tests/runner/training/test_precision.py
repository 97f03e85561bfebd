"""A run's precision: part of its configuration, whatever the device."""

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


def test_another_precision_is_another_run(tmp_path: Path, tiny_config: MakeConfig) -> None:
    full, half = (
        tiny_config(tmp_path, "finetune", f"precision={name}") for name in ("float32", "bfloat16")
    )
    assert full.hash != half.hash
    on_gpu = tiny_config(tmp_path, "finetune", "cluster.use_gpu=true")
    assert full.hash == on_gpu.hash, "where a run computes is not what it computes"


def test_presets_for_photographs_save_time_and_the_authors_code_does_not() -> None:
    assert load_config("vladr").precision == "bfloat16"
    assert load_config("vladr-authors-code").precision == "float32"
    assert load_config("demo").precision == "float32"


def test_products_are_halved_and_similarities_are_not() -> None:
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    with autocast("bfloat16", torch.device("cpu")):
        assert (rows @ rows.T).dtype == torch.bfloat16
        assert cosine_matrix(rows, rows).dtype == torch.float32
    with autocast("float32", torch.device("cpu")):
        assert (rows @ rows.T).dtype == torch.float32


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("learner", ["finetune", "lwf", "vladr"])
def test_a_whole_run_in_half_precision(
    learner: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    run = run_experiment(tiny_config(tmp_path, learner, "precision=bfloat16"))
    # What a later command embeds is what the run itself was scored on.
    trained = load_run(str(run.folder), str(tmp_path))
    benchmark, settings = read_benchmark(trained.config), trained.config.evaluation
    with embedding(trained, benchmark, tmp_path / "quarantine.jsonl") as embedder:
        half = evaluate_domains(embedder, benchmark, settings).scores["test"]
        other = replace(embedder, precision="float32")
        full = evaluate_domains(other, benchmark, settings).scores["test"]
    recorded = {metric: rows[-1] for metric, rows in run.results["scores"].items()}
    found = {metric: [half[name][metric] for name in half] for metric in recorded}
    assert found == recorded
    assert full != half
