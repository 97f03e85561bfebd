from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runner.descriptions.quality import check_file, contradiction, implausible_words, is_implausible
from runner.lifelong import main
from tasks.text.descriptions import format_descriptions

GOOD = ("A man with black hair.", "He wears a red shirt.", "He wears jeans.", "White shoes.")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_file_without_problems(tmp_path: Path) -> None:
    other = ("A woman with a cap.", "She has a blue coat.", "A green skirt.", "Brown boots.")
    path = write(tmp_path / "d.txt", format_descriptions({"a.jpg": GOOD, "b.jpg": other}))
    found = check_file(path)
    assert (found.num_lines, found.num_images) == (2, 2)
    faults = (found.num_malformed, found.num_repeated, found.num_empty, found.num_duplicated)
    assert (*faults, found.num_contradictory) == (0, 0, 0, 0, 0)
    assert all(part.num_implausible == 0 for part in found.parts.values())


def test_every_problem_is_counted(tmp_path: Path) -> None:
    rows = [
        ("a.jpg", *GOOD),
        ("b.jpg", *GOOD),
        ("c.jpg", "Hair.", "", "A skirt.", "Boots."),
        ("d.jpg", "Hair.", "None.", "A kilt.", "Boots."),
        ("e.jpg", "Bald.", "A red blue shirt.", "Trousers.", "Sandals."),
        ("f.jpg", "A red bun.", "A top.", "Slacks.", "Heels."),
        ("f.jpg", "A bun.", "A top.", "Slacks.", "Heels."),
    ]
    lines = ["\t\t\t".join(row) for row in rows] + ["g.jpg\t\t\tHair.", ""]
    found = check_file(write(tmp_path / "d.txt", "\n".join(lines)))
    assert (found.num_lines, found.num_malformed, found.num_images) == (8, 1, 6)
    assert (found.num_repeated, found.num_empty, found.num_duplicated) == (1, 2, 2)
    assert found.num_contradictory == 1
    assert found.examples["empty"] == ("c.jpg", "d.jpg")
    assert found.examples["duplicated"] == ("a.jpg", "b.jpg")
    assert found.examples["contradictory"] == ("e.jpg",)
    assert found.parts["upper"].num_empty == 2


@pytest.mark.parametrize(
    "sentences",
    [
        ("A red blue shirt.",),
        ("He wears a black red coat.",),
        ("A man in white shoes.", "Black shoes."),
        ("A red shirt and a green shirt.",),
    ],
)
def test_contradictions(sentences: tuple[str, ...]) -> None:
    assert contradiction(sentences) is not None


@pytest.mark.parametrize(
    "sentences",
    [
        ("A red and blue shirt.",),
        ("A black-and-white shirt.",),
        ("A navy blue shirt.",),
        ("A dark grey shirt.", "A gray shirt."),
        ("A white shirt with black stripes.",),
        ("A grey jacket over white.",),
        ("A red cap, blue glasses.",),
        ("A red shirt, black trousers.", "Black shoes and a red bag."),
        ("Black and white shoes.", "White shoes."),
        ("A red dress.", "Black dress shoes."),
        ("Black hair red cap.",),
        ("",),
    ],
)
def test_no_contradictions(sentences: tuple[str, ...]) -> None:
    assert contradiction(sentences) is None


@pytest.mark.parametrize(
    ("word", "part"),
    [("jeans", "head"), ("shoes", "upper"), ("b4g", "foot"), ("shiiirt", "upper"),
     ("grn", "upper"), ("кепка", "head"), ("a" * 10 + "b" * 11, "foot"), ("1", "head")],
)  # fmt: skip
def test_implausible_words(word: str, part: str) -> None:
    assert is_implausible(word, part)


@pytest.mark.parametrize(
    ("word", "part"),
    [("jeans", "lower"), ("dress", "upper"), ("dress", "lower"), ("backpack", "foot"),
     ("a", "head"), ("t-shirt", "upper"), ("flip-flops", "foot"), ("kilt", "lower")],
)  # fmt: skip
def test_plausible_words(word: str, part: str) -> None:
    assert not is_implausible(word, part)


def test_noun_before_a_noun_is_not_a_garment() -> None:
    assert implausible_words("He wears dress shoes and a dress.", "foot") == ["dress"]
    assert implausible_words("A jeans jacket, jeans.", "upper") == ["jeans"]
    assert implausible_words("A b4g shirt.", "upper") == ["b4g"]


def test_entropy_of_the_vocabulary(tmp_path: Path) -> None:
    rows = {f"{at}.jpg": (word, "same", "same", "one two") for at, word in enumerate("abcd")}
    found = check_file(write(tmp_path / "d.txt", format_descriptions(rows)))
    bits = {name: part.entropy_bits for name, part in found.parts.items()}
    assert bits == {"head": 2.0, "upper": 0.0, "lower": 0.0, "foot": 1.0}
    assert found.parts["foot"].num_different_words == 2
    skewed = {f"{at}.jpg": ("x" if at else "y", "same", "same", "same") for at in range(4)}
    found = check_file(write(tmp_path / "d.txt", format_descriptions(skewed)))
    expected = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found.parts["head"].entropy_bits == pytest.approx(expected)


def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ("A cap.", "Red blue shirt.", "Jeans with shoes.", "None")
    path = write(tmp_path / "d.txt", format_descriptions({"a.jpg": GOOD, "b.jpg": bad}))
    assert main(["describe", "--check", str(path)]) == 0
    output = capsys.readouterr().out
    assert "contradictory (two colours)" in output
    assert "50.0%" in output
    assert "implausible words: shoes (lower)" in output
    assert main(["describe", "--check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_images"], found["num_contradictory"], found["num_empty"]) == (2, 1, 1)
    assert found["parts"]["lower"]["implausible_share"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "has no such line"),
        (b"a b c\n", "has no such line"),
        ("Käppi".encode("latin-1"), "expected UTF-8"),
    ],
)
def test_invalid_description_file(content: bytes | None, message: str, tmp_path, capsys) -> None:
    path = tmp_path / "d.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["describe", "--check", str(path)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_quality_of_dual_texts(tmp_path: Path) -> None:
    texts = [
        ("a.jpg", "A tall man with black hair.", "A red shirt, blue jeans and white shoes."),
        ("b.jpg", "A tall man with black hair.", "A red shirt, blue jeans and white shoes."),
        ("c.jpg", "A woman in a green skirt.", "A green skirt and a brown skirt."),
        ("d.jpg", "A woman with a cap.", "None."),
    ]
    entries = [
        dict(zip(("file_path", "identity", "clothing"), text, strict=True)) for text in texts
    ]
    path = write(tmp_path / "d.json", json.dumps([*entries, {"file_path": "e.jpg"}, 3]))
    found = check_file(path)
    assert (found.num_lines, found.num_malformed, found.num_images) == (6, 2, 4)
    assert found.examples["duplicated"] == ("a.jpg", "b.jpg")
    assert found.examples["contradictory"] == ("c.jpg",)
    assert found.examples["empty"] == ("d.jpg",)
    assert found.examples["implausible words"] == ("skirt (identity)",)
    assert found.parts.keys() == {"identity", "clothing"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected JSON"),
        ("{}", "expected a list of {file_path, identity, clothing}"),
        ('[{"file_path": "a.jpg", "identity": "A man."}]', "expected a list of"),
    ],
)
def test_json_file_without_descriptions(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_file(write(tmp_path / "d.json", text))
