"""Construction of backbones from their configuration."""

from __future__ import annotations

from models.backbones import clip, vit_bert
from models.backbones.config import BackboneConfig
from models.backbones.tower import Backbone
from models.learner import Collective


def build_backbone(
    config: BackboneConfig, seed: int, collective: Collective | None = None
) -> Backbone:
    """Build the backbone described by `config`.

    Args:
        config: architecture, weights and image size.
        seed: seed of random weights.
        collective: workers that share a batch, or None for a single process. A ResNet computes
            batch statistics over all workers; a ViT has none.

    Returns:
        The backbone, with the requested weights, on the CPU.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the weights could not be downloaded.
    """
    if config.is_resnet:
        # Imported here because torchvision takes a second to import and most runs do not need it.
        from models.backbones import resnet

        return resnet.build(config, seed, collective)
    if config.is_vit_bert:
        return vit_bert.build(config, seed)
    return clip.build(config, seed)
