"""Learnable prompt tokens and their insertion into embedded texts.

The modules only own parameters; `splice` and `prepend` are pure functions. Their results are inputs
of a text encoder that takes embeddings [N, L, W] and the positions [N] of end-of-text tokens.
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
    """One prompt per identity of a domain: `vectors` [C, X, W], initialised from N(0, 0.02^2).

    Args:
        num_prompts: number C of identities of the domain.
        num_tokens: number X of free vectors per identity.
        width: size W of the text encoder's token embeddings.
        generator: CPU generator for the initial values.

    Source: CLIP-ReID, "A photo of a [X]_1..[X]_4 person."
    """


class AttributePrompts(_FreeTokens):
    """One prompt per attribute, shared by all identities: `vectors` [K, M, W], N(0, 0.02^2).

    Args:
        num_prompts: number K of attributes.
        num_tokens: number M of free vectors per attribute; 0 leaves descriptions unchanged.
        width: size W of the text encoder's token embeddings.
        generator: CPU generator for the initial values.

    Source: VLADR, local attribute prompts.
    """


def splice(template: Tensor, vectors: Tensor, position: int) -> Tensor:
    """Replace the placeholder tokens of a template by free vectors.

    The template has one placeholder token per free vector ("A photo of a X X X X person."), so
    length and end-of-text position do not change.

    Args:
        template: [L, W] embedded template.
        vectors: [N, X, W] free vectors of N prompts.
        position: index of the first placeholder in the template.

    Returns:
        [N, L, W] embedded prompts.

    Raises:
        ValueError: the vectors do not fit into the template.
    """
    length, width = template.shape
    num_prompts, num_tokens, _ = vectors.shape
    end = position + num_tokens
    if position < 0 or end > length:
        raise ValueError(
            f"expected prompt vectors within a template of {length} tokens, got {num_tokens} at "
            f"position {position}; use fewer vectors or a template with as many placeholders"
        )
    before = template[:position].expand(num_prompts, -1, width)
    after = template[end:].expand(num_prompts, -1, width)
    return torch.cat([before, vectors.to(template.dtype), after], dim=1)


def prepend(
    embeddings: Tensor, end_positions: Tensor, vectors: Tensor, context_length: int
) -> tuple[Tensor, Tensor]:
    """Insert M free vectors between the start token and the words of a description.

    Leading dimensions broadcast. All prompts with all descriptions: embeddings [N, 1, L, W],
    end_positions [N, 1], vectors [K, M, W]. Prompt k with part k: embeddings [N, K, L, W], vectors
    [K, M, W]. One prompt per description: embeddings [N, L, W], vectors [N, M, W].

    Args:
        embeddings: [..., L, W] embedded descriptions, start token at position 0.
        end_positions: [...] long, position of the end-of-text token, in 1..L-1.
        vectors: [..., M, W] free vectors.
        context_length: maximum sequence length of the encoder, at least M + 2.

    Returns:
        Embeddings [..., min(L + M, context_length), W] and their end positions [...], both with
        the broadcast leading dimensions. Descriptions that are too long lose their last words; the
        end token moves to the last position.

    Raises:
        ValueError: start token, prompt and end token do not fit into the context.
    """
    num_tokens, (length, width) = vectors.shape[-2], embeddings.shape[-2:]
    if context_length < num_tokens + 2:
        raise ValueError(
            f"expected a context of at least {num_tokens + 2} tokens for {num_tokens} prompt "
            f"vectors, got {context_length}; use fewer vectors"
        )
    new_length = min(length + num_tokens, context_length)
    new_ends = (end_positions + num_tokens).clamp(max=new_length - 1)
    positions = torch.arange(num_tokens + 1, new_length, device=embeddings.device)
    sources = torch.where(
        positions == new_ends[..., None], end_positions[..., None], positions - num_tokens
    )
    words = embeddings.gather(-2, sources[..., None].expand(*sources.shape, width))
    leading = torch.broadcast_shapes(embeddings.shape[:-2], vectors.shape[:-2])
    pieces = (embeddings[..., :1, :], vectors.to(embeddings.dtype), words)
    joined = torch.cat([piece.expand(*leading, *piece.shape[-2:]) for piece in pieces], dim=-2)
    return joined, new_ends.expand(leading)
