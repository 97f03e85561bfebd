"""Initial values that depend on one generator alone, whatever library draws them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


@contextmanager
def drawn_from(generator: Generator) -> Iterator[None]:
    """Modules built inside take their initial values from `generator` (a CPU generator).

    torch's own layers and other libraries' draw from the process's CPU generator. It is seeded from
    `generator` here and is afterwards where it was; `generator` moves on by one number.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators' generators too.
        torch.default_generator.manual_seed(seed)
        yield
