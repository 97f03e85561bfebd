"""Sections of the run configuration, except benchmark, backbone and learner."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator

from runner.config.plain_values import resolved
from runner.config.redaction import has_reference, is_masked, masked_uri
from tasks.loading.transforms import TransformConfig
from tasks.retrieval.matching import RankingProtocol
from tasks.retrieval.reranking import RerankingConfig
from tasks.schema import FrozenConfig


class RunNameConfig(FrozenConfig):
    """Name of the run."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="folder in storage.root; default <preset>-<learner>-seed<seed>-<hash>",
    )


class StorageConfig(FrozenConfig):
    """Storage of runs."""

    root: str = Field(
        default="runs",
        description="folder of runs; relative to $LIFELONG_REID_HOME or the current folder",
    )
    report: bool = Field(
        default=True,
        description="write report.html, without images of the model, at the end of a run",
    )


class CheckpointConfig(FrozenConfig):
    """Frequency and number of checkpoints."""

    every_epochs: int = Field(
        default=1, ge=1, description="epochs between checkpoints within a stage"
    )
    keep: int = Field(default=2, ge=1, description="number of latest checkpoints kept for resuming")
    keep_domains: bool = Field(
        default=True, description="keep the weights of the learner after each domain"
    )


class ClusterConfig(FrozenConfig):
    """Resources of a run; they change results only by the order of floating-point operations."""

    num_workers: int = Field(
        default=1,
        ge=0,
        description="number of Ray Train workers; 0 = train in this process without Ray",
    )
    use_gpu: bool = Field(default=False, description="use one GPU per worker, with NCCL")
    deterministic: bool = Field(
        default=False,
        description="GPU: use deterministic algorithms only, so that a repeated run is bit-equal; "
        "slower, and an error where torch has none. CPU runs are always deterministic",
    )
    cudnn_benchmark: bool = Field(
        default=False,
        description="GPU: let cuDNN measure convolution algorithms and choose the fastest; the "
        "choice may differ between runs",
    )
    cpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="Ray CPUs reserved per worker; default: available CPUs / workers, at most 1",
    )
    threads_per_worker: int = Field(default=1, ge=1, description="torch threads per worker")
    address: str | None = Field(
        default=None,
        description="address of a Ray cluster; default $RAY_ADDRESS, otherwise a local cluster",
    )
    wait_s: float = Field(
        default=0.0,
        ge=0,
        description="seconds to wait for an autoscaler to provide the resources; 0 = fail at once",
    )
    object_store_gb: float = Field(
        default=0.5,
        gt=0.1,
        description="object store of a local cluster in GB; ignored when joining a cluster",
    )
    max_failures: int = Field(
        default=3, ge=0, description="number of restarts of the workers after a crash"
    )


class DataConfig(FrozenConfig):
    """Batches, decoding and transforms of images."""

    persons_per_batch: int = Field(
        default=16,
        ge=1,
        description="P: identities in the global batch, independent of the number of workers",
    )
    images_per_person: int = Field(
        default=4,
        ge=1,
        description="K: images per identity; sampled with replacement if an identity has fewer",
    )
    max_bad_share: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="maximum share of unreadable training images of a domain",
    )
    object_store_share: float = Field(
        default=0.3,
        gt=0,
        le=0.45,
        description="maximum share of a node's object store for one decoded domain (two domains "
        "are held at a time), and for all training images shared between the trials of a sweep or "
        "the runs of an ablation table; images of larger domains are decoded on demand",
    )
    evaluation_cache_share: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="maximum share of memory for decoded test and validation images, which are "
        "kept until the end of the run; 0 = decode them for each evaluation. With workers, the "
        "share is that of the smallest node's object store, and at most what two decoded domains "
        "leave (1 - 2 object_store_share); without Ray, that of the memory available when the "
        "first evaluation starts. Splits that do not fit are decoded for each evaluation; those "
        "with the largest files are kept first",
    )
    decode_cpus: float = Field(
        default=0.25, gt=0, le=1, description="Ray CPUs reserved per decoding task"
    )
    evaluation_batch_size: int = Field(
        default=128, ge=1, description="images per worker in an evaluation batch"
    )
    augment_on: Literal["auto", "cpu", "device"] = Field(
        default="auto",
        description="where flips, crops and RandAugment are computed, with the same result: cpu, "
        "on augment_threads; device, where the learner is trained; auto, on a CUDA device, "
        "otherwise on the CPU. Erasing and normalisation are always done on the device",
    )
    augment_threads: int = Field(
        default=1, ge=1, description="threads per worker that augment images on the CPU"
    )
    transform: TransformConfig = Field(
        default_factory=lambda: TransformConfig.model_construct(),
        description="weak, strong and test transforms",
    )


