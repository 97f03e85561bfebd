"""Comparison of an exported model with the learner that it was exported from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from models.learner import Learner
from runner.analysis.export.graphs import SAMPLE_TEXTS
from runner.analysis.trained_run import TrainedRun
from tasks.loading.transforms import TransformConfig, normalise

MIN_COSINE = 0.9999
BATCH_SIZES = (1, 5)
"""Numbers of compared images and texts; neither is that of the traced example."""


@dataclass(frozen=True)
class Parity:
    """Agreement of exported and original embeddings.

    Attributes:
        min_cosine: lowest cosine of two embeddings of the same input.
        max_difference: largest absolute difference of two values.
        num_inputs: number of compared images and texts.
    """

    min_cosine: float
    max_difference: float
    num_inputs: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


def parity(run: TrainedRun, exported: TrainedRun) -> Parity:
    """Compares the embeddings of random images and of sample texts.

    The longest text has more tokens than the text tower reads, so that truncation is included.
    """
    differences: list[Tensor] = []
    cosines: list[Tensor] = []
    for size in BATCH_SIZES:
        expected, actual = (
            _embeddings(each.learner, run.config.data.transform, _pixels(run, size))
            for each in (run, exported)
        )
        cosines.append(torch.nn.functional.cosine_similarity(expected, actual, dim=1))
        differences.append((expected - actual).abs().max())
    if run.learner.embeds_texts:
        texts = [*SAMPLE_TEXTS, " ".join(SAMPLE_TEXTS * 20)]
        for batch in (texts[1:2], texts):
            with torch.no_grad():
                expected, actual = (
                    each.learner.embed_texts(batch).float().cpu() for each in (run, exported)
                )
            cosines.append(torch.nn.functional.cosine_similarity(expected, actual, dim=1))
            differences.append((expected - actual).abs().max())
    cosine = torch.cat(cosines)
    return Parity(float(cosine.min()), float(torch.stack(differences).max()), len(cosine))


def check_parity(measured: Parity, name: str) -> None:
    """Checks that an export without quantisation computes the same as the learner.

    Raises:
        RuntimeError: a cosine is below `MIN_COSINE`.
    """
    if not measured.min_cosine >= MIN_COSINE:
        raise RuntimeError(
            f"{name}: expected embeddings of the exported model with a cosine of at least "
            f"{MIN_COSINE} to those of the learner, got {measured.min_cosine:.6f}; nothing was "
            "written. Export to safetensors instead, and report the versions of torch and onnx"
        )


def _pixels(run: TrainedRun, size: int) -> Tensor:
    backbone = run.config.backbone
    generator = torch.Generator().manual_seed(size)
    shape = (size, backbone.image_height, backbone.image_width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _embeddings(learner: Learner, transform: TransformConfig, pixels: Tensor) -> Tensor:
    images = normalise(pixels.numpy(), transform)
    texts = [SAMPLE_TEXTS[index % len(SAMPLE_TEXTS)] for index in range(len(pixels))]
    with torch.no_grad():
        return learner.embed_gallery(images, texts).float().cpu()
