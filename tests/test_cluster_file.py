"""The files for Ray's cluster launcher: Ray accepts them, and they agree with the repository."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from runner.config.run_config import load_config
from runner.on_ray.cluster import worker_cpus

ROOT = Path(__file__).resolve().parents[1]
FILES = {"cloud": ROOT / "cluster.yaml", "own machines": ROOT / "deploy" / "own-machines.yaml"}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(FILES[name].read_text(encoding="utf-8"))


def accepted(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it asks a provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


@pytest.fixture
def cloud() -> dict[str, Any]:
    return read("cloud")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of `ray start`

every_file = pytest.mark.parametrize("name", FILES)


@every_file
def test_ray_up_accepts_the_file(name):
    accepted(read(name))


def test_ray_up_would_refuse_a_wrong_file(cloud):
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        accepted({**cloud, "idle_minutes": 1})
    with pytest.raises(ValueError, match="head_node_type"):
        accepted({**cloud, "head_node_type": "nobody"})


@every_file
def test_what_is_mounted_exists(name):
    own = {path for path in read(name)["file_mounts"].values() if not path.startswith("~")}
    assert all((ROOT / path).exists() for path in own)


def test_own_machines_get_all_that_setup_needs():
    own = set(read("own machines")["file_mounts"].values())
    assert {"Makefile", "pyproject.toml", "constraints.txt", "runner", "models", "tasks"} <= own


def ray_start(command: str) -> click.Context | None:
    """A shell command's `ray start` with its options, which must exist; None if it has none."""
    from ray.scripts.scripts import start

    parts = [shlex.split(part) for part in re.split(r"&&|;", command)]
    arguments = [part[2:] for part in parts if part[:2] == ["ray", "start"]]
    return start.make_context("ray start", arguments[0]) if arguments else None


def starts(cluster: dict[str, Any], kind: str) -> click.Context:
    contexts = [ray_start(command) for command in cluster[f"{kind}_start_ray_commands"]]
    (context,) = [each for each in contexts if each is not None]
    return context


@every_file
def test_head_and_workers_are_started_to_find_one_another(name):
    cluster = read(name)
    head, worker = starts(cluster, "head").params, starts(cluster, "worker").params
    assert head["head"]
    assert not worker["head"]
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


@every_file
def test_the_dashboard_is_the_head_s_own_and_asks_for_a_token(name):
    cluster = read(name)
    assert starts(cluster, "head").params["dashboard_host"] == "127.0.0.1"
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    text = FILES[name].read_text(encoding="utf-8")
    inside = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert "RAY_AUTH_MODE=token" in "\n".join(inside)


@every_file
def test_no_secret_and_nobody_s_own_address(name):
    """Names and addresses are those set aside for documentation; an image is all zeros."""
    text = FILES[name].read_text(encoding="utf-8")
    addresses = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text))
    assert {each for each in addresses if not each.startswith(("192.0.2.", "127."))} == set()
    assert re.findall(r"\bami-(?!id\b|0{17}\b)\w+|\b(?:fs|sg|subnet|vpc)-[0-9a-f]{8,}", text) == []
    assert re.findall(r"\b\d{12}\b|AKIA\w+|BEGIN [A-Z ]*PRIVATE KEY", text) == []
    hosts = re.findall(r"\b[\w-]+\.example\.(\w+)", text)
    assert set(hosts) <= {"internal", "org", "com"}


def test_the_cloud_s_node_types(cloud):
    types = accepted(cloud)["available_node_types"]
    head = types.pop(cloud["head_node_type"])
    assert "GPU" not in head["resources"], "a run's GPU work must not land on the head"
    assert "InstanceMarketOptions" not in head["node_config"], "the head must outlive its workers"
    assert head["max_workers"] == 0
    assert sum(each["max_workers"] for each in types.values()) <= cloud["max_workers"]
    for worker in types.values():
        assert worker["resources"]["GPU"] >= 1
        assert 0 <= worker["min_workers"] <= worker["max_workers"]
    assert cloud["idle_timeout_minutes"] > 0


def resources_of(cloud: dict[str, Any], count: str) -> dict[str, float]:
    """What the whole cluster has with as many workers as `count` (min_workers, max_workers)."""
    totals: dict[str, float] = {}
    for name, node in cloud["available_node_types"].items():
        nodes = 1 if name == cloud["head_node_type"] else node[count]
        for resource, amount in node["resources"].items():
            totals[resource] = totals.get(resource, 0) + nodes * amount
    return totals


def test_the_cloud_s_largest_run(cloud):
    """One worker a GPU with the decoding beside it fits; one more is refused."""
    totals = resources_of(cloud, "max_workers")

    def fits(workers: int) -> float:
        gpu = ["cluster.use_gpu=true", "cluster.cpus_per_worker=8"]
        batch = ["data.persons_per_batch=15", "data.images_per_person=4"]
        given = [*gpu, *batch, f"cluster.num_workers={workers}", "tracking.uri=null"]
        return worker_cpus(load_config("demo-finetune", given), totals)

    assert totals["GPU"] == 4
    assert fits(4) == 8
    with pytest.raises(ValueError, match=r"expected at least 5 GPUs.*got 4"):
        fits(5)


def test_the_file_s_own_run_waits_for_its_machines(cloud):
    text = FILES["cloud"].read_text(encoding="utf-8")
    given = re.findall(r"\b(cluster\.\w+)=(\S+)", text)
    config = load_config("vladr", [f"{key}={value}" for key, value in given])
    needed = config.cluster.num_workers
    assert resources_of(cloud, "min_workers").get("GPU", 0) < needed
    assert config.cluster.wait_s >= 600, "a machine of the cloud takes minutes"
    assert resources_of(cloud, "max_workers")["GPU"] >= needed
    assert config.cluster.use_gpu


def test_storage_is_shared_before_the_container_needs_it(cloud):
    options = cloud["docker"]["run_options"]
    (volume,) = [each.split()[1] for each in options if each.startswith("--volume")]
    host, _, inside = volume.partition(":")
    assert any(f"mountpoint -q {host}" in command for command in cloud["initialization_commands"])
    (home,) = [each.partition("=")[2] for each in options if "LIFELONG_REID_HOME" in each]
    assert home.startswith(f"{inside}/")


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
        "sweeps/smoke-demo/study.db",
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
        "search_spaces/smoke.yaml",
        "tasks/datasets/synthetic.py",
        "pyproject.toml",
    ],
)
def test_a_submitted_job_takes_along(is_left_out, path):
    assert not is_left_out(path)
