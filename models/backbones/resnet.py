"""torchvision's ResNet in the form person re-identification needs: last stride 1, pooled feature.

The last of the four layers keeps the resolution of the one before, so the feature map has a 16th
of the image's height and width (Luo et al. 2019). What pools it is the generalised mean, average
pooling among them. There is one feature, and no text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.backbones.config import RESNET50, BackboneConfig
from models.backbones.gathered_norm import GatheredBatchNorm2d
from models.backbones.tower import ImageTower
from models.backbones.weights import check_weights_file, load_exactly, read_state
from models.learner import Collective

Norm = Callable[[int], nn.Module]
"""Number of channels -> a new batch normalisation."""

_SMALLEST_VALUE = 1e-6


class GeneralisedMeanPool(nn.Module):
    """(mean over positions of max(x, 1e-6)^p)^(1/p) of every channel.

    Args:
        exponent: p > 0; 1 is the mean of positive values, and the greatest value is its limit. It
            does not train, as in KRKC.

    Source: Radenovic et al. 2018.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps [B, C, H, W] -> [B, C, 1, 1]."""
        powers = maps.clamp(min=_SMALLEST_VALUE).pow(self.exponent)
        return functional.adaptive_avg_pool2d(powers, 1).pow(1 / self.exponent)


class ResNetEncoder(ImageTower):
    """A ResNet whose one feature, `pooled`, is also what metric losses compare."""

    metric = "pooled"

    def __init__(
        self, resnet: ResNet, image_size: tuple[int, int], pooling_exponent: float = 1.0
    ) -> None:
        """Takes the network over: last stride 1, its classifier dropped, its pooling replaced."""
        super().__init__()
        self.image_size = image_size
        for module in resnet.layer4.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        if pooling_exponent != 1:
            resnet.add_module("avgpool", GeneralisedMeanPool(pooling_exponent))
        resnet.add_module("fc", nn.Identity())
        self.visual = resnet

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """The channels of the feature map: 2048 of a ResNet-50."""
        return {self.metric: self.visual.inplanes}

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> pooled features [B, W], not normalised.

        Raises:
            ValueError: the images do not have the size this encoder was built for.
        """
        self.check_images(images)
        return self.visual(images)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pooled feature by its name."""
        return {self.metric: self(images)}

    def last_layer(self) -> Sequence[nn.Parameter]:
        """The last residual block."""
        return list(self.visual.layer4[-1].parameters())


class ResNetBackbone(nn.Module):
    """An image tower alone; state keys begin "image."."""

    def __init__(self, image: ResNetEncoder) -> None:
        super().__init__()
        self.image = image


def build(
    config: BackboneConfig, seed: int, collective: Collective | None = None
) -> ResNetBackbone:
    """The ResNet that `config` describes.

    Args:
        config: its architecture and weights.
        seed: decides the random weights, if any.
        collective: where several workers share a batch, through what its statistics are gathered;
            None in a single one.

    Raises:
        ValueError: a weights file of another architecture, or none at all.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the ImageNet weights could not be downloaded.
    """
    norm: Norm = nn.BatchNorm2d
    if collective is not None:
        norm = partial(GatheredBatchNorm2d, collective=collective)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        is_full = config.name == RESNET50
        resnet = resnet50(norm_layer=norm) if is_full else _NarrowResNet(norm)
    if config.weights != "random":
        _load(resnet, config.weights, config.name)
    size = (config.image_height, config.image_width)
    return ResNetBackbone(ResNetEncoder(resnet, size, config.pooling_exponent))


class _NarrowResNet(ResNet):
    """One basic block a layer, of a quarter of the usual channels: 128 features."""

    def __init__(self, norm: Norm) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], norm_layer=norm)
        self.fc = nn.Linear(self.inplanes, 1000)

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        return super()._make_layer(block, planes // 4, blocks, stride, dilate)


def _load(resnet: ResNet, weights: str, name: str) -> None:
    """Loads all but the classifier, which knows other classes than people."""
    if weights == "imagenet":
        what, state = f"torchvision's ImageNet weights into {name}", _imagenet_state()
    else:
        path = Path(weights)
        check_weights_file(path)
        what, state = f"{path} into {name}", read_state(path)
    own = resnet.state_dict()
    # Files from before torch 0.4.1 count no batches, and nothing reads that count.
    kept = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    kept |= {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    kept |= {key: own[key] for key in own if key.startswith("fc.")}
    load_exactly(resnet, kept, what)


def _imagenet_state() -> Mapping[str, Tensor]:
    """From torch's cache, or from the network; the file's name holds its checksum."""
    # Those that the authors of the methods here begin with, not the later IMAGENET1K_V2.
    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise RuntimeError(
            f"could not load torchvision's ImageNet weights of {RESNET50} ({error}); without a "
            f"network, download {weights.url} elsewhere, and put it into {cache} or set "
            "backbone.weights to its path"
        ) from error
