"""The manifest for KubeRay and the image it runs agree with KubeRay's fields and the repository."""

from __future__ import annotations

import argparse
import copy
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from runner.commands import sweep
from runner.config.run_config import load_config
from runner.sweep.plan import TRIAL_OVERRIDES, make_plan
from runner.sweep.resources import allocate

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


# Kubernetes' and KubeRay's own field names and types, as far as the manifest may use them:
# https://docs.ray.io/en/master/cluster/kubernetes/references/api.html
TEXT, COUNT, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}
MAP = {"type": "object", "additionalProperties": TEXT}
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = closed(requests=AMOUNTS, limits=AMOUNTS)
CONTAINER = closed(
    ("name", "image", "resources"),
    name=TEXT,
    image=TEXT,
    env=listed({"type": "object"}),
    envFrom=listed(closed(secretRef=closed(("name",), name=TEXT))),
    ports=listed(closed(("containerPort",), name=TEXT, containerPort=COUNT)),
    resources=RESOURCES,
    volumeMounts=listed(closed(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly=TRUTH)),
)
VOLUME = closed(
    ("name",),
    name=TEXT,
    persistentVolumeClaim=closed(("claimName",), claimName=TEXT, readOnly=TRUTH),
    emptyDir=closed(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
)
TOLERATION = closed(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect=TEXT)
POD = closed(
    ("containers",),
    containers=listed(CONTAINER),
    volumes=listed(VOLUME),
    nodeSelector=MAP,
    tolerations=listed(TOLERATION),
)
TEMPLATE = closed(("spec",), metadata={"type": "object"}, spec=POD)
HEAD_GROUP = closed(
    ("template",),
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    rayStartParams=MAP,
    template=TEMPLATE,
)
WORKER_GROUP = closed(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=MAP,
    template=TEMPLATE,
)
CLUSTER = closed(
    ("rayVersion", "headGroupSpec"),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(("mode",), mode={"enum": ["token"]}, secretName=TEXT),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=closed(
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=RESOURCES,
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=listed(WORKER_GROUP),
)
RAY_JOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(("name",), name=TEXT, namespace=TEXT, labels=MAP),
    spec=closed(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        shutdownAfterJobFinishes=TRUTH,
        ttlSecondsAfterFinished=COUNT,
        activeDeadlineSeconds=COUNT,
        backoffLimit=COUNT,
        rayClusterSpec=CLUSTER,
    ),
)
CLAIM = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=closed(("name",), name=TEXT),
    spec=closed(
        ("accessModes", "resources"),
        accessModes=listed({"enum": ["ReadWriteMany", "ReadOnlyMany"]}),
        storageClassName=TEXT,
        resources=RESOURCES,
    ),
)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def job(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in documents if each["kind"] == "RayJob"]
    return found


@pytest.fixture(scope="module")
def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return (group["template"]["spec"] for group in groups)


def containers(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for pod in pods(cluster) for container in pod["containers"]]


def test_the_manifest_has_the_fields_that_exist(documents: list[dict[str, Any]]) -> None:
    kinds = {"RayJob": RAY_JOB, "PersistentVolumeClaim": CLAIM}
    for document in documents:
        jsonschema.validate(document, kinds[document["kind"]])


def test_a_misplaced_field_would_be_found(job: dict[str, Any]) -> None:
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayVersion"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVersion"):
        jsonschema.validate(wrong, RAY_JOB)


def test_ray_is_the_pinned_one(cluster: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins


def test_all_pods_run_one_image_and_ask_for_the_token(cluster: dict[str, Any]) -> None:
    (image,) = {container["image"] for container in containers(cluster)}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.endswith(f"/lifelong-reid:{version}")
    launcher = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert launcher["docker"]["image"] == image
    assert image in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_every_volume_is_there_and_data_are_read_only(
    documents: list[dict[str, Any]], cluster: dict[str, Any]
) -> None:
    claims = {
        each["metadata"]["name"]: each["spec"]["accessModes"]
        for each in documents
        if each["kind"] == "PersistentVolumeClaim"
    }
    for pod in pods(cluster):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} == set(volumes)
            assert mounts["/data"]["readOnly"] is True
            assert not mounts["/shared"].get("readOnly", False)
            assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
        used = [each["persistentVolumeClaim"] for each in pod["volumes"] if "emptyDir" not in each]
        assert {each["claimName"] for each in used} == set(claims)
    assert claims["lifelong-reid-shared"] == ["ReadWriteMany"]


