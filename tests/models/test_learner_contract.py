"""What every learner owes the loop; a new file in models/learners is tested without being named."""

from __future__ import annotations

import importlib
import json
import pkgutil

import pytest
import torch

import models.learners
from models.interpolation import adaptive_alpha, interpolate
from models.learner import Learner, LearnerConfig, LearnerState
from models.reid import Frozen, ReidNetwork
from runner.optim import set_trainable

LEARNERS = sorted(module.name for module in pkgutil.iter_modules(models.learners.__path__))
LEARNING = [
    name
    for name in LEARNERS
    if importlib.import_module(f"models.learners.{name}").Method.course != "none"
]
HEADS = ("head_class", "head_projected")


def settings(name):
    """Configurations under which a learner holds different things."""
    found = {"default": {}}
    if "interpolation" in importlib.import_module(f"models.learners.{name}").Config.model_fields:
        found["interpolated"] = {"interpolation": {"mode": "adaptive"}}
    return found


CASES = [
    pytest.param(name, values, id=f"{name}-{case}")
    for name in LEARNERS
    for case, values in settings(name).items()
]
INTERPOLATING = [name for name in LEARNERS if "interpolated" in settings(name)]


def assert_same_tensors(first, second):
    assert first.keys() == second.keys()
    for path, tensor in first.items():
        assert torch.equal(tensor, second[path]), path


def assert_same_results(first, second):
    assert torch.equal(first.loss, second.loss)
    assert_same_tensors(dict(first.terms), dict(second.terms))
    assert first.weights == second.weights


@pytest.mark.parametrize("name", LEARNERS)
def test_the_module_holds_a_config_and_a_final_method(name):
    module = importlib.import_module(f"models.learners.{name}")
    assert issubclass(module.Config, LearnerConfig)
    assert module.Config().name == name
    assert issubclass(module.Method, Learner)
    assert getattr(module.Method, "__final__", False), "decorate Method with typing.final"


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - set(LEARNING)))
def test_what_has_no_course_learns_nothing(course, name):
    pupil = course(name)
    before = embedded(pupil)
    pupil.learn("first", "second")
    pupil.begin("none")
    assert pupil.learner.stages() == ()
    pupil.images = course(name).images
    assert torch.equal(embedded(pupil), before)


@pytest.mark.parametrize("name", LEARNING)
def test_stages_are_known_before_the_first_domain(course, name):
    stages = course(name).learner.stages()
    assert len({stage.name for stage in stages}) == len(stages) > 0
    for stage in stages:
        assert stage.epochs >= 1
        assert set(stage.views) <= {"weak", "strong"}


@pytest.mark.parametrize(("name", "values"), CASES)
def test_every_trainable_parameter_receives_a_gradient_and_no_other(course, name, values):
    pupil = course(name, **values)
    for domain in ("first", "second"):
        pupil.begin(domain)
        for stage in pupil.learner.stages():
            trainable = set(set_trainable(pupil.learner, stage.trainable))
            pupil.learner.train()
            pupil.learner(pupil.batch(stage, 0), stage.name).loss.backward()
            touched = {p for p, v in pupil.learner.named_parameters() if v.grad is not None}
            assert touched == trainable, (domain, stage.name)
            pupil.train(stage)
            pupil.learner.end_stage(stage.name, pupil.probe)
        pupil.learner.end_domain(pupil.probe)


@pytest.mark.parametrize("name", LEARNING)
def test_the_loss_is_the_weighted_sum_of_its_terms(course, name):
    pupil = course(name)
    pupil.learn("first")
    pupil.begin("second")
    for stage in pupil.learner.stages():
        for result in pupil.train(stage):
            assert result.terms.keys() == result.weights.keys()
            wanted = sum(result.weights[term] * value for term, value in result.terms.items())
            assert torch.allclose(result.loss, wanted)
            assert result.loss.isfinite()
            assert all(value.ndim == 0 for value in result.terms.values())
        pupil.learner.end_stage(stage.name, pupil.probe)