class TrainingConfig(FrozenConfig):
    """The optimiser update, and how the image tower is computed in it."""

    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="maximum L2 norm of the gradient of all trainable parameters, averaged over "
        "all workers; larger gradients are scaled down; null = off",
    )
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        description="number of parts in which a worker computes the image tower for one batch. "
        "Each part is computed again in the backward pass, so that the activations of only one "
        "part are in memory. The losses are those of the whole batch. ViT only; with "
        "backbone.dropout the masks depend on this number",
    )
    compile: bool = Field(
        default=False,
        description="compile the blocks of the trained image tower with torch.compile; needs a "
        "C++ compiler on a CPU; the first iterations take longer",
    )


class TrackingConfig(FrozenConfig):
    """Tracking with MLflow; the event log of a run is written even if tracking is off."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a URI may hold a password

    uri: str | None = Field(
        default="sqlite:///runs/mlflow.db",
        repr=False,
        description="MLflow server (http://...) or database (sqlite:///file.db); null = off",
    )
    experiment: str = Field(default="lifelong-reid", min_length=1, description="MLflow experiment")
    drain_interval_s: float = Field(
        default=2.0,
        gt=0,
        description="seconds between two reads of the event log; longer after a failure",
    )
    request_timeout_s: int = Field(
        default=5, ge=1, description="timeout of an HTTP request in seconds"
    )
    request_retries: int = Field(default=1, ge=0, le=10, description="retries of an HTTP request")

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str | None) -> str | None:
        if uri is not None and not has_reference(uri):
            _check_uri(uri)
        return uri

    @field_serializer("uri")
    def _masked_uri(self, uri: str | None) -> str | None:
        """Masks a password in everything that is written or sent to a worker."""
        return uri and masked_uri(uri)

    def without_password(self) -> TrackingConfig:
        """A copy for a process that writes the configuration but does not track."""
        return self.model_copy(update={"uri": self.uri and masked_uri(self.uri)})

    def usable_uri(self) -> str | None:
        """`uri` with its environment references resolved.

        Raises:
            ValueError: a variable is not set, the result is no URI, or the password is masked.
        """
        if self.uri is None:
            return None
        uri = resolved(self.uri, "tracking.uri")
        if is_masked(uri):
            raise ValueError(
                f"tracking.uri: the password of {uri} is not stored; give tracking.uri again, best "
                "with the password in an environment variable: "
                "tracking.uri='postgresql://user:${oc.env:NAME}@host/db', or tracking.uri=null"
            )
        try:
            _check_uri(uri)
        except ValueError as error:
            raise ValueError(f"tracking.uri: {error}") from error
        return uri


def _check_uri(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    if uri == "databricks":
        return
    shown = masked_uri(uri)
    if scheme.partition("+")[0] not in (*DATABASES, "http", "https", "databricks") or not rest:
        raise ValueError(
            f"expected http(s)://host:port, sqlite:///file.db, the URI of another database, or "
            f"null (no tracking); got {shown!r}. MLflow 3 does not support a plain folder: use "
            f"sqlite:///{shown.rstrip('/').rpartition('://')[2] or 'runs'}/mlflow.db"
        )
    if scheme == "sqlite" and uri.removeprefix("sqlite:///") in ("", "/", ":memory:"):
        raise ValueError(f"expected sqlite:///file.db, a persistent file; got {uri!r}")


DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


Precision = Literal["float32", "tf32", "bfloat16"]


class EvaluationConfig(FrozenConfig):
    """Ranking of the gallery, and model selection during training."""

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
        description="epochs of the last stage of a domain between two candidates for model "
        "selection on validation identities (`selection` in results.json); 0 = no selection",
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
