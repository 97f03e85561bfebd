"""Conversion of checkpoints of the VLADR authors' code to the learner `vladr`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WRAPPERS = ("module.", "base.")
"""Prefixes added by data parallelism and by their wrapper module, in this order."""

PREFIXES = {
    "image_encoder.": "network.image.visual.",
    "bottleneck.": "network.neck_class.",
    "bottleneck_proj.": "network.neck_projected.",
    "classifier.": "network.head_class.",
    "classifier_proj.": "network.head_projected.",
    "region_attn.queries": "network.decoder.queries",
    "region_attn.proj_out.": "network.decoder.cross_attention.out_proj.",
    "region_proj.": "network.decoder.linear.",
    "text_encoder.": "text.",
}
"""Prefix in their state dict -> prefix in this learner's state dict."""

ATTENTION = tuple(f"region_attn.{letter}_proj" for letter in "qkv")
PROMPTS = "prompt_learner.cls_ctx"
TEMPLATE = ("prompt_learner.token_prefix", "prompt_learner.token_suffix")


def from_authors(state: Mapping[str, Tensor], first_person: int = 0) -> dict[str, Tensor]:
    """Convert a stage-2 state dict for `learner.load_state_dict(..., strict=False)`.

    The learner must have started the same domain, so that its classifiers and prompts have the same
    number of rows. The three projections of their cross-attention become one. The template of the
    identity prompts is dropped, because it is embedded again here. Their checkpoints do not contain
    the token embedding.

    Args:
        state: tensors by the authors' names, with or without `module.` and `base.`.
        first_person: number of identities of earlier domains. Their checkpoint contains the prompts
            of all domains, the learner only those of the current one.

    Raises:
        ValueError: a name is unknown, or some of the three projections are missing.
    """
    unwrapped = {_unwrap(path): tensor for path, tensor in state.items()}
    converted: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        names = [f"{projection}.{kind}" for projection in ATTENTION]
        present = [unwrapped.pop(name) for name in names if name in unwrapped]
        if len(present) == len(names):
            converted[f"network.decoder.cross_attention.in_proj_{kind}"] = torch.cat(present)
        elif present:
            raise ValueError(f"expected all of {', '.join(names)}; got {len(present)} of them")
    if PROMPTS in unwrapped:
        converted["textual.identities.vectors"] = unwrapped.pop(PROMPTS)[first_person:]
    return converted | {
        _convert(path): tensor for path, tensor in unwrapped.items() if path not in TEMPLATE
    }


def _unwrap(path: str) -> str:
    for wrapper in WRAPPERS:
        path = path.removeprefix(wrapper)
    return path


def _convert(path: str) -> str:
    for prefix, replacement in PREFIXES.items():
        if path.startswith(prefix):
            return replacement + path.removeprefix(prefix)
    raise ValueError(
        f"{path}: expected a name of the VLADR authors' network, which begins with "
        f"{', '.join(PREFIXES)}, region_attn or prompt_learner"
    )
