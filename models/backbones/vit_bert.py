"""ViT and BERT of transformers with a joint space, with the same interface as CLIP.

The towers are `transformers.ViTModel` and `BertModel`. Each gets a linear projection into the joint
space; images may be rectangular, and the input of the text tower is token embeddings. Dropout is
off by default, so that several workers compute the same as one, and always off in a frozen tower,
so that its features are constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

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
from models.backbones.vit_bert_weights import Pretrained, load_joint, read_towers

# Imported where needed: transformers takes seconds to import, which reading a configuration does
# not need.
if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertModel, ViTModel

FIRST, LAST, PADDING = "[CLS]", "[SEP]", "[PAD]"


class VitEncoder(PatchTower):
    """transformers' ViTModel for images of one, possibly rectangular, size."""

    def __init__(self, vit: ViTModel, embed_dim: int) -> None:
        """Wrap the tower; `embed_dim` is the size D of the joint space."""
        super().__init__()
        self.visual = vit
        self.projection = _random_projection(vit.config.hidden_size, embed_dim)
        self.image_size = _pair(vit.config.image_size)
        self.grid_size = patch_grid(self.image_size, _pair(vit.config.patch_size))

    @property
    def width(self) -> int:
        """Size W of a token before projection."""
        return self.projection.shape[0]

    @property
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""
        return self.projection.shape[1]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images [B, 3, H, W] of the right size; the class token follows the last norm."""
        tokens = cast(Tensor, self.visual(images).last_hidden_state)
        projected = tokens @ self.projection
        return tokens[:, 0], projected[:, 0], projected[:, 1:]

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.visual.layers)

    def last_layer(self) -> Sequence[nn.Parameter]:
        """Return the final layer norm, because g is taken before the projection."""
        return list(self.visual.layernorm.parameters())

    def train(self, mode: bool = True) -> VitEncoder:
        """Set the mode; a frozen tower stays in eval mode."""
        return super().train(mode and _is_trained(self))

    def resize(self, image_size: tuple[int, int]) -> None:
        """Resize the positional embedding for images of `image_size` (H, W).

        Raises:
            ValueError: the image size is not a multiple of the patch size.
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
    """transformers' BertModel with word embeddings as input; the sentence feature is that of [CLS].

    Attention is bidirectional: unlike in CLIP, a token's feature depends on the words after it.
    """

    def __init__(
        self,
        bert: BertModel,
        tokenizer: Tokenizer,
        embed_dim: int,
        context_length: int | None = None,
    ) -> None:
        """Wrap the tower; `context_length` may reduce its maximum text length.

        Raises:
            ValueError: the tokenizer does not match this BERT.
        """
        super().__init__()
        self.bert = bert
        self.projection = _random_projection(bert.config.hidden_size, embed_dim)
        num_positions = bert.config.max_position_embeddings
        self.context_length = min(context_length or num_positions, num_positions)
        self.tokenizer = tokenizer
        self.first, self.last, self.padding = _special_tokens(tokenizer, bert.config.vocab_size)

    @property
    def width(self) -> int:
        """Size of a token embedding and of learned prompt vectors."""
        return self.projection.shape[0]

    @property
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""
        return self.projection.shape[1]

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Tokenize texts as WordPiece tokens [N, L] long on the CPU, L the length of the longest.

        Each row is [CLS], words, [SEP], [PAD]. Texts longer than `max_tokens` or `context_length`
        are truncated and keep their [SEP]. The string "[SEP]" in a text is not the special token.
        """
        limit = min(max_tokens or self.context_length, self.context_length)
        return bert_tokens(self.tokenizer, texts, limit, self._truncate)

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Return the position [N] of [SEP], the last token before padding."""
        return (tokens != self.padding).sum(-1) - 1

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Look up word embeddings [N, L, W] of tokens [N, L], without positional embedding."""
        return self.bert.embeddings.word_embeddings(tokens)

    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Encode word embeddings [N, L, W] with positions [N] of [SEP] as text features [N, D].

        Positions after the end of a text are masked.
        """
        return self._hidden(embeddings, end_positions)[:, 0] @ self.projection

    def features(self, tokens: Tensor) -> TextFeatures:
        """Encode tokens [N, L]; the sentence feature is that of [CLS]."""
        ends = self.end_positions(tokens)
        projected = self._hidden(self.embed_tokens(tokens), ends) @ self.projection
        return TextFeatures(projected[:, 0], projected, _mask_until(ends, tokens.shape[1]))

    def train(self, mode: bool = True) -> BertEncoder:
        """Set the mode; a frozen tower stays in eval mode."""
        return super().train(mode and _is_trained(self))

    def _hidden(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        length = embeddings.shape[1]
        self.check_length(length, self.bert.config.max_position_embeddings)
        # A 4-D mask is used directly. For a 2-D mask, BERT checks whether any entry is False, which
        # causes a GPU synchronisation.
        mask = _mask_until(end_positions, length)[:, None, None]
        return self.bert(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state


def bert_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], limit: int, shorten: Truncate = truncate
) -> Tensor:
    """Tokenize N texts as WordPiece tokens [N, L] long of at most `limit` tokens, without a tower.

    See `BertEncoder.tokenize`.
    """
    first, last, padding = (_token_id(tokenizer, name) for name in (FIRST, LAST, PADDING))
    tokenizer.encode_special_tokens = True  # not kept by a copied tokenizer
    ids = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
    rows = [
        [first, *shorten(text, each, limit), last] for text, each in zip(texts, ids, strict=True)
    ]
    return padded_tokens(rows, padding)


