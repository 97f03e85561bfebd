"""Matrix products of rankings in full precision, whatever the caller uses for its network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Disable autocast and, on a GPU, TF32 for matrix products.

    Both round the factors (to 8 or 11 significant bits), which creates ties and changes ranks.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if device.type == "cuda":
        matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
