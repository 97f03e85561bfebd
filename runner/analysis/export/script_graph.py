"""TorchScript files: writing and execution."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from runner.analysis.export.graphs import Graph
from runner.analysis.export.tracing import plain_attention


def write_script(graph: Graph, file: Path) -> None:
    """Writes a graph as TorchScript by tracing.

    Freezing keeps only the weights that the embedding reads.
    """
    with torch.no_grad(), warnings.catch_warnings(), plain_attention():
        warnings.simplefilter("ignore")  # deprecation, and constants that checks of shapes leave
        traced = torch.jit.trace(graph.module, graph.example, check_trace=False)
        torch.jit.freeze(traced).save(str(file))


class ScriptGraph:
    """A graph run by TorchScript on the CPU."""

    def __init__(self, file: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._module = torch.jit.load(str(file), map_location="cpu")

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Computes the embedding of named inputs, in the order of the graph."""
        with torch.no_grad():
            return self._module(*(value.cpu() for value in inputs.values()))
