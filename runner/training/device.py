"""The device of a process."""

from __future__ import annotations

import torch


def compute_device(use_gpu: bool, setting: str = "cluster.use_gpu=true") -> torch.device:
    """Returns the first CUDA device, or the CPU.

    Args:
        use_gpu: compute on a GPU.
        setting: what asks for the GPU, for the message.

    Raises:
        ValueError: a GPU is required and there is none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"{setting}: expected a CUDA device, got none; check `nvidia-smi` and that torch is a "
            "CUDA build, or compute on the CPU"
        )
    return torch.device("cuda", 0)


def device_name(device: torch.device) -> str:
    """Returns "cpu", or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
