"""ResNets: what the tower computes, where its weights come from, one feature in the network."""

from __future__ import annotations

import copy
import urllib.error

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet50_Weights

from models.backbones.building import build_backbone
from models.backbones.clip import ClipBackbone
from models.backbones.config import BackboneConfig
from models.backbones.gathered_norm import GatheredBatchNorm2d
from models.backbones.resnet import GeneralisedMeanPool
from models.components.interpolation import interpolate
from models.components.reid_network import (
    Frozen,
    IdentityTermConfig,
    InterpolationConfig,
    ReidNetwork,
    TripletTermConfig,
    interpolate_networks,
)
from models.learner import LocalCollective

TINY = "tiny-resnet"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name=TINY, *, seed=0, collective=None, **fields):
    settings = {"weights": "random", "image_height": 64, "image_width": 32, **fields}
    return build_backbone(BackboneConfig(name=name, **settings), seed, collective)


def feature_map(image, images):
    """What layer4 makes of the images."""
    seen = []
    handle = image.visual.layer4.register_forward_hook(lambda *call: seen.append(call[2]))
    image(images)
    handle.remove()
    return seen[0]


@pytest.fixture
def network():
    network = ReidNetwork(build().image)
    numbers = torch.Generator().manual_seed(1)
    network.neck_pooled.weight.data.uniform_(0.5, 1.5, generator=numbers)
    network.neck_pooled.running_mean.normal_(generator=numbers)
    network.neck_pooled.running_var.uniform_(0.5, 2, generator=numbers)
    return network


# The tower ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048), (TINY, 128)])
def test_feature_map_is_a_16th_of_the_image_and_is_mean_pooled(name, width):
    image = build(name).image.eval()
    with torch.no_grad():
        images = draw(2, 3, 64, 32)
        maps, features = feature_map(image, images), image.features(images)
    assert maps.shape == (2, width, 4, 2)
    assert features.keys() == {"pooled"}
    assert torch.allclose(features["pooled"], maps.mean((2, 3)), atol=1e-5)
    assert image.feature_dims == {"pooled": width}
    assert image.metric == "pooled"


def test_only_the_last_stride_differs_from_torchvision():
    ours = build("resnet50").image.visual
    assert not [key for key in ours.state_dict() if key.startswith("fc.")]
    strides = {p: m.stride for p, m in ours.named_modules() if isinstance(m, nn.Conv2d)}
    halving = {path for path, stride in strides.items() if stride == (2, 2)}
    layers = {"layer2.0.conv2", "layer2.0.downsample.0", "layer3.0.conv2", "layer3.0.downsample.0"}
    assert halving == {"conv1", *layers}


@pytest.mark.parametrize("exponent", [0.5, 3.0, 6.5])
def test_the_generalised_mean_position_by_position(exponent):
    maps = draw(2, 3, 4, 2).abs()
    maps[0, 0] = 0
    found = GeneralisedMeanPool(exponent)(maps)
    assert found.shape == (2, 3, 1, 1)
    for image in range(2):
        for channel in range(3):
            values = [max(float(v), 1e-6) for v in maps[image, channel].flatten()]
            wanted = (sum(v**exponent for v in values) / 8) ** (1 / exponent)
            assert float(found[image, channel]) == pytest.approx(wanted, rel=1e-4)


def test_pooling_exponent_is_configurable():
    plain, general = build(pooling_exponent=1).image, build(pooling_exponent=3).image
    images = draw(2, 3, 64, 32)
    with torch.no_grad():
        maps = feature_map(general.eval(), images)
        wanted = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        assert torch.allclose(general(images), wanted, rtol=1e-4)
        assert not torch.allclose(general(images), plain.eval()(images), rtol=0.1)
    assert plain.state_dict().keys() == general.state_dict().keys()


def test_zero_channel_has_finite_gradients():
    maps = torch.zeros(2, 3, 4, 2, requires_grad=True)
    GeneralisedMeanPool(3.0)(maps).sum().backward()
    assert maps.grad.isfinite().all()


def test_random_weights_depend_only_on_the_seed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    state = first.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[path]) for path, tensor in state.items())
    assert not torch.equal(first.image.visual.conv1.weight, other.image.visual.conv1.weight)


