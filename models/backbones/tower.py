"""What learners see of a backbone: an image tower that gives named features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

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
