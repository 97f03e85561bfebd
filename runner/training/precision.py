"""Numeric precision and reproducibility of a run's computations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from runner.config.sections import ClusterConfig, Precision


@contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context of forward passes: autocast, and the precision of float32 products.

    Parameters, optimisers and rankings are always float32.
    """
    enabled = precision == "bfloat16"
    with (
        float32_products(precision, device),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled),
    ):
        yield


@contextmanager
def float32_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context in which float32 matrix products and convolutions on a GPU use TF32, or do not.

    Training needs it around backward passes as well. TF32 is off unless `precision` is "tf32";
    torch enables it for convolutions by default. Restores the previous settings; does nothing on a
    CPU.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # torch's stubs lack `conv`
    backends = torch.backends.cuda.matmul, cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@contextmanager
def cuda_algorithms(cluster: ClusterConfig, device: torch.device) -> Iterator[None]:
    """Context with the run's choice of GPU algorithms: `deterministic` and `cudnn_benchmark`.

    Restores the previous settings; does nothing on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark
    if cluster.deterministic:
        # cuBLAS reads it once; without it, deterministic algorithms raise an error.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(cluster.deterministic)
        cudnn.benchmark = cluster.cudnn_benchmark
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark = before[1]
