"""VLADR's network: image tower, necks, classifiers and attribute decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.backbones.tower import ImageFeatures, PatchTower
from models.components.reid_network import ReidNetwork
from models.heads.attribute_decoder import AttributeDecoder
from models.vladr.config import Config


class AttributeNetwork(ReidNetwork):
    """Image tower, necks, classifiers and attribute decoder; frozen as the old model.

    Args:
        image: the image tower.
        config: configuration of the learner.
        generator: CPU generator for the decoder's initial values.
    """

    def __init__(self, image: PatchTower, config: Config, generator: torch.Generator) -> None:
        super().__init__(image, config.neck_bias)
        size, num_heads = image.embed_dim, config.num_decoder_heads
        self.decoder = AttributeDecoder(
            config.num_attributes, size, size, num_heads, generator, config.decoder_initialisation
        )
        self.granularity = config.granularity
        embeds_attributes = config.embedding == "necks_attributes"
        self.attribute_share = config.attribute_share if embeds_attributes else 0.0

    def embed(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] as the L2-normalised test embedding [B, W + D] or [B, W + D + K * D].

        With attributes, the cosine of two embeddings is `join_attributes`' weighted mean.
        """
        features: ImageFeatures = self.image(images)
        necks = self.neck_embedding(features.named())
        if not self.attribute_share:
            return necks
        return join_attributes(necks, self.decoder(features.patches), self.attribute_share)

    def encode_parts(self, images: Tensor) -> Tensor:
        """Encode [B, 3, H, W] as the features of `parts`, which the memory stores."""
        features: ImageFeatures = self.image(images)
        attributes = None if self.granularity == "global" else self.decoder(features.patches)
        return self.parts(features.projected, attributes)

    def parts(self, projected: Tensor, attributes: Tensor | None) -> Tensor:
        """Select v [B, K, D], normalised f [B, 1, D], or both concatenated, by `granularity`."""
        global_feature = functional.normalize(projected, dim=1)[:, None]
        if self.granularity == "global":
            return global_feature
        assert attributes is not None
        if self.granularity == "attribute":
            return attributes
        return torch.cat([attributes, global_feature], dim=1)


def join_attributes(embedding: Tensor, attributes: Tensor, share: float) -> Tensor:
    """Concatenate an embedding with attributes that have a given share of the squared norm.

    The cosine of two results is (1 - share) * cos(e, e') + share * mean_k cos(v_k, v'_k).

    Args:
        embedding: e [B, E], L2-normalised.
        attributes: v_k [B, K, D], each L2-normalised.
        share: in [0, 1].

    Returns:
        [B, E + K * D], L2-normalised.
    """
    num_attributes = attributes.shape[1]
    scaled = math.sqrt(share / num_attributes) * attributes.flatten(1)
    return functional.normalize(torch.cat([math.sqrt(1 - share) * embedding, scaled], 1), dim=1)
