"""Graphs of a learner's test embedding, from pixels or token ids to L2-normalised rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.tower import TextTower
from models.heads.mamba import MambaStack
from models.learner import Learner
from runner.analysis.trained_run import TrainedRun
from tasks.loading.transforms import TransformConfig, mean_and_std, normalise

EMBEDDING = "test_embedding"
"""Name of the output of every graph: [B, D] float32, L2-normalised.

Not "embedding": the exporter gives that name to the look-up of token embeddings.
"""

SAMPLE_TEXTS = (
    "a woman in a red coat with a black bag",
    "a man",
    "a tall person who wears a long green jacket, blue jeans, white shoes and a yellow hat, "
    "and carries a brown backpack",
)
"""Texts that graphs are traced and checked with; they differ in length."""


@dataclass(frozen=True)
class GraphInput:
    """Input of a graph.

    Attributes:
        name: name of the input.
        dtype: "float32", "uint8" or "int64".
        shape: size of each dimension; a name for a dimension of any size.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """A graph to export.

    Attributes:
        name: "image" or "text"; the stem of its file.
        module: function from the inputs to the embedding, in evaluation mode.
        inputs: inputs in order.
        example: values of the inputs for two images or texts.
    """

    name: str
    module: nn.Module
    inputs: tuple[GraphInput, ...]
    example: tuple[Tensor, ...]


class ImageGraph(nn.Module):
    """Test embedding of images, the rows that `evaluate` ranks by.

    Args:
        learner: the learner.
        transform: normalisation of uint8 images; None if the input is already normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, learner: Learner, transform: TransformConfig | None) -> None:
        super().__init__()
        self.learner = learner
        self.normalises = transform is not None
        if transform is not None:
            # The values of `normalise`, which works in place: a traced graph would change them.
            for name, values in zip(("mean", "std"), mean_and_std(transform), strict=True):
                scaled = torch.tensor(values).mul_(255).view(1, 3, 1, 1)
                self.register_buffer(name, scaled, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images as [B, D].

        Args:
            images: [B, 3, H, W] float32, normalised; with `transform`, [B, H, W, 3] uint8.
        """
        return self.learner.embed_images(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise uint8 images."""
        if not self.normalises:
            return images
        return (images.permute(0, 3, 1, 2).float() - self.mean) / self.std


class DescribedImageGraph(ImageGraph):
    """Test embedding of images with descriptions, for learners that fuse them."""

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Embed images (see `ImageGraph`) with descriptions [B, L] (token ids) as [B, D]."""
        return self.learner.embed_described(self.normalised(images), tokens)


class TextGraph(nn.Module):
    """Embedding of text queries by the learner's text tower."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed token ids [N, L] as [N, D]."""
        features = self.tower(self.tower.embed_tokens(tokens), self.tower.end_positions(tokens))
        return functional.normalize(features, dim=1)


def graphs_of(run: TrainedRun, *, uint8: bool) -> tuple[Graph, ...]:
    """Returns the image graph of a run, and the text graph if the learner embeds texts.

    Args:
        run: trained run.
        uint8: whether the image graph takes uint8 [B, H, W, 3] and normalises it.

    Raises:
        ValueError: the test embedding cannot be written as a graph; names the learner and why.
    """
    _refuse_cuda_kernels(run)
    learner, backbone = run.learner, run.config.backbone
    height, width = backbone.image_height, backbone.image_width
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=generator)
    if uint8:
        images = GraphInput("images", "uint8", ("batch", height, width, 3))
    else:
        images = GraphInput("images", "float32", ("batch", 3, height, width))
        pixels = normalise(pixels.numpy(), run.config.data.transform)
    kind = DescribedImageGraph if learner.reads_gallery_descriptions else ImageGraph
    module = kind(learner, run.config.data.transform if uint8 else None)
    inputs, example = [images], [pixels]
    tower = query_tower(learner)
    if learner.reads_gallery_descriptions:
        assert tower is not None
        length = description_length(learner)
        tokens = GraphInput("tokens", "int64", ("batch", "length" if length is None else length))
        inputs.append(tokens)
        example.append(_sample_tokens(tower, length))
    graphs = [Graph("image", module.eval(), tuple(inputs), tuple(example))]
    if tower is not None:
        tokens = GraphInput("tokens", "int64", ("batch", "length"))
        text = TextGraph(tower).eval()
        graphs.append(Graph("text", text, (tokens,), (_sample_tokens(tower, None),)))
    return tuple(graphs)


def query_tower(learner: Learner) -> TextTower | None:
    """Returns the text tower of a learner's text queries; None if it has none."""
    tower = learner.query_tower
    assert tower is None or isinstance(tower, TextTower)
    return tower


def description_length(learner: Learner) -> int | None:
    """Number of tokens of a description in the image graph; None for any number.

    A graph has no loop over positions. The Mamba layers are therefore unrolled, for descriptions
    padded to the longest text of the tower; they are causal, so padding changes nothing.
    """
    tower = query_tower(learner)
    if tower is None or not any(isinstance(part, MambaStack) for part in learner.modules()):
        return None
    return tower.context_length


def pad_tokens(tokens: Tensor, length: int | None, padding: int) -> Tensor:
    """Pads token ids [N, L] to `length`; None leaves them unchanged."""
    if length is None:
        return tokens
    return functional.pad(tokens, (0, length - tokens.shape[1]), value=padding)


def _sample_tokens(tower: TextTower, length: int | None) -> Tensor:
    return pad_tokens(tower.tokenize(SAMPLE_TEXTS[:2]), length, tower.padding)


def _refuse_cuda_kernels(run: TrainedRun) -> None:
    packages = {type(part).__module__.partition(".")[0] for part in run.learner.modules()}
    if "mamba_ssm" in packages:
        raise ValueError(
            f"{run.storage.folder.name}: expected layers that run on the CPU, got "
            f"learner {run.config.learner.name} with the CUDA kernels of mamba_ssm "
            "(learner.fusion.mamba_block); export on a machine without a CUDA device, where the "
            "equal layers of transformers are used"
        )
