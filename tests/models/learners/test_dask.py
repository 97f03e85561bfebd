"""DASK: what of a domain's style is learned, kept and rehearsed."""

import pytest
import torch

from models.heads.style import colour_distribution, colour_statistics, recolour, style_noise
from models.losses.alignment import affinity

STYLE, MAIN = "style", "dask"


def copy_of(module):
    return {path: value.clone() for path, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[p], second[p]) for p in first)


def in_main_stage(course, *domains, **values):
    """A course some steps into the main stage of the last of these domains."""
    trainer = course("dask", **values)
    trainer.learn(*domains[:-1])
    trainer.begin(domains[-1])
    for stage in trainer.learner.stages():
        trainer.train(stage)
        if stage.name == STYLE:
            trainer.learner.end_stage(stage.name, trainer.probe)
    return trainer


def main_batch(trainer):
    (stage,) = [stage for stage in trainer.learner.stages() if stage.name == MAIN]
    return trainer.batch(stage, 0)


# Style ----------------------------------------------------------------------------------------


def test_the_style_is_learned_with_the_network_at_rest(course):
    trainer = course("dask")
    trainer.begin("first")
    network, style = copy_of(trainer.learner.network), copy_of(trainer.learner.style)
    stage = trainer.learner.stages()[0]
    assert stage.name == STYLE
    trainer.train(stage)
    assert same(copy_of(trainer.learner.network), network)
    assert not same(copy_of(trainer.learner.style), style)
    style = copy_of(trainer.learner.style)
    trainer.train(trainer.learner.stages()[1])
    assert same(copy_of(trainer.learner.style), style)


def test_the_style_term_is_the_distance_of_restored_images(course):
    """At first the network is the identity: what is left is the disturbance itself."""
    trainer = course("dask", style={"spread": 2.0})
    trainer.begin("first")
    batch = trainer.batch(trainer.learner.stages()[0], 0)
    images = batch.views["weak"]
    step = int(trainer.learner.style_step)
    own = colour_statistics(trainer.images)
    noise = style_noise(step, batch.indices)
    drawn = own.mean(0) + 2.0 * own.std(0, correction=0) * noise
    wanted = (recolour(images, drawn) - images).abs().mean().item()
    assert trainer.terms(STYLE) == {"restoration": pytest.approx(wanted, rel=1e-4)}
    assert wanted > 0
    assert int(trainer.learner.style_step) == step + 1
    assert trainer.terms(STYLE)["restoration"] != pytest.approx(wanted), "disturbed anew"


def test_colour_distribution_is_that_of_the_training_images(course):
    trainer = course("dask")
    for domain in ("first", "second"):
        trainer.begin(domain)
        wanted = colour_distribution(colour_statistics(trainer.images))
        assert torch.allclose(trainer.learner.style_colours, wanted)
        trainer.finish()


def test_each_domain_begins_a_style_of_its_own(course):
    trainer = course("dask")
    trainer.learn("first")
    learned = copy_of(trainer.learner.style)
    trainer.begin("second")
    assert same(copy_of(trainer.learner.rehearser.module), learned)
    images = trainer.images[:4]
    with torch.no_grad():
        assert torch.equal(trainer.learner.style(images), images), "the identity again"
    trainer.finish()
    assert trainer.learner.rehearser is None
    assert not same(copy_of(trainer.learner.style), learned)


# Rehearsal ------------------------------------------------------------------------------------


def test_the_first_domain_rehearses_nothing(course):
    trainer = in_main_stage(course, "first")
    assert set(trainer.terms(MAIN)) == {"identity", "triplet"}


def test_new_images_are_also_learned_in_the_style_before(course):
    losses = {
        "identity": {"weight": 2},
        "triplet": {"weight": 3},
        "affinity": {"weight": 5, "temperature": 0.3},
        "rehearsal": {"weight": 4},
    }
    trainer = in_main_stage(course, "first", "second", losses=losses)
    batch, learner = main_batch(trainer), trainer.learner
    learner.train()
    images = batch.views["weak"]
    with torch.no_grad():
        rehearsed = learner.rehearser.module(images)
        wanted = {}
        for prefix, view in (("", images), ("rehearsed_", rehearsed)):
            features, old = learner.network.image(view), learner.old.module.image(view).projected
            found = learner.network.identity_terms(
                features.named(),
                batch.person_ids + 8,
                learner.losses.identity,
                learner.losses.triplet,
            )
            f = features.projected
            found["affinity"] = affinity(f[:, None], old[:, None], 0.3, "mean")
            wanted |= {prefix + name: value.item() for name, value in found.items()}
        result = learner(batch, MAIN)
    assert not torch.allclose(rehearsed, images, atol=0.01)
    assert result.terms.keys() == wanted.keys()
    for name, value in result.terms.items():
        assert value.item() == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name
    assert wanted["rehearsed_affinity"] != pytest.approx(wanted["affinity"])
    own = {"identity": 2, "triplet": 3, "affinity": 5}
    assert result.weights == own | {f"rehearsed_{name}": 4 * own[name] for name in own}


def test_only_the_last_style_is_rehearsed(course):
    trainer = course("dask")
    trainer.learn("first", "second")
    second = copy_of(trainer.learner.style)
    trainer.begin("third")
    assert same(copy_of(trainer.learner.rehearser.module), second)


def test_disabled_rehearsal_builds_nothing(course):
    trainer = course("dask", losses={"rehearsal": {"weight": 0}})
    before = copy_of(trainer.learner.style)
    trainer.learn("first")
    trainer.begin("second")
    assert [stage.name for stage in trainer.learner.stages()] == [MAIN]
    assert trainer.learner.rehearser is None
    assert set(trainer.terms(MAIN)) == {"identity", "triplet", "affinity"}
    assert same(copy_of(trainer.learner.style), before)
    assert trainer.learner.stored_bytes_per_domain() == 0


def test_rehearsal_needs_no_old_model(course):
    off = {"losses": {"affinity": {"weight": 0}}, "interpolation": {"mode": "none"}}
    trainer = in_main_stage(course, "first", "second", **off)
    assert trainer.learner.old is None
    wanted = {"identity", "triplet", "rehearsed_identity", "rehearsed_triplet"}
    assert set(trainer.terms(MAIN)) == wanted


def test_one_style_is_kept_of_all_domains(course):
    trainer = course("dask", style={"width": 4, "kernel_size": 1, "channels": "separate"})
    convolutions = (4 * 27 + 4) + (8 * 36 + 8) + (16 * 72 + 16)
    num_values = convolutions + (16 * 22 + 16) + (6 * 16 + 6)
    trainer.learn("first")
    assert trainer.learner.stored_bytes_per_domain() == 4 * num_values
    trainer.learn("second")
    assert trainer.learner.stored_bytes_per_domain() == 2 * num_values


def test_the_stages_have_lengths_of_their_own(course):
    trainer = course("dask", epochs=6, first_epochs=8, style={"epochs": 3})
    found = []
    for domain in ("first", "second"):
        trainer.begin(domain)
        found.append([stage.epochs for stage in trainer.learner.stages()])
        trainer.finish()
    assert found == [[3, 8], [3, 6]]


def test_it_learns_under_half_precision(course):
    trainer = course("dask")
    trainer.learn("first")
    trainer.begin("second")
    for stage in trainer.learner.stages():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = trainer.learner(trainer.batch(stage, 0), stage.name)
        assert result.loss.dtype == torch.float32
        assert result.loss.isfinite()
