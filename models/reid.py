"""What every learner on a CLIP image tower shares: two BN necks, two classifiers, two losses.

The tower gives g, the class token before projection, and f, its joint embedding. Each has a BN
neck and a bias-free identity classifier; the test embedding is the L2-normalised concatenation of
both necks' outputs (CLIP-ReID, VLADR).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.clip import ImageEncoder, ImageFeatures
from models.heads.bnneck import BNNeck, GrowingClassifier
from models.interpolation import adaptive_alpha, interpolate
from models.learner import Probe
from models.losses.identity import cross_entropy
from models.losses.metric import batch_hard_triplet
from models.prototypes import identity_centres
from tasks.schema import Domain, FrozenConfig

Classifier = Literal["class_token", "projected"]
"""A classifier by the feature it reads: g or f."""

BOTH_CLASSIFIERS: tuple[Classifier, ...] = ("class_token", "projected")


class TermConfig(FrozenConfig):
    """A loss term; weight 0 switches it off and spends no time on it."""

    weight: float = Field(default=1.0, ge=0, description="factor of the term in the loss; 0 = off")


class IdentityTermConfig(TermConfig):
    """Cross-entropy over all identities learned so far, summed over the two classifiers."""

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


class ReidNetwork(nn.Module):
    """Image tower, necks and classifiers: all that is interpolated between domains.

    Args:
        image: the image tower.
        neck_bias: whether the necks' shifts are learned.
    """

    def __init__(self, image: ImageEncoder, neck_bias: bool = False) -> None:
        super().__init__()
        self.image = image
        self.neck_class = BNNeck(image.width, neck_bias)
        self.neck_projected = BNNeck(image.embed_dim, neck_bias)
        self.head_class = GrowingClassifier(image.width)
        self.head_projected = GrowingClassifier(image.embed_dim)

    @property
    def num_identities(self) -> int:
        """Identities of all domains begun so far."""
        return len(self.head_projected.weight)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> L2-normalised test embeddings [B, W + D]."""
        features = self.image(images)
        both = (self.neck_class(features.class_token), self.neck_projected(features.projected))
        return functional.normalize(torch.cat(both, dim=1), dim=1)

    def grow(self, class_token: Tensor, projected: Tensor, person_ids: Tensor) -> None:
        """Adds a row per identity to both classifiers: its features' L2-normalised centre.

        Args:
            class_token: [N, W] features g of a domain's training images.
            projected: [N, D] features f.
            person_ids: [N], contiguous from 0.
        """
        num_persons = int(person_ids.max()) + 1
        self.head_class.grow(identity_centres(class_token, person_ids, num_persons))
        self.head_projected.grow(identity_centres(projected, person_ids, num_persons))

    def grow_for(self, domain: Domain, probe: Probe) -> int:
        """Grows both classifiers by the people of a domain; returns where their rows begin."""
        first = self.num_identities
        features = probe(lambda images: features_of(self.image(images)))
        projected = features["projected"]
        person_ids = torch.tensor([record.person_id for record in domain.train])
        self.grow(features["class_token"], projected, person_ids.to(projected.device))
        return first

    def identity_terms(
        self,
        class_token: Tensor,
        projected: Tensor,
        targets: Tensor,
        identity: IdentityTermConfig,
        triplet: TripletTermConfig,
        classifiers: Collection[Classifier] = BOTH_CLASSIFIERS,
    ) -> dict[str, Tensor]:
        """L_reid of one view of the global batch: the terms `identity` and `triplet`.

        Args:
            class_token: [B, W] features g.
            projected: [B, D] features f.
            targets: [B] rows of the classifiers (person_id + identities of earlier domains).
            identity: settings of the cross-entropy.
            triplet: settings of the triplet.
            classifiers: which of the two the cross-entropy is summed over.
        """
        terms: dict[str, Tensor] = {}
        if identity.weight:
            # Both necks see every batch: the test embedding reads the statistics of both.
            for_class, for_projected = self.neck_class(class_token), self.neck_projected(projected)
            logits: list[Tensor] = []
            if "class_token" in classifiers:
                logits.append(self.head_class(for_class))
            if "projected" in classifiers:
                logits.append(self.head_projected(for_projected))
            terms["identity"] = torch.stack(
                [cross_entropy(each, targets, identity.label_smoothing) for each in logits]
            ).sum()
        if triplet.weight:
            features = functional.normalize(projected, dim=1) if triplet.normalise else projected
            terms["triplet"] = batch_hard_triplet(features, targets, triplet.margin)
        return terms


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
    identity: IdentityTermConfig, classifiers: Collection[Classifier] = BOTH_CLASSIFIERS
) -> tuple[str, ...]:
    """What of a learner's `network` trains: the tower, and what the identity term alone reads.

    A neck's shift is matched too where it is a parameter.
    """
    if not identity.weight:
        return ("network.image.*",)
    if set(classifiers) == set(BOTH_CLASSIFIERS):
        return ("network.image.*", "network.neck_*", "network.head_*")
    (one,) = classifiers
    name = "class" if one == "class_token" else "projected"
    return ("network.image.*", f"network.neck_{name}.*", f"network.head_{name}.*")


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
    network: ReidNetwork, old: ReidNetwork, config: InterpolationConfig, probe: Probe
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


def features_of(features: ImageFeatures) -> dict[str, Tensor]:
    """The two features that begin a domain, as a probe returns them."""
    return {"class_token": features.class_token, "projected": features.projected}
