from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_up_accepts_the_cluster_file(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_what_is_mounted_exists_and_is_all_that_setup_needs(cluster):
    own = {path for path in cluster["file_mounts"].values() if not path.startswith("~")}
    assert all((ROOT / path).exists() for path in own)
    assert {"Makefile", "pyproject.toml", "constraints.txt", "runner", "models", "tasks"} <= own


@pytest.fixture(scope="module")
def is_left_out():
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    excludes = get_excludes_from_ignore_files(ROOT, include_gitignore=False)
    return lambda path: any(exclude(ROOT / path) for exclude in excludes)


@pytest.mark.parametrize(
    "path",
    [
        ".venv/bin/python",
        ".git/config",
        "data/market1501/query/a.jpg",
        "runs/demo/events.jsonl",
        "tests/conftest.py",
        "bench.json",
        "runner/__pycache__/loop.pyc",
    ],
)
def test_a_submitted_job_leaves_behind(is_left_out, path):
    assert is_left_out(path)


@pytest.mark.parametrize(
    "path",
    [
        "runner/lifelong.py",
        "runner/presets/demo.yaml",
        "models/backbones/warm/tiny_clip.safetensors",
        "models/backbones/warm/tiny_vit_bert.safetensors",
        "models/backbones/warm/tiny_vit_bert_tokenizer.json",
        "tasks/datasets/synthetic.py",
        "pyproject.toml",
    ],
)
def test_a_submitted_job_takes_along(is_left_out, path):
    assert not is_left_out(path)
