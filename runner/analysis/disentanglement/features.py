"""Extracts the features of a BDAM network that are compared, for images in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bdam.network import DecouplingNetwork
from models.heads.fusion import Fused, Fusion
from models.learners.bdam import Method
from runner.analysis.trained_run import TrainedRun
from runner.config.run_config import RunConfig
from runner.training.evaluation import evaluating
from runner.training.precision import autocast
from tasks.loading.transforms import normalise

IDENTITY, CLOTHING, BOTH = "f_id_gate", "f_clo_gate", "both gated"
PATCHES = "patches"
PROBED = (IDENTITY, CLOTHING, "f_id", "f_clo", PATCHES)
"""Probed features; the last one, the mean over image patches, is not disentangled."""
RANKED = (IDENTITY, CLOTHING, BOTH, "f_id", "f_clo", PATCHES, "v")
"""Features used for retrieval."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of N images, float32 on the CPU, not normalised.

    Attributes:
        rows: [N, D] by feature name; "v" only if a loss trains it.
        gate: gate values g [N, D] in (0, 1), or None without a gate.
        fusion_gate: [M, 2] weights of image and description of the M <= N images that have one, or
            None if the gallery is embedded without a learned fusion gate.
    """

    rows: dict[str, Tensor]
    gate: Tensor | None
    fusion_gate: Tensor | None = None


def learner_of(run: TrainedRun) -> Method:
    """Learner of a BDAM run; the caller checks its name."""
    assert isinstance(run.learner, Method)
    return run.learner


def extract_features(
    network: DecouplingNetwork, pixels: np.ndarray, config: RunConfig, device: torch.device
) -> ImageFeatures:
    """Extracts features of images [N, H, W, 3] uint8 with the run's precision and batch size."""
    size = config.data.evaluation_batch_size
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad(), evaluating(network), autocast(config.precision, device):
        for start in range(0, len(pixels), size):
            batch = pixels[start : start + size]
            images = normalise(batch, config.data.transform, device)
            parts.append(
                {name: rows.float().cpu() for name, rows in _extract(network, images).items()}
            )
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return ImageFeatures(rows, rows.pop("gate", None))


def extract_fusion_gate(
    learner: Method,
    pixels: np.ndarray,
    descriptions: Sequence[str],
    config: RunConfig,
    device: torch.device,
) -> Tensor | None:
    """Weights of image and description [M, 2] when gallery images are embedded.

    Args:
        learner: learner of the run, or an untrained one.
        pixels: [N, H, W, 3] uint8 images.
        descriptions: N identity descriptions; images with "" are left out.
        config: configuration of the run.
        device: device of the learner.

    Returns:
        None without a learned gate, or if no image is embedded with a description.
    """
    fusion = learner.network.fusion
    described = np.flatnonzero([bool(text) for text in descriptions])
    if fusion is None or fusion.gate is None or not learner.config.gallery_descriptions:
        return None
    if not len(described):
        return None
    size = config.data.evaluation_batch_size
    with (
        torch.no_grad(), evaluating(learner), autocast(config.precision, device),
        _recorded_gates(fusion) as gates,
    ):  # fmt: skip
        for start in range(0, len(described), size):
            chosen = described[start : start + size]
            images = normalise(pixels[chosen], config.data.transform, device)
            learner.embed_gallery(images, [descriptions[int(index)] for index in chosen])
    return torch.cat(gates)


@contextmanager
def _recorded_gates(fusion: Fusion) -> Iterator[list[Tensor]]:
    """Records the gate of every call of a fusion module."""
    gates: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Fused) -> None:
        assert output.gate is not None
        gates.append(output.gate.float().cpu())

    handle = fusion.register_forward_hook(record)
    try:
        yield gates
    finally:
        handle.remove()


def _extract(network: DecouplingNetwork, images: Tensor) -> dict[str, Tensor]:
    patches = network.image(images).patches
    output = network.head(patches)
    rows = {
        IDENTITY: output.gated_identity,
        CLOTHING: output.gated_clothing,
        BOTH: network.parts(output).flatten(1),
        "f_id": output.identity,
        "f_clo": output.clothing,
        PATCHES: patches.mean(1),
    }
    if network.to_text is not None:
        rows["v"] = network.to_text(output.gated_identity)
    if output.gate is not None:
        rows["gate"] = output.gate
    return rows


def unit(rows: Tensor) -> Tensor:
    """L2-normalised rows."""
    return functional.normalize(rows, dim=1)
