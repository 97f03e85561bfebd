"""Similarity of stored prototypes, and gate values of BDAM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.components.prototypes import PrototypeMemory
from models.learners.bdam import Method
from runner.analysis.disentanglement.features import extract_features
from runner.analysis.trained_run import TrainedRun
from runner.html_report.model_content import Histogram
from runner.html_report.scores import Cell, HeatMap
from runner.streaming.image_decoding import decode_many
from tasks.schema import Domain

NUM_BINS = 20
_IMAGES_PER_DOMAIN = 128


def prototype_similarity(run: TrainedRun, names: Sequence[str]) -> HeatMap | None:
    """Cosine similarity of the mean prototypes of two domains, averaged over the attributes.

    Args:
        run: trained run.
        names: seen domains in their order.

    Returns:
        Percentages, or None for a learner without prototypes of at least two domains.
    """
    state = run.learner.memory_state()
    if "memory.current" not in state:
        return None
    memory = PrototypeMemory(*state["memory.current"].shape)
    for path, tensor in state.items():
        name, _, attribute = path.partition(".")
        if name == "memory":
            setattr(memory, attribute, tensor.cpu())
    prototypes = memory.attribute_prototypes()
    if not 2 <= len(prototypes) <= len(names):
        return None
    return similarity_map(prototypes, names[: len(prototypes)])


def similarity_map(prototypes: Tensor, names: Sequence[str]) -> HeatMap:
    """Heat map of L2-normalised prototypes [T, K, D] of T named domains."""
    similarity = 100 * torch.einsum("akd,bkd->abk", prototypes, prototypes)
    rows = tuple(
        (
            name,
            tuple(
                _cell(f"{name} and {other}", similarity[row, column].tolist())
                for column, other in enumerate(names)
            ),
        )
        for row, name in enumerate(names)
    )
    return HeatMap("Similarity x 100", tuple(names), rows, len(names))


def _cell(pair: str, by_attribute: list[float]) -> Cell:
    mean = sum(by_attribute) / len(by_attribute)
    each = ", ".join(f"{value:.1f}" for value in by_attribute)
    return Cell(mean, f"{mean:.1f}", f"{pair}: {mean:.1f}; by attribute {each}", "learned")


def gate_histograms(run: TrainedRun, domains: Sequence[Domain]) -> list[Histogram]:
    """Distribution of the gate over test gallery images; [] without a gate."""
    if not isinstance(run.learner, Method) or run.learner.network.head.gate is None:
        return []
    backbone = run.config.backbone
    histograms: list[Histogram] = []
    for domain in domains:
        gallery = domain.test.gallery
        step = max(1, len(gallery) // _IMAGES_PER_DOMAIN)
        paths = [record.image_path for record in gallery[::step]]
        decoded = decode_many(paths, backbone.image_height, backbone.image_width)
        pixels = np.delete(decoded.pixels, sorted(decoded.errors), axis=0)
        if len(pixels):
            features = extract_features(run.learner.network, pixels, run.config, run.device)
            assert features.gate is not None
            histograms.append(histogram(domain.name, features.gate.numpy()))
    return histograms


def histogram(name: str, values: np.ndarray) -> Histogram:
    """Histogram of values in [0, 1], in percent of all values."""
    counts, _ = np.histogram(values, bins=NUM_BINS, range=(0.0, 1.0))
    shares = tuple(float(each) for each in 100 * counts / max(1, values.size))
    return Histogram(name, shares, float(values.mean()))
