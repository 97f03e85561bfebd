"""Exported models in place of a run, for `search`, `index` and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from models.learner import Learner, Probe, Stage, StepResult
from runner.analysis.export.graphs import pad_tokens
from runner.analysis.export.onnx_graph import OnnxGraph
from runner.analysis.export.preprocessing import Tokenize, tokenizer_of
from runner.analysis.export.script_graph import ScriptGraph
from runner.analysis.export.weights import read_weights
from runner.analysis.trained_run import EXPORT_FILE, TrainedRun, load_run
from runner.config.json_files import read_object
from runner.config.run_config import load_config
from runner.results.run_folder import RunStorage
from runner.results.run_lookup import find_run
from runner.training.device import compute_device
from runner.training.model_selection import Which
from tasks.loading.transforms import TransformConfig, denormalise
from tasks.schema import Batch, Domain

PREPROCESSING_FILE = "preprocessing.json"
WEIGHTS_FILE = "model.safetensors"

RunGraph = Callable[[Mapping[str, Tensor]], Tensor]
"""Named inputs -> embedding [B, D] on the CPU."""


class GraphLearner(Learner):
    """Learner that embeds by exported graphs and cannot be trained.

    Args:
        graphs: the graphs "image" and, for learners that embed texts, "text".
        preprocessing: content of preprocessing.json.
        transform: normalisation of the images that the learner receives.
        tokenize: tokenizer of the learner's texts, if it reads any.
    """

    course = "none"

    def __init__(
        self,
        graphs: Mapping[str, RunGraph],
        preprocessing: Mapping[str, Any],
        transform: TransformConfig,
        tokenize: Tokenize | None,
    ) -> None:
        super().__init__()
        self._graphs = dict(graphs)
        self._texts: Mapping[str, Any] = preprocessing["texts"] or {}
        self._uint8 = preprocessing["images"]["dtype"] == "uint8"
        self._transform = transform
        self._tokenize = tokenize
        self.embeds_texts = "text" in graphs

    @property
    def reads_gallery_descriptions(self) -> bool:
        """Whether the image graph has descriptions as an input."""
        return bool(self._texts.get("descriptions"))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed normalised images [B, 3, H, W] as L2-normalised [B, D].

        Raises:
            ValueError: the model embeds images together with their descriptions only.
        """
        if self.reads_gallery_descriptions:
            raise ValueError(
                "expected images with descriptions, which this exported model fuses, got images "
                "alone; use a benchmark with descriptions"
            )
        return self._graphs["image"]({"images": self._pixels(images)}).to(images.device)

    def embed_gallery(self, images: Tensor, descriptions: Sequence[str]) -> Tensor:
        """Embed images with their descriptions, if the model reads them.

        Raises:
            ValueError: a description is empty.
        """
        if not self.reads_gallery_descriptions:
            return self.embed_images(images)
        if not all(descriptions):
            raise ValueError(
                "expected an identity description for every gallery image, got an empty one; "
                "create them with `describe --prompt dual`"
            )
        tokens = pad_tokens(
            self._tokens(descriptions), self._texts["description_length"], self._texts["padding"]
        )
        return self._graphs["image"]({"images": self._pixels(images), "tokens": tokens})

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts as L2-normalised [N, D]; see `Learner.embed_texts`."""
        if not self.embeds_texts:
            return super().embed_texts(texts)
        return self._graphs["text"]({"tokens": self._tokens(texts)})

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Do nothing."""

    def stages(self) -> Sequence[Stage]:
        """Return no stages."""
        return ()

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Raise: the learner has no stages."""
        raise AssertionError(f"an exported model has no stage {stage!r}")

    def _pixels(self, images: Tensor) -> Tensor:
        return denormalise(images, self._transform) if self._uint8 else images

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        assert self._tokenize is not None
        return self._tokenize(texts)


def load_model(
    model: str,
    storage_root: str,
    *,
    after: str | None = None,
    checkpoint: Which = "last",
    use_gpu: bool = False,
) -> TrainedRun:
    """Loads the learner of a run (see `load_run`) or of an exported model.

    Raises:
        FileNotFoundError, ValueError: the run, checkpoint or exported model does not exist; an
            option does not apply to an exported model.
    """
    folder = find_run(model, storage_root)
    if not (folder / EXPORT_FILE).exists():
        return load_run(model, storage_root, after=after, checkpoint=checkpoint, use_gpu=use_gpu)
    if after is not None or checkpoint != "last":
        raise ValueError(
            f"{folder}: expected neither --after nor --checkpoint for an exported model, which has "
            "one set of weights; omit them, or give the run"
        )
    return load_export(folder, use_gpu=use_gpu)


def load_export(folder: Path, *, use_gpu: bool = False, trusted: bool = False) -> TrainedRun:
    """Loads an exported model in place of a run.

    Args:
        folder: the exported folder.
        use_gpu: compute on the first CUDA device.
        trusted: also load TorchScript, which can execute code of the file.

    Raises:
        DamagedFileError: a JSON file or the weights are damaged.
        FileNotFoundError, ValueError: a file or package is missing.
    """
    description = read_export(folder)
    remedy = "export the run again"
    preprocessing = read_object(folder / PREPROCESSING_FILE, keys=("images",), remedy=remedy)
    config, kind = load_config(str(folder / "config.yaml")), description["format"]
    if kind == "torchscript" and not trusted:
        raise ValueError(
            f"{folder}: expected a model exported to safetensors or onnx, got torchscript, which "
            "can execute code when it is loaded; export the run to another format"
        )
    if use_gpu and kind != "safetensors":
        raise ValueError(
            f"--gpu: expected a model exported to safetensors, got {kind}, whose graph runs on the "
            "CPU here; omit --gpu"
        )
    device = compute_device(use_gpu, "--gpu")
    if kind == "safetensors":
        learner = read_weights(config, folder / WEIGHTS_FILE)
    else:
        reader = OnnxGraph if kind == "onnx" else ScriptGraph
        graphs = {
            name: reader(folder / graph["file"]) for name, graph in description["graphs"].items()
        }
        texts = preprocessing["texts"]
        tokenize = None if texts is None else tokenizer_of(texts, folder)
        learner = GraphLearner(graphs, preprocessing, config.data.transform, tokenize)
    name = " ".join([description["run"]["checkpoint"], kind, *["int8"] * description["int8"]])
    return TrainedRun(RunStorage(folder), config, name, learner.to(device).eval(), device)


def read_export(folder: Path) -> dict[str, Any]:
    """Reads export.json.

    Raises:
        FileNotFoundError: the folder is not an exported model.
        DamagedFileError: the file is damaged.
    """
    keys = ("run", "format", "int8", "graphs")
    return read_object(folder / EXPORT_FILE, keys=keys, remedy="export the run again")
