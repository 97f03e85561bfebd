"""L_IDA: what holds an image tower to the domains before, in the forms under comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from models.components.prototypes import PrototypeMemory
from models.components.reid_network import TermConfig
from models.losses.alignment import (
    affinity,
    own_prototype_relation,
    prototype_pull,
    prototype_relation,
)
from tasks.schema import FrozenConfig

Alignment = Literal[
    "affinity",
    "prototype",
    "prototype_relation",
    "centroid_relation",
    "identity_prototype",
    "embedding_prototype",
    "embedding_affinity",
]
EMBEDDING_FORMS = ("embedding_prototype", "embedding_affinity")
"""The forms that compare test embeddings under the batch's statistics, and no attributes."""


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


class CrossDomainLossesConfig(FrozenConfig):
    """The forms of L_IDA; each counts only if learner.alignment lists it."""

    affinity: AffinityTermConfig = Field(default_factory=AffinityTermConfig)
    prototype: PrototypeTermConfig = Field(default_factory=PrototypeTermConfig)
    prototype_relation: RelationTermConfig = Field(default_factory=RelationTermConfig)
    centroid_relation: RelationTermConfig = Field(default_factory=RelationTermConfig)
    identity_prototype: RelationTermConfig = Field(default_factory=RelationTermConfig)
    embedding_prototype: RelationTermConfig = Field(
        default_factory=lambda: RelationTermConfig(temperature=0.1)
    )
    embedding_affinity: AffinityTermConfig = Field(
        default_factory=lambda: AffinityTermConfig(temperature=0.1)
    )


class Compared(NamedTuple):
    """What one model makes of a view of the global batch; None where no form reads it.

    Attributes:
        parts: [B, K, D] unit attribute features, the global feature among them or instead.
        embedding: [B, E] unit test embedding under the batch's own statistics.
    """

    parts: Tensor | None
    embedding: Tensor | None


def needs_old_model(alignment: Sequence[Alignment]) -> bool:
    """Whether any form relates to the frozen model of the previous domain."""
    return any(form != "prototype" for form in alignment)


def compares_parts(alignment: Sequence[Alignment]) -> bool:
    """Whether any form reads the attribute (or global) features, and not the test embedding."""
    return any(form not in EMBEDDING_FORMS for form in alignment)


def compares_embeddings(alignment: Sequence[Alignment]) -> bool:
    """Whether any form reads the test embedding."""
    return any(form in EMBEDDING_FORMS for form in alignment)


def cross_domain_terms(
    alignment: Sequence[Alignment],
    losses: CrossDomainLossesConfig,
    new: Compared,
    old: Compared | None,
    memory: PrototypeMemory,
    embeddings: PrototypeMemory,
) -> dict[str, Tensor]:
    """The terms of the chosen forms, from the second domain on.

    Args:
        alignment: which forms, each of a weight above 0.
        losses: their settings.
        new: of the model in training.
        old: of the frozen old model on the same view; None if no form needs it.
        memory: prototypes of the learned domains, of `parts`.
        embeddings: prototypes of their people's test embeddings, [N_old, 1, E].
    """
    terms: dict[str, Tensor] = {}
    if "prototype" in alignment:
        assert new.parts is not None
        settings = losses.prototype
        terms["prototype"] = prototype_pull(
            new.parts,
            memory.attribute_prototypes(),
            settings.distance,
            settings.temperature,
            "sum",
        )
    if old is None:
        return terms
    if new.embedding is not None and old.embedding is not None:
        pair = new.embedding[:, None], old.embedding[:, None]
        terms |= _embedding_terms(alignment, losses, pair, embeddings)
    if new.parts is not None and old.parts is not None:
        terms |= _part_terms(alignment, losses, (new.parts, old.parts), memory)
    return terms


def _embedding_terms(
    alignment: Sequence[Alignment],
    losses: CrossDomainLossesConfig,
    pair: tuple[Tensor, Tensor],
    embeddings: PrototypeMemory,
) -> dict[str, Tensor]:
    """Forms that compare test embeddings [B, 1, E] of the new and of the old model."""
    terms: dict[str, Tensor] = {}
    if "embedding_prototype" in alignment:
        settings, anchors = losses.embedding_prototype, embeddings.identity_prototypes()
        terms["embedding_prototype"] = own_prototype_relation(
            *pair, anchors, settings.temperature, settings.reduction
        )
    if "embedding_affinity" in alignment:
        terms["embedding_affinity"] = _affinity(pair, losses.embedding_affinity)
    return terms


def _part_terms(
    alignment: Sequence[Alignment],
    losses: CrossDomainLossesConfig,
    parts: tuple[Tensor, Tensor],
    memory: PrototypeMemory,
) -> dict[str, Tensor]:
    """Forms that compare attribute features [B, K, D] of the new and of the old model."""
    terms: dict[str, Tensor] = {}
    relations = (
        ("prototype_relation", prototype_relation, memory.attribute_prototypes),
        ("centroid_relation", own_prototype_relation, memory.centroids),
        ("identity_prototype", own_prototype_relation, memory.identity_prototypes),
    )
    for name, relation, anchors in relations:
        if name in alignment:
            settings: RelationTermConfig = getattr(losses, name)
            terms[name] = relation(*parts, anchors(), settings.temperature, settings.reduction)
    if "affinity" in alignment:
        terms["affinity"] = _affinity(parts, losses.affinity)
    return terms


def _affinity(pair: tuple[Tensor, Tensor], settings: AffinityTermConfig) -> Tensor:
    return affinity(
        *pair,
        settings.temperature,
        settings.reduction,
        settings.keep_diagonal,
        settings.probability_floor,
    )
