"""CLIP on open_clip's own classes, in the form person re-identification needs.

Differs from `open_clip.CLIP` in its face, not in its arithmetic: rectangular images, patch tokens
and the class token before projection beside the joint embedding, and a text tower that starts from
token *embeddings*, so that learned prompt vectors can stand among words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.backbones.clip_weights import create_clip
from models.backbones.config import BackboneConfig
from models.backbones.tower import ImageTower

# Imported where it is used: open_clip takes seconds to import (timm, transformers), and reading a
# configuration should not.
if TYPE_CHECKING:
    import open_clip
    from open_clip.transformer import Transformer, VisionTransformer


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the image tower says of B images; nothing is normalised.

    Attributes:
        class_token: [B, W] after the final layer norm, before projection (W: tower width).
        projected: [B, D] class token in the joint embedding space.
        patches: [B, L, D] patch tokens in the joint space, row by row from the top left.
    """

    class_token: Tensor
    projected: Tensor
    patches: Tensor

    def named(self) -> dict[str, Tensor]:
        """g and f by their names."""
        return {"class_token": self.class_token, "projected": self.projected}


class ImageEncoder(ImageTower):
    """open_clip's VisionTransformer for images of one, possibly rectangular, size.

    Its features are `class_token`, g, the class token before projection, and `projected`, f.
    """

    metric = "projected"

    def __init__(self, visual: VisionTransformer, image_size: tuple[int, int]) -> None:
        """Takes the tower over and resizes its positional embedding to `image_size` (H, W).

        Raises:
            ValueError: a side of the image is no multiple of the patch size.
        """
        super().__init__()
        self.visual = visual
        self.image_size = image_size
        self.grid_size = _patch_grid(image_size, cast(tuple[int, int], visual.patch_size))
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

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """W of g, D of f."""
        return {"class_token": self.width, "projected": self.embed_dim}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """g [B, W] and f [B, D] by their names."""
        return self(images).named()

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


class TextEncoder(nn.Module):
    """CLIP's causal text tower, entered at the token embeddings."""

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

    @staticmethod
    def end_positions(tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> position of each end-of-text [N]; it is the highest token number."""
        return tokens.argmax(dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> token embeddings [N, L, W], without positions."""
        return self.token_embedding(tokens)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Texts -> text features [N, D], not normalised and without gradient.

        Distinct strings are encoded once, in batches of like length.
        """
        device = self.positional_embedding.device
        distinct = list(dict.fromkeys(texts))
        rows = {text: row for row, text in enumerate(distinct)}
        tokens = self.tokenize(distinct)
        ends = self.end_positions(tokens)
        features = torch.empty(len(distinct), self.embed_dim, device=device)
        for chunk in ends.argsort(stable=True).split(batch_size):
            length = int(ends[chunk[-1]]) + 1 if len(chunk) else 0
            part = tokens[chunk, :length].to(device)
            encoded = self(self.embed_tokens(part), ends[chunk].to(device))
            features[chunk.to(device)] = encoded.to(features.dtype)
        return features[torch.tensor([rows[text] for text in texts], dtype=torch.long)]

    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Token embeddings [N, L, W] and end-of-text positions [N] -> text features [N, D].

        Positions are added here, so that prompt vectors set among the words take theirs. Not
        normalised. What stands after the end of a text has no influence on it: the tower is causal.

        Raises:
            ValueError: L is longer than the tower has positions.
        """
        length, limit = embeddings.shape[1], len(self.positional_embedding)
        if length > limit:
            raise ValueError(
                f"expected texts of at most {limit} tokens; came {length}: shorten the texts or "
                "the prompts in front of them (tokenize takes max_tokens)"
            )
        tokens = embeddings + self.positional_embedding[:length].to(embeddings.dtype)
        tokens = self.transformer(tokens, attn_mask=self.causal_mask[:length, :length])
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.ln_final(tokens[rows, end_positions]) @ self.text_projection


class ClipBackbone(nn.Module):
    """Image and text tower with a joint embedding space; state keys begin "image." or "text.".

    As built, the text tower takes no gradient of its own (gradients still flow through it to
    prompt vectors): it never trains, and a checkpoint may leave "text." out.
    """

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


def resize_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Positional embedding [1 + h*w, W] of one patch grid -> [1 + h'*w', W] of another.

    The class token's row stays; the grid is interpolated bicubically with antialiasing, as
    open_clip does for square inputs (CLIP-ReID: bilinear).
    """
    if old_grid == new_grid:
        return positions
    grid = positions[1:].unflatten(0, old_grid).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, new_grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def _patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    height, width = image_size
    patch_height, patch_width = patch_size
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"expected an image size in multiples of the {patch_height}x{patch_width} patch; came "
            f"{height}x{width}: set backbone.image_height and backbone.image_width"
        )
    return height // patch_height, width // patch_width
