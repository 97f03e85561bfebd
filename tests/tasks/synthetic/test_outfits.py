"""Synthetic people in other clothes: only the clothes change."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.datasets.synthetic import SyntheticConfig, prepare, select_domains, shoot_of
from tasks.synthetic.domains import training_domains, unseen_domains
from tasks.synthetic.outfits import KEPT, change_outfit, person_in, render_outfit
from tasks.synthetic.people import Person
from tasks.synthetic.studio import person_of
from tasks.synthetic.writing import FIRST_TEST_ID

CONFIG = SyntheticConfig(
    num_seen_domains=1,
    num_unseen_domains=0,
    num_train_identities=2,
    num_test_identities=3,
    num_cameras=2,
    supersampling=1,
    height=48,
    width=24,
)
PEOPLE = range(FIRST_TEST_ID, FIRST_TEST_ID + 12)
DOMAINS = training_domains() + unseen_domains()


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda each: each.name)
def test_body_is_kept_and_clothes_change(domain) -> None:
    for person_id in PEOPLE:
        old = person_of(0, domain, person_id)
        new = person_in(0, domain, person_id, 1)
        assert all(getattr(new, name) == getattr(old, name) for name in KEPT)
        assert (new.height, new.build) == (old.height, old.build)
        assert all(new.rgb[name] == old.rgb[name] for name in ("skin", "hair_colour"))
        for name in ("upper", "upper_colour", "lower", "lower_colour"):
            assert getattr(new, name) != getattr(old, name)
        assert (new.shoes, new.shoes_colour) != (old.shoes, old.shoes_colour)
        assert new.rgb["upper_colour"] != old.rgb["upper_colour"]
        # Constraints of sampled people: no clothes of the other sex, no patterns under jackets.
        if new.sex == "man":
            assert new.lower not in ("skirt", "long skirt", "leggings")
            assert new.shoes != "heels"
        assert new.pattern == "plain" or new.upper not in ("jacket", "blazer")
        assert new == person_in(0, domain, person_id, 1)
        assert new != person_in(0, domain, person_id, 2)
        assert old == person_in(0, domain, person_id, 0)


def test_every_field_is_either_kept_or_changed() -> None:
    changed = {"rgb", "pattern_period", "bag_side"}
    changed |= {"headwear", "headwear_colour", "upper", "upper_colour", "pattern", "pattern_colour"}
    changed |= {"lower", "lower_colour", "shoes", "shoes_colour", "bag", "bag_colour"}
    assert {field.name for field in fields(Person)} == changed | set(KEPT)


def test_distribution_of_hats_and_bags_is_unchanged() -> None:
    domain = training_domains()[4]
    many = range(FIRST_TEST_ID, FIRST_TEST_ID + 100)
    for name in ("headwear", "bag"):
        before, after = (
            Counter(getattr(person_in(0, domain, each, outfit), name) for each in many)
            for outfit in (0, 1)
        )
        for word, number in before.items():
            assert abs(after[word] - number) < 4 * np.sqrt(number + 5), word


def test_a_wardrobe_without_alternatives_keeps_the_clothes() -> None:
    domain = training_domains()[0]
    person = person_of(0, domain, 1001)
    only = {
        name: {getattr(person, name): 1.0}
        for name in ("upper", "upper_colour", "lower", "lower_colour", "shoes")
    }
    wardrobe = replace(domain.wardrobe, **only)
    new = change_outfit(person, wardrobe, np.random.default_rng(0))
    assert (new.upper, new.upper_colour) == (person.upper, person.upper_colour)
    assert new.shoes_colour != person.shoes_colour


def test_images_in_memory_equal_the_files_on_disk(tmp_path: Path) -> None:
    folder = prepare(CONFIG, tmp_path)
    (domain,), _ = select_domains(CONFIG)
    ids = range(FIRST_TEST_ID, FIRST_TEST_ID + CONFIG.num_test_identities)
    images = render_outfit(domain, shoot_of(CONFIG), list(ids), 0)
    files = sorted((folder / domain.name).glob("*/1*.jpg"), key=lambda path: path.name)
    assert [path.read_bytes() for path in files] == list(images.files)
    assert images.person_ids.tolist() == [int(path.name[:4]) for path in files]
    assert images.camera_ids.tolist() == [int(path.name[6]) - 1 for path in files]
    assert images.numbers.tolist() == [0, 1] * (len(files) // 2)
    truth = json.loads((folder / domain.name / f"{domain.name}_attributes.json").read_text())
    assert [truth[str(each)]["upper"] for each in ids] == [
        person_in(CONFIG.seed, domain, each, 0).upper for each in ids
    ]


def test_other_clothes_change_only_pixels_of_the_person() -> None:
    domain = replace(
        training_domains()[0], look=replace(training_domains()[0].look, occlusion_rate=0, noise=0)
    )
    settings = replace(shoot_of(CONFIG), jpeg_quality=100)
    old, new = (render_outfit(domain, settings, [1001, 1002], outfit) for outfit in (0, 1))
    assert np.array_equal(old.person_ids, new.person_ids)
    for before, after in zip(old.files, new.files, strict=True):
        one, other = (np.asarray(Image.open(io.BytesIO(file)), int) for file in (before, after))
        changed = np.abs(one - other).max(axis=2) > 12
        assert changed.mean() > 0.05
        # The background is unchanged; a skirt or a suitcase may reach the edge.
        assert changed[:, [0, -1]].mean() < 0.25
