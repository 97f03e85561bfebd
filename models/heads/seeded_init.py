"""Reproducible initialisation of modules of any library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


@contextmanager
def seeded_init(generator: Generator) -> Iterator[None]:
    """Context manager in which new modules take their initial values from `generator`.

    Layers of torch and other libraries use the default CPU generator. Inside the context it is
    seeded from `generator`; afterwards its state is restored. `generator` advances by one number.

    Args:
        generator: CPU generator.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of accelerators.
        torch.default_generator.manual_seed(seed)
        yield
