"""torchvision's ResNet for person re-identification: last stride 1, one pooled feature.

The last of the four layers keeps the resolution of the previous one, so the feature map has 1/16 of
the image's height and width (Luo et al. 2019). It is pooled by the generalised mean, of which
average pooling is a special case. There is one feature and no text tower.
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
from models.backbones.weights import check_weights_file, load_strict, read_state
from models.learner import Collective

Norm = Callable[[int], nn.Module]
"""Function from the number of channels to a new batch normalisation layer."""

_MIN_VALUE = 1e-6
_CLASSIFIERS = ("fc.", "classifier.")  # of torchvision and torchreid


class GeneralisedMeanPool(nn.Module):
    """Generalised-mean pooling, (mean over positions of max(x, 1e-6)^p)^(1/p) per channel.

    Args:
        exponent: p > 0; 1 is the mean of positive values, infinity the maximum. It is not trained,
            as in KRKC.

    Source: Radenovic et al. 2018.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, maps: Tensor) -> Tensor:
        """Pool feature maps [B, C, H, W] to [B, C, 1, 1]."""
        powers = maps.clamp(min=_MIN_VALUE).pow(self.exponent)
        return functional.adaptive_avg_pool2d(powers, 1).pow(1 / self.exponent)


class ResNetEncoder(ImageTower):
    """ResNet with one feature, `pooled`, which metric losses also use."""

    metric = "pooled"

    def __init__(
        self, resnet: ResNet, image_size: tuple[int, int], pooling_exponent: float = 1.0
    ) -> None:
        """Wrap the network: set the last stride to 1, drop the classifier, replace the pooling."""
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
        """Number of channels of the feature map: 2048 for a ResNet-50."""
        return {self.metric: self.visual.inplanes}

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images [B, 3, H, W] as pooled features [B, W], not normalised.

        Raises:
            ValueError: the images do not have the size this encoder was built for.
        """
        self.check_images(images)
        return self.visual(images)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pooled feature by name."""
        return {self.metric: self(images)}

    def blocks(self) -> Sequence[nn.Module]:
        """Return the residual blocks."""
        visual = self.visual
        layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        return [block for layer in layers for block in layer]

    def last_layer(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the last residual block."""
        return list(self.visual.layer4[-1].parameters())


class ResNetBackbone(nn.Module):
    """Backbone without text tower; state-dict keys begin with "image."."""

    def __init__(self, image: ResNetEncoder) -> None:
        super().__init__()
        self.image = image


def build(
    config: BackboneConfig, seed: int, collective: Collective | None = None
) -> ResNetBackbone:
    """Build the ResNet described by `config`.

    Args:
        config: architecture and weights.
        seed: seed of random weights.
        collective: workers whose batch statistics are combined; None for a single process.

    Raises:
        ValueError: the weights file has another architecture or format.
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
    """ResNet with one basic block per layer and a quarter of the channels: 128 features."""

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
    """Load all weights except the classifier, which has other classes than persons."""
    if weights == "imagenet":
        description, state = f"torchvision's ImageNet weights into {name}", _imagenet_state()
    else:
        path = Path(weights)
        check_weights_file(path)
        description, state = f"{path} into {name}", read_state(path)
    current = resnet.state_dict()
    # Files from before torch 0.4.1 have no num_batches_tracked, which is not used.
    merged = {key: current[key] for key in current if key.endswith("num_batches_tracked")}
    merged |= {key: tensor for key, tensor in state.items() if not key.startswith(_CLASSIFIERS)}
    merged |= {key: current[key] for key in current if key.startswith("fc.")}
    load_strict(resnet, merged, description)


def _imagenet_state() -> Mapping[str, Tensor]:
    """Load the weights from torch's cache or the network; the file name contains a checksum."""
    # The weights that the methods' authors use, not the later IMAGENET1K_V2.
    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise RuntimeError(
            f"could not load torchvision's ImageNet weights of {RESNET50} ({error}); without "
            f"network access, download {weights.url} elsewhere, and put it into {cache} or set "
            "backbone.weights to its path"
        ) from error
