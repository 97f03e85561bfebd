"""What every learner of images alone owes the loop, on a ResNet: one feature, batch statistics."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.building import build_backbone
from models.backbones.config import BackboneConfig
from models.components.interpolation import interpolate
from runner.config.run_config import learner_module
from runner.training.optim import set_trainable
from tests.models import learner_cases
from tests.models.learner_cases import CASES, INTERPOLATING, LEARNING
from tests.models.learners import test_learner_contract, test_learner_state
from tests.models.learners.test_learner_state import network_after_training
from tests.models.learners.test_learner_workers import half

# The contract itself is the default suite's, on a CLIP; here it is asked again on another tower.
pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 32, 16
# How long a first domain is has nothing to do with the tower.
OF_IMAGES = [
    case
    for case in CASES
    if not learner_module(case.values[0]).Method.reads_texts
    and "first_epochs" not in case.values[1]
]
LEARNING_OF_IMAGES = [case for case in OF_IMAGES if case.values[0] in LEARNING]
NAMES = sorted({case.values[0] for case in LEARNING_OF_IMAGES})


def tower(collective: Any = None):
    config = BackboneConfig(
        name="tiny-resnet", weights="random", image_height=HEIGHT, image_width=WIDTH
    )
    return build_backbone(config, 0, collective)


@pytest.fixture
def backbone():
    """In the place of the tiny CLIP that `course` copies."""
    return tower()


@pytest.fixture(autouse=True)
def _one_classifier(monkeypatch):
    for module in (learner_cases, test_learner_contract, test_learner_state):
        monkeypatch.setattr(module, "HEADS", ("head_pooled",))


def test_the_learners_of_images_alone():
    names = {case.values[0] for case in OF_IMAGES}
    assert names == {"finetune", "joint", "lwf", "lstkc", "dask", "krkc", "zero_shot"}


@pytest.mark.parametrize(("name", "values"), OF_IMAGES)
def test_every_trainable_parameter_receives_a_gradient_and_no_other(course, name, values):
    test_learner_contract.test_every_trainable_parameter_receives_a_gradient_and_no_other(
        course, name, values
    )


@pytest.mark.parametrize(("name", "values"), LEARNING_OF_IMAGES)
def test_the_loss_is_the_weighted_sum_of_its_terms(course, name, values):
    test_learner_contract.test_the_loss_is_the_weighted_sum_of_its_terms(course, name, values)


@pytest.mark.parametrize("name", [*NAMES, "zero_shot"])
def test_embeddings_are_unit_vectors_and_each_image_has_its_own(course, name):
    test_learner_contract.test_embeddings_are_unit_vectors_and_each_image_has_its_own(course, name)


@pytest.mark.parametrize("name", NAMES)
def test_classifiers_grow_and_old_rows_stay_until_trained(course, name):
    test_learner_contract.test_classifiers_grow_and_old_rows_stay_until_trained(course, name)


@pytest.mark.parametrize(("name", "values"), OF_IMAGES)
def test_resuming_is_bit_exact(course, name, values):
    test_learner_state.test_resuming_is_bit_exact(course, name, values)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_learns_the_same(course, name):
    test_learner_state.test_the_same_seed_learns_the_same(course, name, {})


@pytest.mark.parametrize("name", ["lstkc", "krkc"])
def test_twenty_domains_of_two_people(course, domain, name):
    test_learner_state.test_twenty_domains_of_two_people(course, domain, name, {})


@pytest.mark.parametrize("mode", ["none", "fixed", "adaptive"])
@pytest.mark.parametrize("name", [name for name in INTERPOLATING if name in NAMES])
def test_interpolation_does_what_its_mode_says(course, name, mode):
    trainer = course(name, interpolation={"mode": mode, "alpha": 0.3})
    old, new, after, alpha = network_after_training(trainer)
    assert 0 < alpha < 1
    share = {"none": 1.0, "fixed": 0.3, "adaptive": alpha}[mode]
    wanted = new if mode == "none" else interpolate(new, old, share)
    for path, tensor in after.items():
        assert torch.allclose(tensor, wanted[path], atol=1e-6), path
    if mode == "fixed":
        path = "image.visual.layer3.0.bn1.running_var"
        assert not torch.equal(new[path], old[path])
        assert torch.allclose(after[path], 0.3 * new[path] + 0.7 * old[path], atol=1e-6)


# Two workers --------------------------------------------------------------------------------------


class Exchange:
    """Where the threads of a group meet."""

    def __init__(self, num_workers: int) -> None:
        self.barrier = threading.Barrier(num_workers, timeout=60)
        self.slots: list[Any] = [None] * num_workers

    def all(self, rank: int, value: Tensor) -> list[Tensor]:
        self.slots[rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found


class Gather(torch.autograd.Function):
    """Rows of all threads; backward, the gradient of one's own, summed over the threads."""

    @staticmethod
    def forward(context, local, exchange, rank):
        context.place = exchange, rank
        return torch.cat(exchange.all(rank, local.detach()))

    @staticmethod
    def backward(context, gradient):
        exchange, rank = context.place
        everybodys = exchange.all(rank, gradient)
        return sum(everybodys).chunk(len(everybodys))[rank], None, None


