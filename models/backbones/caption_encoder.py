"""Text towers of CLIPs that embed captions, to cluster them by writing style."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.backbones.config import TINY

# Imported where needed: open_clip takes seconds to import.
if TYPE_CHECKING:
    from models.backbones.clip import TextEncoder

_QUICK_GELU = "-quickgelu"


class ClipCaptionEncoder:
    """Sentence embeddings by the text tower of a CLIP.

    Attributes:
        name: architecture and weights, without the folder of a local file.
        weights_sha256: hash of the names and values of all tensors of the text tower.
    """

    def __init__(self, name: str, tower: TextEncoder) -> None:
        self.name = name
        self.weights_sha256 = _tensors_sha256(tower)
        self._tower = tower.eval()

    def embed(self, captions: Sequence[str]) -> npt.NDArray[np.float64]:
        """Embeds captions as rows [N, D]."""
        return self._tower.encode_texts(list(captions)).cpu().numpy().astype(np.float64)


def load_caption_encoder(name: str) -> ClipCaptionEncoder:
    """Load the text tower of a CLIP.

    Args:
        name: `tiny-clip` (included weights), `ARCHITECTURE:WEIGHTS` with an open_clip architecture
            and tag or a local file, such as `ViT-B-32:openai`, or a local folder with
            `open_clip_config.json` and weights. Only a tag may access the network.

    Raises:
        ValueError, FileNotFoundError: architecture, tag, file or folder do not fit.
        RuntimeError: the weights of a tag could not be downloaded.
    """
    from models.backbones.clip import TextEncoder
    from models.backbones.clip_weights import create_clip

    folder = Path(name).expanduser()
    if folder.is_dir():
        return ClipCaptionEncoder(folder.resolve().name, TextEncoder(_clip_in(folder)))
    architecture, _, weights = name.partition(":")
    if architecture == TINY:
        weights = weights or "warm"
    if not weights:
        raise ValueError(
            f"expected tfidf, {TINY}, an architecture with weights such as ViT-B-32:openai, or a "
            f"folder; got {name!r}" + (f"; did you mean {name}:openai?" if name else "")
        )
    try:
        clip = create_clip(_with_activation(architecture, weights), weights, seed=0)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        message = str(error).replace("backbone.name", "architecture")
        message = message.replace("backbone.weights", "weights")
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        raise kind(f"{name}: {message}, or choose {TINY} or tfidf") from error
    return ClipCaptionEncoder(f"{architecture}:{Path(weights).name}", TextEncoder(clip))


def _with_activation(architecture: str, tag: str) -> str:
    """Return the variant of an architecture with the activation that the tag was trained with."""
    import open_clip

    if tag not in open_clip.list_pretrained_tags_by_model(architecture):
        return architecture
    is_quick = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    variant = architecture.removesuffix(_QUICK_GELU) + _QUICK_GELU * is_quick
    return variant if tag in open_clip.list_pretrained_tags_by_model(variant) else architecture


def _clip_in(folder: Path) -> Any:
    import open_clip

    try:
        clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{folder}: open_clip cannot read it ({str(error)[:160]})") from error
    if not isinstance(clip, open_clip.CLIP):
        raise ValueError(
            f"{folder}: expected a CLIP with its own text tower, got {type(clip).__name__}"
        )
    return clip


def _tensors_sha256(tower: TextEncoder) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
