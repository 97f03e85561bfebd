"""How many trials fit side by side, so that none waits for ever for what another one holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.config.run_config import RunConfig
from runner.on_ray.resources import MIN_WORKER_CPUS

TRIAL_CPUS = 0.5
"""Of the process of a trial that starts workers of its own: it waits for them."""


@dataclass(frozen=True)
class Room:
    """What trials get.

    Attributes:
        concurrent: trials side by side.
        cpus_per_worker: of a trial with workers; None without.
    """

    concurrent: int
    cpus_per_worker: float | None = None


def trial_bundles(config: RunConfig, cpus_per_worker: float) -> list[dict[str, float]]:
    """What one trial takes: a bundle for each of its processes, the first one its own."""
    cluster = config.cluster
    gpu = {"GPU": 1.0} if cluster.use_gpu else {}
    if cluster.num_workers == 0:
        return [{"CPU": float(cluster.threads_per_worker)} | gpu]
    own, decoding = {"CPU": TRIAL_CPUS}, {"CPU": config.data.decode_cpus}
    return [own, decoding, *([{"CPU": cpus_per_worker} | gpu] * cluster.num_workers)]


def make_room(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], wanted: int | None, num_trials: int
) -> Room:
    """How many trials run side by side, and what their workers get.

    Args:
        config: of a trial.
        nodes: resources by name of each machine.
        wanted: trials side by side; None takes as many as fit.
        num_trials: no more than these are ever run.

    Raises:
        ValueError: they do not fit; says what would.
    """
    asked = config.cluster.cpus_per_worker
    most = _fitting(config, nodes, asked or 1.0)
    fewest = _fitting(config, nodes, asked or MIN_WORKER_CPUS)
    concurrent = min(max(wanted or most, 1), num_trials)
    if concurrent > fewest:
        raise ValueError(_refusal(config, nodes, concurrent, fewest))
    if config.cluster.num_workers == 0:
        return Room(concurrent)
    shares = [asked] if asked else [1.0, 0.75, 0.5, MIN_WORKER_CPUS]
    share = next(each for each in shares if _fitting(config, nodes, each) >= concurrent)
    return Room(concurrent, share)


def _fitting(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], cpus_per_worker: float
) -> int:
    """Trials that fit; those with workers may spread over machines."""
    bundles = trial_bundles(config, cpus_per_worker)
    need = {
        name: sum(bundle.get(name, 0.0) for bundle in bundles)
        for name in {name for bundle in bundles for name in bundle}
    }
    if len(bundles) > 1:
        nodes = [{name: sum(node.get(name, 0.0) for node in nodes) for name in need}]
    # A hair more than there is: sums of quarters of CPUs must not fail by rounding.
    return sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
        for node in nodes
    )


def _refusal(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], concurrent: int, fitting: int
) -> str:
    cluster = config.cluster
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    least = cluster.cpus_per_worker or MIN_WORKER_CPUS
    need = sum(bundle["CPU"] for bundle in trial_bundles(config, least))
    if cluster.num_workers == 0:
        why = f"cluster.threads_per_worker={cluster.threads_per_worker}"
    else:
        why = (
            f"{TRIAL_CPUS:g} for itself, {cluster.num_workers} workers of {least:g}, "
            f"data.decode_cpus={config.data.decode_cpus:g}"
        )
    each = f"{need:g} CPUs ({why})"
    if cluster.use_gpu:
        each += f" and {max(1, cluster.num_workers)} GPUs (cluster.use_gpu=true)"
    what = f"there are {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if cluster.use_gpu else "")
    advice = f"at most --concurrent {fitting} fits" if fitting else "not even one trial fits"
    return (
        f"--concurrent: {concurrent} trials side by side take {each} each, and {what} on "
        f"{len(nodes)} machines; {advice}. Or lower what a trial takes, or join a larger cluster: "
        "cluster.address"
    )
