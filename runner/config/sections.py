"""Sections of a run's configuration: storage, checkpoints, cluster, data, evaluation, tracking."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.loading.transforms import TransformConfig
from tasks.retrieval.matching import RankingProtocol
from tasks.retrieval.reranking import RerankingConfig
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


class DataConfig(FrozenConfig):
    """How images reach the learner."""

    persons_per_batch: int = Field(
        default=16, ge=1, description="P: identities in the global batch, whatever the worker count"
    )
    images_per_person: int = Field(
        default=4,
        ge=1,
        description="K: images of each identity; with replacement where it has fewer",
    )
    max_bad_share: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="share of a domain's training images that may be unreadable",
    )
    object_store_share: float = Field(
        default=0.3,
        gt=0,
        le=0.45,
        description="share of one node's object store that one decoded domain may take (two are "
        "held at a time), and that all images together may take which the trials of a sweep share; "
        "what is larger is decoded as it is read",
    )
    decode_cpus: float = Field(
        default=0.25, gt=0, le=1, description="CPUs that a decoding task asks for"
    )
    evaluation_batch_size: int = Field(
        default=128, ge=1, description="images per worker in a batch without gradients"
    )
    transform: TransformConfig = Field(
        default_factory=lambda: TransformConfig.model_construct(),
        description="weak, strong and test transforms",
    )


class TrackingConfig(FrozenConfig):
    """Where the run is tracked; `null` tracks nowhere (the spool is written all the same)."""

    uri: str | None = Field(
        default="sqlite:///runs/mlflow.db",
        description="MLflow server (http://...) or database (sqlite:///file.db); null = off",
    )
    experiment: str = Field(default="lifelong-reid", min_length=1, description="MLflow experiment")
    drain_interval_s: float = Field(
        default=2.0,
        gt=0,
        description="seconds between two looks at the spool; longer after a failure",
    )
    request_timeout_s: int = Field(
        default=5, ge=1, description="seconds until an HTTP request gives up"
    )
    request_retries: int = Field(
        default=1, ge=0, le=10, description="further tries of an HTTP request"
    )

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str | None) -> str | None:
        if uri is None or uri == "databricks":
            return uri
        scheme, _, rest = uri.partition("://")
        if scheme.partition("+")[0] not in (*DATABASES, "http", "https", "databricks") or not rest:
            raise ValueError(
                f"expected http(s)://host:port, sqlite:///file.db, another database's URI, or null "
                f"to track nowhere; got {uri!r}. A plain folder is not enough for MLflow 3: write "
                f"sqlite:///{uri.rstrip('/').rpartition('://')[2] or 'runs'}/mlflow.db"
            )
        if scheme == "sqlite" and uri.removeprefix("sqlite:///") in ("", "/", ":memory:"):
            raise ValueError(f"expected sqlite:///file.db, a file that stays; got {uri!r}")
        return uri


DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


Precision = Literal["float32", "bfloat16"]


class EvaluationConfig(FrozenConfig):
    """How rankings are made, and how often."""

    protocol: RankingProtocol = Field(
        default="standard",
        description="of image queries: standard ranks the whole gallery; single_gallery_shot "
        "(CUHK03's first protocol) ranks one random image per person, averaged over 100 draws",
    )
    reranking: RerankingConfig = Field(
        default_factory=lambda: RerankingConfig(),
        description="k-reciprocal re-ranking of image queries (text queries are never re-ranked)",
    )
    every_epochs: int = Field(
        default=0,
        ge=0,
        description="while one domain is learned: epochs of the last stage between the candidates "
        "of `selection` in results.json, chosen on validation people; 0 chooses nothing",
    )

    @model_validator(mode="after")
    def _single_shot_without_reranking(self) -> Self:
        if self.protocol == "single_gallery_shot" and self.reranking.enabled:
            raise ValueError(
                "expected protocol=standard where reranking.enabled=true, got "
                "protocol=single_gallery_shot; re-ranking needs the whole gallery: set "
                "evaluation.reranking.enabled=false or evaluation.protocol=standard"
            )
        return self
