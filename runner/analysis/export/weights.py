"""Safetensors files with the weights of a test embedding, and the learner built from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.backbones.config import VIT_BERT, BackboneConfig
from models.learner import Learner
from runner.analysis.export.graphs import Graph
from runner.config.run_config import RunConfig
from runner.training.checkpoint_files import read_learner, write_learner
from runner.training.collectives import LocalGroup
from runner.training.worker import build_learner

_TOWERS = ("image_tower", "text_tower")


class _ReadStorages(TorchDispatchMode):
    """Records the memory that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.pointers = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.pointers.add(leaf.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


def read_tensors(learner: Learner, graphs: Sequence[Graph]) -> dict[str, Tensor]:
    """Selects the tensors of a learner that its graphs read, by path.

    Classifiers, prompts, prototypes and old models are left out.
    """
    with torch.no_grad(), _ReadStorages() as storages:
        for graph in graphs:
            graph.module(*graph.example)
    return {
        path: tensor
        for path, tensor in learner.state_dict().items()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in storages.pointers
    }


def write_weights(learner: Learner, graphs: Sequence[Graph], file: Path) -> None:
    """Writes the tensors that the graphs read, and the facts that rebuild the modules."""
    write_learner(file, read_tensors(learner, graphs), learner.embedding_facts())


def read_weights(config: RunConfig, file: Path) -> Learner:
    """Builds a learner with the weights of a file; other parameters are random.

    Raises:
        DamagedFileError: the file is truncated or overwritten.
        ValueError: the file is of another configuration.
    """
    state = read_learner(file)
    backbone = _untrained(config.backbone, file.parent)
    learner = build_learner(config.model_copy(update={"backbone": backbone}), LocalGroup())
    learner.rebuild(state.facts)
    try:
        unexpected = learner.load_state_dict(state.tensors, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ValueError(
            f"{file}: expected weights that fit config.yaml beside it; {error}"
        ) from error
    if unexpected:
        raise ValueError(
            f"{file}: expected the weights of config.yaml beside it, got {unexpected[0]}, which "
            f"learner {config.learner.name} does not have; export the run again"
        )
    return learner


def save_towers(config: BackboneConfig, folder: Path) -> None:
    """Writes configurations and tokenizer of vit-bert, which config.yaml only names."""
    if config.name != VIT_BERT:
        return
    from models.backbones.vit_bert_weights import read_towers  # transformers: a slow import

    towers = read_towers(config.model_copy(update={"weights": "random"}))
    towers.vit.config.save_pretrained(folder / _TOWERS[0])
    towers.bert.config.save_pretrained(folder / _TOWERS[1])
    towers.tokenizer.save(str(folder / _TOWERS[1] / "tokenizer.json"))


def _untrained(config: BackboneConfig, folder: Path) -> BackboneConfig:
    towers = {name: str(folder / name) for name in _TOWERS} if config.name == VIT_BERT else {}
    return config.model_copy(update={"weights": "random", **towers})
