"""Extracts the features of a BDAM network that are compared, for images in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.bdam.network import DecouplingNetwork
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
    """

    rows: dict[str, Tensor]
    gate: Tensor | None


def network_of(run: TrainedRun) -> DecouplingNetwork:
    """Network of a BDAM run; the caller checks the learner."""
    assert isinstance(run.learner, Method)
    return run.learner.network


def extract_features(
    network: DecouplingNetwork, pixels: np.ndarray, config: RunConfig, device: torch.device
) -> ImageFeatures:
    """Extracts features of images [N, H, W, 3] uint8 with the run's precision and batch size."""
    size = config.data.evaluation_batch_size
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad(), evaluating(network), autocast(config.precision, device):
        for start in range(0, len(pixels), size):
            batch = np.ascontiguousarray(pixels[start : start + size])
            images = normalise(batch, config.data.transform).to(device)
            parts.append(
                {name: rows.float().cpu() for name, rows in _extract(network, images).items()}
            )
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return ImageFeatures(rows, rows.pop("gate", None))


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
