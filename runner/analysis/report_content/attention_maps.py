"""Attention maps of the attribute decoder of VLADR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.backbones.tower import PatchTower
from models.learners.vladr import Method
from runner.analysis.attribute_retrieval import attribute_names
from runner.analysis.report_content.thumbnails import pixels_uri
from runner.analysis.trained_run import TrainedRun
from runner.html_report.model_content import AttentionRow
from runner.streaming.image_decoding import decode_many
from runner.training.evaluation import evaluating
from runner.training.precision import autocast
from tasks.loading.transforms import normalise
from tasks.schema import Domain, Record

IMAGES_PER_DOMAIN = 2
_COLOUR = np.array([255.0, 150.0, 20.0])
_MAX_OPACITY = 0.85
_BRIGHTNESS = 0.6  # of the grey image below the map


def attention_rows(run: TrainedRun, domains: Sequence[Domain]) -> list[AttentionRow]:
    """Maps of the K attribute queries for test images of every domain; [] for other learners.

    Attention is averaged over the heads.
    """
    learner = run.learner
    if not isinstance(learner, Method) or not learner.config.reads_attributes:
        return []
    chosen = [
        (domain.name, record) for domain in domains for record in _evenly(domain.test.gallery)
    ]
    backbone = run.config.backbone
    decoded = decode_many(
        [record.image_path for _, record in chosen], backbone.image_height, backbone.image_width
    )
    kept = [index for index in range(len(chosen)) if index not in decoded.errors]
    if not kept:
        return []
    pixels = decoded.pixels[kept]
    maps = _attention(run, learner, pixels).numpy()
    names = attribute_names(learner)
    return [
        AttentionRow(
            chosen[index][0],
            pixels_uri(image),
            tuple(
                (name, pixels_uri(blended(image, each)))
                for name, each in zip(names, rows, strict=True)
            ),
        )
        for index, image, rows in zip(kept, pixels, maps, strict=True)
    ]


def blended(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Draws a map over a grey image.

    Args:
        pixels: [H, W, 3] uint8.
        weights: [h, w] non-negative attention weights; scaled to their maximum.

    Returns:
        [H, W, 3] uint8.
    """
    height, width = pixels.shape[:2]
    scaled = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32))
    share = np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR))
    opacity = _MAX_OPACITY * share.clip(0, 1)[..., None]
    grey = _BRIGHTNESS * pixels.mean(axis=2, keepdims=True)
    return ((1 - opacity) * grey + opacity * _COLOUR).round().clip(0, 255).astype(np.uint8)


def _attention(run: TrainedRun, learner: Method, pixels: np.ndarray) -> Tensor:
    """[N, K, h, w] mean attention over the heads."""
    network = learner.network
    tower = network.image
    assert isinstance(tower, PatchTower)
    precision = autocast(run.config.precision, run.device)
    with torch.no_grad(), evaluating(network), precision:
        images = normalise(pixels, run.config.data.transform, run.device)
        weights = network.decoder.attention(tower(images).patches).float().mean(dim=1)
    return weights.cpu().unflatten(-1, tower.grid_size)


def _evenly(records: Sequence[Record]) -> list[Record]:
    """Records evenly spaced over a list."""
    count = min(IMAGES_PER_DOMAIN, len(records))
    return [records[(2 * index + 1) * len(records) // (2 * count)] for index in range(count)]
