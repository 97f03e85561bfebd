"""LSTKC: when the past is followed, what of it, and for how long a domain is learned."""

import pytest
import torch

from models.losses import alignment
from models.losses.affinity import rectified_affinity


def off(*terms):
    return {"losses": {term: {"weight": 0} for term in terms}}


def second_domain(course, **values):
    """A course some steps into its second domain."""
    trainer = course("lstkc", **values)
    trainer.learn("first")
    trainer.begin("second")
    trainer.train(trainer.learner.stages()[0])
    return trainer


def features_of(trainer):
    """f of the next batch under the new and the old network, its people, and the step's terms."""
    (stage,) = trainer.learner.stages()
    batch = trainer.batch(stage, 0)
    trainer.learner.train()
    new = trainer.learner.network.image(batch.views["weak"]).projected
    with torch.no_grad():
        past = trainer.learner.old.module.image(batch.views["weak"]).projected
    return new, past, batch.person_ids, trainer.terms(stage.name)


def test_the_first_domain_has_no_past(course):
    trainer = course("lstkc")
    trainer.begin("first")
    assert set(trainer.terms("lstkc")) == {"identity", "triplet"}
    assert trainer.learner.old is None


@pytest.mark.parametrize("mode", ["none", "adaptive"])
@pytest.mark.parametrize("through", [True, False])
def test_the_affinities_of_the_old_model_are_rectified(course, through, mode):
    settings = {"temperature": 0.3, "gradient_to_target": through}
    trainer = second_domain(course, losses={"affinity": settings}, interpolation={"mode": mode})
    new, old, person_ids, terms = features_of(trainer)
    wanted = rectified_affinity(new, old, person_ids, 0.3, through).item()
    assert terms["affinity"] == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0
    plain = alignment.affinity(new[:, None], old[:, None], 0.3, "mean").item()
    assert wanted != pytest.approx(plain, rel=0.01)


def test_the_old_model_is_the_one_before_the_domain(course):
    trainer = course("lstkc", interpolation={"mode": "none"})
    trainer.learn("first")
    before = {path: value.clone() for path, value in trainer.learner.network.state_dict().items()}
    trainer.begin("second")
    trainer.train(trainer.learner.stages()[0])
    past = trainer.learner.old.module.state_dict()
    assert past.keys() == before.keys()
    assert all(torch.equal(past[path], before[path]) for path in before)


def test_without_rectification_it_is_plain_affinity(course):
    trainer = second_domain(course, losses={"affinity": {"rectify": False, "temperature": 0.3}})
    new, old, _, terms = features_of(trainer)
    plain = alignment.affinity(new[:, None], old[:, None], 0.3, "mean").item()
    assert terms["affinity"] == pytest.approx(plain, rel=1e-4)


def test_the_gradient_of_the_target_is_a_switch(course):
    def gradient(through):
        settings = {"gradient_to_target": through, "weight": 1000}
        trainer = second_domain(course, losses={"affinity": settings, **off("triplet")["losses"]})
        (stage,) = trainer.learner.stages()
        trainer.learner(trainer.batch(stage, 0), stage.name).loss.backward()
        return trainer.learner.network.image.visual.proj.grad

    assert not torch.allclose(gradient(True), gradient(False))


def test_disabled_terms_keep_no_old_model(course):
    trainer = course("lstkc", **off("affinity"), interpolation={"mode": "none"})
    trainer.learn("first")
    trainer.begin("second")
    assert trainer.learner.old is None
    assert set(trainer.terms("lstkc")) == {"identity", "triplet"}
    trainer = course("lstkc", **off("affinity"))
    trainer.learn("first")
    trainer.begin("second")
    assert trainer.learner.old is not None, "weights are mixed after the domain"
    assert set(trainer.terms("lstkc")) == {"identity", "triplet"}


def test_the_first_domain_has_a_length_of_its_own(course):
    def lengths(**values):
        trainer = course("lstkc", epochs=6, **values)
        found = [trainer.learner.stages()[0].epochs]
        for domain in ("first", "second", "third"):
            trainer.begin(domain)
            found.append(trainer.learner.stages()[0].epochs)
            trainer.finish()
        return found

    assert lengths(first_epochs=8) == [8, 8, 6, 6]
    assert lengths() == [6, 6, 6, 6]


def test_some_loss_must_be_on_in_the_first_domain(course):
    with pytest.raises(ValueError, match="the image tower has no loss"):
        course("lstkc", **off("identity", "triplet"))
