"""What a learner carries on: saved and restored, repeated by a seed, through twenty domains."""

from __future__ import annotations

import pytest
import torch

from models.components.interpolation import adaptive_alpha, interpolate
from models.components.reid_network import Frozen
from models.learner import LearnerState
from tests.models.learner_cases import (
    CASES,
    CLASSIFYING,
    HEADS,
    INTERPOLATING,
    LEARNERS,
    assert_resumes,
    assert_same_tensors,
    embedded,
)


@pytest.mark.parametrize(("name", "values"), CASES)
def test_resuming_is_bit_exact(course, name, values):
    trainer = course(name, **values)

    def fresh():
        return course(name, seed=7, **values)

    assert_resumes(trainer, fresh(), None)
    for domain in ("first", "second"):
        trainer.begin(domain)
        for stage in trainer.learner.stages():
            assert_resumes(trainer, fresh(), stage)
            trainer.train(stage, range(2, 4))
            assert_resumes(trainer, fresh(), stage)
            trainer.learner.end_stage(stage.name, trainer.probe)
        resumed = fresh()
        assert_resumes(trainer, resumed, None)
        trainer.learner.end_domain(trainer.probe)
        resumed.learner.end_domain(resumed.probe)
        assert_same_tensors(trainer.learner.state_dict(), resumed.learner.state_dict())
    assert_resumes(trainer, fresh(), None)


@pytest.mark.parametrize("name", LEARNERS)
def test_state_with_other_tensors_is_rejected(course, name):
    trainer = course(name)
    trainer.learn("first")
    state = trainer.learner.save_state()
    path = sorted(state.tensors)[0]
    lacking = {key: value for key, value in state.tensors.items() if key != path}
    with pytest.raises(KeyError, match="missing in the checkpoint"):
        course(name).learner.load_state(LearnerState(lacking, state.facts))
    extra = {**state.tensors, "no.such.part": torch.zeros(1)}
    with pytest.raises(KeyError, match=r"unexpected .* no\.such\.part"):
        course(name).learner.load_state(LearnerState(extra, state.facts))


@pytest.mark.parametrize(("name", "values"), CASES)
def test_the_same_seed_learns_the_same(course, name, values):
    states = []
    for _ in range(2):
        trainer = course(name, seed=3, **values)
        trainer.learn("first", "second")
        states.append(trainer.learner.state_dict())
    assert_same_tensors(*states)


@pytest.mark.parametrize(("name", "values"), CASES)
def test_twenty_domains_of_two_people(course, domain, name, values):
    trainer = course(name, **values)
    for number in range(20):
        trainer.begin(domain(f"domain {number}", num_persons=2))
        for stage in trainer.learner.stages():
            for result in trainer.train(stage, range(1)):
                assert result.loss.isfinite(), (number, stage.name)
            trainer.learner.end_stage(stage.name, trainer.probe)
        trainer.learner.end_domain(trainer.probe)
        if number == 0:
            assert_embeds(trainer)
    assert_embeds(trainer)
    assert_resumes(trainer, course(name, seed=7, **values), None)
    if name in CLASSIFYING:
        assert trainer.learner.network.num_identities == 40
        for head in HEADS:
            weight = getattr(trainer.learner.network, head).weight
            assert weight.isfinite().all()
            assert len(weight) == 40


def assert_embeds(trainer):
    embeddings = embedded(trainer)
    assert embeddings.isfinite().all()
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)), atol=1e-5)
    stored = trainer.learner.stored_bytes_per_domain()
    assert 0 <= stored < float("inf")


def network_after_training(trainer):
    """(network before the second domain, after its training, after its end), as state dicts."""

    def snapshot():
        state = trainer.learner.network.state_dict()
        return {path: tensor.clone() for path, tensor in state.items()}

    trainer.learn("first")
    old = snapshot()
    trainer.begin("second")
    for stage in trainer.learner.stages():
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)
    new, new_features = snapshot(), embedded(trainer)
    trainer.learner.network.load_state_dict(old | {p: new[p] for p in new if "head_" in p})
    old_features = embedded(trainer)
    trainer.learner.network.load_state_dict(new)
    trainer.learner.end_domain(trainer.probe)
    return old, new, snapshot(), adaptive_alpha(new_features, old_features, True)


@pytest.mark.parametrize("mode", ["none", "fixed", "adaptive"])
@pytest.mark.parametrize("name", INTERPOLATING)
def test_interpolation_does_what_its_mode_says(course, name, mode):
    # Without classifiers two steps change everything, and adaptive interpolation keeps nothing.
    gentle = ("info", "fused", "triplet", "adversarial", "clothing")
    losses = {} if name in CLASSIFYING else {term: {"weight": 0.01} for term in gentle}
    interpolation = {"mode": mode, "alpha": 0.3}
    trainer = course(name, interpolation=interpolation, **({"losses": losses} if losses else {}))
    old, new, after, alpha = network_after_training(trainer)
    assert 0 < alpha < 1
    share = {"none": 1.0, "fixed": 0.3, "adaptive": alpha}[mode]
    wanted = new if mode == "none" else interpolate(new, old, share)
    for path, tensor in after.items():
        assert torch.allclose(tensor, wanted[path], atol=1e-6), path
    if mode == "fixed" and name in CLASSIFYING:
        row = after["head_projected.weight"][3]
        naive = 0.3 * new["head_projected.weight"][3] + 0.7 * old["head_projected.weight"][3]
        assert torch.allclose(row, naive, atol=1e-7)
        assert torch.equal(after["head_projected.weight"][8:], new["head_projected.weight"][8:])


@pytest.mark.parametrize("name", INTERPOLATING)
def test_nothing_of_the_past_is_held_between_domains(course, name):
    trainer = course(name, interpolation={"mode": "fixed"})
    trainer.learn("first", "second")
    assert not any(isinstance(module, Frozen) for module in trainer.learner.modules())
