"""ViT and BERT by transformers with a joint space, behind the face that CLIP has here.

The towers are `transformers.ViTModel` and `BertModel` as they are; here each gets a linear
projection into the joint space, images may be rectangular, and the text tower starts from token
embeddings. Neither tower has dropout, as CLIP has none: a frozen tower's features stay what they
are, and several workers compute what one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.backbones.config import BackboneConfig
from models.backbones.tower import (
    ImageFeatures,
    PatchTower,
    TextFeatures,
    TextTower,
    patch_grid,
    resize_positions,
)
from models.backbones.vit_bert_weights import Pretrained, load_joint, read_towers

# Imported where it is used: transformers takes seconds to import, and reading a configuration
# should not.
if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertModel, ViTModel

FIRST, LAST, PADDING = "[CLS]", "[SEP]", "[PAD]"


class VitEncoder(PatchTower):
    """transformers' ViTModel for images of one, possibly rectangular, size."""

    def __init__(self, vit: ViTModel, embed_dim: int) -> None:
        """Takes the tower over; `embed_dim` is the size D of the joint space."""
        super().__init__()
        self.visual = vit
        self.projection = _drawn_projection(vit.config.hidden_size, embed_dim)
        self.image_size = _pair(vit.config.image_size)
        self.grid_size = patch_grid(self.image_size, _pair(vit.config.patch_size))

    @property
    def width(self) -> int:
        """W, the size of a token before projection."""
        return self.projection.shape[0]

    @property
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""
        return self.projection.shape[1]

    def forward(self, images: Tensor) -> ImageFeatures:
        """Normalised images [B, 3, H, W] -> their features; the class token is after the last norm.

        Raises:
            ValueError: the images do not have the size this encoder was built for.
        """
        self.check_images(images)
        tokens = cast(Tensor, self.visual(images).last_hidden_state)
        projected = tokens @ self.projection
        return ImageFeatures(tokens[:, 0], projected[:, 0], projected[:, 1:])

    def last_layer(self) -> Sequence[nn.Parameter]:
        """The final layer norm: g stands before the projection."""
        return list(self.visual.layernorm.parameters())

    def resize(self, image_size: tuple[int, int]) -> None:
        """Fits the tower to images of `image_size` (H, W) by resizing its positional embedding.

        Raises:
            ValueError: a side of the image is no multiple of the patch size.
        """
        grid = patch_grid(image_size, _pair(self.visual.config.patch_size))
        embeddings = self.visual.embeddings
        old = embeddings.position_embeddings.detach()[0]
        resized = resize_positions(old, self.grid_size, grid)
        embeddings.position_embeddings = nn.Parameter(resized[None].clone())
        embeddings.image_size = embeddings.patch_embeddings.image_size = image_size
        self.visual.config.image_size = image_size
        self.image_size, self.grid_size = image_size, grid


