"""Re-identification network: image tower, BN necks, classifiers and two losses.

A CLIP has two features: g, the class token before projection (`class_token`), and f, its joint
embedding (`projected`). A ResNet has one feature (`pooled`), which is then f. Each feature has a BN
neck and a bias-free identity classifier. The test embedding is the L2-normalised concatenation of
all necks' outputs (CLIP-ReID, VLADR; with one neck: Luo et al. 2019).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.tower import ImageTower
from models.components.interpolation import adaptive_alpha, interpolate
from models.components.prototypes import identity_centres
from models.heads.bnneck import BNNeck, GrowingClassifier
from models.learner import Collective, Probe
from models.losses.identity import cross_entropy
from models.losses.metric import batch_hard_triplet
from tasks.schema import Domain, FrozenConfig

M = TypeVar("M", bound=nn.Module)

Classifier = Literal["class_token", "projected"]
"""Classifier of a CLIP, named by its input feature: g or f."""

BOTH_CLASSIFIERS: tuple[Classifier, ...] = ("class_token", "projected")

Statistics = Literal["running", "batch"]
"""Statistics that a neck normalises by."""


class TermConfig(FrozenConfig):
    """A loss term; with weight 0 it is not computed."""

    weight: float = Field(default=1.0, ge=0, description="factor of the term in the loss; 0 = off")


class IdentityTermConfig(TermConfig):
    """Cross-entropy over all identities learned so far, summed over the classifiers."""

    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="mass spread over all classes"
    )


class TripletTermConfig(TermConfig):
    """Batch-hard triplet on f."""

    margin: float | None = Field(default=None, ge=0, description="hinge margin; null = soft margin")
    normalise: bool = Field(default=False, description="L2-normalise f first")


class InterpolationConfig(FrozenConfig):
    """Interpolation of weights after a domain: w = a * new + (1 - a) * old."""

    mode: Literal["none", "fixed", "adaptive"] = Field(
        default="none",
        description="fixed: a = alpha (DASK: 0.5); adaptive: from affinity drift (LSTKC)",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="a of mode fixed: weight of the new model"
    )
    keep_diagonal: bool = Field(
        default=True,
        description="adaptive: keep self-similarity in the affinity (LSTKC: yes, DASK: no)",
    )


class EmbeddingNetwork(nn.Module, ABC):
    """Network that computes test embeddings; interpolated between domains."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Embed normalised images [B, 3, H, W] as L2-normalised test embeddings [B, E]."""


