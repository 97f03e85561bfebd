"""Checkpoints of the VLADR authors' code in the names of the learner `vladr`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WRAPPERS = ("module.", "base.")
"""What their data parallelism and their wrapper set in front of a name, in this order."""

PLACES = {
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
"""Prefixes of their names and what stands in their place here."""

ATTENTION = tuple(f"region_attn.{letter}_proj" for letter in "qkv")
PROMPTS = "prompt_learner.cls_ctx"
TEMPLATE = ("prompt_learner.token_prefix", "prompt_learner.token_suffix")


def from_authors(state: Mapping[str, Tensor], first_person: int = 0) -> dict[str, Tensor]:
    """A state dict of their stage 2 -> tensors for `learner.load_state_dict(..., strict=False)`.

    The learner must have begun the same domain, so that its classifiers and prompts have as many
    rows. Three projections of their cross-attention become one; the template of the identity
    prompts is left out, since here it is embedded anew. They do not save the token embedding.

    Args:
        state: tensors by their names, with or without `module.` and `base.`.
        first_person: identities of the earlier domains. Their prompts hold those of all domains,
            the learner's only those of the domain in hand.

    Raises:
        ValueError: a name that is none of theirs, or a projection without the other two.
    """
    plain = {_unwrapped(path): tensor for path, tensor in state.items()}
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        names = [f"{projection}.{kind}" for projection in ATTENTION]
        present = [plain.pop(name) for name in names if name in plain]
        if len(present) == len(names):
            found[f"network.decoder.cross_attention.in_proj_{kind}"] = torch.cat(present)
        elif present:
            raise ValueError(f"expected all of {', '.join(names)}; found {len(present)} of them")
    if PROMPTS in plain:
        found["textual.identities.vectors"] = plain.pop(PROMPTS)[first_person:]
    return found | {_place(path): tensor for path, tensor in plain.items() if path not in TEMPLATE}


def _unwrapped(path: str) -> str:
    for wrapper in WRAPPERS:
        path = path.removeprefix(wrapper)
    return path


def _place(path: str) -> str:
    for prefix, place in PLACES.items():
        if path.startswith(prefix):
            return place + path.removeprefix(prefix)
    raise ValueError(
        f"{path} is no name of the VLADR authors' network; expected one that begins with "
        f"{', '.join(PLACES)}, region_attn or prompt_learner"
    )
