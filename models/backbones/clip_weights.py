"""Architectures and weights of CLIPs: tiny-clip's file, open_clip, or a local file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from models.backbones.config import TINY, TINY_VIT_BERT, VIT_BERT
from models.backbones.hub import check_reachable, without_logs
from models.backbones.torchscript import is_torchscript
from models.backbones.weights import (
    check_warm_file,
    check_weights_file,
    is_weights_file,
    load_strict,
    read_state,
)

# Imported where needed: open_clip takes seconds to import (timm, transformers), which reading a
# configuration does not need.
if TYPE_CHECKING:
    import open_clip

WARM_FILE = Path(__file__).parent / "warm" / "tiny_clip.safetensors"
WARM_COMMAND = "python -m runner.tools.train_tiny_backbones"
TOKEN_TABLE_KEY = "token_embedding.weight"

_TINY_ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": (64, 32),
        "patch_size": 8,
        "width": 96,
        "layers": 4,
        "head_width": 24,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 49408,
        "width": 96,
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}
# Configuration keys of a plain CLIP ViT. Architectures with other keys (timm or ResNet image
# towers, attention pooling, other tokenizers, bidirectional text) are not supported.
_VISION_KEYS = {
    "image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value",
}  # fmt: skip
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_ARCHIVE_METADATA = {"input_resolution", "context_length", "vocab_size", "attn_mask"}


def create_clip(name: str, weights: str, seed: int) -> open_clip.CLIP:
    """Create open_clip's CLIP of architecture `name`, at its native image size, with `weights`.

    `weights` is "warm", "random" (initialised from `seed`), the path of a local file, or an
    open_clip tag. Only a tag may access the network.

    Raises:
        ValueError: architecture, tag or file do not fit.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the weights of a tag could not be downloaded.
    """
    architecture = _architecture(name)
    quick_gelu = bool(architecture.get("quick_gelu"))
    path = WARM_FILE if weights == "warm" else Path(weights)
    is_file = is_weights_file(str(path))
    if weights != "random" and not is_file:
        return _pretrained(name, weights, quick_gelu)
    clip = _initialised(architecture, seed)
    token_table = clip.state_dict()[TOKEN_TABLE_KEY]
    if name == TINY:
        token_table.copy_(frozen_token_table())
    if weights == "warm":
        check_warm_file(path, WARM_COMMAND)
    if is_file:
        check_weights_file(path)
        if is_torchscript(path) and not quick_gelu:
            raise ValueError(_activation_message(f"{path}: OpenAI's archives", name, True))
        state = {
            key: each for key, each in read_state(path).items() if key not in _ARCHIVE_METADATA
        }
        if name == TINY:
            state[TOKEN_TABLE_KEY] = token_table
        load_strict(clip, state, f"{path} into {name}")
    return clip


def frozen_token_table() -> Tensor:
    """Create tiny-clip's token embedding [49408, 96]: fixed random vectors, not stored in a file.

    The standard deviation is five times the usual 0.02; with less, the positional embedding
    dominates the words.
    """
    text = _TINY_ARCHITECTURE["text_cfg"]
    generator = np.random.default_rng(20260319)
    shape = (text["vocab_size"], text["width"])
    return torch.from_numpy(0.1 * generator.standard_normal(shape, dtype=np.float32))


def _architecture(name: str) -> dict[str, Any]:
    if name == TINY:
        return _TINY_ARCHITECTURE
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, [TINY, TINY_VIT_BERT, VIT_BERT, *known], n=3)
        raise ValueError(
            f"backbone.name: expected {TINY} or an open_clip architecture; got {name!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    config = cast(dict[str, Any], open_clip.get_model_config(name))
    unsupported = (config.keys() - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}) | (
        (config["vision_cfg"].keys() - _VISION_KEYS) | (config["text_cfg"].keys() - _TEXT_KEYS)
    )
    if unsupported or not isinstance(config["vision_cfg"]["layers"], int):
        raise ValueError(
            f"backbone.name: expected a CLIP vision transformer such as ViT-B-16; got {name} "
            f"({', '.join(sorted(unsupported)) or 'ResNet image tower'})"
        )
    return config


def _initialised(architecture: Mapping[str, Any], seed: int) -> open_clip.CLIP:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return open_clip.CLIP(**architecture)


def _pretrained(name: str, tag: str, quick_gelu: bool) -> open_clip.CLIP:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ValueError(
            f"backbone.weights: expected random, a local file or one of {name}'s tags "
            f"({', '.join(tags) or 'it has none'}); got {tag!r}"
        )
    facts = open_clip.get_pretrained_cfg(name, tag)
    trained_quick = bool(facts.get("quick_gelu"))
    if trained_quick != quick_gelu:
        raise ValueError(_activation_message(f"the weights {tag}", name, trained_quick))
    try:
        if repository := facts.get("hf_hub"):
            check_reachable(str(repository).strip("/"))
        with without_logs():
            return cast("open_clip.CLIP", open_clip.create_model(name, pretrained=tag))
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"could not load {name} {tag} ({error}); without network access, download the file "
            "elsewhere and set backbone.weights to its path"
        ) from error


def _activation_message(what: str, name: str, trained_quick: bool) -> str:
    stem = name.removesuffix("-quickgelu")
    return (
        f"{what} were trained {'with' if trained_quick else 'without'} QuickGELU, unlike {name}: "
        f"set backbone.name={stem + '-quickgelu' if trained_quick else stem}"
    )
