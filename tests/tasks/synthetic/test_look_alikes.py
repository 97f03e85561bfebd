"""Families of look-alikes, and texts in a fixed wording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.synthetic.captions import exact_contents, write_captions, write_contents
from tasks.synthetic.domains import FAMILY_SIZE, random_domain, training_domains, unseen_domains
from tasks.synthetic.people import Person, sample_look_alike, sample_person
from tasks.synthetic.studio import person_of
from tasks.synthetic.writing import FIRST_TEST_ID

WORN = (
    ("headwear", "headwear_colour"),
    ("upper", "upper_colour", "pattern", "pattern_colour"),
    ("lower", "lower_colour"),
    ("shoes", "shoes_colour"),
    ("bag", "bag_colour", "bag_side"),
)
DOMAINS = (*training_domains(), *unseen_domains())


def num_differing_items(one: Person, other: Person) -> int:
    return sum(any(getattr(one, name) != getattr(other, name) for name in item) for item in WORN)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
@pytest.mark.parametrize("family", [0, FIRST_TEST_ID // FAMILY_SIZE])
def test_members_of_a_family_differ_in_few_worn_items(domain, family):
    first = family * FAMILY_SIZE + 1
    people = [person_of(0, domain, person_id) for person_id in range(first, first + FAMILY_SIZE)]
    assert len({person.sex for person in people}) == 1
    assert len({(person.girth, person.pattern_period) for person in people}) == FAMILY_SIZE
    for person in people[1:]:
        assert num_differing_items(people[0], person) <= 2


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_families_differ_from_each_other(domain):
    one, other = (
        [person_of(0, domain, first) for first in range(start, 200, 4)] for start in (1, 5)
    )
    differing = [num_differing_items(*pair) for pair in zip(one, other[:48], strict=False)]
    assert np.mean(differing) > 3


def test_test_people_begin_a_family():
    assert (FIRST_TEST_ID - 1) % FAMILY_SIZE == 0


def test_a_look_alike_changes_one_item_and_keeps_the_other_words():
    wardrobe, rng = training_domains()[4].wardrobe, np.random.default_rng(0)
    counts = np.zeros(len(WORN), int)
    for _ in range(300):
        model = sample_person(wardrobe, rng)
        person = sample_look_alike(model, wardrobe, rng)
        assert person.sex == model.sex
        assert num_differing_items(model, person) <= 1
        for index, item in enumerate(WORN):
            counts[index] += any(getattr(model, name) != getattr(person, name) for name in item)
        assert person.rgb != model.rgb
    assert (counts > 15).all()


def test_people_of_random_domains_are_independent():
    domain = random_domain(0, np.random.default_rng(0))
    assert domain.family_size == 1
    assert person_of(0, domain, 5) == sample_person(
        domain.wardrobe, np.random.default_rng([0, 1, 0, 5])
    )


@pytest.mark.parametrize("seed", range(20))
def test_contents_state_what_the_captions_state(seed):
    person = sample_person(training_domains()[4].wardrobe, np.random.default_rng(seed))
    captions = write_captions(person, np.random.default_rng(seed)).by_kind()
    contents = write_contents(person, np.random.default_rng(seed)).by_kind()
    assert captions.keys() == contents.keys()
    for colour in ("red", "green", "yellow", "white", "black", "orange", "pink"):
        for kind in ("lower", "foot"):
            assert (f" {colour} " in captions[kind]) == (f" {colour} " in contents[kind])


def test_exact_contents_depend_on_the_person_alone():
    person = sample_person(training_domains()[0].wardrobe, np.random.default_rng(3))
    assert exact_contents(person) == exact_contents(replace(person))
    mistaken = [write_contents(person, np.random.default_rng(seed)) for seed in range(40)]
    assert 0 < sum(each.parts == exact_contents(person).parts for each in mistaken) < 40
