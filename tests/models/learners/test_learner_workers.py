"""Two workers compute what one would: each learner's loss, gradients and state of a step."""

from __future__ import annotations

import pytest
import torch

from runner.training.optim import set_trainable
from tests.models.learner_cases import CASES


class Recorder:
    """A worker whose colleague sends what it sends itself; keeps what it sent."""

    def __init__(self):
        self.sent = []

    def gather(self, local):
        self.sent.append(local.detach())
        return torch.cat([local, local.detach()])

    def mean(self, local):
        return local.detach()


class Colleague:
    """One worker of two; what the other sends is known beforehand. Keeps what it sent.

    The gradient of the local rows is doubled, as it comes from both workers' equal losses.
    """

    def __init__(self, rank, theirs):
        self.rank = rank
        self.theirs = iter(theirs)
        self.sent = []

    def gather(self, local):
        self.sent.append(local.detach())
        mine = local + (local - local.detach()) if local.is_floating_point() else local
        theirs = next(self.theirs)
        return torch.cat([mine, theirs] if self.rank == 0 else [theirs, mine])

    def mean(self, local):
        raise AssertionError("a step's loss has no need of it")


def half(batch, rank):
    size = len(batch.indices) // 2
    share = slice(rank * size, (rank + 1) * size)
    return type(batch)(
        batch.indices[share],
        batch.person_ids[share],
        batch.camera_ids[share],
        {view: images[share] for view, images in batch.views.items()},
        None if batch.replay is None else half(batch.replay, rank),
    )


def step_of(trainer, collective, batch, stage):
    """Loss and gradients of one step, and the state it leaves; the learner stays as it was."""
    learner = trainer.learner
    state = learner.save_state()
    own, learner.collective = learner.collective, collective
    set_trainable(learner, stage.trainable)
    learner.train()
    result = learner(batch, stage.name)
    result.loss.backward()
    gradients = {p: v.grad for p, v in learner.named_parameters() if v.grad is not None}
    after = learner.save_state().tensors
    learner.collective = own
    learner.load_state(state)
    return result.loss.detach(), gradients, after


def steps_of_two(trainer, batch, stage, num_rounds=1):
    """What `step_of` says of each of two workers.

    Args:
        num_rounds: 1; or 2 where what a worker sends depends on what it was sent before.
    """
    workers = [Recorder(), Recorder()]
    for rank, worker in enumerate(workers):
        step_of(trainer, worker, half(batch, rank), stage)
    shares = []
    for _ in range(num_rounds):
        workers = [Colleague(rank, workers[1 - rank].sent) for rank in range(2)]
        shares = [
            step_of(trainer, worker, half(batch, rank), stage)
            for rank, worker in enumerate(workers)
        ]
    return shares


@pytest.mark.parametrize(("name", "values"), CASES)
def test_two_workers_compute_what_one_would(course, name, values):
    trainer = course(name, **values)
    trainer.learn("first")
    trainer.begin("second")
    for stage in trainer.learner.stages():
        # A trained student differs from its teacher: terms that compare them are not 0.
        trainer.train(stage)
        batch = trainer.batch(stage, 9)
        assert (batch.replay is None) == (not trainer.learner.replay_records())
        loss, gradients, after = step_of(trainer, trainer.learner.collective, batch, stage)
        shares = steps_of_two(trainer, batch, stage, 2 if "gradnorm" in values else 1)
        for their_loss, _, their_state in shares:
            assert torch.allclose(their_loss, loss, atol=1e-5)
            assert their_state.keys() == after.keys()
            for path, tensor in their_state.items():
                assert torch.allclose(tensor, after[path], atol=1e-5), (stage.name, path)
        for path, gradient in gradients.items():
            mean = (shares[0][1][path] + shares[1][1][path]) / 2
            assert torch.allclose(mean, gradient, atol=1e-5, rtol=1e-3), (stage.name, path)
        trainer.learner.end_stage(stage.name, trainer.probe)
