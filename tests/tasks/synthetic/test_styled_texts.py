"""`benchmark.style`: machine texts of synthetic people in clustered styles."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks.synthetic.styled_texts
from models.backbones.caption_encoder import load_caption_encoder
from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.protocol.lock_differences import is_test_comparable, lock_differences
from tasks.schema import Benchmark
from tasks.synthetic.domains import training_domains
from tasks.synthetic.studio import person_of
from tasks.text.style_clustering import style_methods

SIZES = {
    "num_seen_domains": 2, "num_unseen_domains": 1, "num_train_identities": 12,
    "num_unseen_validation_identities": 2, "num_test_identities": 4, "num_cameras": 2,
    "supersampling": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def load(root: Path, **settings: Any) -> Benchmark:
    settings = {"name": "synthetic-t2i", "num_validation_identities": 2} | settings
    if settings.get("style"):
        settings["style_options"] = {"encoder": "tfidf"} | settings.get("style_options", {})
    config = BenchmarkConfig.model_validate({"root": str(root), "synthetic": SIZES} | settings)
    return load_benchmark(
        config, image_height=64, image_width=32, load_encoder=load_caption_encoder
    )


def texts(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    records = [
        record
        for domain in benchmark.domains
        for split in (domain.validation, domain.test)
        for record in (*domain.train, *split.query, *split.gallery)
    ]
    return {each.image_path: (each.identity, each.clothing) for each in records}


def test_methods_equal_the_clustering_methods() -> None:
    methods = tasks.synthetic.styled_texts.StyleMethod.__args__
    assert list(methods) == style_methods()


def test_styles_change_only_machine_texts(root: Path) -> None:
    default, styled = load(root), load(root, style="dbscan")
    before, after = texts(default), texts(styled)
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)
    assert len({each.split()[0] for each, _ in after.values()} & {"A", "This"}) == 2
    for domain, other in zip(default.domains, styled.domains, strict=True):
        for records, others in (
            (domain.train, other.train),
            (domain.test.query, other.test.query),
            (domain.test.gallery, other.test.gallery),
        ):
            bare = [replace(each, identity="", clothing="") for each in records]
            assert bare == [replace(each, identity="", clothing="") for each in others]
    assert json.dumps(load(root).lock) == json.dumps(default.lock)


def test_texts_are_true_except_for_mistakes(root: Path) -> None:
    domain, styled = training_domains()[0], texts(load(root, style="kmeans"))
    plaza = {path: each for path, each in styled.items() if "/plaza/" in path}
    correct = {"sex": 0, "lower_colour": 0}
    for path, (identity, clothing) in plaza.items():
        person = person_of(0, domain, int(Path(path).name[:4]))
        correct["sex"] += f" {person.sex} " in f" {identity}"
        correct["lower_colour"] += f"{person.lower_colour} " in clothing
    assert correct["sex"] == len(plaza)
    assert 0.8 * len(plaza) < correct["lower_colour"]
    again = texts(load(root, style="gmm"))
    different = [
        path for path in plaza if ("beard" in plaza[path][0]) != ("beard" in again[path][0])
    ]
    assert different == [], "perceived attributes must not depend on the clustering"


def test_mistakes_of_machine_and_annotators_are_independent(root: Path) -> None:
    """Shared mistakes would reveal which captions belong to a gallery image."""
    machine, domain = texts(load(root)), training_domains()[0]
    (folder,) = root.glob("synthetic-*/plaza")
    entries = json.loads((folder / "plaza_captions.json").read_text())
    misread = {"annotator": set[str](), "machine": set[str]()}
    for entry in entries:
        file = entry["file_path"]
        skin = person_of(0, domain, int(Path(file).name[:4])).skin
        for who, text in (
            ("annotator", entry["identity"]),
            ("machine", machine[str(folder / file)][0]),
        ):
            if f"{skin} skin" not in text:
                misread[who].add(file)
    assert misread["machine"]
    assert misread["annotator"]
    shared = misread["machine"] & misread["annotator"]
    assert len(shared) < 0.5 * len(misread["machine"])


def test_locks_differ_in_style_and_tests_are_comparable(root: Path) -> None:
    locks = {name: load(root, style=name).lock for name in ("none", "dbscan")}
    differences = lock_differences(locks)
    assert "style method none in none, dbscan in dbscan" in {each.text for each in differences}
    assert is_test_comparable(differences, "plaza")
    differences = lock_differences({"default": load(root).lock, "dbscan": locks["dbscan"]})
    assert not is_test_comparable(differences, "plaza")


def test_styles_use_only_training_captions_of_the_first_domain(root: Path) -> None:
    calls: list[list[str]] = []

    def find(captions, *others):
        calls.append(list(captions))
        return real(captions, *others)

    real = tasks.synthetic.styled_texts.find_styles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.synthetic.styled_texts, "find_styles", find)
        load(root, style="agglomerative", order=["station", "plaza"])
    (folder,) = root.glob("synthetic-*/station")
    entries = json.loads((folder / "station_captions.json").read_text())
    train = [each for entry in entries if entry["split"] == "train" for each in entry["captions"]]
    assert sorted(calls[0]) == sorted(train)


def test_files_are_written_once_per_setting(root: Path) -> None:
    def files() -> set[Path]:
        return set(root.glob("synthetic-*/*/*_dual-hdbscan-*.json"))

    load(root, style="hdbscan")
    first = files()
    assert len(first) == 3
    times = [each.stat().st_mtime_ns for each in sorted(first)]
    load(root, style="hdbscan")
    assert [each.stat().st_mtime_ns for each in sorted(first)] == times
    load(root, style="hdbscan", style_options={"seed": 1})
    assert len(files()) == 6


def test_encoders_are_not_mixed(root: Path) -> None:
    def load_with(encoder: str | None) -> tuple[set[Path], dict[str, Any]]:
        before = set(root.glob("synthetic-*/*/*_dual-gmm-*.json"))
        benchmark = load(root, style="gmm", style_options={"encoder": encoder, "seed": 3})
        written = set(root.glob("synthetic-*/*/*_dual-gmm-*.json")) - before
        return written, dict(benchmark.lock["domains"]["plaza"]["facts"])

    tfidf_files, tfidf_facts = load_with("tfidf")
    clip_files, clip_facts = load_with("tiny-clip")
    assert len(tfidf_files) == len(clip_files) == 3
    assert tfidf_facts["style_encoder"] == "tfidf"
    assert "style_weights" not in tfidf_facts
    assert clip_facts["style_encoder"] == "tiny-clip:warm"
    assert clip_facts["style_weights"] == load_caption_encoder("tiny-clip").weights_sha256
    # The default is tiny-clip; the setting, not only the encoder, is part of the file's name.
    assert load_with(None)[1] == clip_facts


def test_a_text_tower_needs_a_loader(root: Path) -> None:
    config = BenchmarkConfig.model_validate(
        {"root": str(root), "synthetic": SIZES, "name": "synthetic-t2i", "style": "gmm"}
    )
    with pytest.raises(ValueError, match=r"style_options\.encoder: expected tfidf .*tiny-clip"):
        load_benchmark(config, image_height=64, image_width=32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_error_for_a_read_only_folder(root: Path) -> None:
    (folder,) = root.glob("synthetic-*/plaza")
    folder.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=r"Set benchmark\.root"):
            load(root, style="random", style_options={"seed": 7})
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "synthetic", "style": "dbscan"}, "set name=synthetic-t2i"),
        ({"style": "dbscam"}, "dbscan"),
        ({"style": "dbscan", "style_options": {"eps": 0}}, "greater than 0"),
        ({"style": "kmeans", "style_options": {"num_styles": 97}}, "96; got 97"),
        (
            {"style": "kmeans", "style_options": {"encoder": "ViT-B-31:openai"}},
            "style_options.encoder: ViT-B-31:openai: architecture: .*did you mean",
        ),
    ],
)
def test_invalid_settings_are_refused(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(root, **settings)
