"""Export of a run: writes the folder of an exported model atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from runner.analysis.export.exported_model import (
    PREPROCESSING_FILE,
    WEIGHTS_FILE,
    load_export,
    read_export,
)
from runner.analysis.export.graphs import Graph, graphs_of
from runner.analysis.export.model_card import model_card, scores_of
from runner.analysis.export.onnx_graph import WRITING, check_packages, quantise, write_onnx
from runner.analysis.export.parity import check_parity, parity
from runner.analysis.export.preprocessing import preprocessing_of, save_tokenizer
from runner.analysis.export.quantisation_loss import learned_test_sets, quantisation_loss
from runner.analysis.export.script_graph import write_script
from runner.analysis.export.weights import save_towers, write_weights
from runner.analysis.trained_run import EXPORT_FILE, TrainedRun
from runner.config.disk_space import explain_full_disk
from runner.config.json_files import DamagedFileError, flush_to_disk
from runner.config.run_config import to_yaml
from runner.config.sections import StorageConfig, TrackingConfig
from runner.results.run_folder import git_revision

Format = Literal["onnx", "torchscript", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "torchscript", "safetensors")

_SAME_RUN = ("run", "config_hash", "seed")
_SUFFIXES = {"onnx": "onnx", "torchscript": "pt"}


@dataclass(frozen=True)
class ExportSettings:
    """What to export.

    Attributes:
        format: file format.
        uint8: the image graph takes uint8 [B, H, W, 3] and normalises it.
        int8: quantise weights to int8.
        overrides: benchmark settings for measuring the loss of int8.
    """

    format: Format
    uint8: bool = False
    int8: bool = False
    overrides: tuple[str, ...] = ()


def export_run(run: TrainedRun, folder: Path, settings: ExportSettings) -> dict[str, Any]:
    """Writes the exported model of a run.

    Everything is written into a temporary folder beside `folder`, loaded from there and compared
    with the learner, and then renamed.

    Returns:
        Content of export.json.

    Raises:
        ValueError: the settings or the learner do not allow it; nothing was written.
        FileExistsError: `folder` is not an export of the same run.
        FileNotFoundError: the data for measuring int8 are missing.
        RuntimeError: the exported model computes something else than the learner.
    """
    _check_settings(settings)
    check_replaceable(folder, run)
    graphs = graphs_of(run, uint8=settings.uint8)
    tests = learned_test_sets(run, settings.overrides) if settings.int8 else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with explain_full_disk(folder):
            temporary.mkdir()
            _write_model(run, graphs, temporary, settings)
            description = _describe(run, graphs, settings)
            _write_json(temporary / EXPORT_FILE, description)
            exported = load_export(temporary, trusted=True)
            measured = parity(run, exported)
            description["parity"] = measured.to_json()
            if tests is None:
                check_parity(measured, run.storage.folder.name)
            else:
                loss = quantisation_loss(run, exported, tests, temporary / "quarantine.jsonl")
                (temporary / "quarantine.jsonl").unlink(missing_ok=True)
                description["int8_loss"] = loss
            _finish(run, temporary, description)
            _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return description


def check_replaceable(folder: Path, run: TrainedRun) -> None:
    """Checks that a folder is new, empty, or an export of the same run.

    Raises:
        FileExistsError: it is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    found = "other files"
    if folder.is_dir() and (folder / EXPORT_FILE).is_file():
        try:
            before = read_export(folder)["run"]
        except DamagedFileError:
            before = {}
        if all(before.get(key) == run.facts()[key] for key in _SAME_RUN):
            return
        found = f"an export of {before.get('run', 'an unknown run')}"
    raise FileExistsError(
        f"{folder}: expected a new or empty folder, or an export of {run.storage.folder.name}, "
        f"got {found}; choose another folder with --output"
    )


def _check_settings(settings: ExportSettings) -> None:
    if settings.int8 and settings.format != "onnx":
        raise ValueError(
            f"--int8: expected --format onnx, whose runtime has int8 kernels, got "
            f"{settings.format}; change the format, or omit --int8"
        )
    if settings.uint8 and settings.format == "safetensors":
        raise ValueError(
            "--uint8: expected --format onnx or torchscript, got safetensors, which holds weights "
            "and no graph; change the format, or omit --uint8"
        )
    if settings.overrides and not settings.int8:
        raise ValueError(
            f"{settings.overrides[0]}: expected benchmark settings only with --int8, which "
            "evaluates the model; add --int8, or omit the setting"
        )
    if settings.format == "onnx":
        check_packages(WRITING)


def _write_model(
    run: TrainedRun, graphs: Sequence[Graph], folder: Path, settings: ExportSettings
) -> None:
    if settings.format == "safetensors":
        write_weights(run.learner, graphs, folder / WEIGHTS_FILE)
        save_towers(run.config.backbone, folder)
    else:
        for graph in graphs:
            file = folder / _file_name(graph, settings.format)
            if settings.format == "torchscript":
                write_script(graph, file)
            elif settings.int8:
                full = folder / f"{graph.name}-float32.onnx"
                write_onnx(graph, full)
                quantise(full, file)
                for each in folder.glob(f"{full.name}*"):
                    each.unlink()
            else:
                write_onnx(graph, file)
    if run.learner.embeds_texts:
        save_tokenizer(run.learner, folder)
    # Locations of this machine's runs and servers are of no use to others.
    shared = run.config.model_copy(
        update={"storage": StorageConfig(), "tracking": TrackingConfig()}
    ).with_references({})
    (folder / "config.yaml").write_text(to_yaml(shared))
    _write_json(folder / "protocol.lock.json", run.lock)
    _write_json(folder / PREPROCESSING_FILE, preprocessing_of(run, uint8=settings.uint8))


def _describe(run: TrainedRun, graphs: Sequence[Graph], settings: ExportSettings) -> dict[str, Any]:
    with torch.no_grad():
        size = graphs[0].module(*graphs[0].example).shape[1]
    is_weights = settings.format == "safetensors"
    return {
        "version": 1,
        "format": settings.format,
        "int8": settings.int8,
        "run": run.facts(),
        "git_revision": git_revision(),
        "torch": torch.__version__,
        "embedding": {"size": size, "normalised": True, "similarity": "cosine"},
        "graphs": {
            graph.name: {
                "file": WEIGHTS_FILE if is_weights else _file_name(graph, settings.format),
                "inputs": [asdict(each) for each in graph.inputs],
            }
            for graph in graphs
        },
        "parity": None,
        "int8_loss": None,
        "files": {},
    }


def _file_name(graph: Graph, kind: str) -> str:
    return f"{graph.name}.{_SUFFIXES[kind]}"


def _finish(run: TrainedRun, folder: Path, description: dict[str, Any]) -> None:
    """Writes scores, model card and the final export.json, and flushes all files to disk."""
    scores = scores_of(run)
    if scores is not None:
        _write_json(folder / "scores.json", scores)
    description["files"] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != EXPORT_FILE
    }
    preprocessing = json.loads((folder / PREPROCESSING_FILE).read_text())
    card = model_card(run, description, preprocessing, scores)
    (folder / "README.md").write_text(card)
    _write_json(folder / EXPORT_FILE, description)
    for path in (*folder.rglob("*"), folder):
        flush_to_disk(path)


def _replace(folder: Path, temporary: Path) -> None:
    """Renames the temporary folder; an earlier export is removed after it was renamed."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    flush_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1))
