"""How good the descriptions of a file are: counts and shares that need no image.

The reader of the learners refuses a file with an empty field; this one counts what is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.descriptions.validation import is_nothing
from tasks.text.text_files import utf8_lines
from tasks.text.words import (
    BAGS,
    GARMENTS,
    PARTS,
    all_garments,
    mentions,
    words_of,
)

NUM_EXAMPLES = 5
DUAL = ("identity", "clothing")
_LONGEST_WORD = 20


@dataclass(frozen=True, slots=True)
class PartQuality:
    """One of the four sentences, or of the two texts, over the images of a file.

    Attributes:
        num_empty: images without it.
        num_words: words of all images.
        num_different_words: of them.
        entropy_bits: Shannon entropy of a word drawn from all; 0 where all say the same word, and
            a low number where a model repeats itself.
        num_implausible: words that cannot be, or belong to another part.
    """

    num_empty: int
    num_words: int
    num_different_words: int
    entropy_bits: float
    num_implausible: int

    @property
    def implausible_share(self) -> float:
        """Of all words of this part."""
        return self.num_implausible / self.num_words if self.num_words else 0.0


@dataclass(frozen=True, slots=True)
class Quality:
    """What `check_file` found.

    Attributes:
        path: the file.
        num_lines: lines that are not blank; entries of a JSON file.
        num_images: different images among the well-formed lines.
        num_malformed: lines that have not five fields, entries without an image or a text.
        num_repeated: lines that a later line of the same image replaces.
        num_empty: images with at least one empty part, or one that says nothing ("none").
        num_duplicated: images of which another image has every part as well.
        num_contradictory: images of which a garment has two colours.
        parts: by part.
        examples: the first images by fault, and the commonest implausible words.
    """

    path: Path
    num_lines: int
    num_images: int
    num_malformed: int
    num_repeated: int
    num_empty: int
    num_duplicated: int
    num_contradictory: int
    parts: Mapping[str, PartQuality]
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; shares are of images, those of words are of words."""
        counts = {
            name: getattr(self, name)
            for name in (
                "num_lines", "num_images", "num_malformed", "num_repeated", "num_empty",
                "num_duplicated", "num_contradictory",
            )
        }  # fmt: skip
        parts = {
            name: {
                "num_empty": part.num_empty,
                "num_words": part.num_words,
                "num_different_words": part.num_different_words,
                "entropy_bits": part.entropy_bits,
                "num_implausible_words": part.num_implausible,
                "implausible_share": part.implausible_share,
            }
            for name, part in self.parts.items()
        }
        examples = {name: list(found) for name, found in self.examples.items()}
        return {"file": str(self.path), **counts, "parts": parts, "examples": examples}


