"""L_IDA: what holds an image tower to the domains before, in the forms under comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from models.losses.alignment import (
    affinity,
    identity_prototype_relation,
    prototype_pull,
    prototype_relation,
)
from models.prototypes import PrototypeMemory
from models.reid import TermConfig

Alignment = Literal["affinity", "prototype", "prototype_relation", "identity_prototype"]


class PrototypeTermConfig(TermConfig):
    """The literal form: pull v_k to the old domains' prototypes p[d, k]."""

    distance: Literal["cosine", "contrastive"] = Field(
        default="cosine", description="1 - cos, or InfoNCE with the other attributes as negatives"
    )
    temperature: float = Field(default=0.07, gt=0, description="tau of the contrastive distance")


class RelationTermConfig(TermConfig):
    """KL between the frozen old model's and the new model's softmax similarities."""

    temperature: float = Field(default=0.05, gt=0, description="tau of both softmaxes")
    reduction: Literal["sum", "mean"] = Field(default="mean", description="over the K attributes")


class AffinityTermConfig(RelationTermConfig):
    """The relation among the images of a batch."""

    keep_diagonal: bool = Field(default=True, description="self-similarity stays in each row")
    probability_floor: float = Field(
        default=0.0, ge=0, lt=1, description="smallest new probability (authors' code: 1e-8)"
    )


def needs_old_model(alignment: Sequence[Alignment]) -> bool:
    """Whether any form relates to the frozen model of the previous domain."""
    return any(form != "prototype" for form in alignment)


def cross_domain_terms(
    alignment: Sequence[Alignment],
    prototype: PrototypeTermConfig,
    relation: RelationTermConfig,
    identity: RelationTermConfig,
    batch: AffinityTermConfig,
    v_new: Tensor,
    v_old: Tensor | None,
    memory: PrototypeMemory,
) -> dict[str, Tensor]:
    """The terms of the chosen forms, from the second domain on.

    Args:
        alignment: which forms, each of a weight above 0.
        prototype: settings of `prototype`.
        relation: settings of `prototype_relation`.
        identity: settings of `identity_prototype`.
        batch: settings of `affinity`.
        v_new: [B, K, D] of the model in training.
        v_old: [B, K, D] of the frozen old model on the same views; None if no form needs it.
        memory: prototypes of the learned domains.
    """
    terms: dict[str, Tensor] = {}
    if "prototype" in alignment:
        terms["prototype"] = prototype_pull(
            v_new,
            memory.attribute_prototypes(),
            prototype.distance,
            prototype.temperature,
            "sum",
        )
    if v_old is None:
        return terms
    if "prototype_relation" in alignment:
        terms["prototype_relation"] = prototype_relation(
            v_new, v_old, memory.attribute_prototypes(), relation.temperature, relation.reduction
        )
    if "identity_prototype" in alignment:
        terms["identity_prototype"] = identity_prototype_relation(
            v_new, v_old, memory.identity_prototypes(), identity.temperature, identity.reduction
        )
    if "affinity" in alignment:
        terms["affinity"] = affinity(
            v_new,
            v_old,
            batch.temperature,
            batch.reduction,
            batch.keep_diagonal,
            batch.probability_floor,
        )
    return terms
