"""What every learner shares on its image tower: BN necks, classifiers, two losses.

A CLIP gives g, the class token before projection (`class_token`), and f, its joint embedding
(`projected`); a ResNet one feature (`pooled`), which is then f. Each has a BN neck and a bias-free
identity classifier; the test embedding is the L2-normalised concatenation of all necks' outputs
(CLIP-ReID, VLADR; with one neck: Luo et al. 2019).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Literal

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

Classifier = Literal["class_token", "projected"]
"""A classifier of a CLIP by the feature it reads: g or f."""

BOTH_CLASSIFIERS: tuple[Classifier, ...] = ("class_token", "projected")

Statistics = Literal["running", "batch"]
"""What a neck normalises by."""


class TermConfig(FrozenConfig):
    """A loss term; weight 0 switches it off and spends no time on it."""

    weight: float = Field(default=1.0, ge=0, description="factor of the term in the loss; 0 = off")


class IdentityTermConfig(TermConfig):
    """Cross-entropy over all identities learned so far, summed over the classifiers."""

    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="share given to all classes"
    )


class TripletTermConfig(TermConfig):
    """Batch-hard triplet on f."""

    margin: float | None = Field(default=None, ge=0, description="hinge margin; null = soft margin")
    normalise: bool = Field(default=False, description="L2-normalise f first")


class InterpolationConfig(FrozenConfig):
    """Mixing of old and new weights after a domain: w = a * new + (1 - a) * old."""

    mode: Literal["none", "fixed", "adaptive"] = Field(
        default="none",
        description="fixed: a = alpha (DASK .5); adaptive: from affinity drift (LSTKC)",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="a of mode fixed: share of the new weights"
    )
    keep_diagonal: bool = Field(
        default=True,
        description="adaptive: keep self-similarity in the affinity (LSTKC yes, DASK no)",
    )


class EmbeddingNetwork(nn.Module, ABC):
    """What is interpolated between domains: all that makes test embeddings."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> L2-normalised test embeddings [B, E]."""


class ReidNetwork(EmbeddingNetwork):
    """Image tower, necks and classifiers: all that is interpolated between domains.

    Each named feature of the tower has a BN neck and a bias-free classifier of its own.

    Args:
        image: the image tower.
        neck_bias: whether the necks' shifts are learned.
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
        """Identities of all domains begun so far."""
        return self.head(self.image.metric).num_classes

    def neck(self, name: str) -> BNNeck:
        """The neck of a feature."""
        neck = self.get_submodule(f"neck_{_short(name)}")
        assert isinstance(neck, BNNeck)
        return neck

    def head(self, name: str) -> GrowingClassifier:
        """The classifier of a feature."""
        head = self.get_submodule(f"head_{_short(name)}")
        assert isinstance(head, GrowingClassifier)
        return head

    def metric_feature(self, features: Mapping[str, Tensor]) -> Tensor:
        """f, the one of the features that the triplet and affinities compare."""
        return features[self.image.metric]

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> L2-normalised test embeddings, all necks' outputs."""
        features = self.image.features(images)
        normed = [self.neck(name)(rows) for name, rows in features.items()]
        return functional.normalize(torch.cat(normed, dim=1), dim=1)

    def grow(self, features: Mapping[str, Tensor], person_ids: Tensor) -> None:
        """Adds a row per identity to every classifier: its features' L2-normalised centre.

        Args:
            features: [N, dim] each, of a domain's training images.
            person_ids: [N], contiguous from 0.
        """
        num_persons = int(person_ids.max()) + 1
        for name in self.image.feature_dims:
            self.head(name).grow(identity_centres(features[name], person_ids, num_persons))

    def grow_for(self, domain: Domain, probe: Probe) -> int:
        """Grows the classifiers by the people of a domain; returns where their rows begin."""
        first = self.num_identities
        features = probe(self.image.features)
        person_ids = torch.tensor([record.person_id for record in domain.train])
        self.grow(features, person_ids.to(self.metric_feature(features).device))
        return first

    def identity_terms(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor,
        identity: IdentityTermConfig,
        triplet: TripletTermConfig,
        classifiers: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """L_reid of one view of the global batch: the terms `identity` and `triplet`.

        Args:
            features: [B, dim] each.
            targets: [B] rows of the classifiers (person_id + identities of earlier domains).
            identity: settings of the cross-entropy.
            triplet: settings of the triplet.
            classifiers: those of which features the cross-entropy is summed over; None: of all.
        """
        terms: dict[str, Tensor] = {}
        if identity.weight:
            # Every neck sees every batch: the test embedding reads the statistics of all.
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

    def uncounted_logits(
        self, features: Mapping[str, Tensor], statistics: Statistics
    ) -> list[Tensor]:
        """Logits [B, C] of every classifier, the necks' running statistics left alone.

        For a batch that cross-entropy has counted already: a second count would change the test
        embedding by other means than the loss.

        Args:
            features: [B, dim] each.
            statistics: what the necks normalise by: their own, or the batch's, as in training.
        """
        return [
            self.head(name)(_normalised(self.neck(name), rows, statistics))
            for name, rows in features.items()
        ]

    def uncounted_embedding(self, features: Mapping[str, Tensor]) -> Tensor:
        """The test embedding [B, sum of dims] of a batch under the batch's own statistics.

        The necks' running statistics are left alone, as by `uncounted_logits`.
        """
        normed = [_normalised(self.neck(name), rows, "batch") for name, rows in features.items()]
        return functional.normalize(torch.cat(normed, dim=1), dim=1)


def _short(name: str) -> str:
    """A feature's name in the paths of neck and classifier: `class_token` is `class` there."""
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


def gathered(collective: Collective, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features [B, ...] of this worker -> [W*B, ...] of all, by the same names."""
    return {name: collective.gather(rows) for name, rows in features.items()}


class Frozen(nn.Module):
    """A copy that never trains and always stands in eval mode: the model of the past."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode."""
        del mode
        return self


def trainable_patterns(
    identity: IdentityTermConfig, classifiers: Collection[str] | None = None
) -> tuple[str, ...]:
    """What of a learner's `network` trains: the tower, and what the identity term alone reads.

    A neck's shift is matched too where it is a parameter.
    """
    if not identity.weight:
        return ("network.image.*",)
    ends = ("*",) if classifiers is None else tuple(f"{_short(name)}.*" for name in classifiers)
    parts = tuple(f"network.{part}_{end}" for part in ("neck", "head") for end in ends)
    return ("network.image.*", *parts)


def check_any_on(terms: Mapping[str, TermConfig], stage: str) -> None:
    """Refuses a stage that every learned domain runs and whose loss is switched off altogether.

    Raises:
        ValueError: all weights are 0.
    """
    if not any(term.weight for term in terms.values()):
        raise ValueError(f"{stage} has no loss: give one of {', '.join(terms)} a weight above 0")


def mean_terms(views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of every term over the views, so that a weight means the same for one view or two."""
    return {name: torch.stack([view[name] for view in views]).mean() for name in views[0]}


def weights_of(terms: Mapping[str, Tensor], losses: FrozenConfig) -> dict[str, float]:
    """The configured weight of each term, which is the loss section's field of the same name."""
    return {name: getattr(losses, name).weight for name in terms}


def blend(
    network: EmbeddingNetwork, old: EmbeddingNetwork, config: InterpolationConfig, probe: Probe
) -> float:
    """Interpolates `network` with its state before the domain, in place.

    Returns:
        The share a of the new weights (1 when interpolation is off).
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