class ReidNetwork(EmbeddingNetwork):
    """Image tower with one BN neck and one bias-free classifier per named feature.

    Args:
        image: the image tower.
        neck_bias: whether the necks' biases are learned.
    """

    def __init__(self, image: ImageTower, neck_bias: bool = False) -> None:
        super().__init__()
        self.image = image
        dims = image.feature_dims
        for name, dim in dims.items():
            self.add_module(f"neck_{_short(name)}", BNNeck(dim, neck_bias))
        for name, dim in dims.items():
            self.add_module(f"head_{_short(name)}", GrowingClassifier(dim))

    @property
    def num_identities(self) -> int:
        """Number of identities of all domains started so far."""
        return self.head(self.image.metric).num_classes

    def neck(self, name: str) -> BNNeck:
        """Return the neck of a feature."""
        neck = self.get_submodule(f"neck_{_short(name)}")
        assert isinstance(neck, BNNeck)
        return neck

    def head(self, name: str) -> GrowingClassifier:
        """Return the classifier of a feature."""
        head = self.get_submodule(f"head_{_short(name)}")
        assert isinstance(head, GrowingClassifier)
        return head

    def metric_feature(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return f, the feature that triplet and affinity losses compare."""
        return features[self.image.metric]

    def embed(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] as the L2-normalised concatenation of all necks' outputs."""
        return self.neck_embedding(self.image.features(images))

    def neck_embedding(self, features: Mapping[str, Tensor]) -> Tensor:
        """Concatenate all necks' outputs for features [B, dim], L2-normalised [B, sum of dims]."""
        normed = [self.neck(name)(rows) for name, rows in features.items()]
        return functional.normalize(torch.cat(normed, dim=1), dim=1)

    def grow(self, features: Mapping[str, Tensor], person_ids: Tensor) -> None:
        """Add one row per identity to every classifier: the L2-normalised mean feature.

        Args:
            features: [N, dim] each, from a domain's training images.
            person_ids: [N], contiguous from 0.
        """
        num_persons = int(person_ids.max()) + 1
        for name in self.image.feature_dims:
            self.head(name).grow(identity_centres(features[name], person_ids, num_persons))

    def grow_for(self, domain: Domain, probe: Probe) -> int:
        """Extend the classifiers by a domain's identities; return the index of their first row."""
        offset = self.num_identities
        features = probe(self.image.features)
        person_ids = torch.tensor([record.person_id for record in domain.train])
        self.grow(features, person_ids.to(self.metric_feature(features).device))
        return offset

    def identity_terms(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor,
        identity: IdentityTermConfig,
        triplet: TripletTermConfig,
        classifiers: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute L_reid of one view of the global batch: terms `identity` and `triplet`.

        Args:
            features: [B, dim] each.
            targets: [B] classifier rows (person_id + number of identities of earlier domains).
            identity: settings of the cross-entropy.
            triplet: settings of the triplet.
            classifiers: features whose classifiers are summed over; None for all.
        """
        terms: dict[str, Tensor] = {}
        if identity.weight:
            # Every neck sees every batch: the test embedding uses the running statistics of all.
            normed = {name: self.neck(name)(rows) for name, rows in features.items()}
            logits = [
                self.head(name)(rows)
                for name, rows in normed.items()
                if classifiers is None or name in classifiers
            ]
            terms["identity"] = torch.stack(
                [cross_entropy(each, targets, identity.label_smoothing) for each in logits]
            ).sum()
        if triplet.weight:
            rows = self.metric_feature(features)
            rows = functional.normalize(rows, dim=1) if triplet.normalise else rows
            terms["triplet"] = batch_hard_triplet(rows, targets, triplet.margin)
        return terms

    def logits_without_update(
        self, features: Mapping[str, Tensor], statistics: Statistics
    ) -> list[Tensor]:
        """Compute logits [B, C] of every classifier without updating the running statistics.

        For batches that cross-entropy has already used: a second update would change the test
        embedding independently of the loss.

        Args:
            features: [B, dim] each.
            statistics: whether necks normalise by their running statistics or by the batch.
        """
        return [
            self.head(name)(_normalised(self.neck(name), rows, statistics))
            for name, rows in features.items()
        ]

    def embedding_without_update(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute `neck_embedding` [B, sum of dims] with batch statistics.

        The running statistics are not updated, as in `logits_without_update`.
        """
        normed = [_normalised(self.neck(name), rows, "batch") for name, rows in features.items()]
        return functional.normalize(torch.cat(normed, dim=1), dim=1)


def _short(name: str) -> str:
    """Return the feature name used in neck and classifier paths (`class_token` -> `class`)."""
    return name.removesuffix("_token")


def _normalised(neck: BNNeck, features: Tensor, statistics: Statistics) -> Tensor:
    by_batch = statistics == "batch"
    return functional.batch_norm(
        features,
        None if by_batch else neck.running_mean,
        None if by_batch else neck.running_var,
        neck.weight,
        neck.bias,
        training=by_batch,
        eps=neck.eps,
    )


def gather_features(collective: Collective, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather every named feature [B, ...] of this worker as [W*B, ...]."""
    return {name: collective.gather(rows) for name, rows in features.items()}


class Frozen(nn.Module, Generic[M]):
    """Frozen copy of a module that always stays in eval mode: the old model."""

    module: M

    def __init__(self, module: M) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen[M]:
        """Ignore `mode` and stay in eval mode."""
        del mode
        return self


def trainable_patterns(
    identity: IdentityTermConfig, classifiers: Collection[str] | None = None
) -> tuple[str, ...]:
    """Return patterns of the trainable parameters: tower and, with `identity`, classifiers.

    The patterns also match a neck's bias where it is a parameter.
    """
    if not identity.weight:
        return ("network.image.*",)
    ends = ("*",) if classifiers is None else tuple(f"{_short(name)}.*" for name in classifiers)
    parts = tuple(f"network.{part}_{end}" for part in ("neck", "head") for end in ends)
    return ("network.image.*", *parts)


def check_any_enabled(terms: Mapping[str, TermConfig], stage: str) -> None:
    """Check that a stage run in every domain has at least one enabled loss term.

    Raises:
        ValueError: all weights are 0.
    """
    if not any(term.weight for term in terms.values()):
        raise ValueError(f"{stage} has no loss: give one of {', '.join(terms)} a weight above 0")


def mean_terms(views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average every term over the views, so that weights do not depend on their number."""
    return {name: torch.stack([view[name] for view in views]).mean() for name in views[0]}


def term_weights(terms: Mapping[str, Tensor], losses: FrozenConfig) -> dict[str, float]:
    """Return the configured weight of each term, from the field of the same name."""
    return {name: getattr(losses, name).weight for name in terms}


def interpolate_networks(
    network: EmbeddingNetwork, old: EmbeddingNetwork, config: InterpolationConfig, probe: Probe
) -> float:
    """Interpolate `network` with its state before the domain, in place.

    Returns:
        The weight a of the new network (1 if interpolation is disabled).
    """
    match config.mode:
        case "none":
            return 1.0
        case "fixed":
            alpha = config.alpha
        case "adaptive":
            features = probe(
                lambda images: {"new": network.embed(images), "old": old.embed(images)}
            )
            alpha = adaptive_alpha(features["new"], features["old"], config.keep_diagonal)
    network.load_state_dict(interpolate(network.state_dict(), old.state_dict(), alpha))
    return alpha
