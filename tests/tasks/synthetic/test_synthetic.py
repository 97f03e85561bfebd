from __future__ import annotations

import json
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tasks.datasets import synthetic
from tasks.datasets.synthetic import SyntheticConfig, prepare
from tasks.synthetic.captions import PARTS, vocabulary, write_captions
from tasks.synthetic.domains import SCENES, random_domain, training_domains, unseen_domains
from tasks.synthetic.drawing import FACINGS, Frame, make_camera, render_image
from tasks.synthetic.people import COLOURED_FIELDS, palette_of, sample_person
from tasks.synthetic.pool import draw_pool
from tasks.synthetic.studio import map_in_processes, person_of
from tasks.text.descriptions import join_parts, read_descriptions

TINY = SyntheticConfig(
    num_seen_domains=2,
    num_unseen_domains=1,
    num_train_identities=5,
    num_unseen_validation_identities=3,
    num_test_identities=4,
    num_cameras=3,
    height=32,
    width=16,
    supersampling=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(TINY, tmp_path_factory.mktemp("data"))


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_layout_and_counts(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir()) == ["mall", "plaza", "station"]
    plaza = data / "plaza"
    assert len(list((plaza / "bounding_box_train").iterdir())) == 5 * 3 * 2
    assert len(list((plaza / "query").iterdir())) == 4 * 3
    assert len(list((plaza / "bounding_box_test").iterdir())) == 4 * 3
    assert len(list((data / "mall" / "bounding_box_train").iterdir())) == 3 * 3 * 2
    assert (plaza / "bounding_box_train" / "0002_c1s1_000200_01.jpg").is_file()
    with Image.open(plaza / "query" / "1001_c1s1_100100_01.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (16, 32), "RGB")


def test_data_is_read_as_market1501(data: Path) -> None:
    seen, unseen = synthetic.read(data.parent, TINY)
    assert [raw.name for raw in seen] == ["plaza", "station"]
    assert [raw.name for raw in unseen] == ["mall"]
    for raw in seen + unseen:
        train = {record.person_id for record in raw.train}
        query = {record.person_id for record in raw.test.query}
        assert query == {record.person_id for record in raw.test.gallery}
        assert not train & query
        firsts = [(record.person_id, record.camera_id) for record in raw.test.query]
        assert len(firsts) == len(set(firsts)) == 4 * 3
        assert raw.description_file is not None


def test_descriptions_cover_every_image(data: Path) -> None:
    descriptions = read_descriptions(data / "station" / "station_description.txt")
    images = {path.name for path in (data / "station").rglob("*.jpg")}
    assert set(descriptions.parts) == images
    assert descriptions.num_duplicates == 0
    text = (data / "station" / "station_description.txt").read_bytes()
    assert b"\r" not in text
    assert all(line.count(b"\t\t\t") == 4 for line in text.splitlines())


def test_caption_and_attribute_files(data: Path) -> None:
    entries = json.loads((data / "plaza" / "plaza_captions.json").read_text())
    assert all((data / "plaza" / entry["file_path"]).is_file() for entry in entries)
    assert {entry["split"] for entry in entries} == {"train", "test"}
    assert all(len(entry["captions"]) == 2 for entry in entries)
    people = json.loads((data / "plaza" / "plaza_attributes.json").read_text())
    assert {int(person_id) for person_id in people} == {entry["id"] for entry in entries}
    assert people["1"]["upper"] == person_of(0, training_domains()[0], 1).upper


def test_generation_is_deterministic(data: Path, tmp_path: Path) -> None:
    assert contents(prepare(TINY, tmp_path)) == contents(data)


def test_result_does_not_depend_on_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "useful_processes", lambda num_images: 2)
    assert contents(prepare(TINY, tmp_path)) == contents(data)


def test_second_call_uses_the_cache(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(synthetic, "_generate", refuse)
    assert prepare(TINY, data.parent) == data
    with pytest.raises(AssertionError, match="rendered again"):
        prepare(TINY.model_copy(update={"seed": 1}), data.parent)


def test_interrupted_generation_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: SyntheticConfig, folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_generate", die)
    with pytest.raises(KeyboardInterrupt):
        prepare(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_preparation(tmp_path: Path) -> None:
    small = TINY.model_copy(update={"num_seen_domains": 1, "num_unseen_domains": 0})
    with ThreadPoolExecutor(3) as threads:
        folders = list(threads.map(lambda _: prepare(small, tmp_path), range(3)))
    assert len(set(folders)) == 1
    assert list(tmp_path.iterdir()) == [folders[0]]


def test_every_field_changes_the_cache_folder(tmp_path: Path) -> None:
    usual = SyntheticConfig()
    names = {synthetic.cache_folder(usual, tmp_path).name}
    changes = {
        name: value - 1 if name in ("num_seen_domains", "num_unseen_domains") else value + 1
        for name, value in usual.model_dump().items()
    }
    for name, value in changes.items():
        changed = SyntheticConfig.model_validate({name: value})
        names.add(synthetic.cache_folder(changed, tmp_path).name)
    assert len(names) == 1 + len(changes)


def test_unwritable_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot generate .* Set benchmark\.root"):
        prepare(TINY, tmp_path / "file" / "data")


def test_images_do_not_depend_on_the_number_of_people(data: Path, tmp_path: Path) -> None:
    fewer = prepare(TINY.model_copy(update={"num_train_identities": 2}), tmp_path)
    for path in (fewer / "plaza").rglob("*.jpg"):
        assert path.read_bytes() == (data / path.relative_to(fewer)).read_bytes()


@pytest.mark.parametrize(
    "wrong", [{"num_cameras": 1}, {"images_per_camera": 1}, {"num_seen_domains": 6}, {"hight": 64}]
)
def test_invalid_configurations_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SyntheticConfig.model_validate(wrong)


def test_domain_names_and_indices() -> None:
    domains = training_domains() + unseen_domains()
    assert tuple(domain.name for domain in domains) == SCENES
    assert [domain.index for domain in domains] == list(range(8))


@pytest.mark.parametrize("index", range(12))
def test_random_people_are_rendered_in_random_domains(index: int) -> None:
    rng = np.random.default_rng(index)
    domain = random_domain(index, rng)
    for height, width in ((64, 32), (48, 20)):
        frame = Frame(height, width, supersampling=2)
        camera = make_camera(domain.look, frame, rng)
        for _ in range(8):
            image = render_image(
                sample_person(domain.wardrobe, rng), camera, domain.look, frame, rng
            )
            assert image.shape == (height, width, 3)
            assert image.dtype == np.uint8
            assert image.std() > 4


def test_clothes_are_visible_in_the_image() -> None:
    """The mean colour of the chest correlates with the rendered colour of the garment."""
    domain = training_domains()[0]
    frame = Frame(64, 32, 3)
    camera = make_camera(domain.look, frame, np.random.default_rng(0))
    people = [person_of(0, domain, number) for number in range(1, 61)]
    chest, garment = [], []
    for number, person in enumerate(people):
        image = render_image(person, camera, domain.look, frame, np.random.default_rng(number))
        if person.pattern == "plain" and person.bag != "backpack":
            chest.append(image[18:26, 13:19].mean((0, 1)))
            garment.append(person.rgb["upper_colour"])
    for channel in range(3):
        pairs = np.array(chest)[:, channel], np.array(garment)[:, channel]
        assert np.corrcoef(*pairs)[0, 1] > 0.7
    assert len(FACINGS) == len(camera.facing)
    assert math.isclose(sum(camera.facing), 1.0)


def test_colour_words_match_rendered_colours() -> None:
    for number in range(1, 41):
        person = person_of(3, training_domains()[2], number)
        for name in COLOURED_FIELDS:
            named = palette_of(name)[getattr(person, name)]
            assert np.abs(np.subtract(person.rgb[name], named)).max() < 80


def entropy(sentences: list[str]) -> float:
    shares = np.array(list(Counter(sentences).values())) / len(sentences)
    return float(-(shares * np.log2(shares)).sum())


def information(person_words: list[str], sentence_words: list[str]) -> float:
    """Mutual information in bits."""
    joint = [f"{a}|{b}" for a, b in zip(person_words, sentence_words, strict=True)]
    return entropy(person_words) + entropy(sentence_words) - entropy(joint)


@pytest.mark.parametrize("domain", training_domains(), ids=lambda domain: domain.name)
def test_all_caption_parts_are_informative(domain) -> None:
    """In every domain, all four parts have a high entropy, so that features can align with them."""
    people = [person_of(0, domain, number) for number in range(1, 301)]
    sentences = [
        write_captions(person, np.random.default_rng([1, number])).parts
        for number, person in enumerate(people)
    ]
    for part, least in zip(PARTS, (6.0, 6.0, 5.0, 6.5), strict=True):
        assert entropy([row[PARTS.index(part)] for row in sentences]) > least
    shoes = [person.shoes for person in people]
    mentioned = [
        next((word for word in ("sneaker", "boot", "sandal", "heel") if word in row[3]), "other")
        for row in sentences
    ]
    assert information(shoes, mentioned) > 0.4 * entropy(shoes)


def test_vocabulary_equals_the_words_of_captions() -> None:
    words = set[str]()
    for number in range(16):
        rng = np.random.default_rng([5, number])
        wardrobe = random_domain(number, rng).wardrobe
        for _ in range(150):
            captions = write_captions(sample_person(wardrobe, rng), rng)
            sentences = (*captions.parts, *captions.captions, captions.identity, captions.clothing)
            words.update(re.findall(r"\w+|[^\w\s]", " ".join(sentences).lower()))
    assert words == set(vocabulary())


def test_captions_are_short_and_varied() -> None:
    person = person_of(0, training_domains()[0], 1)
    rows = [write_captions(person, np.random.default_rng([2, n])) for n in range(200)]
    for number in range(4):
        sentences = [row.parts[number] for row in rows]
        assert len(set(sentences)) > 10
        assert max(len(sentence.split()) for sentence in sentences) <= 14
        assert all(sentence.endswith(".") for sentence in sentences)
    assert max(len(join_parts(row.parts).split()) for row in rows) <= 45


def test_caption_noise_rates() -> None:
    """8% of the colours are misread; synonyms of a colour are not mistakes."""
    person = next(
        candidate
        for number in range(1, 101)
        if (candidate := person_of(0, training_domains()[0], number)).lower_colour == "red"
    )
    rows = [write_captions(person, np.random.default_rng([3, n])) for n in range(4000)]
    correct = np.mean(["red" in row.parts[2].split() for row in rows])
    assert correct == pytest.approx(0.92, abs=0.02)


def test_pool_depends_only_on_its_seed_and_sizes() -> None:
    sizes = {"height": 32, "width": 16}
    first = draw_pool(2, 3, 2, 0, **sizes, num_processes=1)
    again = draw_pool(2, 3, 2, 0, **sizes, num_processes=1)
    other = draw_pool(2, 3, 2, 1, **sizes, num_processes=1)
    longer = draw_pool(3, 3, 2, 0, **sizes, num_processes=1)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.images, longer.images[:12])
    assert first.captions == again.captions
    assert not np.array_equal(first.images, other.images)
    assert first.images.shape == (12, 32, 16, 3)
    assert first.person_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert set(first.captions) == {*PARTS, "whole", "caption", "identity", "clothing"}
    for index, whole in enumerate(first.captions["whole"]):
        assert whole == join_parts([first.captions[part][index] for part in PARTS])


def test_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_pool(0, 3, 2, 0, height=32, width=16)


def test_map_in_processes_keeps_the_order() -> None:
    jobs = [(number, 3) for number in range(5)]
    assert map_in_processes(pow, jobs, num_processes=2) == [0, 1, 8, 27, 64]
    assert map_in_processes(pow, jobs, num_processes=1) == [0, 1, 8, 27, 64]