class Worker:
    """A collective that is a thread among others; a copied module keeps its group."""

    def __init__(self, exchange: Exchange, rank: int) -> None:
        self.exchange, self.rank = exchange, rank

    def gather(self, local: Tensor) -> Tensor:
        return Gather.apply(local, self.exchange, self.rank)

    def __deepcopy__(self, memo: dict[int, Any]) -> Worker:
        return self


def one_of_two(name, values, exchange, rank, state, precise):
    """The same learner as one worker of two."""
    module, collective = learner_module(name), Worker(exchange, rank)
    learner = module.Method(module.Config(**values), tower(collective), collective)
    learner.load_state(copy.deepcopy(state))
    return learner.double() if precise else learner


def step(learner, batch, stage):
    """Loss and gradients of one step."""
    set_trainable(learner, stage.trainable)
    learner.train()
    loss = learner(batch, stage.name).loss
    loss.backward()
    gradients = {p: v.grad for p, v in learner.named_parameters() if v.grad is not None}
    return loss.detach(), gradients


def in_double(batch):
    batch.views.update({view: images.double() for view, images in batch.views.items()})
    if batch.replay is not None:
        in_double(batch.replay)
    return batch


def together(learners, batch, stage):
    """Every learner's step on its share, each in a thread of its own."""
    found: list[Any] = [None] * len(learners)

    def work(rank):
        found[rank] = step(learners[rank], half(batch, rank), stage)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(learners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(("name", "values"), LEARNING_OF_IMAGES)
def test_two_workers_compute_what_one_would(course, name, values):
    trainer = course(name, **values)
    trainer.learn("first")
    trainer.begin("second")
    for stage in trainer.learner.stages():
        trainer.train(stage)
        state = trainer.learner.save_state()
        exchange = Exchange(2)
        both = [one_of_two(name, values, exchange, rank, state, True) for rank in range(2)]
        alone = copy.deepcopy(trainer.learner).double()
        batch = in_double(trainer.batch(stage, 9))
        loss, gradients = step(alone, batch, stage)
        shares = together(both, batch, stage)
        for (their_loss, theirs), learner in zip(shares, both, strict=True):
            assert torch.allclose(their_loss, loss, rtol=1e-6)
            assert theirs.keys() == gradients.keys()
            for path, tensor in learner.state_dict().items():
                assert torch.allclose(tensor, alone.state_dict()[path], rtol=1e-6), path
        for path, gradient in gradients.items():
            mean = (shares[0][1][path] + shares[1][1][path]) / 2
            assert (mean - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, (stage.name, path)
        trainer.learner.end_stage(stage.name, trainer.probe)