def test_images_of_another_size_are_rejected():
    with pytest.raises(
        ValueError, match=r"expected images of shape \[B, 3, 64, 32\].*set backbone.image"
    ):
        build().image(torch.zeros(1, 3, 128, 64))


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_torchvision_file_loads_without_its_classifier(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = {key: 2 * value for key, value in build(seed=9).image.visual.state_dict().items()}
    # As in the files of old, no batches are counted.
    kept = {key: value for key, value in state.items() if not key.endswith("tracked")}
    kept |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    save_file(kept, path) if suffix == ".safetensors" else torch.save(kept, path)
    loaded = build(weights=str(path)).image.visual.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in loaded.items():
        assert torch.equal(value, state[key]), key


def test_file_of_another_architecture_is_rejected(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(build().image.visual.state_dict() | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"cannot load .* 1 unexpected \(extra, ...\)"):
        build(weights=str(path))
    with pytest.raises(ValueError, match=r"into resnet50: of \d+ tensors \d+ missing"):
        build("resnet50", weights=str(path))
    with pytest.raises(FileNotFoundError, match="expected an existing file"):
        build(weights=str(tmp_path / "gone.pth"))


def test_download_error_names_the_file_and_its_location(monkeypatch):
    def unreachable(self, **options):
        assert self is ResNet50_Weights.IMAGENET1K_V1
        assert options["check_hash"]
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", unreachable)
    with pytest.raises(RuntimeError, match=r"no network.*resnet50-0676ba61.pth elsewhere, and put"):
        build("resnet50", weights="imagenet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": TINY}, "expected random or a local file for tiny-resnet; got 'warm'"),
        ({"name": TINY, "weights": "imagenet"}, "expected random or a local file"),
        ({"name": "resnet50"}, "expected imagenet, random or a local file for resnet50"),
        ({"name": "resnet50", "weights": "openai"}, "got 'openai'"),
        (
            {"name": TINY, "weights": "random", "context_length": 9},
            "tiny-resnet, which has no text tower",
        ),
        ({"pooling_exponent": 3}, "pooling_exponent: expected 1 for tiny-clip"),
        ({"name": TINY, "weights": "random", "pooling_exponent": 0}, "greater than 0"),
    ],
)
def test_inconsistent_settings_are_rejected(fields, message):
    with pytest.raises(ValidationError, match=message):
        BackboneConfig(**fields)


def test_other_names_are_clips():
    backbone = build("tiny-clip")
    assert isinstance(backbone, ClipBackbone)
    assert backbone.image.feature_dims == {"class_token": 96, "projected": 96}


# One feature in the network -----------------------------------------------------------------------


