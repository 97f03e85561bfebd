"""Statistics of both gates of BDAM, and the values printed by the paper."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

PUBLISHED: Mapping[str, Any] = {
    "source": "Robust Person Re-Identification via MLLM-Supervised Feature Decoupling, figure 3",
    "gate": {"mean": 0.62, "clothing_mean": 0.38, "standard_deviation": 0.18},
    "fusion_gate": {"image_mean": 0.53, "text_mean": 0.47, "standard_deviation": 0.12},
}
"""Means and standard deviations of figure 3. The clothing mean and the deviation of the fusion gate
are printed as approximate."""

MEANS = MappingProxyType(
    {
        ("gate", "mean"): "identity, g",
        ("gate", "clothing_mean"): "clothing, 1 - g",
        ("fusion_gate", "image_mean"): "fusion, image",
        ("fusion_gate", "text_mean"): "fusion, text",
    }
)
"""Names of the four means, by section and key in disentangle.json."""


def gate_statistics(gate: Tensor) -> dict[str, float]:
    """Mean and spread of the decoupling gate over all images and channels.

    Args:
        gate: [N, D] shares g of the identity feature; 1 - g is the share of the clothing feature,
            with the same standard deviation.
    """
    mean = float(gate.mean())
    return {
        "mean": mean,
        "clothing_mean": 1 - mean,
        "standard_deviation": float(gate.std()),
        "below_0.1": float((gate < 0.1).float().mean()),
        "above_0.9": float((gate > 0.9).float().mean()),
    }


def fusion_gate_statistics(gate: Tensor) -> dict[str, float]:
    """Mean and spread of the fusion gate over all images that have a description.

    Args:
        gate: [N, 2] weights of image and description, summing to 1, so that both have the same
            standard deviation.
    """
    image, text = (float(each) for each in gate.mean(0))
    deviation = float(gate[:, 0].std(correction=int(len(gate) > 1)))
    return {
        "image_mean": image,
        "text_mean": text,
        "standard_deviation": deviation,
    }