def test_only_workers_have_gpus_and_the_autoscaler_has_room(cluster: dict[str, Any]) -> None:
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["minReplicas"] < group["maxReplicas"]
    for container in containers(cluster):
        assert container["resources"]["requests"] == container["resources"]["limits"]


def entrypoint(job: dict[str, Any]) -> list[str]:
    return shlex.split(job["spec"]["entrypoint"])


def test_the_entrypoint_is_what_the_image_holds(job: dict[str, Any], dockerfile: str) -> None:
    (home,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, flags=re.MULTILINE)
    python, *words = entrypoint(job)
    assert python == "python"
    inside = [word.removeprefix(f"{home}/") for word in words if word.startswith(home)]
    assert inside[0] == "runner/lifelong.py"
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, flags=re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    for path in inside:
        assert (ROOT / path).is_file()
        assert path.split("/")[0] in sources


def test_the_entrypoint_s_trials_fit_the_pods_that_may_come(
    job: dict[str, Any], cluster: dict[str, Any]
) -> None:
    words = entrypoint(job)
    given = [word for word in words if re.match(r"[a-z_.]+=", word)]
    config = load_config(words[words.index("--preset") + 1], given)
    assert config.cluster.use_gpu
    (mount,) = {
        mount["mountPath"]
        for container in containers(cluster)
        for mount in container["volumeMounts"]
        if mount["name"] == "data"
    }
    assert config.benchmark.root == mount
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    pod = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    trial = load_config(words[words.index("--preset") + 1], [*TRIAL_OVERRIDES, *given])
    concurrent = int(words[words.index("--concurrent") + 1])
    assert allocate(trial, [pod] * group["maxReplicas"], concurrent, 50).concurrent == concurrent
    assert group["minReplicas"] >= concurrent or config.cluster.wait_s >= 600


def test_the_entrypoint_is_a_sweep_that_can_be_planned(
    job: dict[str, Any], dockerfile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path))
    (home,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, flags=re.MULTILINE)
    _, _, command, *words = [word.replace(home, str(ROOT)) for word in entrypoint(job)]
    assert command == "sweep"
    parser = argparse.ArgumentParser()
    sweep.add_arguments(parser)
    options, overrides = parser.parse_known_args(words)
    options.overrides = [*options.overrides, *overrides]
    plan = make_plan(options)
    assert plan.trial_config.cluster.use_gpu
    assert plan.settings.storage == words[words.index("--study") + 1]


def test_what_is_written_goes_to_the_shared_volume(job: dict[str, Any]) -> None:
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert set(environment) == {"env_vars"}
    assert environment["env_vars"]["LIFELONG_REID_HOME"].startswith("/shared/")
    assert environment["env_vars"]["HF_HOME"].startswith("/shared/")


def test_an_ended_job_leaves_no_machine(job: dict[str, Any]) -> None:
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] <= 3600


def test_no_password_is_written() -> None:
    """Neither in the study's URL nor in the manifest: they come from a secret's environment."""
    text = (DEPLOY / "rayjob.yaml").read_text(encoding="utf-8")
    assert re.findall(r"://[^/@\s]*:[^/@\s]*@", text) == []
    assert "kind: Secret" not in text
    assert set(re.findall(r"--from-literal=\w+=(\S+)", text)) == {"..."}


def test_the_image_has_the_pinned_packages_in_its_own_python(dockerfile: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (base,) = re.findall(r"^FROM python:(\S+)$", dockerfile, flags=re.MULTILINE)
    lowest = project["requires-python"].removeprefix(">=")
    assert base.startswith(f"{lowest}-slim")
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", dockerfile, flags=re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "cluster" in extras.split(",")
    assert 'pip install --no-cache-dir -c constraints.txt -e ".[${EXTRAS}]"' in dockerfile
    assert "venv" not in dockerfile, "a login shell would not find it"


def test_the_image_gets_all_that_it_copies(dockerfile: str) -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, flags=re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert kept == sources
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= sources
