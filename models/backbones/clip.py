"""CLIP on open_clip's own classes, in the form person re-identification needs.

Differs from `open_clip.CLIP` in its face, not in its arithmetic: rectangular images, patch tokens
and the class token before projection beside the joint embedding, and a text tower that starts from
token *embeddings*, so that learned prompt vectors can stand among words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.backbones.clip_weights import create_clip
from models.backbones.config import BackboneConfig
from models.backbones.tower import (
    ImageFeatures,
    PatchTower,
    TextFeatures,
    TextTower,
    patch_grid,
    resize_positions,
)

# Imported where it is used: open_clip takes seconds to import (timm, transformers), and reading a
# configuration should not.
if TYPE_CHECKING:
    import open_clip
    from open_clip.transformer import Transformer, VisionTransformer


class ImageEncoder(PatchTower):
    """open_clip's VisionTransformer for images of one, possibly rectangular, size."""

    def __init__(self, visual: VisionTransformer, image_size: tuple[int, int]) -> None:
        """Takes the tower over and resizes its positional embedding to `image_size` (H, W).

        Raises:
            ValueError: a side of the image is no multiple of the patch size.
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
        """W, the size of a token before projection."""
        return self.visual.conv1.out_channels

    @property
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""
        return self.visual.output_dim

    def forward(self, images: Tensor) -> ImageFeatures:
        """Normalised images [B, 3, H, W] -> their features.

        Raises:
            ValueError: the images do not have the size this encoder was built for.
        """
        self.check_images(images)
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        tokens = visual.ln_post(visual.transformer(tokens))
        projected = tokens @ visual.proj
        return ImageFeatures(tokens[:, 0], projected[:, 0], projected[:, 1:])

    def last_layer(self) -> Sequence[nn.Parameter]:
        """The final layer norm: g stands before the projection."""
        return list(self.visual.ln_post.parameters())


class TextEncoder(TextTower):
    """CLIP's causal text tower, entered at the token embeddings."""

    unread = ("logit_scale",)
    causal_mask: Tensor

    def __init__(self, clip: open_clip.CLIP, context_length: int | None = None) -> None:
        """Takes the tower over; `context_length` limits texts below the tower's own length."""
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
        """Size of a token embedding: what a learned prompt vector must have."""
        return self.token_embedding.embedding_dim

    @property
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""
        return self.text_projection.shape[1]

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Texts -> CLIP BPE tokens [N, L] long on the CPU, L being the longest text's length.

        Each row is start-of-text, the words, end-of-text, then zeros. A text longer than
        `max_tokens` (or than `context_length`, if that is less) is cut and keeps its end-of-text.
        """
        import open_clip

        limit = min(max_tokens or self.context_length, self.context_length)
        tokens = open_clip.tokenize(list(texts), context_length=limit)
        longest = int(self.end_positions(tokens).max()) + 1 if len(tokens) else 2
        return tokens[:, :longest].contiguous()

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> position of each end-of-text [N]; it is the highest token number."""
        return tokens.argmax(dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> token embeddings [N, L, W], without positions."""
        return self.token_embedding(tokens)

    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Token embeddings [N, L, W] and end-of-text positions [N] -> text features [N, D].

        The tower is causal, so what stands after the end of a text is never asked.
        """
        tokens = self._transformed(embeddings)
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.ln_final(tokens[rows, end_positions]) @ self.text_projection

    def features(self, tokens: Tensor) -> TextFeatures:
        """Tokens [N, L] -> their features; the sentence is that of the end-of-text token."""
        ends = self.end_positions(tokens)
        projected = self.ln_final(self._transformed(self.embed_tokens(tokens)))
        projected = projected @ self.text_projection
        places = torch.arange(tokens.shape[1], device=tokens.device)
        rows = torch.arange(len(tokens), device=tokens.device)
        return TextFeatures(projected[rows, ends], projected, places <= ends[:, None])

    def _transformed(self, embeddings: Tensor) -> Tensor:
        length = embeddings.shape[1]
        self.check_length(length, len(self.positional_embedding))
        tokens = embeddings + self.positional_embedding[:length].to(embeddings.dtype)
        return self.transformer(tokens, attn_mask=self.causal_mask[:length, :length])


class ClipBackbone(nn.Module):
    """CLIP's two towers, an `ImageTextBackbone`."""

    def __init__(self, image: ImageEncoder, text: TextEncoder) -> None:
        super().__init__()
        self.image = image
        self.text = text.requires_grad_(False)


def build(config: BackboneConfig, seed: int) -> ClipBackbone:
    """The backbone that `config` describes; `seed` decides the random weights, if any.

    Raises:
        ValueError: an architecture, tag, file or image size that does not fit; says which and why.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the weights of a tag could not be downloaded.
    """
    clip = create_clip(config.name, config.weights, seed)
    image_size = (config.image_height, config.image_width)
    image = ImageEncoder(cast("VisionTransformer", clip.visual), image_size)
    return ClipBackbone(image, TextEncoder(clip, config.context_length))