class BertEncoder(TextTower):
    """transformers' BertModel, entered at the word embeddings; the sentence is its first token.

    Every word sees every other one: unlike CLIP's, a token's feature depends on what follows it.
    """

    def __init__(
        self,
        bert: BertModel,
        tokenizer: Tokenizer,
        embed_dim: int,
        context_length: int | None = None,
    ) -> None:
        """Takes the tower over; `context_length` limits texts below the tower's own length.

        Raises:
            ValueError: the tokenizer is not one that this BERT can have been trained with.
        """
        super().__init__()
        self.bert = bert
        self.projection = _drawn_projection(bert.config.hidden_size, embed_dim)
        num_positions = bert.config.max_position_embeddings
        self.context_length = min(context_length or num_positions, num_positions)
        self.tokenizer = tokenizer
        self.first, self.last, self.padding = _special_tokens(tokenizer, bert.config.vocab_size)

    @property
    def width(self) -> int:
        """Size of a token embedding: what a learned prompt vector must have."""
        return self.projection.shape[0]

    @property
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""
        return self.projection.shape[1]

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Texts -> WordPiece tokens [N, L] long on the CPU, L being the longest text's length.

        Each row is [CLS], the words, [SEP], then [PAD]. A text longer than `max_tokens` (or than
        `context_length`, if that is less) is cut and keeps its [SEP]. "[SEP]" written in a text is
        text, not the token.
        """
        limit = min(max_tokens or self.context_length, self.context_length)
        self.tokenizer.encode_special_tokens = True  # a copy of a tokenizer forgets it
        rows = [
            [
                self.first,
                *self.tokenizer.encode(text, add_special_tokens=False).ids[: limit - 2],
                self.last,
            ]
            for text in texts
        ]
        longest = max((len(row) for row in rows), default=2)
        tokens = torch.full((len(rows), longest), self.padding)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor(row)
        return tokens

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> position of each [SEP] [N]: the last token that is no padding."""
        return (tokens != self.padding).sum(-1) - 1

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> word embeddings [N, L, W], without positions."""
        return self.bert.embeddings.word_embeddings(tokens)

    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Word embeddings [N, L, W] and positions of [SEP] [N] -> text features [N, D].

        Nothing attends to what stands after the end of a text.
        """
        return self._hidden(embeddings, end_positions)[:, 0] @ self.projection

    def features(self, tokens: Tensor) -> TextFeatures:
        """Tokens [N, L] -> their features; the sentence is that of [CLS]."""
        ends = self.end_positions(tokens)
        projected = self._hidden(self.embed_tokens(tokens), ends) @ self.projection
        return TextFeatures(projected[:, 0], projected, _up_to(ends, tokens.shape[1]))

    def _hidden(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        length = embeddings.shape[1]
        self.check_length(length, self.bert.config.max_position_embeddings)
        # Four dimensions are taken as they are; of two, BERT would first ask whether any is False,
        # for which a GPU has to be waited for.
        mask = _up_to(end_positions, length)[:, None, None]
        return self.bert(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state


class VitBertBackbone(nn.Module):
    """A ViT and a BERT with a joint space, an `ImageTextBackbone`."""

    def __init__(self, image: VitEncoder, text: BertEncoder) -> None:
        super().__init__()
        self.image = image
        self.text = text.requires_grad_(False)


def build(config: BackboneConfig, seed: int) -> VitBertBackbone:
    """The backbone that `config` describes; `seed` decides what is drawn: projections, or all.

    Raises:
        ValueError: a folder, file or image size that does not fit; says which and why.
        FileNotFoundError: a folder or a file in it is missing.
        RuntimeError: a hub name could not be reached.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = assemble(read_towers(config), config.context_length)
    load_joint(backbone, config)
    backbone.image.resize((config.image_height, config.image_width))
    return backbone


def assemble(towers: Pretrained, context_length: int | None = None) -> VitBertBackbone:
    """Both towers, and projections into a joint space of the text tower's width.

    The projections are drawn from torch's generator: pretrained towers know nothing of each other.
    """
    embed_dim = towers.bert.config.hidden_size
    text = BertEncoder(towers.bert, towers.tokenizer, embed_dim, context_length)
    return VitBertBackbone(VitEncoder(towers.vit, embed_dim), text)


def _drawn_projection(width: int, embed_dim: int) -> nn.Parameter:
    return nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))


def _up_to(end_positions: Tensor, length: int) -> Tensor:
    places = torch.arange(length, device=end_positions.device)
    return places <= end_positions[:, None]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _special_tokens(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, int, int]:
    found = {name: tokenizer.token_to_id(name) for name in (FIRST, LAST, PADDING)}
    known = {name: number for name, number in found.items() if number is not None}
    if lacking := [name for name in found if name not in known]:
        raise ValueError(
            f"backbone.text_tower: expected a BERT tokenizer; this one lacks {', '.join(lacking)}"
        )
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"backbone.text_tower: the tokenizer knows {tokenizer.get_vocab_size()} words and the "
            f"BERT beside it {vocab_size}: they are not of one model"
        )
    return known[FIRST], known[LAST], known[PADDING]
