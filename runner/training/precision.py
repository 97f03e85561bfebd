"""Numeric precision of forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from runner.config.sections import Precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Returns the autocast context of forward passes.

    Parameters, optimisers and rankings are always float32.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