class VitBertBackbone(nn.Module):
    """ViT and BERT with a joint space, an `ImageTextBackbone`."""

    def __init__(self, image: VitEncoder, text: BertEncoder) -> None:
        super().__init__()
        self.image = image
        self.text = text.requires_grad_(False)


def build(config: BackboneConfig, seed: int) -> VitBertBackbone:
    """Build the backbone described by `config`; `seed` determines random weights and projections.

    Raises:
        ValueError: a folder, file or image size does not fit.
        FileNotFoundError: a folder or file is missing.
        RuntimeError: the hub could not be reached.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = assemble(read_towers(config), config.context_length)
    load_joint(backbone, config)
    if config.checkpoint_activations:
        backbone.text.bert.config.use_cache = False  # not supported with checkpointing
        for model in (backbone.image.visual, backbone.text.bert):
            model.activation_checkpointing_enable()
    backbone.image.resize((config.image_height, config.image_width))
    return backbone


def assemble(towers: Pretrained, context_length: int | None = None) -> VitBertBackbone:
    """Combine both towers with projections into a joint space of the text tower's width.

    The projections are initialised randomly from torch's generator, because separately pretrained
    towers have no joint space.
    """
    embed_dim = towers.bert.config.hidden_size
    text = BertEncoder(towers.bert, towers.tokenizer, embed_dim, context_length)
    return VitBertBackbone(VitEncoder(towers.vit, embed_dim), text)


def _random_projection(width: int, embed_dim: int) -> nn.Parameter:
    return nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))


def _is_trained(tower: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in tower.parameters())


def _mask_until(end_positions: Tensor, length: int) -> Tensor:
    positions = torch.arange(length, device=end_positions.device)
    return positions <= end_positions[:, None]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _token_id(tokenizer: Tokenizer, name: str) -> int:
    token_id = tokenizer.token_to_id(name)
    assert token_id is not None, f"expected a BERT tokenizer, got one without {name}"
    return token_id


def _special_tokens(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, int, int]:
    ids = {name: tokenizer.token_to_id(name) for name in (FIRST, LAST, PADDING)}
    known = {name: token_id for name, token_id in ids.items() if token_id is not None}
    if missing := [name for name in ids if name not in known]:
        raise ValueError(
            f"backbone.text_tower: expected a BERT tokenizer; got one without {', '.join(missing)}"
        )
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"backbone.text_tower: expected a tokenizer with at most {vocab_size} words, the "
            f"vocabulary of the BERT; got {tokenizer.get_vocab_size()}"
        )
    return known[FIRST], known[LAST], known[PADDING]
