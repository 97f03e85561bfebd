"""CLIP for person re-identification, based on the classes of open_clip.

It computes the same as `open_clip.CLIP` with another interface: rectangular images, patch tokens
and the class token before projection in addition to the joint embedding, and a text tower whose
input is token *embeddings*, so that learned prompt vectors can replace words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.backbones.clip_weights import create_clip
from models.backbones.config import BackboneConfig
from models.backbones.tower import (
    PatchTower,
    TextFeatures,
    TextTower,
    Truncate,
    padded_tokens,
    patch_grid,
    resize_positions,
    truncate,
)

# Imported where needed: open_clip takes seconds to import (timm, transformers), which reading a
# configuration does not need.
if TYPE_CHECKING:
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import Transformer, VisionTransformer

_SPECIAL_NAME = re.compile(r"<(start_of_text|end_of_text)>", re.IGNORECASE)


class ImageEncoder(PatchTower):
    """open_clip's VisionTransformer for images of one, possibly rectangular, size."""

    def __init__(self, visual: VisionTransformer, image_size: tuple[int, int]) -> None:
        """Wrap the tower and resize its positional embedding to `image_size` (H, W).

        Raises:
            ValueError: the image size is not a multiple of the patch size.
        """
        super().__init__()
        self.visual = visual
        self.image_size = image_size
        self.grid_size = patch_grid(image_size, cast(tuple[int, int], visual.patch_size))
        positions = resize_positions(
            visual.positional_embedding.detach(), visual.grid_size, self.grid_size
        )
        visual.positional_embedding = nn.Parameter(positions.clone())
        visual.image_size, visual.grid_size = image_size, self.grid_size

    @property
    def width(self) -> int:
        """Size W of a token before projection."""
        return self.visual.conv1.out_channels

    @property
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""
        return self.visual.output_dim

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images [B, 3, H, W] of the right size as the fields of `ImageFeatures`."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        # shape[0], not len(): an exported graph would keep len() as a constant batch size.
        class_token = visual.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        tokens = visual.ln_post(visual.transformer(tokens))
        projected = tokens @ visual.proj
        return tokens[:, 0], projected[:, 0], projected[:, 1:]

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer blocks."""
        return list(self.visual.transformer.resblocks)

    def last_layer(self) -> Sequence[nn.Parameter]:
        """Return the final layer norm, because g is taken before the projection."""
        return list(self.visual.ln_post.parameters())


class TextEncoder(TextTower):
    """CLIP's causal text tower, with token embeddings as input."""

    unread = ("logit_scale",)
    causal_mask: Tensor

    def __init__(self, clip: open_clip.CLIP, context_length: int | None = None) -> None:
        """Wrap the tower; `context_length` may reduce its maximum text length."""
        super().__init__()
        self.token_embedding = cast(nn.Embedding, clip.token_embedding)
        self.positional_embedding = cast(nn.Parameter, clip.positional_embedding)
        self.transformer = cast("Transformer", clip.transformer)
        self.ln_final = cast(nn.LayerNorm, clip.ln_final)
        self.text_projection = cast(nn.Parameter, clip.text_projection)
        self.logit_scale = clip.logit_scale
        self.register_buffer("causal_mask", cast(Tensor, clip.attn_mask), persistent=False)
        num_positions = len(self.positional_embedding)
        self.context_length = min(context_length or num_positions, num_positions)

    @property
    def width(self) -> int:
        """Size of a token embedding and of learned prompt vectors."""
        return self.token_embedding.embedding_dim

    @property
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""
        return self.text_projection.shape[1]

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Tokenize texts as CLIP BPE tokens [N, L] long on the CPU, L the length of the longest.

        Each row is start-of-text, words, end-of-text, zeros. Texts longer than `max_tokens` or
        `context_length` are truncated and keep their end-of-text token. The string "<end_of_text>"
        in a text is not the special token.
        """
        limit = min(max_tokens or self.context_length, self.context_length)
        return clip_tokens(texts, limit, self._truncate)

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Return the position [N] of the end-of-text token, which has the highest token id."""
        return tokens.argmax(dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Look up token embeddings [N, L, W] of tokens [N, L], without positional embedding."""
        return self.token_embedding(tokens)

    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Encode token embeddings [N, L, W] with end-of-text positions [N] as text features [N, D].

        The tower is causal, so positions after the end of a text have no effect.
        """
        tokens = self._transform(embeddings)
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        return self.ln_final(tokens[rows, end_positions]) @ self.text_projection

    def features(self, tokens: Tensor) -> TextFeatures:
        """Encode tokens [N, L]; the sentence feature is that of the end-of-text token."""
        ends = self.end_positions(tokens)
        projected = self.ln_final(self._transform(self.embed_tokens(tokens)))
        projected = projected @ self.text_projection
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        return TextFeatures(projected[rows, ends], projected, positions <= ends[:, None])

    def _transform(self, embeddings: Tensor) -> Tensor:
        length = embeddings.shape[1]
        self.check_length(length, len(self.positional_embedding))
        tokens = embeddings + self.positional_embedding[:length].to(embeddings.dtype)
        return self.transformer(tokens, attn_mask=self.causal_mask[:length, :length])


def clip_tokens(texts: Sequence[str], limit: int, shorten: Truncate = truncate) -> Tensor:
    """Tokenize N texts as CLIP BPE tokens [N, L] long of at most `limit` tokens, without a tower.

    See `TextEncoder.tokenize`.
    """
    from open_clip.tokenizer import _tokenizer as tokenizer  # slow import

    first, last = tokenizer.sot_token_id, tokenizer.eot_token_id
    rows = [[first, *shorten(text, _word_ids(tokenizer, text), limit), last] for text in texts]
    return padded_tokens(rows, TextEncoder.padding)


def _word_ids(tokenizer: SimpleTokenizer, text: str) -> list[int]:
    """Encode the words of a text; names of special tokens become ordinary words."""
    ids: list[int] = tokenizer.encode(text)
    while not set(tokenizer.all_special_ids).isdisjoint(ids):
        # Cleaning decodes HTML entities, which may reveal another name; hence the loop.
        text = _SPECIAL_NAME.sub(r"< \1 >", tokenizer.clean_fn(text))
        ids = tokenizer.encode(text)
    return ids


class ClipBackbone(nn.Module):
    """Both towers of a CLIP, an `ImageTextBackbone`."""

    def __init__(self, image: ImageEncoder, text: TextEncoder) -> None:
        super().__init__()
        self.image = image
        self.text = text.requires_grad_(False)


def build(config: BackboneConfig, seed: int) -> ClipBackbone:
    """Build the CLIP described by `config`; `seed` determines random weights.

    Raises:
        ValueError: architecture, tag, file or image size do not fit.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the weights of a tag could not be downloaded.
    """
    clip = create_clip(config.name, config.weights, seed)
    clip.set_grad_checkpointing(config.checkpoint_activations)
    image_size = (config.image_height, config.image_width)
    image = ImageEncoder(cast("VisionTransformer", clip.visual), image_size)
    return ClipBackbone(image, TextEncoder(clip, config.context_length))
