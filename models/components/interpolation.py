"""Interpolation of the weights before and after a domain."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.losses.similarity import cosine_matrix


def interpolate(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Compute alpha * new + (1 - alpha) * old for every floating-point tensor in both.

    If the first dimension has grown (rows of a classifier), only the common leading rows are
    interpolated; the new rows keep their values. Tensors that only `new` has, and all
    non-floating-point tensors, are taken from `new`. Tensors that only `old` has are dropped.

    Args:
        new: tensors by path, after the domain; not modified.
        old: tensors by path, before the domain.
        alpha: weight of `new` in [0, 1].

    Returns:
        Tensors with the paths, shapes and dtypes of `new`.

    Raises:
        ValueError: alpha is out of range, or shapes differ in more than the number of rows.

    Source: LSTKC, DASK (alpha 0.5), the VLADR authors' script (0.6).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a value in [0, 1], got {alpha}")
    return {
        path: _interpolate_tensor(path, tensor, old[path], alpha)
        if path in old and tensor.is_floating_point()
        else tensor
        for path, tensor in new.items()
    }


def _interpolate_tensor(path: str, new: Tensor, old: Tensor, alpha: float) -> Tensor:
    old = old.to(new)
    if new.shape == old.shape:
        return alpha * new + (1 - alpha) * old
    grown = new.ndim == old.ndim > 0 and new.shape[1:] == old.shape[1:] and len(new) > len(old)
    if not grown:
        raise ValueError(
            f"{path}: expected the shape before the domain, {list(old.shape)}, plus optional new "
            f"rows, got {list(new.shape)}; interpolation supports no other change"
        )
    return torch.cat([alpha * new[: len(old)] + (1 - alpha) * old, new[len(old) :]])


@torch.no_grad()
def adaptive_alpha(
    new_features: Tensor,
    old_features: Tensor,
    keep_diagonal: bool,
    scale: float = 100.0,
    rows_per_chunk: int = 256,
) -> float:
    """Compute the weight of the new model from the drift of the domain's affinities.

    alpha = 1 - mean over rows of sum |A_new - A_old|, clamped to [0, 1], where A is the row softmax
    of scale * cos over the domain's training images. Identical models give 1.

    Args:
        new_features: [N, D] from the new model, N >= 1.
        old_features: [N, D] from the old model, same images and order (D may differ).
        keep_diagonal: whether a row includes the image's similarity with itself (LSTKC: yes,
            DASK: no; then N >= 2).
        scale: factor of the cosines.
        rows_per_chunk: rows of the N x N matrices computed at a time.

    Returns:
        alpha in [0, 1].

    Raises:
        ValueError: too few images, or different numbers of images.

    Source: LSTKC.
    """
    num_images = len(new_features)
    num_needed = 1 if keep_diagonal else 2
    if num_images != len(old_features) or num_images < num_needed:
        raise ValueError(
            f"affinities: expected features of the same images from both models, at least "
            f"{num_needed}; got {num_images} new and {len(old_features)} old features"
        )
    drift = torch.zeros((), dtype=torch.float64, device=new_features.device)
    for rows in torch.arange(num_images, device=new_features.device).split(rows_per_chunk):
        difference = _affinity_rows(new_features, rows, keep_diagonal, scale)
        difference -= _affinity_rows(old_features, rows, keep_diagonal, scale)
        drift += difference.abs_().sum(dtype=torch.float64)
    return min(max(1.0 - drift.item() / num_images, 0.0), 1.0)


def _affinity_rows(features: Tensor, rows: Tensor, keep_diagonal: bool, scale: float) -> Tensor:
    """Compute the given R rows of softmax(scale * cos) over `features` [N, D] -> [R, N]."""
    logits = scale * cosine_matrix(features[rows], features)
    if not keep_diagonal:
        logits.scatter_(1, rows[:, None], -torch.inf)
    return logits.softmax(dim=1)
