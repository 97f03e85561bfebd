"""Which images of a learned domain are kept, and under which names."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.components.exemplars import Exemplars, ExemplarsConfig, farthest_images, sample_persons


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=60)
@given(
    person_ids=st.lists(st.sampled_from([3, 0, 9, 4]), min_size=1, max_size=15),
    num_images=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_the_farthest_images_are_those_of_a_naive_loop(person_ids, num_images, seed):
    embeddings = torch.randn(len(person_ids), 6, generator=generator(seed), dtype=torch.float64)
    wanted = []
    for person in sorted(set(person_ids)):
        own = [index for index, owner in enumerate(person_ids) if owner == person]
        centre = functional.normalize(embeddings[own].mean(0), dim=0)
        likeness = {
            index: float(functional.normalize(embeddings[index], dim=0) @ centre) for index in own
        }
        wanted += sorted(own, key=lambda index: likeness[index])[:num_images]
    found = farthest_images(embeddings, torch.tensor(person_ids), num_images)
    # A person with two images has both at the same distance, up to rounding.
    counts = {person: person_ids.count(person) for person in person_ids}
    for given_, expected in zip(found.tolist(), wanted, strict=True):
        assert given_ == expected or counts[person_ids[expected]] == 2


def test_equally_far_images_are_taken_in_their_order():
    embeddings = torch.ones(6, 4)
    found = farthest_images(embeddings, torch.tensor([1, 0, 1, 0, 1, 0]), 2)
    assert found.tolist() == [1, 3, 0, 2]


def test_identities_sampled_twice_are_stored_once():
    config = ExemplarsConfig(num_persons=50)
    drawn = sample_persons(100, config, generator())
    # 100 * (1 - .99 ** 50) = 39.5 of them are expected.
    assert 30 < len(drawn) < 50
    assert drawn <= set(range(100))
    assert drawn == sample_persons(100, config, generator())
    assert drawn != sample_persons(100, config, generator(1))
    distinct = ExemplarsConfig(num_persons=50, with_replacement=False)
    assert len(sample_persons(100, distinct, generator())) == 50
    assert sample_persons(20, distinct, generator()) == set(range(20))


def test_exemplars_use_person_ids_of_the_cleaned_domain(domain):
    # Person 0 has no readable image: everybody else moves down by one.
    cleaned = domain("first").without({0, 1, 2, 3, 9})
    exemplars = Exemplars(ExemplarsConfig(num_persons=7, with_replacement=False))
    exemplars.begin_domain(cleaned, 100, generator())
    embeddings = torch.randn(len(cleaned.train), 6, generator=generator())
    farthest = farthest_images(embeddings.double(), torch.from_numpy(cleaned.person_ids), 2)
    restored = Exemplars(ExemplarsConfig(num_persons=7))
    restored.restore(json.loads(json.dumps(exemplars.facts())))
    for each in (exemplars, restored):
        each.end_domain(embeddings)
        assert len(each.records) == 14
        for record, position in zip(each.records, farthest.tolist(), strict=True):
            original = cleaned.train[position]
            assert record.image_path == original.image_path
            assert record.camera_id == original.camera_id
            assert record.person_id == original.person_id + 100
            number = int(record.image_path.split("/")[1][:4])
            assert record.person_id == 100 + number // 4 - 1
        assert each.facts()["candidates"] == []
    assert restored.facts() == exemplars.facts()


def test_only_images_of_sampled_identities_are_candidates(domain):
    exemplars = Exemplars(ExemplarsConfig(num_persons=3, with_replacement=False))
    exemplars.begin_domain(domain("first"), 0, generator())
    assert len(exemplars.facts()["candidates"]) == 12
    exemplars.end_domain(torch.randn(32, 6, generator=generator()))
    people = [record.person_id for record in exemplars.records]
    assert people == sorted(people)
    assert {people.count(person) for person in people} == {2}
    assert len(set(people)) == 3


def test_domain_changed_during_training_is_rejected(domain):
    exemplars = Exemplars(ExemplarsConfig())
    exemplars.begin_domain(domain("first"), 0, generator())
    with pytest.raises(ValueError, match=r"expected 32 .* got 31.*--fresh"):
        exemplars.end_domain(torch.randn(31, 6))
