"""Controls: texts that are dealt to the wrong people, and nothing else that changes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.learners.vladr import IMAGE_STAGE
from models.vladr.config import Config
from models.vladr.prompts import derangement, permute_descriptions
from tasks.schema import Domain, Record, Split

CONTROLS = ("permuted_identities", "permuted_captions")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def texts_of(textual, index):
    """The entries of an image as (attribute, tokens)."""
    entries = textual.entry_ids[index].tolist()
    return [(k, tuple(textual.entry_tokens[e].tolist())) for k, e in enumerate(entries)]


def distinct(name="people", num_persons=8, images_per_person=4):
    """A domain in which every description names its person."""
    train = tuple(
        Record(f"{person}-{image}.jpg", person, image, (f"person {person}",),
               tuple(f"part {k} of {person}" for k in range(4)))
        for person in range(num_persons) for image in range(images_per_person)
    )  # fmt: skip
    return Domain(name, train, Split((), ()), Split((), ()))


def at_image_stage(trainer, domain):
    """The learner of a course, its prompts trained, as stage 2 of the domain begins."""
    trainer.begin(domain)
    *prompt_stages, last = trainer.learner.stages()
    assert last.name == IMAGE_STAGE
    for stage in prompt_stages:
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)
    return trainer.learner


# ---- who is given whose


@given(st.integers(2, 60), st.integers(0, 2**32))
def test_derangements_have_no_fixed_points(num, seed):
    givers = derangement(num, seeded(seed))
    assert sorted(givers.tolist()) == list(range(num))
    assert all(giver != person for person, giver in enumerate(givers.tolist()))
    assert torch.equal(givers, derangement(num, seeded(seed)))


def test_all_derangements_are_equally_likely():
    generator = seeded()
    found = Counter(tuple(derangement(4, generator).tolist()) for _ in range(9000))
    assert len(found) == 9
    # Binomial of 1 in 9: a deviation of 30.
    assert all(abs(times - 1000) < 150 for times in found.values())


def test_single_identity_cannot_be_permuted():
    with pytest.raises(ValueError, match=r"at least two .*, got 1"):
        derangement(1, seeded())


@given(st.lists(st.integers(0, 3), min_size=1).map(lambda drawn: [0, 1, 2, 3, *drawn]))
def test_images_take_descriptions_of_the_source_person_in_order(person_ids):
    records = [
        Record(str(index), person, index % 2, (f"image {index}",), (f"head {index}",))
        for index, person in enumerate(person_ids)
    ]
    dealt = permute_descriptions(records, torch.tensor([2, 3, 1, 0]))
    for person, giver in enumerate((2, 3, 1, 0)):
        theirs = [record for record in records if record.person_id == giver]
        mine = [new for new in dealt if new.person_id == person]
        for number, new in enumerate(mine):
            assert new.captions == theirs[number % len(theirs)].captions
            assert new.parts == theirs[number % len(theirs)].parts
    for new, record in zip(dealt, records, strict=True):
        assert (new.image_path, new.camera_id) == (record.image_path, record.camera_id)


# ---- what of a learner changes


def test_identities_take_the_text_feature_of_another_one(course):
    right = at_image_stage(course("vladr"), "first")
    wrong = at_image_stage(course("vladr", control="permuted_identities"), "first")
    others = dict(wrong.state_dict())
    for path, tensor in right.state_dict().items():
        if path != "textual.identity_features":
            assert torch.equal(tensor, others[path]), path
    own, given_ = right.textual.identity_features, wrong.textual.identity_features
    likeness = given_ @ own.T
    givers = likeness.argmax(1).tolist()
    assert torch.equal(given_, own[givers])
    assert sorted(givers) == list(range(8))
    assert all(giver != person for person, giver in enumerate(givers))


def test_images_take_the_captions_of_another_person(course):
    people = distinct()
    right = at_image_stage(course("vladr"), people).textual
    wrong = at_image_stage(course("vladr", control="permuted_captions"), people).textual
    persons_of = {
        text: record.person_id
        for index, record in enumerate(people.train)
        for text in texts_of(right, index)
    }
    givers = {}
    for index, record in enumerate(people.train):
        (giver,) = {persons_of[text] for text in texts_of(wrong, index)}
        assert giver != record.person_id
        assert givers.setdefault(record.person_id, giver) == giver
    assert sorted(givers.values()) == list(range(8))
    assert torch.equal(right.identity_features, wrong.identity_features)
    assert torch.equal(right.person_ids, wrong.person_ids)


def test_equal_captions_keep_equal_numbers(course, domain):
    textual = at_image_stage(course("vladr", control="permuted_captions"), domain("first")).textual
    rows = [texts_of(textual, index) for index in range(len(textual.entry_ids))]
    features = textual.attribute_features(torch.arange(len(rows)))
    for one, texts in enumerate(rows):
        for other, theirs in enumerate(rows):
            for k in range(4):
                same = textual.entry_ids[one, k] == textual.entry_ids[other, k]
                assert same == (texts[k] == theirs[k])
                if same:
                    assert torch.equal(features[one, k], features[other, k])
    assert textual.entry_ids.max() + 1 == len(textual.entry_tokens)


@pytest.mark.parametrize("control", CONTROLS)
def test_permutation_depends_on_the_domain_and_its_seed(course, control):
    def dealt(name, seed=0):
        textual = at_image_stage(
            course("vladr", seed=seed, control=control), distinct(name)
        ).textual
        if control == "permuted_captions":
            return [texts_of(textual, index) for index in range(32)]
        return textual.identity_features.tolist()

    assert dealt("first") == dealt("first")
    assert dealt("first") != dealt("second")
    if control == "permuted_captions":  # prompts, and so t_g, begin from the learner's own seed
        assert dealt("first") == dealt("first", seed=9)


@pytest.mark.parametrize("control", CONTROLS)
def test_two_identities_are_swapped(course, control):
    people = distinct(num_persons=2)
    trainer = course("vladr", control=control)
    textual = at_image_stage(trainer, people).textual
    right = at_image_stage(course("vladr"), people).textual
    if control == "permuted_identities":
        assert torch.equal(textual.identity_features, right.identity_features.flip(0))
    else:
        assert texts_of(textual, 0) == texts_of(right, 4)
        assert texts_of(textual, 4) == texts_of(right, 0)


@pytest.mark.parametrize(
    ("control", "loss"), [("permuted_identities", "image_text"), ("permuted_captions", "cma")]
)
def test_unused_control_is_rejected(control, loss):
    message = rf"control={control}: expected losses\.{loss}\.weight > 0"
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"control": control, "losses": {loss: {"weight": 0}}})
