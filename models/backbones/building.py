"""Any backbone by its name."""

from __future__ import annotations

from models.backbones import clip, vit_bert
from models.backbones.config import BackboneConfig
from models.backbones.tower import Backbone
from models.learner import Collective


def build_backbone(
    config: BackboneConfig, seed: int, collective: Collective | None = None
) -> Backbone:
    """The backbone that `config` describes.

    Args:
        config: architecture, weights and size of images.
        seed: decides the random weights, if any.
        collective: the workers that share a batch, if there are several. A ResNet normalises by
            the statistics of the whole of it; a ViT has none.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: the weights do not fit, are not there, or
            could not be downloaded; says which and what to do.
    """
    if config.is_resnet:
        # Imported where it is used: torchvision takes a second to import, and most runs need none.
        from models.backbones import resnet

        return resnet.build(config, seed, collective)
    if config.is_vit_bert:
        return vit_bert.build(config, seed)
    return clip.build(config, seed)
