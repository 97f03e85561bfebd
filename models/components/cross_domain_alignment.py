"""L_IDA: cross-domain alignment losses that preserve knowledge of earlier domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from models.components.prototypes import PrototypeMemory
from models.components.reid_network import TermConfig
from models.losses.alignment import (
    affinity,
    per_attribute_prototype_relation,
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
"""Forms that compare test embeddings under batch statistics instead of attributes."""


class PrototypeTermConfig(TermConfig):
    """The form printed in the paper: pull v_k to the prototypes p[d, k] of old domains."""

    distance: Literal["cosine", "contrastive"] = Field(
        default="cosine", description="1 - cos, or InfoNCE with the other attributes as negatives"
    )
    temperature: float = Field(default=0.07, gt=0, description="tau of the contrastive distance")


class RelationTermConfig(TermConfig):
    """KL divergence between softmax similarities of the frozen old and the new model."""

    temperature: float = Field(default=0.05, gt=0, description="tau of both softmaxes")
    reduction: Literal["sum", "mean"] = Field(default="mean", description="over the K attributes")


class AffinityTermConfig(RelationTermConfig):
    """Relations among the images of a batch."""

    keep_diagonal: bool = Field(default=True, description="keep self-similarity in each row")
    probability_floor: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="lower bound of new probabilities (authors' code: 1e-8)",
    )


class EmbeddingPrototypeTermConfig(RelationTermConfig):
    """Relations to stored prototypes of the test embedding, which is taken after the necks."""

    temperature: float = Field(default=0.1, gt=0, description="tau of both softmaxes")
    anchors: Literal["identities", "centroids", "domains"] = Field(
        default="identities",
        description="stored prototypes: one per old identity; learner.num_centroids k-means "
        "centroids per domain; or one mean per domain (0 until two domains are learned: a softmax "
        "over one anchor is constant)",
    )


class CrossDomainLossesConfig(FrozenConfig):
    """Forms of L_IDA; only those listed in learner.alignment are used."""

    affinity: AffinityTermConfig = Field(default_factory=AffinityTermConfig)
    prototype: PrototypeTermConfig = Field(default_factory=PrototypeTermConfig)
    prototype_relation: RelationTermConfig = Field(default_factory=RelationTermConfig)
    centroid_relation: RelationTermConfig = Field(default_factory=RelationTermConfig)
    identity_prototype: RelationTermConfig = Field(default_factory=RelationTermConfig)
    embedding_prototype: EmbeddingPrototypeTermConfig = Field(
        default_factory=EmbeddingPrototypeTermConfig
    )
    embedding_affinity: AffinityTermConfig = Field(
        default_factory=lambda: AffinityTermConfig(temperature=0.1)
    )


class AlignmentFeatures(NamedTuple):
    """Features of one view of the global batch by one model; None where no form needs them.

    Attributes:
        parts: [B, K, D] L2-normalised features: attributes, the global feature, or both.
        embedding: [B, E] L2-normalised test embedding, of necks under batch statistics and without
            attributes.
    """

    parts: Tensor | None
    embedding: Tensor | None


def needs_old_model(alignment: Sequence[Alignment]) -> bool:
    """Return whether any form uses the frozen model of the previous domain."""
    return any(form != "prototype" for form in alignment)


def compares_parts(alignment: Sequence[Alignment]) -> bool:
    """Return whether any form compares attribute or global features."""
    return any(form not in EMBEDDING_FORMS for form in alignment)


def compares_embeddings(alignment: Sequence[Alignment]) -> bool:
    """Return whether any form compares test embeddings."""
    return any(form in EMBEDDING_FORMS for form in alignment)


def cross_domain_terms(
    alignment: Sequence[Alignment],
    losses: CrossDomainLossesConfig,
    new: AlignmentFeatures,
    old: AlignmentFeatures | None,
    memory: PrototypeMemory,
    embeddings: PrototypeMemory,
) -> dict[str, Tensor]:
    """Compute the terms of the chosen forms (from the second domain on).

    Args:
        alignment: the forms, each with a weight > 0.
        losses: settings of all forms.
        new: features by the model in training.
        old: features by the frozen old model on the same view; None if no form needs them.
        memory: prototypes of `parts` for the learned domains.
        embeddings: prototypes stored by `store_embeddings`.

    Returns:
        Unweighted scalar terms by the name of the form.
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


def store_embeddings(
    memory: PrototypeMemory,
    embeddings: Tensor,
    person_ids: Tensor,
    settings: EmbeddingPrototypeTermConfig,
    num_centroids: int,
) -> None:
    """Append the anchors of `embedding_prototype` for a learned domain.

    Args:
        memory: prototypes of test embeddings, K = 1.
        embeddings: [N, E] L2-normalised, of the domain's training images.
        person_ids: [N].
        settings: settings of the form.
        num_centroids: centroids per domain.
    """
    domain, rows = memory.num_domains, embeddings[:, None]
    match settings.anchors:
        case "identities":
            memory.add_identities(domain, rows, person_ids)
        case "centroids":
            memory.add_centroids(domain, rows, num_centroids, torch.initial_seed() % 2**32)
        case "domains":
            memory.begin_domain(domain)
            memory.refresh(rows)
            memory.freeze()


def _embedding_terms(
    alignment: Sequence[Alignment],
    losses: CrossDomainLossesConfig,
    pair: tuple[Tensor, Tensor],
    embeddings: PrototypeMemory,
) -> dict[str, Tensor]:
    """Compute the forms that compare test embeddings [B, 1, E] of new and old model."""
    terms: dict[str, Tensor] = {}
    if "embedding_prototype" in alignment:
        settings = losses.embedding_prototype
        anchors = {
            "identities": embeddings.identity_prototypes,
            "centroids": embeddings.centroids,
            "domains": embeddings.attribute_prototypes,
        }[settings.anchors]()
        terms["embedding_prototype"] = per_attribute_prototype_relation(
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
    """Compute the forms that compare attribute features [B, K, D] of new and old model."""
    terms: dict[str, Tensor] = {}
    relations = (
        ("prototype_relation", prototype_relation, memory.attribute_prototypes),
        ("centroid_relation", per_attribute_prototype_relation, memory.centroids),
        ("identity_prototype", per_attribute_prototype_relation, memory.identity_prototypes),
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
