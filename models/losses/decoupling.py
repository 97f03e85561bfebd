"""Keeping identity and clothing apart: adversarial matching, HSIC or CKA, and the gate's balance.

All are of the global batch, and computed in single precision or better whatever autocast says.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.losses.similarity import at_least_float32, cosine_matrix, masked_mean

Kernel = Literal["linear", "rbf"]

_LEAST_BANDWIDTH = 1e-6
_LEAST_SPREAD = 1e-6


def adversarial_matching(
    clothing: Tensor, text: Tensor, positives: Tensor, temperature: float, floor: float = 0.0
) -> Tensor:
    """Mean over images of -log(1 - P), P the share of the image's own texts in the softmax.

    P = sum_{m in positives} softmax_m(cos(clothing, text_m) / tau): the loss is small where an
    image's own text cannot be told from the others. 1 - P is the share of the negatives, taken in
    logarithms, so that it never rounds to 0: without a floor the loss is at most
    2 / tau + log(B), and an image that is matched with certainty keeps its full gradient.

    Args:
        clothing: [B, D].
        text: [M, D], the clothing descriptions of the batch.
        positives: [B, M] bool: the identity matrix (the paper), or `contrastive.same_caption`,
            which takes equal descriptions for an image's own.
        temperature: tau > 0.
        floor: 1 - P below it counts as it, and sends no gradient (the paper's clamp); 0: none.

    Returns:
        Scalar >= 0. Images without a positive or without a negative are left out; 0 with a zero
        gradient if none remains (B = 1).

    Source: the decoupling paper, adversarial loss.
    """
    logits = cosine_matrix(clothing, text) / temperature
    counted = positives.any(1) & ~positives.all(1)
    # A left-out row takes all logits as negatives: finite, and its gradient is multiplied by 0.
    hidden = positives & counted[:, None]
    share = logits.masked_fill(hidden, -torch.inf).logsumexp(1) - logits.logsumexp(1)
    if floor > 0:
        share = share.clamp(min=torch.tensor(floor, dtype=share.dtype).log().item())
    return masked_mean(-share, counted)


def hsic(first: Tensor, second: Tensor, kernel: Kernel, bandwidth: float | None = None) -> Tensor:
    """Hilbert-Schmidt independence criterion of two features, tr(K H L H) / (B - 1)^2.

    K and L are the kernels of the L2-normalised rows: inner products ("linear") or
    exp(-|x - y|^2 / (2 s^2)) ("rbf"); H = I - 11^T / B. It measures dependence: "linear" is the
    squared Frobenius norm of the cross-covariance, "rbf" sees any kind.

    Args:
        first: [B, D].
        second: [B, E] of the same images.
        kernel: which kernel.
        bandwidth: "rbf": s > 0; None takes for s^2 the median of the squared distances between the
            rows of different images, of each feature by itself and without gradient.

    Returns:
        Scalar, >= 0 up to rounding; 0 if either feature is the same for all images, 0 with a zero
        gradient for B = 1.

    Source: Gretton et al. 2005 (the biased estimator); the decoupling paper's decoupling loss,
    which does not say whether its features are normalised.
    """
    # H is idempotent, so tr(K H L H) = <HKH, HLH>: sums of small numbers instead of large ones.
    centred_first, centred_second = (
        centred_kernel(rows, kernel, bandwidth) for rows in (first, second)
    )
    return (centred_first * centred_second).sum() / max(len(first) - 1, 1) ** 2


def cka(first: Tensor, second: Tensor, kernel: Kernel, bandwidth: float | None = None) -> Tensor:
    """`hsic` divided by the largest it could be, sqrt(HSIC(first, first) HSIC(second, second)).

    HSIC also falls where the rows of one feature merely draw together; this does not.

    Args:
        first: [B, D].
        second: [B, E] of the same images.
        kernel: which kernel.
        bandwidth: as for `hsic`.

    Returns:
        Scalar in [0, 1] up to rounding; 0 with a finite gradient if either feature is the same for
        all images.

    Source: Kornblith et al. 2019 (centred kernel alignment); ours as a loss here.
    """
    centred_first, centred_second = (
        centred_kernel(rows, kernel, bandwidth) for rows in (first, second)
    )
    squares = centred_first.square().sum() * centred_second.square().sum()
    return (centred_first * centred_second).sum() / squares.clamp(min=_LEAST_SPREAD**4).sqrt()


def centred_kernel(rows: Tensor, kernel: Kernel, bandwidth: float | None = None) -> Tensor:
    """H K H [B, B] of the L2-normalised rows [B, D]: one side of `hsic`, which names the rest."""
    matrix = _kernel_matrix(rows, kernel, bandwidth)
    means = matrix.mean(0)
    return matrix - means[:, None] - means[None, :] + means.mean()


def gate_balance(gate: Tensor) -> Tensor:
    """Mean of (g - 1/2)^2 over images and channels: keeps a gate in (0, 1) from closing.

    Args:
        gate: [B, D], B >= 1.

    Returns:
        Scalar in [0, 1/4].

    Source: the decoupling paper, gate regularisation.
    """
    return (at_least_float32(gate) - 0.5).square().mean()


def _kernel_matrix(rows: Tensor, kernel: Kernel, bandwidth: float | None) -> Tensor:
    """[B, D] -> [B, B]."""
    cosines = cosine_matrix(rows, rows)
    if kernel == "linear":
        return cosines
    squares = (2 - 2 * cosines).clamp(min=0)
    if bandwidth is None:
        variance = _median_between(squares.detach()).clamp(min=_LEAST_BANDWIDTH**2)
    else:
        variance = squares.new_tensor(bandwidth**2)
    return (-squares / (2 * variance)).exp()


def _median_between(squares: Tensor) -> Tensor:
    """Median of what is above the diagonal of [B, B]; 1 for B = 1."""
    size = len(squares)
    rows, columns = torch.triu_indices(size, size, offset=1, device=squares.device)
    return squares[rows, columns].median() if size > 1 else squares.new_ones(())
