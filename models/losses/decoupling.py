"""Decoupling losses between identity and clothing: adversarial matching, HSIC, CKA, gate balance.

All are computed on the global batch, in float32 or better even under autocast.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.losses.similarity import at_least_float32, cosine_matrix, dot_matrix, masked_mean

Kernel = Literal["linear", "rbf"]

_MIN_BANDWIDTH = 1e-6
_MIN_NORM = 1e-6


def adversarial_matching(
    clothing: Tensor, text: Tensor, positives: Tensor, temperature: float, floor: float = 0.0
) -> Tensor:
    """Compute the mean over images of -log(1 - P), P the softmax probability of the image's texts.

    P = sum_{m in positives} softmax_m(cos(clothing, text_m) / tau). The loss is small if the own
    text cannot be distinguished from others. log(1 - P) is computed as the log-probability of the
    negatives, so that it never underflows: without a floor, the loss is at most 2 / tau + log(B),
    and an image matched with P close to 1 keeps its full gradient.

    Args:
        clothing: [B, D].
        text: [M, D], the clothing descriptions of the batch.
        positives: [B, M] bool. The identity matrix (the paper), or `contrastive.same_caption`,
            which also counts equal descriptions.
        temperature: tau > 0.
        floor: lower bound of 1 - P, without gradient below it (the paper's clamp); 0: none.

    Returns:
        Scalar >= 0. Images without positives or without negatives are excluded; 0 with a zero
        gradient if none remains (B = 1).

    Source: the decoupling paper, adversarial loss.
    """
    logits = cosine_matrix(clothing, text) / temperature
    valid = positives.any(1) & ~positives.all(1)
    # In an excluded row all logits are negatives: finite, and its gradient is multiplied by 0.
    masked = positives & valid[:, None]
    share = logits.masked_fill(masked, -torch.inf).logsumexp(1) - logits.logsumexp(1)
    if floor > 0:
        share = share.clamp(min=share.new_full((), floor).log())
    return masked_mean(-share, valid)


def hsic(
    first: Tensor,
    second: Tensor,
    kernel: Kernel,
    bandwidth: float | None = None,
    normalise: bool = True,
) -> Tensor:
    """Compute the Hilbert-Schmidt independence criterion, tr(K H L H) / (B - 1)^2.

    K and L are kernel matrices of the rows: inner products ("linear") or exp(-|x - y|^2 / (2 s^2))
    ("rbf"); H = I - 11^T / B. HSIC measures dependence: "linear" is the squared Frobenius norm of
    the cross-covariance, "rbf" detects any kind of dependence. For raw rows, "linear" is
    proportional to the square of each feature's scale.

    Args:
        first: [B, D].
        second: [B, E] of the same images.
        kernel: kernel of the rows.
        bandwidth: "rbf": s > 0; None uses the median of the squared distances between the rows of
            different images as s^2, separately for each feature and without gradient.
        normalise: L2-normalise the rows first; False: raw rows.

    Returns:
        Scalar, >= 0 up to rounding; 0 if either feature is constant over the images, 0 with a zero
        gradient for B = 1.

    Source: Gretton et al. 2005 (biased estimator); decoupling loss of the decoupling paper, which
    does not specify whether features are normalised.
    """
    # H is idempotent, so tr(K H L H) = <HKH, HLH>, which is numerically more accurate.
    centred_first, centred_second = (
        centred_kernel(rows, kernel, bandwidth, normalise) for rows in (first, second)
    )
    return (centred_first * centred_second).sum() / max(len(first) - 1, 1) ** 2


def cka(
    first: Tensor,
    second: Tensor,
    kernel: Kernel,
    bandwidth: float | None = None,
    normalise: bool = True,
) -> Tensor:
    """Compute centred kernel alignment, HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b)).

    Unlike HSIC, it does not decrease when the rows of one feature merely move closer together, and
    the scale of raw rows does not change it.

    Args:
        first: [B, D].
        second: [B, E] of the same images.
        kernel: kernel of the rows.
        bandwidth: as for `hsic`.
        normalise: as for `hsic`.

    Returns:
        Scalar in [0, 1] up to rounding; 0 with a finite gradient if either feature is constant over
        the images.

    Source: Kornblith et al. 2019 (centred kernel alignment); its use as a loss is ours.
    """
    centred_first, centred_second = (
        centred_kernel(rows, kernel, bandwidth, normalise) for rows in (first, second)
    )
    squares = centred_first.square().sum() * centred_second.square().sum()
    return (centred_first * centred_second).sum() / squares.clamp(min=_MIN_NORM**4).sqrt()


def centred_kernel(
    rows: Tensor, kernel: Kernel, bandwidth: float | None = None, normalise: bool = True
) -> Tensor:
    """Compute H K H [B, B] of the rows [B, D]; arguments as for `hsic`."""
    matrix = _kernel_matrix(rows, kernel, bandwidth, normalise)
    means = matrix.mean(0)
    return matrix - means[:, None] - means[None, :] + means.mean()


def gate_balance(gate: Tensor) -> Tensor:
    """Compute the mean of (g - 1/2)^2 over images and channels, which keeps a gate open.

    Args:
        gate: [B, D] in (0, 1), B >= 1.

    Returns:
        Scalar in [0, 1/4].

    Source: the decoupling paper, gate regularisation.
    """
    return (at_least_float32(gate) - 0.5).square().mean()


def _kernel_matrix(
    rows: Tensor, kernel: Kernel, bandwidth: float | None, normalise: bool
) -> Tensor:
    """Compute the kernel matrix [B, B] of rows [B, D], for raw rows up to a translation of them."""
    if normalise:
        products = cosine_matrix(rows, rows)
    else:
        # A common translation does not change HKH; without it, large means would cost precision.
        rows = at_least_float32(rows)
        rows = rows - rows.mean(0)
        products = dot_matrix(rows, rows)
    if kernel == "linear":
        return products
    norms = 2 if normalise else products.diagonal()[:, None] + products.diagonal()
    squares = (norms - 2 * products).clamp(min=0)
    if bandwidth is None:
        variance = _median_off_diagonal(squares.detach()).clamp(min=_MIN_BANDWIDTH**2)
    else:
        variance = squares.new_tensor(bandwidth**2)
    return (-squares / (2 * variance)).exp()


def _median_off_diagonal(squares: Tensor) -> Tensor:
    """Compute the median of the upper triangle of [B, B] without diagonal; 1 for B = 1."""
    size = len(squares)
    rows, columns = torch.triu_indices(size, size, offset=1, device=squares.device)
    return squares[rows, columns].median() if size > 1 else squares.new_ones(())
