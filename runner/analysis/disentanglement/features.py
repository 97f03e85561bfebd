"""The features of a BDAM network that are compared, for images in memory."""

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
"""Features that are probed; the last one, the mean of the image tower's patches, is entangled."""
RANKED = (IDENTITY, CLOTHING, BOTH, "f_id", "f_clo", PATCHES, "v")
"""Features that images are searched by."""


@dataclass(frozen=True, eq=False)
class Read:
    """Features of N images, float32 on the CPU, not normalised.

    Attributes:
        rows: [N, D] by name; "v" only where something trains it.
        gate: g [N, D] in (0, 1), or None without a gate.
    """

    rows: dict[str, Tensor]
    gate: Tensor | None


def network_of(run: TrainedRun) -> DecouplingNetwork:
    """The network of a run of BDAM, which a caller has made sure it is."""
    assert isinstance(run.learner, Method)
    return run.learner.network


def read_features(
    network: DecouplingNetwork, pixels: np.ndarray, config: RunConfig, device: torch.device
) -> Read:
    """Features of images [N, H, W, 3] uint8, in the run's precision and batches."""
    size = config.data.evaluation_batch_size
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad(), evaluating(network), autocast(config.precision, device):
        for start in range(0, len(pixels), size):
            batch = np.ascontiguousarray(pixels[start : start + size])
            images = normalise(batch, config.data.transform).to(device)
            parts.append(
                {name: rows.float().cpu() for name, rows in _read(network, images).items()}
            )
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Read(rows, rows.pop("gate", None))


def _read(network: DecouplingNetwork, images: Tensor) -> dict[str, Tensor]:
    patches = network.image(images).patches
    found = network.head(patches)
    rows = {
        IDENTITY: found.gated_identity,
        CLOTHING: found.gated_clothing,
        BOTH: network.parts(found).flatten(1),
        "f_id": found.identity,
        "f_clo": found.clothing,
        PATCHES: patches.mean(1),
    }
    if network.to_text is not None:
        rows["v"] = network.to_text(found.gated_identity)
    if found.gate is not None:
        rows["gate"] = found.gate
    return rows


def unit(rows: Tensor) -> Tensor:
    """L2-normalised rows."""
    return functional.normalize(rows, dim=1)
