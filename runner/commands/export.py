"""Export the model of a finished run as ONNX, TorchScript or safetensors.

The folder contains the graphs or weights, configuration, preprocessing,
protocol, scores and a model card. `search`, `index` and `evaluate` accept an
exported folder (onnx, safetensors) in place of a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands._arguments import (
    add_output_arguments,
    add_overrides,
    add_run,
    add_weights_arguments,
)
from runner.commands._output import Output

HELP = "export the model of a finished run for use elsewhere"
EXAMPLE = "RUN --format onnx --output models/reid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export`."""
    add_run(parser)
    add_weights_arguments(parser)
    parser.add_argument(
        "--format", choices=("onnx", "torchscript", "safetensors"), required=True,
        help="onnx and torchscript: graphs from image or token ids to embedding; safetensors: "
        "weights, loaded by this program",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="folder to write: new, or an export of the same run, which is replaced "
        "(default: export-FORMAT/ in the run's folder)",
    )  # fmt: skip
    parser.add_argument(
        "--uint8", action="store_true",
        help="the image graph takes uint8 [B, H, W, 3] and normalises it (default: normalised "
        "float32 [B, 3, H, W])",
    )  # fmt: skip
    parser.add_argument(
        "--int8", action="store_true",
        help="onnx: quantise the weights to int8, and measure the loss in mAP on the test splits "
        "of the learned domains",
    )  # fmt: skip
    add_overrides(parser, "benchmark settings for --int8, such as benchmark.root=...")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Writes the exported model."""
    from runner.analysis.export.model_card import shown_lines
    from runner.analysis.export.write import ExportSettings, export_run
    from runner.analysis.trained_run import load_run

    run = load_run(
        options.run, options.runs_folder, after=options.after, checkpoint=options.checkpoint
    )
    folder = options.output or run.storage.folder / f"export-{options.format}"
    settings = ExportSettings(options.format, options.uint8, options.int8, tuple(options.overrides))
    description = export_run(run, folder, settings)
    output.write_json({"folder": str(folder), "export": description})
    for line in shown_lines(description):
        output.results.print(line, soft_wrap=True)
    output.note(f"Model   {folder}")
    output.note(f"Card    {folder / 'README.md'}")
    return 0
