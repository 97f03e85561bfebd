"""Description of a graph's inputs, as JSON, and the tokenizer of an exported model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.backbones.clip import clip_tokens
from models.backbones.vit_bert import BertEncoder, bert_tokens
from models.backbones.vit_bert_weights import read_tokenizer
from models.learner import Learner
from runner.analysis.export.graphs import description_length, query_tower
from runner.analysis.trained_run import TrainedRun
from runner.streaming.image_decoding import IMAGE_DECODER
from tasks.loading.transforms import mean_and_std

TOKENIZER_FILE = "tokenizer.json"

Tokenize = Callable[[Sequence[str]], Tensor]
"""N texts -> token ids [N, L]."""


def preprocessing_of(run: TrainedRun, *, uint8: bool) -> dict[str, Any]:
    """Describes how images and texts become inputs of the exported graphs, as JSON values."""
    backbone, transform = run.config.backbone, run.config.data.transform
    mean, std = mean_and_std(transform)
    images = {
        "height": backbone.image_height,
        "width": backbone.image_width,
        "colour": "RGB",
        "interpolation": "bicubic",
        "decoder": IMAGE_DECODER,
        "dtype": "uint8" if uint8 else "float32",
        "layout": "NHWC" if uint8 else "NCHW",
        "range": [0, 255] if uint8 else None,
        "mean": list(mean),
        "std": list(std),
        "normalisation": "inside the graph" if uint8 else "(pixel / 255 - mean) / std",
    }
    return {"images": images, "texts": _texts(run.learner)}


def _texts(learner: Learner) -> dict[str, Any] | None:
    tower = query_tower(learner)
    if tower is None:
        return None
    is_bert = isinstance(tower, BertEncoder)
    return {
        "tokenizer": "bert" if is_bert else "clip",
        "file": TOKENIZER_FILE if is_bert else None,
        "context_length": tower.context_length,
        "padding": tower.padding,
        "dtype": "int64",
        "description_length": (
            description_length(learner) if learner.reads_gallery_descriptions else None
        ),
        "descriptions": learner.reads_gallery_descriptions,
    }


def save_tokenizer(learner: nn.Module, folder: Path) -> None:
    """Writes the tokenizer of a BERT; that of CLIP is part of open_clip."""
    for part in learner.modules():
        if isinstance(part, BertEncoder):
            part.tokenizer.save(str(folder / TOKENIZER_FILE))
            return


def tokenizer_of(texts: Mapping[str, Any], folder: Path) -> Tokenize:
    """Builds the tokenizer that the value `texts` of `preprocessing_of` describes."""
    limit = int(texts["context_length"])
    if texts["tokenizer"] == "clip":
        return lambda batch: clip_tokens(batch, limit)
    tokenizer = read_tokenizer(folder / texts["file"])
    return lambda batch: bert_tokens(tokenizer, batch, limit)