def assert_resumes(pupil, fresh, stage):
    """Whether `fresh` goes on from the pupil's state as the pupil does."""
    state = pupil.learner.save_state()
    assert not any(path.startswith(pupil.learner.unsaved) for path in state.tensors)
    facts = json.loads(json.dumps(state.facts))
    assert facts == state.facts
    kept = {path: tensor.clone() for path, tensor in state.tensors.items()}
    for parameter in fresh.learner.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    fresh.domain, fresh.images = pupil.domain, pupil.images
    fresh.learner.load_state(LearnerState(state.tensors, facts))
    assert_same_tensors(pupil.learner.state_dict(), fresh.learner.state_dict())
    assert fresh.learner.facts() == pupil.learner.facts()
    assert_same_tensors(dict(pupil.learner.memory_state()), dict(fresh.learner.memory_state()))
    assert [s.name for s in pupil.learner.stages()] == [s.name for s in fresh.learner.stages()]
    if stage is not None:
        for first, second in zip(pupil.train(stage), fresh.train(stage), strict=True):
            assert_same_results(first, second)
        assert_same_tensors(kept, state.tensors)
    for one in (pupil, fresh):
        one.learner.eval()
    with torch.no_grad():
        assert torch.equal(
            pupil.learner.embed_images(pupil.images[:4]),
            fresh.learner.embed_images(pupil.images[:4]),
        )


@pytest.mark.parametrize(("name", "values"), CASES)
def test_a_saved_state_goes_on_bit_for_bit(course, name, values):
    pupil = course(name, **values)

    def fresh():
        return course(name, seed=7, **values)

    assert_resumes(pupil, fresh(), None)
    for domain in ("first", "second"):
        pupil.begin(domain)
        for stage in pupil.learner.stages():
            assert_resumes(pupil, fresh(), stage)
            pupil.train(stage, range(2, 4))
            assert_resumes(pupil, fresh(), stage)
            pupil.learner.end_stage(stage.name, pupil.probe)
        resumed = fresh()
        assert_resumes(pupil, resumed, None)
        pupil.learner.end_domain(pupil.probe)
        resumed.learner.end_domain(resumed.probe)
        assert_same_tensors(pupil.learner.state_dict(), resumed.learner.state_dict())
    assert_resumes(pupil, fresh(), None)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_of_other_parts_is_refused(course, name):
    pupil = course(name)
    pupil.learn("first")
    state = pupil.learner.save_state()
    path = sorted(state.tensors)[0]
    lacking = {key: value for key, value in state.tensors.items() if key != path}
    with pytest.raises(KeyError, match="the checkpoint lacks"):
        course(name).learner.load_state(LearnerState(lacking, state.facts))
    extra = {**state.tensors, "no.such.part": torch.zeros(1)}
    with pytest.raises(KeyError, match=r"holds no\.such\.part"):
        course(name).learner.load_state(LearnerState(extra, state.facts))


