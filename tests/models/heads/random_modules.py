"""Random tensors and modules for the tests of heads."""

import torch


def draw(*shape, seed=1):
    """Sample standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(module):
    """Move every parameter away from the ones and zeros it begins with."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module