def check_file(path: Path) -> Quality:
    """Judges a file of part descriptions, or a JSON file of identity and clothing texts.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not UTF-8 or not JSON, or nothing of it has the format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--check: {path} does not exist; expected a description file")
    parts = DUAL if path.suffix == ".json" else PARTS
    num_lines, well = _entries(path) if parts is DUAL else _lines(path)
    rows = {name: tuple(sentences) for name, *sentences in well}
    empty = [name for name, row in rows.items() if any(map(is_nothing, row))]
    same = Counter(tuple(part.lower() for part in row) for row in rows.values())
    twins = [name for name, row in rows.items() if same[tuple(part.lower() for part in row)] > 1]
    contradictory = [name for name, row in rows.items() if contradiction(row)]
    examples = {"empty": empty, "duplicated": twins, "contradictory": contradictory}
    return Quality(
        path=path,
        num_lines=num_lines,
        num_images=len(rows),
        num_malformed=num_lines - len(well),
        num_repeated=len(well) - len(rows),
        num_empty=len(empty),
        num_duplicated=len(twins),
        num_contradictory=len(contradictory),
        parts={
            part: _part_quality(part, [row[at] for row in rows.values()])
            for at, part in enumerate(parts)
        },
        examples={name: tuple(found[:NUM_EXAMPLES]) for name, found in examples.items()}
        | {"implausible words": _commonest_implausible(parts, rows.values())},
    )


def _lines(path: Path) -> tuple[int, list[list[str]]]:
    """How many lines, and the fields of the well-formed ones: an image and its four sentences."""
    lines = [line for line in utf8_lines(path) if line.strip()]
    split = [[each.strip() for each in line.split("\t\t\t")] for line in lines]
    well = [fields for fields in split if len(fields) == 1 + len(PARTS) and fields[0]]
    if not well:
        raise ValueError(
            f"--check: no line of {path} has an image and {len(PARTS)} sentences, separated by "
            "three tabs; identity and clothing texts are in a file that ends in .json"
        )
    return len(lines), well


def _entries(path: Path) -> tuple[int, list[list[str]]]:
    """How many entries, and the fields of the well-formed ones: an image and its two texts."""
    try:
        entries = json.loads("\n".join(utf8_lines(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"--check: {path} is not JSON ({error})") from error
    fields = ("file_path", *DUAL)
    listed: list[Any] = entries if isinstance(entries, list) else []
    well = [
        [str(entry[name]).strip() for name in fields]
        for entry in listed
        if isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in fields)
    ]
    if not well:
        raise ValueError(f"--check: expected a list of {{{', '.join(fields)}}} in {path}")
    return len(listed), well


def contradiction(sentences: Sequence[str]) -> str | None:
    """The garment to which the sentences of one image give two colours, or None.

    Two colours contradict one another if they stand before one noun with nothing between them that
    joins them ("red blue shirt", not "red and blue shirt"), or before the same noun in two places
    that share none ("white shoes" here, "black shoes" there). "Navy blue" is one colour.
    """
    first: dict[str, frozenset[str]] = {}
    for sentence in sentences:
        for mention in mentions(sentence):
            if len(mention.colours) > 1 and not mention.is_joined:
                return mention.garment
            if not mention.colours:
                continue
            if not first.setdefault(mention.garment, mention.colours) & mention.colours:
                return mention.garment
    return None


def implausible_words(sentence: str, part: str) -> list[str]:
    """Its implausible words; in "dress shoes" the dress only says which shoes."""
    found = words_of(sentence)
    nouns = all_garments()
    return [
        word
        for word, following in zip(found, [*found[1:], ""], strict=False)
        if implausible(word, part) and not (word in nouns and following in _garments_of(part))
    ]


def implausible(word: str, part: str) -> bool:
    """Whether a word cannot be, or names what is worn on another part only.

    It cannot be with a digit, with a letter that is not Latin, with the same letter three times in
    a row, without a vowel, or with more than twenty letters.
    """
    own = _garments_of(part)
    if word in all_garments() and word not in own and word not in BAGS:
        return True
    letters = word.replace("-", "").replace("'", "")
    repeated = any(a == b == c for a, b, c in zip(word, word[1:], word[2:], strict=False))
    return (
        not letters.isalpha()
        or not letters.isascii()
        or repeated
        or (len(letters) > 1 and not set(letters) & set("aeiouy"))
        or len(letters) > _LONGEST_WORD
    )


def _garments_of(part: str) -> frozenset[str]:
    """What may be named: an identity text says hair and headwear, a clothing text everything."""
    if part == "clothing":
        return all_garments()
    return frozenset(GARMENTS["head" if part == "identity" else part])


def _part_quality(part: str, sentences: Sequence[str]) -> PartQuality:
    counts = Counter(word for sentence in sentences for word in words_of(sentence))
    num_implausible = sum(len(implausible_words(sentence, part)) for sentence in sentences)
    frequencies = np.array(list(counts.values()), dtype=np.float64)
    shares = frequencies / frequencies.sum() if len(frequencies) else frequencies
    return PartQuality(
        num_empty=sum(map(is_nothing, sentences)),
        num_words=int(frequencies.sum()),
        num_different_words=len(counts),
        entropy_bits=abs(float(-(shares * np.log2(shares)).sum())),
        num_implausible=num_implausible,
    )


def _commonest_implausible(parts: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[str, ...]:
    counts = Counter(
        f"{word} ({part})"
        for row in rows
        for part, sentence in zip(parts, row, strict=True)
        for word in implausible_words(sentence, part)
    )
    return tuple(word for word, _ in counts.most_common(NUM_EXAMPLES))
