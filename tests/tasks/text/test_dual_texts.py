"""Identity and clothing descriptions: file, attachment to records, synthetic data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.schema import RawDomain, Record, Split
from tasks.text.descriptions import with_dual_texts

SIZES = {
    "num_seen_domains": 2,
    "num_unseen_domains": 1,
    "num_train_identities": 6,
    "num_unseen_validation_identities": 2,
    "num_test_identities": 4,
    "num_cameras": 2,
    "supersampling": 1,
}


def record(folder: Path, name: str, person: int) -> Record:
    return Record(str(folder / name), person, 0, ("a caption",))


def raw_domain(folder: Path, entries: object) -> RawDomain:
    file = folder / "shop_dual.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    test = Split((record(folder, "c.jpg", 2),), (record(folder, "sub/c.jpg", 2),), "text")
    train = (record(folder, "a.jpg", 0), record(folder, "b.jpg", 1))
    return RawDomain("shop", train, test, dual_file=file, folder=folder)


def entry(file: str, **texts: str) -> dict[str, str]:
    return {"file_path": file, "identity": f"who {file}", "clothing": f"wears {file}"} | texts


def test_texts_are_attached_by_image_path(tmp_path: Path) -> None:
    entries = [entry("sub/c.jpg"), entry("a.jpg", identity=" a\n tall  man "), entry("gone.jpg")]
    raw = with_dual_texts(raw_domain(tmp_path, entries))
    assert [(each.identity, each.clothing) for each in raw.train] == [
        ("a tall man", "wears a.jpg"),
        ("", ""),
    ]
    assert raw.test.query[0].identity == ""
    assert raw.test.gallery[0].identity == "who sub/c.jpg"
    assert raw.test.query_by == "text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "expected JSON, but line 1"),
        ({"file_path": "a.jpg"}, "expected a list of entries, got dict"),
        ([entry("a.jpg"), {"file_path": "b.jpg", "identity": "x"}], "entry 2: expected non-empty"),
        ([entry("a.jpg", clothing="  ")], "expected non-empty file_path, identity and clothing"),
        (["words"], "entry 1: expected non-empty"),
        ([entry("a.jpg", identity="tall " * 2000)], "entry 1: expected a text about one person"),
    ],
)
def test_invalid_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        with_dual_texts(raw_domain(tmp_path, content))


def test_synthetic_text_to_image_benchmark(tmp_path: Path) -> None:
    def load(name: str):
        config = BenchmarkConfig.model_validate(
            {
                "name": name,
                "root": str(tmp_path),
                "synthetic": SIZES,
                "num_validation_identities": 2,
            }
        )
        return load_benchmark(config, image_height=64, image_width=32)

    by_image, by_text = load("synthetic"), load("synthetic-t2i")
    assert len(list(tmp_path.iterdir())) == 1, "both read the same images"
    domain = by_text.seen[0]
    assert [each.image_path for each in domain.train] == [
        each.image_path for each in by_image.seen[0].train
    ]
    for split in (domain.test, domain.validation, by_text.unseen[0].test):
        assert split.query_by == "text"
        assert len(split.query) == 2 * len(split.gallery)
        assert all(len(each.captions) == 1 for each in split.query)
        assert all(each.identity and each.clothing for each in split.gallery)
    assert all(len(each.captions) == 2 and each.parts and each.clothing for each in domain.train)
    assert len(domain.test.gallery) == 4 * 2 * 2
    lock = by_text.lock["domains"][domain.name]
    assert (lock["query_by"], len(lock["dual_sha256"])) == ("text", 64)
    assert "dual_sha256" not in by_image.lock["domains"][domain.name]
    assert by_text.lock["synthetic"] == by_image.lock["synthetic"]
