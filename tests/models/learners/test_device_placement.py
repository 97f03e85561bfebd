"""Learners on a simulated CUDA device: results of the CPU, and no tensor on another device.

Results differ by rounding: the simulated device computes attention in its mathematical form.
"""

from __future__ import annotations

import pytest
import torch

from models.learner import LearnerState
from tests.fake_cuda import DEVICE, FakeCudaTensor, fake_cuda
from tests.models.conftest import Trainer
from tests.models.learner_cases import CASES, LEARNING


class CudaTrainer(Trainer):
    """A trainer whose batches and images are on `DEVICE`, as the training loop places them."""

    def batch(self, stage, number):
        return super().batch(stage, number).to(DEVICE)

    def probe(self, encode):
        images, self.images = self.images, self.images.to(DEVICE)
        try:
            return super().probe(encode)
        finally:
            self.images = images


def on_cuda(trainer):
    """Move a new learner to `DEVICE`."""
    return CudaTrainer(trainer.learner.to(DEVICE))


def numbers(results):
    return [[value.detach().cpu() for value in (r.loss, *r.terms.values())] for r in results]


def learn_two_domains(trainer):
    """Loss and terms of every training step of two domains."""
    values = []
    for domain in ("first", "second"):
        trainer.begin(domain)
        for stage in trainer.learner.stages():
            values += numbers(trainer.train(stage))
            trainer.learner.end_stage(stage.name, trainer.probe)
        trainer.learner.end_domain(trainer.probe)
    return values


OTHERS = pytest.mark.slow  # the default case of each learner is fast, all cases need a minute
SORTED = [
    case if case.id.endswith("-default") else pytest.param(*case.values, id=case.id, marks=OTHERS)
    for case in CASES
]


@pytest.mark.parametrize(("name", "values"), SORTED)
def test_a_learner_computes_on_the_device_it_was_moved_to(course, name, values):
    expected = course(name, **values)
    steps = learn_two_domains(expected)
    with fake_cuda():
        trainer = on_cuda(course(name, **values))
        for found, wanted in zip(learn_two_domains(trainer), steps, strict=True):
            assert near(torch.stack(found), torch.stack(wanted))
        for path, tensor in trainer.learner.state_dict().items():
            assert isinstance(tensor, FakeCudaTensor), path
        state = trainer.learner.save_state()
    for path, tensor in expected.learner.save_state().tensors.items():
        assert near(state.tensors[path], tensor), path
    # The checkpoint of the GPU loads on a CPU, and the reverse.
    fresh = course(name, **values)
    fresh.learner.load_state(LearnerState(state.tensors, state.facts))
    with torch.no_grad():
        wanted = fresh.learner.eval().embed_images(expected.images[:4])
        with fake_cuda():
            back = on_cuda(course(name, **values)).learner
            back.load_state(LearnerState(state.tensors, state.facts))
            found = back.to(DEVICE).eval().embed_images(expected.images[:4].to(DEVICE)).cpu()
    assert near(found, wanted)


def near(first, second):
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)


LAST_STAGE_WAITS = {"bdam": 1}
"""Waits per step of the last stage: bdam cuts its captions to the longest of the batch."""


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_of_the_last_stage_does_not_wait_for_the_device(course, name):
    with fake_cuda() as mode:
        trainer = on_cuda(course(name))
        trainer.begin("first")
        *earlier, last = trainer.learner.stages()
        for stage in earlier:
            trainer.train(stage, range(1))
            trainer.learner.end_stage(stage.name, trainer.probe)
        mode.waits.clear()
        trainer.train(last, range(1))
        assert len(mode.waits) == LAST_STAGE_WAITS.get(name, 0), mode.waits
