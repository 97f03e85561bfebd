"""Sections of a run's configuration that say where and how often, and change no result."""

from __future__ import annotations

from pydantic import Field

from tasks.schema import FrozenConfig


class RunNameConfig(FrozenConfig):
    """What the run is called."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="folder under storage.root; default <preset>-<learner>-seed<seed>-<hash>",
    )


class StorageConfig(FrozenConfig):
    """Where runs are kept."""

    root: str = Field(
        default="runs",
        description="folder of all runs; relative to $LIFELONG_REID_HOME or the current folder",
    )


class CheckpointConfig(FrozenConfig):
    """When and how much of a run is kept."""

    every_epochs: int = Field(default=1, ge=1, description="epochs between checkpoints in a stage")
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept to resume from")
    keep_domains: bool = Field(default=True, description="keep the learner after each domain")


class ClusterConfig(FrozenConfig):
    """Where a run computes; no field here changes its result beyond floating-point order."""

    num_workers: int = Field(
        default=1, ge=0, description="Ray Train workers; 0 = in this process, no Ray"
    )
    use_gpu: bool = Field(default=False, description="one GPU a worker, and nccl")
    cpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="Ray CPUs reserved by a worker; default: a fair share, at most 1",
    )
    threads_per_worker: int = Field(default=1, ge=1, description="torch threads of a worker")
    address: str | None = Field(
        default=None, description="Ray cluster to join; default $RAY_ADDRESS, else a local one"
    )
    wait_s: float = Field(
        default=0.0, ge=0, description="seconds given to an autoscaler to make room; 0 = refuse"
    )
    object_store_gb: float = Field(
        default=0.5, gt=0.1, description="object store of a local cluster, GB (others have theirs)"
    )
    max_failures: int = Field(
        default=3, ge=0, description="times the workers are restarted after a crash"
    )
