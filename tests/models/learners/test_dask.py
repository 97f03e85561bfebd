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
    pupil = course("dask", **values)
    pupil.learn(*domains[:-1])
    pupil.begin(domains[-1])
    for stage in pupil.learner.stages():
        pupil.train(stage)
        if stage.name == STYLE:
            pupil.learner.end_stage(stage.name, pupil.probe)
    return pupil


def main_batch(pupil):
    (stage,) = [stage for stage in pupil.learner.stages() if stage.name == MAIN]
    return pupil.batch(stage, 0)


# Style ----------------------------------------------------------------------------------------


def test_the_style_is_learned_with_the_network_at_rest(course):
    pupil = course("dask")
    pupil.begin("first")
    network, style = copy_of(pupil.learner.network), copy_of(pupil.learner.style)
    stage = pupil.learner.stages()[0]
    assert stage.name == STYLE
    pupil.train(stage)
    assert same(copy_of(pupil.learner.network), network)
    assert not same(copy_of(pupil.learner.style), style)
    style = copy_of(pupil.learner.style)
    pupil.train(pupil.learner.stages()[1])
    assert same(copy_of(pupil.learner.style), style)


def test_the_style_term_is_the_distance_of_restored_images(course):
    """At first the network is the identity: what is left is the disturbance itself."""
    pupil = course("dask", style={"spread": 2.0})
    pupil.begin("first")
    batch = pupil.batch(pupil.learner.stages()[0], 0)
    images = batch.views["weak"]
    step = int(pupil.learner.style_step)
    own = colour_statistics(pupil.images)
    noise = style_noise(step, batch.indices)
    drawn = own.mean(0) + 2.0 * own.std(0, correction=0) * noise
    wanted = (recolour(images, drawn) - images).abs().mean().item()
    assert pupil.terms(STYLE) == {"restoration": pytest.approx(wanted, rel=1e-4)}
    assert wanted > 0
    assert int(pupil.learner.style_step) == step + 1
    assert pupil.terms(STYLE)["restoration"] != pytest.approx(wanted), "disturbed anew"


def test_colour_distribution_is_that_of_the_training_images(course):
    pupil = course("dask")
    for domain in ("first", "second"):
        pupil.begin(domain)
        wanted = colour_distribution(colour_statistics(pupil.images))
        assert torch.allclose(pupil.learner.style_colours, wanted)
        pupil.finish()


def test_each_domain_begins_a_style_of_its_own(course):
    pupil = course("dask")
    pupil.learn("first")
    learned = copy_of(pupil.learner.style)
    pupil.begin("second")
    assert same(copy_of(pupil.learner.rehearser.module), learned)
    images = pupil.images[:4]
    with torch.no_grad():
        assert torch.equal(pupil.learner.style(images), images), "the identity again"
    pupil.finish()
    assert pupil.learner.rehearser is None
    assert not same(copy_of(pupil.learner.style), learned)


# Rehearsal ------------------------------------------------------------------------------------


def test_the_first_domain_rehearses_nothing(course):
    pupil = in_main_stage(course, "first")
    assert set(pupil.terms(MAIN)) == {"identity", "triplet"}


def test_new_images_are_also_learned_in_the_style_before(course):
    losses = {
        "identity": {"weight": 2},
        "triplet": {"weight": 3},
        "affinity": {"weight": 5, "temperature": 0.3},
        "rehearsal": {"weight": 4},
    }
    pupil = in_main_stage(course, "first", "second", losses=losses)
    batch, learner = main_batch(pupil), pupil.learner
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
    pupil = course("dask")
    pupil.learn("first", "second")
    second = copy_of(pupil.learner.style)
    pupil.begin("third")
    assert same(copy_of(pupil.learner.rehearser.module), second)


def test_disabled_rehearsal_builds_nothing(course):
    pupil = course("dask", losses={"rehearsal": {"weight": 0}})
    before = copy_of(pupil.learner.style)
    pupil.learn("first")
    pupil.begin("second")
    assert [stage.name for stage in pupil.learner.stages()] == [MAIN]
    assert pupil.learner.rehearser is None
    assert set(pupil.terms(MAIN)) == {"identity", "triplet", "affinity"}
    assert same(copy_of(pupil.learner.style), before)
    assert pupil.learner.stored_bytes_per_domain() == 0


def test_rehearsal_needs_no_old_model(course):
    off = {"losses": {"affinity": {"weight": 0}}, "interpolation": {"mode": "none"}}
    pupil = in_main_stage(course, "first", "second", **off)
    assert pupil.learner.old is None
    wanted = {"identity", "triplet", "rehearsed_identity", "rehearsed_triplet"}
    assert set(pupil.terms(MAIN)) == wanted


def test_one_style_is_kept_of_all_domains(course):
    pupil = course("dask", style={"width": 4, "kernel_size": 1, "channels": "separate"})
    convolutions = (4 * 27 + 4) + (8 * 36 + 8) + (16 * 72 + 16)
    num_values = convolutions + (16 * 22 + 16) + (6 * 16 + 6)
    pupil.learn("first")
    assert pupil.learner.stored_bytes_per_domain() == 4 * num_values
    pupil.learn("second")
    assert pupil.learner.stored_bytes_per_domain() == 2 * num_values


def test_the_stages_have_lengths_of_their_own(course):
    pupil = course("dask", epochs=6, first_epochs=8, style={"epochs": 3})
    found = []
    for domain in ("first", "second"):
        pupil.begin(domain)
        found.append([stage.epochs for stage in pupil.learner.stages()])
        pupil.finish()
    assert found == [[3, 8], [3, 6]]


def test_it_learns_under_half_precision(course):
    pupil = course("dask")
    pupil.learn("first")
    pupil.begin("second")
    for stage in pupil.learner.stages():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = pupil.learner(pupil.batch(stage, 0), stage.name)
        assert result.loss.dtype == torch.float32
        assert result.loss.isfinite()
