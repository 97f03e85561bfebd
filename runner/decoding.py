"""The configuration section `data`, and the decoding functions it governs."""

from __future__ import annotations

from pydantic import Field

from runner.pixels import DecodedImages, decode_image, decode_many
from tasks.loading.transforms import TransformConfig
from tasks.schema import FrozenConfig

__all__ = ["DataConfig", "DecodedImages", "decode_image", "decode_many"]


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
