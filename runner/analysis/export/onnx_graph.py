"""ONNX files: writing, int8 quantisation, and execution by onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.analysis.export.graphs import EMBEDDING, Graph
from runner.analysis.export.tracing import errors_only, plain_attention

ModuleFinder = Callable[[str], Any]
"""`importlib.util.find_spec` or a replacement for tests."""

WRITING = ("onnx", "onnxscript", "onnxruntime")
READING = ("onnxruntime",)

_MAX_SINGLE_FILE_BYTES = 1_500_000_000
"""Larger weights are written beside the graph, because protobuf limits a message to 2 GB."""


def check_packages(names: Sequence[str], find: ModuleFinder = find_spec) -> None:
    """Checks that the optional packages are installed.

    Raises:
        ValueError: one is missing; the message has the command that installs it.
    """
    if missing := [name for name in names if find(name) is None]:
        raise ValueError(
            f"expected the package {missing[0]}, which ONNX needs, got none; install the extra "
            "`export`: pip install 'lifelong-reid[export]', or in a clone: pip install -e "
            "'.[export]'"
        )


def write_onnx(graph: Graph, file: Path) -> None:
    """Writes a graph as ONNX with a dynamic batch size.

    Uses torch.export rather than the older exporter, which traces: it handles every backbone, and
    keeps only the weights that the embedding reads.
    """
    shapes = tuple(
        {axis: _dimension(size) for axis, size in enumerate(each.shape) if isinstance(size, str)}
        for each in graph.inputs
    )
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        errors_only("torch.onnx"),
        errors_only("onnxscript"),
        plain_attention(),
    ):
        warnings.simplefilter("ignore")
        program = torch.export.export(graph.module, graph.example, dynamic_shapes=shapes)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[each.name for each in graph.inputs],
            output_names=[EMBEDDING],
            verbose=False,
        )
        assert converted is not None
        num_bytes = sum(
            parameter.numel() * parameter.element_size() for parameter in graph.module.parameters()
        )
        converted.save(str(file), external_data=num_bytes > _MAX_SINGLE_FILE_BYTES)


def _dimension(size: str) -> Any:
    # AUTO: a Dim with a maximum fails, because slicing the positions to their full length is a
    # special case for torch.export (but not for ONNX).
    return torch.export.Dim.AUTO if size == "length" else torch.export.Dim(size)


def quantise(source: Path, target: Path) -> None:
    """Quantises the weights of an ONNX file to int8; activations are quantised while it runs.

    In transformers, the matrix products are quantised and the patch embedding stays float32. In
    ResNets, which have no matrix products, the convolutions are quantised.

    Raises:
        ValueError: there is nothing to quantise.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    present = {node.op_type for node in nodes}
    operations = [name for name in ("MatMul", "Gemm") if name in present]
    if not operations and "Conv" not in present:
        raise ValueError(f"--int8: expected matrix products or convolutions, got none in {source}")
    # onnxruntime has no CPU kernel for convolutions with signed weights.
    kind = QuantType.QInt8 if operations else QuantType.QUInt8
    with errors_only("root"):
        quantize_dynamic(
            source, target, op_types_to_quantize=operations or ["Conv"], weight_type=kind
        )


class OnnxGraph:
    """A graph run by onnxruntime on the CPU.

    Raises:
        ValueError: onnxruntime is not installed.
    """

    def __init__(self, file: Path) -> None:
        check_packages(READING)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Computes the embedding of named inputs."""
        arrays = {name: value.cpu().numpy() for name, value in inputs.items()}
        (rows,) = self._session.run([EMBEDDING], arrays)
        return torch.from_numpy(rows)