@pytest.mark.parametrize("name", LEARNERS)
def test_embeddings_are_unit_vectors_and_each_image_has_its_own(course, name):
    pupil = course(name)

    def embed(images):
        pupil.learner.eval()
        with torch.no_grad():
            return pupil.learner.embed_images(images)

    images = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    before = embed(images)
    pupil.learn("first")
    for embeddings in (before, embed(images)):
        assert embeddings.isfinite().all()
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(6), atol=1e-5)
        assert embeddings.std(0).max() > 0
    assert torch.allclose(embed(images)[2:3], embed(images[2:3]), atol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_classifiers_grow_and_old_rows_stay_until_trained(course, name):
    pupil = course(name)
    network = getattr(pupil.learner, "network", None)
    assert isinstance(network, ReidNetwork), "a learner without it needs a contract of its own"
    pupil.learn("first")
    assert network.num_identities == 8
    before = {head: getattr(network, head).weight.clone() for head in HEADS}
    pupil.begin("second")
    for head in HEADS:
        weight = getattr(network, head).weight
        assert len(weight) == 16
        assert torch.equal(weight[:8], before[head])
    pupil.finish()
    for head in HEADS:
        assert not torch.equal(getattr(network, head).weight[:8], before[head])


@pytest.mark.parametrize("name", LEARNING)
def test_people_of_a_later_domain_have_the_later_rows(course, name, monkeypatch):
    pupil = course(name)
    network, seen = getattr(pupil.learner, "network", None), []
    assert isinstance(network, ReidNetwork), "a learner without it needs a contract of its own"
    original = network.identity_terms

    def spy(class_token, projected, targets, *losses):
        seen.append(targets)
        return original(class_token, projected, targets, *losses)

    monkeypatch.setattr(network, "identity_terms", spy)
    pupil.learn("first")
    assert torch.cat(seen).max() < 8
    seen.clear()
    pupil.begin("second")
    for stage in pupil.learner.stages():
        pupil.train(stage, range(1))
        pupil.learner.end_stage(stage.name, pupil.probe)
        wanted = pupil.batch(stage, 0).person_ids + 8
        assert all(torch.equal(targets, wanted) for targets in seen)
    assert seen


def network_after_training(pupil):
    """(network before the second domain, after its training, after its end), as state dicts."""

    def snapshot():
        state = pupil.learner.network.state_dict()
        return {path: tensor.clone() for path, tensor in state.items()}

    pupil.learn("first")
    old = snapshot()
    pupil.begin("second")
    for stage in pupil.learner.stages():
        pupil.train(stage)
        pupil.learner.end_stage(stage.name, pupil.probe)
    new, new_features = snapshot(), embedded(pupil)
    pupil.learner.network.load_state_dict(old | {p: new[p] for p in new if "head_" in p})
    old_features = embedded(pupil)
    pupil.learner.network.load_state_dict(new)
    pupil.learner.end_domain(pupil.probe)
    return old, new, snapshot(), adaptive_alpha(new_features, old_features, True)


def embedded(pupil):
    return pupil.probe(lambda images: {"e": pupil.learner.embed_images(images)})["e"]


@pytest.mark.parametrize("mode", ["none", "fixed", "adaptive"])
@pytest.mark.parametrize("name", INTERPOLATING)
def test_interpolation_does_what_its_mode_says(course, name, mode):
    pupil = course(name, interpolation={"mode": mode, "alpha": 0.3})
    old, new, after, alpha = network_after_training(pupil)
    assert 0 < alpha < 1
    share = {"none": 1.0, "fixed": 0.3, "adaptive": alpha}[mode]
    wanted = new if mode == "none" else interpolate(new, old, share)
    for path, tensor in after.items():
        assert torch.allclose(tensor, wanted[path], atol=1e-6), path
    if mode == "fixed":
        row = after["head_projected.weight"][3]
        naive = 0.3 * new["head_projected.weight"][3] + 0.7 * old["head_projected.weight"][3]
        assert torch.allclose(row, naive, atol=1e-7)
        assert torch.equal(after["head_projected.weight"][8:], new["head_projected.weight"][8:])


@pytest.mark.parametrize("name", INTERPOLATING)
def test_nothing_of_the_past_is_held_between_domains(course, name):
    pupil = course(name, interpolation={"mode": "fixed"})
    pupil.learn("first", "second")
    assert not any(isinstance(module, Frozen) for module in pupil.learner.modules())


@pytest.mark.parametrize(("name", "values"), CASES)
def test_the_same_seed_learns_the_same(course, name, values):
    states = []
    for _ in range(2):
        pupil = course(name, seed=3, **values)
        pupil.learn("first", "second")
        states.append(pupil.learner.state_dict())
    assert_same_tensors(*states)


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
    """One worker of two; what the other sends is known beforehand.

    The gradient of the local rows is doubled, as it comes from both workers' equal losses.
    """

    def __init__(self, rank, theirs):
        self.rank = rank
        self.theirs = iter(theirs)

    def gather(self, local):
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


def step_of(pupil, collective, batch, stage):
    """Loss and gradients of one step, and the state it leaves; the learner stays as it was."""
    learner = pupil.learner
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


@pytest.mark.parametrize("name", LEARNERS)
def test_two_workers_compute_what_one_would(course, name):
    pupil = course(name)
    pupil.learn("first")
    pupil.begin("second")
    for stage in pupil.learner.stages():
        # A trained student differs from its teacher: terms that compare them are not 0.
        pupil.train(stage)
        batch = pupil.batch(stage, 9)
        assert (batch.replay is None) == (not pupil.learner.replay_records())
        loss, gradients, after = step_of(pupil, pupil.learner.collective, batch, stage)
        sent = []
        for rank in range(2):
            recorder = Recorder()
            step_of(pupil, recorder, half(batch, rank), stage)
            sent.append(recorder.sent)
        shares = [
            step_of(pupil, Colleague(rank, sent[1 - rank]), half(batch, rank), stage)
            for rank in range(2)
        ]
        for their_loss, _, their_state in shares:
            assert torch.allclose(their_loss, loss, atol=1e-5)
            assert their_state.keys() == after.keys()
            for path, tensor in their_state.items():
                assert torch.allclose(tensor, after[path], atol=1e-5), (stage.name, path)
        for path, gradient in gradients.items():
            mean = (shares[0][1][path] + shares[1][1][path]) / 2
            assert torch.allclose(mean, gradient, atol=1e-5, rtol=1e-3), (stage.name, path)
        pupil.learner.end_stage(stage.name, pupil.probe)