def test_embedding_is_the_neck_output(network):
    images = draw(5, 3, 64, 32)
    network.eval()
    with torch.no_grad():
        found, feature = network.embed(images), network.image(images)
    neck = network.neck_pooled
    normed = (feature - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    assert found.shape == (5, 128)
    for row in range(5):
        assert torch.allclose(found[row], normed[row] / normed[row].norm(), atol=1e-6)


def test_classifier_grows_from_identity_centres(network):
    for offset, ids in ((0, [1, 0, 0, 1, 2]), (3, [0, 1, 1, 0, 0])):
        features, person_ids = draw(5, 128, seed=offset), torch.tensor(ids)
        network.grow({"pooled": features}, person_ids)
        for person in range(max(ids) + 1):
            mean = features[person_ids == person].mean(0)
            row = network.head_pooled.weight[offset + person]
            assert torch.allclose(row, mean / mean.norm(), atol=1e-6)
    assert network.num_identities == 5
    assert {path.split(".")[0] for path in network.state_dict()} == {
        "image", "neck_pooled", "head_pooled",
    }  # fmt: skip


def test_the_triplet_is_on_the_feature_before_the_neck(network):
    rows, targets = draw(6, 128), torch.tensor([0, 0, 1, 1, 2, 2])
    network.grow({"pooled": rows}, targets)
    network.train()
    terms = network.identity_terms(
        {"pooled": rows}, targets, IdentityTermConfig(label_smoothing=0), TripletTermConfig()
    )
    total = 0.0
    for i in range(6):
        distances = [(rows[i] - rows[j]).norm() for j in range(6)]
        same = max(distances[j] for j in range(6) if j != i and targets[j] == targets[i])
        total += functional.softplus(
            same - min(distances[j] for j in range(6) if targets[j] != targets[i])
        )
    assert torch.allclose(terms["triplet"], total / 6, atol=1e-4)
    scaled = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    logits = scaled * network.neck_pooled.weight @ network.head_pooled.weight.T
    wanted = -logits.log_softmax(1)[range(6), targets].mean()
    assert torch.allclose(terms["identity"], wanted, atol=1e-4)


def test_interpolation_includes_running_statistics(network):
    old = copy.deepcopy(network)
    network.train()
    for step in range(3):
        network.image(draw(4, 3, 64, 32, seed=step))
    new = {path: tensor.clone() for path, tensor in network.state_dict().items()}
    past = old.state_dict()

    def unused(_):
        raise AssertionError("no need of a pass over the images")

    interpolate_networks(network, old, InterpolationConfig(mode="fixed", alpha=0.25), unused)
    mixed = network.state_dict()
    moved = [path for path in new if path.endswith("running_mean") and path.startswith("image.")]
    assert len(moved) == 13
    for path in moved:
        for name in (path, path.replace("running_mean", "running_var")):
            assert not torch.equal(new[name], past[name])
            naive = 0.25 * new[name] + 0.75 * past[name]
            assert torch.allclose(mixed[name], naive, atol=1e-6)
    # A number of batches is no weight.
    assert mixed["image.visual.bn1.num_batches_tracked"] == 3
    assert interpolate(new, past, 0.25)["image.visual.bn1.num_batches_tracked"].dtype == torch.long


def test_frozen_network_keeps_its_statistics(network):
    frozen = Frozen(network)
    before = {path: tensor.clone() for path, tensor in frozen.state_dict().items()}
    frozen.train()
    frozen.module.image(draw(4, 3, 64, 32))
    assert all(torch.equal(tensor, before[path]) for path, tensor in frozen.state_dict().items())


def test_a_state_dict_goes_into_another_network(network):
    network.grow({"pooled": draw(2, 128)}, torch.tensor([0, 1]))
    other = ReidNetwork(build(seed=3).image)
    other.grow({"pooled": draw(2, 128, seed=5)}, torch.tensor([0, 1]))
    other.load_state_dict(network.state_dict())
    images = draw(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(network.eval().embed(images), other.eval().embed(images))


# Statistics of the global batch -------------------------------------------------------------------


def test_gathered_statistics_of_one_worker_equal_torch():
    plain, gathered = nn.BatchNorm2d(3), GatheredBatchNorm2d(3, LocalCollective())
    for norm in (plain, gathered):
        norm.weight.data.copy_(draw(3, seed=1))
        norm.bias.data.copy_(draw(3, seed=2))
    outputs, gradients = [], []
    for norm in (plain, gathered):
        images = (100 + draw(4, 3, 5, 2)).requires_grad_()
        found = norm(images)
        (found * draw(4, 3, 5, 2, seed=3)).sum().backward()
        outputs.append(found)
        gradients.append(images.grad)
    assert torch.allclose(*outputs, atol=1e-4)
    assert torch.allclose(*gradients, atol=1e-4)
    for path, tensor in plain.state_dict().items():
        assert torch.allclose(tensor.float(), gathered.state_dict()[path].float(), rtol=1e-4), path
    images = draw(2, 3, 5, 2)
    assert torch.allclose(plain.eval()(images), gathered.eval()(images), atol=1e-6)


def test_a_tower_of_several_workers_has_the_same_weights_under_the_same_names():
    alone, shared = build(seed=4), build(seed=4, collective=LocalCollective())
    norms = [m for m in shared.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {GatheredBatchNorm2d}
    assert not any(isinstance(module, GatheredBatchNorm2d) for module in alone.modules())
    assert alone.state_dict().keys() == shared.state_dict().keys()
    for path, tensor in alone.state_dict().items():
        assert torch.equal(tensor, shared.state_dict()[path]), path
