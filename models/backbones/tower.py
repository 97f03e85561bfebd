"""Interfaces of backbones: an image tower with named features and an optional text tower.

Every backbone has an `ImageTower`. An `ImageTextBackbone` also has a text tower; its image tower is
a `PatchTower`, and both towers project into a joint space of dimension D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ImageTower(nn.Module, ABC):
    """Image encoder for images of one, possibly rectangular, size.

    Learners attach a BN neck and a classifier to each named feature. A frozen teacher is
    `copy.deepcopy(tower)`.
    """

    metric: str
    """Name of f, the feature that triplet and affinity losses compare."""

    image_size: tuple[int, int]
    """Height and width of the images, in pixels."""

    @property
    @abstractmethod
    def feature_dims(self) -> Mapping[str, int]:
        """Size of each named feature, in the order of the test embedding."""

    @abstractmethod
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Encode normalised images [B, 3, H, W] as named features [B, dim], not normalised.

        Raises:
            ValueError: the images do not have the size this tower was built for.
        """

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """Return the repeated blocks of the tower, which can be compiled one by one."""

    @abstractmethod
    def last_layer(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the last layer shared by all features and patch tokens."""

    def check_images(self, images: Tensor) -> None:
        """Check that images have the size this tower was built for.

        Raises:
            ValueError: the images have another size.
        """
        if images.shape[1:] != (3, *self.image_size):
            raise ValueError(
                f"expected images of shape [B, 3, {self.image_size[0]}, {self.image_size[1]}]; got "
                f"{list(images.shape)}: set backbone.image_height and backbone.image_width"
            )


class Backbone(Protocol):
    """Pretrained model with an image tower."""

    @property
    def image(self) -> ImageTower:
        """The image tower."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Output of a `PatchTower` for B images; not normalised.

    Attributes:
        class_token: [B, W] class token after the final layer norm, before projection.
        projected: [B, D] class token in the joint space.
        patches: [B, L, D] patch tokens in the joint space, in row-major order.
    """

    class_token: Tensor
    projected: Tensor
    patches: Tensor

    def named(self) -> dict[str, Tensor]:
        """Return g and f by name."""
        return {"class_token": self.class_token, "projected": self.projected}


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Output of a `TextTower` for N texts of L tokens; not normalised.

    Attributes:
        sentence: [N, D] text feature in the joint space, comparable with images.
        tokens: [N, L, D] token features in the joint space; ignore those where `mask` is False.
        mask: [N, L] bool, True from the first to the last token of a text.
    """

    sentence: Tensor
    tokens: Tensor
    mask: Tensor


class PatchTower(ImageTower):
    """Image tower with a class token and a grid of L patch tokens.

    Its features are `class_token` (g, before projection) and `projected` (f).
    """

    metric = "projected"

    grid_size: tuple[int, int]
    """Number of patch rows and columns; their product is L."""

    num_parts: int = 1
    """Number of parts of a batch that are encoded one after another if gradients are recorded."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Size W of a token before projection."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images [B, 3, H, W] of the right size as the fields of `ImageFeatures`."""

    def forward(self, images: Tensor) -> ImageFeatures:
        """Encode normalised images [B, 3, H, W].

        Raises:
            ValueError: the images do not have the size this tower was built for.
        """
        self.check_images(images)
        return ImageFeatures(*encode_in_parts(self.encode, images, self.num_parts))

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """Size W of g and D of f."""
        return {"class_token": self.width, "projected": self.embed_dim}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images [B, 3, H, W] as g [B, W] and f [B, D]."""
        return self(images).named()


def encode_in_parts(
    encode: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, num_parts: int
) -> tuple[Tensor, ...]:
    """Encode a batch in parts, keeping the activations of at most one part.

    The forward pass keeps only the features. The backward pass starts from the gradient of the
    features of the whole batch; it computes the activations of one part again, propagates through
    them and frees them. Losses may therefore relate all images of the batch. Without gradients the
    batch is encoded at once.

    Args:
        encode: images [B, 3, H, W] -> features [B, ...]; computes each image independently.
        images: [B, 3, H, W].
        num_parts: number of parts of about equal size, >= 1.

    Returns:
        The features of all images, in order.

    Source: gradient caching (Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup), by activation checkpointing.
    """
    if num_parts == 1 or not torch.is_grad_enabled():
        return encode(images)
    parts = [checkpoint(encode, part, use_reentrant=False) for part in images.chunk(num_parts)]
    return tuple(torch.cat(features) for features in zip(*parts, strict=True))


Truncate = Callable[[str, list[int], int], list[int]]
"""Shorten the word ids of a text: (text, ids without first and last token, maximum number of tokens
with them) -> ids that fit."""


def truncate(text: str, word_ids: list[int], limit: int) -> list[int]:
    """Return the word ids that fit into `limit` tokens with first and last token."""
    del text
    return word_ids[: limit - 2]


def padded_tokens(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Build tokens [N, L] long from N rows of ids, padded to the length L of the longest."""
    tokens = torch.full((len(rows), max(map(len, rows), default=2)), padding)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    return tokens


class TextTower(nn.Module, ABC):
    """Text encoder whose input is token embeddings, so that learned prompts can replace words.

    A text is a sequence of a first token, words, a last token and padding. Positions after the last
    token do not affect the features of a text.
    """

    context_length: int
    """Maximum text length in tokens, including first and last token."""

    padding: int = 0
    """Token id after the end of a text."""

    unread: tuple[str, ...] = ()
    """Names of parameters that no feature depends on; they receive no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self._truncated: set[str] = set()
        self._num_reported = 0

    @property
    @abstractmethod
    def width(self) -> int:
        """Size of a token embedding and of learned prompt vectors."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Size D of the joint embedding."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Tokenize texts as [N, L] long on the CPU, where L is the length of the longest text.

        Texts longer than `max_tokens` or `context_length` are truncated and keep their last token.
        Any string is allowed: unknown words are split into pieces or replaced by a token, and the
        name of a special token is ordinary text.
        """

    def take_num_truncated(self) -> int:
        """Return the number of different texts that `tokenize` truncated since the last call.

        A text is counted once, even if it is tokenised again later.
        """
        new = len(self._truncated) - self._num_reported
        self._num_reported = len(self._truncated)
        return new

    def _truncate(self, text: str, word_ids: list[int], limit: int) -> list[int]:
        """Return the ids of the words of a text without those that do not fit; remember the text.

        Args:
            text: the text.
            word_ids: its token ids without first and last token.
            limit: maximum number of tokens, including first and last token.
        """
        if len(word_ids) > limit - 2:
            self._truncated.add(text)
        return truncate(text, word_ids, limit)

    @abstractmethod
    def end_positions(self, tokens: Tensor) -> Tensor:
        """Return the position [N] of the last token of each text in tokens [N, L]."""

    @abstractmethod
    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Look up token embeddings [N, L, W] of tokens [N, L], without positional embedding."""

    @abstractmethod
    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Encode token embeddings [N, L, W] with end-of-text positions [N] as text features [N, D].

        Positional embeddings are added here, so inserted prompt vectors get them too. The result is
        not normalised.

        Raises:
            ValueError: L exceeds the number of positions of the tower.
        """

    @abstractmethod
    def features(self, tokens: Tensor) -> TextFeatures:
        """Encode tokens [N, L] on the tower's device as sentence and token features, with gradient.

        Raises:
            ValueError: L exceeds the number of positions of the tower.
        """

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Encode N texts as features [N, D], not normalised, without gradient.

        Equal strings are encoded once, in batches of similar length.
        """
        device = next(self.parameters()).device
        distinct = list(dict.fromkeys(texts))
        rows = {text: row for row, text in enumerate(distinct)}
        tokens = self.tokenize(distinct)
        ends = self.end_positions(tokens)
        features = torch.empty(len(distinct), self.embed_dim, device=device)
        for chunk in ends.argsort(stable=True).split(batch_size) if distinct else ():
            part = tokens[chunk, : int(ends[chunk[-1]]) + 1].to(device)
            encoded = self(self.embed_tokens(part), ends[chunk].to(device))
            features[chunk.to(device)] = encoded.to(features.dtype)
        return features[torch.tensor([rows[text] for text in texts], dtype=torch.long)]

    def check_length(self, length: int, num_positions: int) -> None:
        """Check that texts are not longer than the number of positions.

        Raises:
            ValueError: the texts are too long.
        """
        if length > num_positions:
            raise ValueError(
                f"expected texts of at most {num_positions} tokens; got {length}: shorten the "
                "texts or the prompts before them (tokenize takes max_tokens)"
            )


class ImageTextBackbone(Backbone, Protocol):
    """Image and text tower with a joint space; state-dict keys begin with "image." or "text.".

    The parameters of a new text tower are frozen (gradients still flow through it to prompt
    vectors). Unless a stage trains it, checkpoints may omit "text.".
    """

    @property
    def image(self) -> PatchTower:
        """The image tower."""
        ...

    @property
    def text(self) -> TextTower:
        """The text tower."""
        ...


def resize_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Resize a positional embedding [1 + h*w, W] to another patch grid, [1 + h'*w', W].

    The row of the class token is kept. The grid is interpolated bicubically with antialiasing, as
    in open_clip for square inputs (CLIP-ReID: bilinear).
    """
    if old_grid == new_grid:
        return positions
    grid = positions[1:].unflatten(0, old_grid).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, new_grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of patch rows and columns of an image of H x W pixels.

    Raises:
        ValueError: the image size is not a multiple of the patch size.
    """
    height, width = image_size
    patch_height, patch_width = patch_size
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"expected an image size in multiples of the {patch_height}x{patch_width} patch; got "
            f"{height}x{width}: set backbone.image_height and backbone.image_width"
        )
    return height // patch_height, width // patch_width
