"""The device of a run: its choice, GPU settings, and whole runs on a simulated CUDA device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runner.analysis.trained_run import embedding, load_run
from runner.config.run_config import RunConfig
from runner.config.sections import ClusterConfig
from runner.experiment import read_benchmark, run_experiment
from runner.training.device import compute_device, device_name
from runner.training.evaluation import evaluate_domains
from runner.training.precision import autocast, cuda_algorithms, float32_products
from tasks.retrieval.exact_products import exact_products
from tests.fake_cuda import DEVICE, fake_cuda

MakeConfig = Callable[..., RunConfig]
CPU = torch.device("cpu")


def products() -> tuple[str, str]:
    backends = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision


def test_a_missing_gpu_is_an_error_before_work_starts(tmp_path: Path, tiny_config: MakeConfig):
    assert compute_device(False) == CPU
    with pytest.raises(ValueError, match=r"cluster.use_gpu: expected a CUDA device.*got 0"):
        run_experiment(tiny_config(tmp_path, "finetune", "cluster.use_gpu=true"))
    with pytest.raises(ValueError, match=r"--gpu: expected a CUDA device, got none"):
        load_run("any", str(tmp_path), use_gpu=True)


def test_the_device_is_the_one_asked_for():
    with fake_cuda():
        assert compute_device(True) == DEVICE
        assert compute_device(False) == CPU
    assert device_name(CPU) == "cpu"


def test_tf32_is_used_only_if_the_precision_asks_for_it():
    before = products()
    for precision, wanted in (("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")):
        with float32_products(precision, DEVICE):
            assert products() == (wanted, wanted)
            with exact_products(DEVICE):  # rankings
                assert products()[0] == "ieee"
            assert products() == (wanted, wanted)
        assert products() == before
    with fake_cuda(), autocast("tf32", DEVICE):
        assert products() == ("tf32", "tf32")
        assert not torch.is_autocast_enabled("cuda")
    with float32_products("tf32", CPU):
        assert products() == before


def test_choice_of_gpu_algorithms(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    chosen = ClusterConfig(deterministic=True, cudnn_benchmark=True)
    with cuda_algorithms(chosen, DEVICE):
        assert torch.are_deterministic_algorithms_enabled()
        assert cudnn.benchmark
        with cuda_algorithms(ClusterConfig(), DEVICE):
            assert not torch.are_deterministic_algorithms_enabled()
            assert not cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert not cudnn.benchmark
    with cuda_algorithms(chosen, CPU):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.timeout(900)  # every operation passes through Python
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("learner", "overrides"),
    [
        ("finetune", ("evaluation.reranking.enabled=true",)),
        pytest.param("vladr", (), marks=pytest.mark.slow),
        pytest.param("bdam", ("learner.fusion.mixer=mamba",), marks=pytest.mark.slow),
        pytest.param("krkc", (), marks=pytest.mark.slow),
    ],
)
def test_a_whole_run_on_a_simulated_gpu(
    learner: str,
    overrides: tuple[str, ...],
    tmp_path: Path,
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
):
    """Training, evaluation and ranking; then the checkpoint is evaluated on the CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "simulated GPU")
    expected = run_experiment(tiny_config(tmp_path / "cpu", learner, *overrides)).results
    config = tiny_config(tmp_path / "gpu", learner, *overrides, "cluster.use_gpu=true")
    with fake_cuda():
        run = run_experiment(config)
    assert run.results["device"] == "simulated GPU"
    assert expected["device"] == "cpu"
    assert run.results["num_iterations"] == expected["num_iterations"]
    assert run.results["summary"] == pytest.approx(expected["summary"], abs=5.0)
    trained = load_run(str(run.folder), "")
    assert trained.device == CPU
    benchmark = read_benchmark(trained.config)
    with embedding(trained, benchmark, tmp_path / "quarantine.jsonl") as embedder:
        scores = evaluate_domains(embedder, benchmark, trained.config.evaluation).scores["test"]
    last = {metric: rows[-1] for metric, rows in run.results["scores"].items()}
    for metric, row in last.items():
        found = [domain[metric] for domain in scores.values()]
        assert found == pytest.approx(row, abs=2.0), metric
    assert json.loads((run.folder / "results.json").read_text())["device"] == "simulated GPU"
