"""What learners see of a backbone: an image tower that gives named features, maybe a text tower.

Every backbone has an `ImageTower`. One with a text tower beside it is an `ImageTextBackbone`: its
image tower is a `PatchTower`, and both towers end in one joint space of D numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class ImageTower(nn.Module, ABC):
    """An image encoder for images of one, possibly rectangular, size.

    Each of its named features gets a BN neck and a classifier of its own. It stands alone: a
    frozen teacher is `copy.deepcopy(tower)`.
    """

    metric: str
    """Name of f: the feature that the triplet and affinities compare."""

    image_size: tuple[int, int]
    """Height and width of the images, in pixels."""

    @property
    @abstractmethod
    def feature_dims(self) -> Mapping[str, int]:
        """Size of each named feature, in the order in which they make the test embedding."""

    @abstractmethod
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] -> every named feature, [B, dim], not normalised.

        Raises:
            ValueError: the images do not have the size this tower was built for.
        """

    @abstractmethod
    def last_layer(self) -> Sequence[nn.Parameter]:
        """Parameters of the last layer that all its features, patch tokens too, come from."""

    def check_images(self, images: Tensor) -> None:
        """Refuses images of another size than this tower was built for.

        Raises:
            ValueError: says which size was expected.
        """
        if images.shape[1:] != (3, *self.image_size):
            raise ValueError(
                f"expected images [B, 3, {self.image_size[0]}, {self.image_size[1]}]; came "
                f"{list(images.shape)}: set backbone.image_height and backbone.image_width"
            )


class Backbone(Protocol):
    """A pretrained model; some have a text tower beside the image tower."""

    @property
    def image(self) -> ImageTower:
        """The image tower."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What a `PatchTower` says of B images; nothing is normalised.

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


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What a `TextTower` says of N texts of L tokens; nothing is normalised.

    Attributes:
        sentence: [N, D] the text as a whole in the joint space: what is compared with images.
        tokens: [N, L, D] every token in the joint space. What stands where `mask` is False is to
            be ignored.
        mask: [N, L] bool, True from a text's first token to its last, False after its end.
    """

    sentence: Tensor
    tokens: Tensor
    mask: Tensor


class PatchTower(ImageTower):
    """An image tower of tokens: a class token and a grid of patches, L in all.

    Its features are `class_token`, g, the class token before projection, and `projected`, f.
    """

    metric = "projected"

    grid_size: tuple[int, int]
    """Patches from top to bottom and from left to right; their product is L."""

    @property
    @abstractmethod
    def width(self) -> int:
        """W, the size of a token before projection."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""

    @abstractmethod
    def forward(self, images: Tensor) -> ImageFeatures:
        """Normalised images [B, 3, H, W] -> their features.

        Raises:
            ValueError: the images do not have the size this tower was built for.
        """

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """W of g, D of f."""
        return {"class_token": self.width, "projected": self.embed_dim}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """g [B, W] and f [B, D] by their names."""
        return self(images).named()


class TextTower(nn.Module, ABC):
    """A text encoder that is entered at the token embeddings, so that learned prompts can be words.

    A text is a row of tokens: a first token, its words, a last token, then padding. What stands
    after the last token has no influence on a text's features.
    """

    context_length: int
    """Longest text in tokens, first and last included."""

    unread: tuple[str, ...] = ()
    """Names of parameters that no feature comes from: they receive no gradient."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Size of a token embedding: what a learned prompt vector must have."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the size of the joint embedding."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Texts -> tokens [N, L] long on the CPU, L being the longest text's length.

        A text longer than `max_tokens` (or than `context_length`, if that is less) is cut and
        keeps its last token. Any string is a text: what the vocabulary lacks gets pieces of words
        or a token for the unknown.
        """

    @abstractmethod
    def end_positions(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> position of each text's last token [N]."""

    @abstractmethod
    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> token embeddings [N, L, W], without positions."""

    @abstractmethod
    def forward(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Token embeddings [N, L, W] and end-of-text positions [N] -> text features [N, D].

        Positions are added here, so that prompt vectors set among the words take theirs. Not
        normalised.

        Raises:
            ValueError: L is longer than the tower has positions.
        """

    @abstractmethod
    def features(self, tokens: Tensor) -> TextFeatures:
        """Tokens [N, L], on the tower's device -> the sentence and its tokens, with gradient.

        Raises:
            ValueError: L is longer than the tower has positions.
        """

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Texts -> text features [N, D], not normalised and without gradient.

        Distinct strings are encoded once, in batches of like length.
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
        """Refuses texts that are longer than the tower has positions.

        Raises:
            ValueError: says how long they may be.
        """
        if length > num_positions:
            raise ValueError(
                f"expected texts of at most {num_positions} tokens; came {length}: shorten the "
                "texts or the prompts in front of them (tokenize takes max_tokens)"
            )


class ImageTextBackbone(Backbone, Protocol):
    """Image and text tower with a joint embedding space; state keys begin "image." or "text.".

    As built, the text tower takes no gradient of its own (gradients still flow through it to
    prompt vectors): unless a stage trains it, a checkpoint may leave "text." out.
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
    """Positional embedding [1 + h*w, W] of one patch grid -> [1 + h'*w', W] of another.

    The class token's row stays; the grid is interpolated bicubically with antialiasing, as
    open_clip does for square inputs (CLIP-ReID: bilinear).
    """
    if old_grid == new_grid:
        return positions
    grid = positions[1:].unflatten(0, old_grid).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, new_grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Patches down and across an image of H x W pixels.

    Raises:
        ValueError: a side of the image is no multiple of the patch's.
    """
    height, width = image_size
    patch_height, patch_width = patch_size
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"expected an image size in multiples of the {patch_height}x{patch_width} patch; came "
            f"{height}x{width}: set backbone.image_height and backbone.image_width"
        )
    return height // patch_height, width // patch_width
