"""Free token vectors and how they enter a text encoder's embedded input.

The holders own parameters only; `splice` and `prepend` are pure. What they return goes to a text
encoder that takes embeddings [N, L, W] and the positions [N] of the end-of-text tokens.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


class _FreeTokens(nn.Module):
    def __init__(self, num_prompts: int, num_tokens: int, width: int, generator: Generator) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_prompts, num_tokens, width))
        nn.init.normal_(self.vectors, std=0.02, generator=generator)


class IdentityPrompts(_FreeTokens):
    """One prompt per identity of a domain: `vectors` [C, X, W], drawn from N(0, 0.02^2).

    Args:
        num_prompts: identities C of the domain.
        num_tokens: free vectors X per identity.
        width: size W of the text encoder's token embeddings.
        generator: CPU generator of the initial values.

    Source: CLIP-ReID, "A photo of a [X]_1..[X]_4 person."
    """


class AttributePrompts(_FreeTokens):
    """One prompt per attribute, shared by all identities: `vectors` [K, M, W], N(0, 0.02^2).

    Args:
        num_prompts: attributes K.
        num_tokens: free vectors M per attribute; 0 leaves the descriptions as they are.
        width: size W of the text encoder's token embeddings.
        generator: CPU generator of the initial values.

    Source: VLADR, local attribute prompts.
    """


def splice(template: Tensor, vectors: Tensor, position: int) -> Tensor:
    """Puts free vectors in the place of a template's placeholder tokens.

    The template holds one placeholder token per free vector ("A photo of a X X X X person."), so
    the length and the end-of-text position stay those of the template.

    Args:
        template: [L, W] embedded template.
        vectors: [N, X, W] free vectors of N prompts.
        position: index in the template of the first placeholder.

    Returns:
        [N, L, W].

    Raises:
        ValueError: the slot does not lie inside the template.
    """
    length, width = template.shape
    num_prompts, num_tokens, _ = vectors.shape
    end = position + num_tokens
    if position < 0 or end > length:
        raise ValueError(
            f"{num_tokens} prompt vectors at position {position} do not fit a template of "
            f"{length} tokens: use fewer vectors or a template with as many placeholders"
        )
    before = template[:position].expand(num_prompts, -1, width)
    after = template[end:].expand(num_prompts, -1, width)
    return torch.cat([before, vectors.to(template.dtype), after], dim=1)


def prepend(
    embeddings: Tensor, end_positions: Tensor, vectors: Tensor, context_length: int
) -> tuple[Tensor, Tensor]:
    """Puts M free vectors between the start token and the words of a description.

    Leading dimensions broadcast. Every prompt before every description: embeddings [N, 1, L, W],
    end_positions [N, 1], vectors [K, M, W]. Prompt k before part k: embeddings [N, K, L, W],
    vectors [K, M, W]. One prompt chosen per description: embeddings [N, L, W], vectors [N, M, W].

    Args:
        embeddings: [..., L, W], start token at 0.
        end_positions: [...] long, end-of-text token of each description, 1..L-1.
        vectors: [..., M, W].
        context_length: longest sequence the encoder takes, at least M + 2.

    Returns:
        Embeddings [..., min(L + M, context_length), W] and their end positions [...], both with
        the broadcast leading dimensions. Where a description no longer fits, its last words go
        and its end token takes the last place.

    Raises:
        ValueError: the context has no room for start, prompt and end.
    """
    num_tokens, (length, width) = vectors.shape[-2], embeddings.shape[-2:]
    if context_length < num_tokens + 2:
        raise ValueError(
            f"{num_tokens} prompt vectors need a context of at least {num_tokens + 2} tokens, "
            f"the text encoder has {context_length}: use fewer vectors"
        )
    new_length = min(length + num_tokens, context_length)
    new_ends = (end_positions + num_tokens).clamp(max=new_length - 1)
    places = torch.arange(num_tokens + 1, new_length, device=embeddings.device)
    sources = torch.where(
        places == new_ends[..., None], end_positions[..., None], places - num_tokens
    )
    words = embeddings.gather(-2, sources[..., None].expand(*sources.shape, width))
    leading = torch.broadcast_shapes(embeddings.shape[:-2], vectors.shape[:-2])
    pieces = (embeddings[..., :1, :], vectors.to(embeddings.dtype), words)
    joined = torch.cat([piece.expand(*leading, *piece.shape[-2:]) for piece in pieces], dim=-2)
    return joined, new_ends.expand(leading)
