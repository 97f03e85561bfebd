"""Number of concurrent trials and CPUs of their workers, computed to avoid deadlocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.config.run_config import RunConfig
from runner.on_ray.resources import MIN_WORKER_CPUS

TRIAL_CPUS = 0.5
"""CPUs of a trial's main process if the trial has workers: it only waits for them."""


@dataclass(frozen=True)
class Allocation:
    """Resources of trials.

    Attributes:
        concurrent: number of trials that run at the same time.
        cpus_per_worker: CPUs of each worker of a trial; None without workers.
    """

    concurrent: int
    cpus_per_worker: float | None = None


def trial_bundles(config: RunConfig, cpus_per_worker: float) -> list[dict[str, float]]:
    """Resource bundles of one trial, one for each process; the first is the main process."""
    cluster = config.cluster
    gpu = {"GPU": 1.0} if cluster.use_gpu else {}
    if cluster.num_workers == 0:
        return [{"CPU": float(cluster.threads_per_worker)} | gpu]
    main, decoding = {"CPU": TRIAL_CPUS}, {"CPU": config.data.decode_cpus}
    return [main, decoding, *([{"CPU": cpus_per_worker} | gpu] * cluster.num_workers)]


def allocate(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], wanted: int | None, num_trials: int
) -> Allocation:
    """Computes the number of concurrent trials and the CPUs of their workers.

    Args:
        config: configuration of a trial.
        nodes: resources by name for each machine.
        wanted: number of concurrent trials; None uses as many as fit.
        num_trials: number of trials of the sweep, an upper bound.

    Raises:
        ValueError: the trials do not fit; the message has the largest number that does.
    """
    configured = config.cluster.cpus_per_worker
    num_comfortable = _num_fitting(config, nodes, configured or 1.0)
    num_possible = _num_fitting(config, nodes, configured or MIN_WORKER_CPUS)
    concurrent = min(max(wanted or num_comfortable, 1), num_trials)
    if concurrent > num_possible:
        raise ValueError(_error_message(config, nodes, concurrent, num_possible))
    if config.cluster.num_workers == 0:
        return Allocation(concurrent)
    shares = [configured] if configured else [1.0, 0.75, 0.5, MIN_WORKER_CPUS]
    share = next(each for each in shares if _num_fitting(config, nodes, each) >= concurrent)
    return Allocation(concurrent, share)


def _num_fitting(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], cpus_per_worker: float
) -> int:
    """Number of trials that fit; trials with workers may span several machines."""
    bundles = trial_bundles(config, cpus_per_worker)
    need = {
        name: sum(bundle.get(name, 0.0) for bundle in bundles)
        for name in {name for bundle in bundles for name in bundle}
    }
    if len(bundles) > 1:
        nodes = [{name: sum(node.get(name, 0.0) for node in nodes) for name in need}]
    # The tolerance avoids rounding errors in sums of fractions of CPUs.
    return sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
        for node in nodes
    )


def _error_message(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], concurrent: int, num_fitting: int
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
            f"{TRIAL_CPUS:g} for its main process, {cluster.num_workers} workers of {least:g}, "
            f"data.decode_cpus={config.data.decode_cpus:g}"
        )
    each = f"{need:g} CPUs ({why})"
    if cluster.use_gpu:
        each += f" and {max(1, cluster.num_workers)} GPUs (cluster.use_gpu=true)"
    what = f"there are {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if cluster.use_gpu else "")
    advice = (
        f"at most --concurrent {num_fitting} fits" if num_fitting else "not even one trial fits"
    )
    return (
        f"--concurrent: {concurrent} concurrent trials need {each} each, and {what} on "
        f"{len(nodes)} machines; {advice}. Reduce the resources of a trial, or set cluster.address "
        "to a larger cluster"
    )
