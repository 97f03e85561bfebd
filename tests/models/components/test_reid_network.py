"""Necks, classifiers and the losses on them, against what the formulas say line by line."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from models.components.interpolation import adaptive_alpha
from models.components.reid_network import (
    Frozen,
    IdentityTermConfig,
    InterpolationConfig,
    ReidNetwork,
    TermConfig,
    TripletTermConfig,
    check_any_enabled,
    interpolate_networks,
    mean_terms,
    term_weights,
    trainable_patterns,
)
from tasks.schema import FrozenConfig


@pytest.fixture
def network(backbone):
    network = ReidNetwork(copy.deepcopy(backbone.image))
    draw = torch.Generator().manual_seed(0)
    for neck in (network.neck_class, network.neck_projected):
        neck.weight.data.uniform_(0.5, 1.5, generator=draw)
        neck.running_mean.normal_(generator=draw)
        neck.running_var.uniform_(0.5, 2, generator=draw)
    return network


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(class_token, projected):
    return {"class_token": class_token, "projected": projected}


def test_the_embedding_is_both_necks_side_by_side(network):
    images = draw(5, 3, 32, 16)
    network.eval()
    with torch.no_grad():
        found, features = network.embed(images), network.image(images)
    halves = []
    for neck, feature in (
        (network.neck_class, features.class_token),
        (network.neck_projected, features.projected),
    ):
        centred = (feature - neck.running_mean) / (neck.running_var + neck.eps).sqrt()
        halves.append(centred * neck.weight)
    for row in range(5):
        naive = torch.cat([half[row] for half in halves])
        assert torch.allclose(found[row], naive / naive.norm(), atol=1e-6)


def test_rows_grow_from_the_centres_of_each_person(network):
    network.grow(both(draw(6, 96), draw(6, 96, seed=1)), torch.tensor([2, 0, 0, 1, 2, 2]))
    assert network.num_identities == 3
    old = network.head_class.weight.detach().clone()
    class_token, projected = draw(5, 96, seed=2), draw(5, 96, seed=3)
    person_ids = torch.tensor([1, 0, 1, 1, 0])
    network.grow(both(class_token, projected), person_ids)
    assert network.num_identities == 5
    assert torch.equal(network.head_class.weight[:3], old)
    for head, features in (
        (network.head_class, class_token),
        (network.head_projected, projected),
    ):
        for person in range(2):
            mean = features[person_ids == person].mean(0)
            assert torch.allclose(head.weight[3 + person], mean / mean.norm(), atol=1e-6)


def naive_cross_entropy(neck, head, features, targets, smoothing):
    """With the statistics of the batch, as in training."""
    scaled = (features - features.mean(0)) / (features.var(0, unbiased=False) + neck.eps).sqrt()
    log_probabilities = (scaled * neck.weight @ head.weight.T).log_softmax(1)
    total, num_classes = 0.0, log_probabilities.shape[1]
    for row, target in zip(log_probabilities, targets, strict=True):
        total -= (1 - smoothing) * row[target] + smoothing / num_classes * row.sum()
    return total / len(targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_identity_term_is_the_sum_over_both_heads(network, smoothing):
    g, f = draw(8, 96), draw(8, 96, seed=1)
    network.grow(both(g, f), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    targets = torch.tensor([0, 0, 2, 2, 3, 3, 1, 1])
    network.train()
    identity = IdentityTermConfig(label_smoothing=smoothing)
    terms = network.identity_terms(both(g, f), targets, identity, TripletTermConfig(weight=0))
    assert terms.keys() == {"identity"}
    wanted = naive_cross_entropy(network.neck_class, network.head_class, g, targets, smoothing)
    wanted += naive_cross_entropy(
        network.neck_projected, network.head_projected, f, targets, smoothing
    )
    assert torch.allclose(terms["identity"], wanted, atol=1e-4)


@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_triplet_term_is_batch_hard_on_f(network, margin, normalise):
    g, f = draw(6, 96), draw(6, 96, seed=1)
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    triplet = TripletTermConfig(margin=margin, normalise=normalise)
    terms = network.identity_terms(both(g, f), targets, IdentityTermConfig(weight=0), triplet)
    assert terms.keys() == {"triplet"}
    rows = functional.normalize(f, dim=1) if normalise else f
    total = 0.0
    for i in range(6):
        distances = [(rows[i] - rows[j]).norm() for j in range(6)]
        same = [j for j in range(6) if targets[j] == targets[i] and j != i]
        other = [j for j in range(6) if targets[j] != targets[i]]
        gap = max(distances[j] for j in same) - min(distances[j] for j in other)
        total += functional.softplus(gap) if margin is None else (gap + margin).clamp(min=0)
    assert torch.allclose(terms["triplet"], total / 6, atol=1e-5)


def test_zero_weight_terms_do_not_update_statistics(network):
    before = network.neck_class.running_mean.clone()
    network.train()
    arguments = (both(draw(4, 96), draw(4, 96)), torch.tensor([0, 0, 1, 1]))
    network.identity_terms(*arguments, IdentityTermConfig(weight=0), TripletTermConfig())
    assert torch.equal(network.neck_class.running_mean, before)
    off = network.identity_terms(
        *arguments, IdentityTermConfig(weight=0), TripletTermConfig(weight=0)
    )
    assert off == {}


def test_identity_parameters_train_only_with_the_identity_term():
    assert "network.head_*" in trainable_patterns(IdentityTermConfig())
    assert trainable_patterns(IdentityTermConfig(weight=0)) == ("network.image.*",)


def test_stage_without_loss_is_rejected():
    check_any_enabled({"one": TermConfig(weight=0), "two": TermConfig()}, "the stage")
    with pytest.raises(ValueError, match="the stage has no loss: give one of one a weight above 0"):
        check_any_enabled({"one": TermConfig(weight=0)}, "the stage")


def test_frozen_copy_does_not_change(network):
    frozen = Frozen(network)
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    before = frozen.state_dict()["module.neck_class.weight"].clone()
    network.neck_class.weight.data.add_(1)
    network.train()
    assert torch.equal(frozen.state_dict()["module.neck_class.weight"], before)
    assert network.neck_class.weight.requires_grad


def test_terms_of_views_are_averaged():
    views = [{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": torch.tensor(4.0)}]
    assert mean_terms(views[:1]) == {"a": 1, "b": 2}
    views[1]["b"] = torch.tensor(0.0)
    assert mean_terms(views) == {"a": 2.5, "b": 1}


def test_a_term_has_the_weight_of_its_own_field():
    class Losses(FrozenConfig):
        a: TermConfig = TermConfig(weight=3)
        b: TermConfig = TermConfig(weight=0.5)

    assert term_weights({"b": torch.tensor(0.0)}, Losses()) == {"b": 0.5}


def refuse(_):
    raise AssertionError("no need of a pass over the images")


@pytest.mark.parametrize(("mode", "share"), [("none", 1.0), ("fixed", 0.25)])
def test_fixed_interpolation_needs_no_images(network, mode, share):
    old = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    new = copy.deepcopy(network.state_dict())
    config = InterpolationConfig(mode=mode, alpha=0.25)
    assert interpolate_networks(network, old, config, refuse) == share
    for path, tensor in network.state_dict().items():
        wanted = share * new[path] + (1 - share) * old.state_dict()[path]
        assert torch.allclose(tensor.float(), wanted.float(), atol=1e-6), path


@pytest.mark.parametrize("keep_diagonal", [True, False])
def test_adaptive_interpolation_depends_on_drift(network, keep_diagonal):
    old, images = copy.deepcopy(network), draw(10, 3, 32, 16)
    with torch.no_grad():
        for parameter in network.image.parameters():
            parameter.add_(0.003 * torch.randn(parameter.shape, generator=draw_source()))
    network.eval()
    old.eval()

    def probe(encode):
        with torch.no_grad():
            return dict(encode(images))

    features = probe(lambda images: {"n": network.embed(images), "o": old.embed(images)})
    wanted = adaptive_alpha(features["n"], features["o"], keep_diagonal)
    config = InterpolationConfig(mode="adaptive", keep_diagonal=keep_diagonal)
    assert 0 < interpolate_networks(network, old, config, probe) == wanted < 1


def draw_source():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("values", [{"weight": -1}, {"label_smoothing": 1}, {"margin": 1}])
def test_terms_check_their_ranges(values):
    with pytest.raises(ValidationError):
        IdentityTermConfig(**values)
