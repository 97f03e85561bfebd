"""The simulated CUDA device refuses what a GPU refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.fake_cuda import DEVICE, fake_cuda


def test_tensors_of_two_devices_are_refused():
    with fake_cuda():
        cuda, cpu = torch.ones(3, device=DEVICE), torch.ones(3)
        for call in (
            lambda: cuda + cpu,
            lambda: torch.stack([cuda.sum(), cpu.sum()]),
            lambda: cpu[torch.arange(2, device=DEVICE)],
            lambda: cuda.index_put_((torch.tensor([0, 1]),), cpu[:2]),
            lambda: nn.functional.embedding(torch.tensor([0]), cuda[:, None]),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                call()
        with pytest.raises(TypeError, match="copy it to the CPU"):
            cuda.numpy()


def test_what_a_gpu_allows():
    with fake_cuda():
        cuda = torch.arange(3.0, device=DEVICE)
        assert (cuda * torch.tensor(2.0)).tolist() == [0, 2, 4]
        assert cuda[torch.tensor([2])].tolist() == [2]
        assert torch.zeros(3).copy_(cuda).tolist() == [0, 1, 2]
        assert torch.tensor([1, 2], device=DEVICE).is_cuda


def test_indices_and_values_that_are_no_tensors():
    with fake_cuda():
        cuda = torch.zeros(4, device=DEVICE)
        cuda[[0, 2]] += 1
        cuda[np.array([3])] = 2
        cuda[cuda == 0] = 5.0
        assert cuda.tolist() == [1, 5, 1, 2]
        assert cuda[[True, False, False, True]].tolist() == [1, 2]


def test_a_cpu_generator_is_refused():
    with fake_cuda(), pytest.raises(RuntimeError, match="expected a 'cuda' generator"):
        torch.randperm(3, generator=torch.Generator(), device=DEVICE)


def test_waits_are_recorded():
    with fake_cuda() as mode:
        cuda = torch.arange(3.0, device=DEVICE)
        _ = cuda * 2 + cuda.sum()
        assert mode.waits == []
        _ = cuda.max().item(), cuda[cuda > 1], cuda.cpu()
        assert len(mode.waits) == 3


def test_a_module_trains_with_the_gradients_of_the_cpu():
    torch.manual_seed(0)
    layers, inputs = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()), torch.randn(6, 4)
    layers(inputs).sum().backward()
    wanted = [parameter.grad for parameter in layers.parameters()]
    layers.zero_grad()
    with fake_cuda():
        moved = layers.to(DEVICE)
        moved(inputs.to(DEVICE)).sum().backward()
        found = [parameter.grad.cpu() for parameter in moved.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
