"""Quality of a description file: counts and shares that need no images.

Learners reject a file with an empty field; this module counts such problems instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.descriptions.validation import is_nothing
from tasks.text.text_files import read_json_file, utf8_lines
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
    """Quality of one field (a part sentence or a dual text) over all images of a file.

    Attributes:
        num_empty: images with an empty field.
        num_words: words over all images.
        num_different_words: distinct words.
        entropy_bits: Shannon entropy of the word distribution in bits; low if texts are repetitive.
        num_implausible: words that are malformed or belong to another part.
    """

    num_empty: int
    num_words: int
    num_different_words: int
    entropy_bits: float
    num_implausible: int

    @property
    def implausible_share(self) -> float:
        """Share of implausible words in all words of this part."""
        return self.num_implausible / self.num_words if self.num_words else 0.0


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a description file.

    Attributes:
        path: the file.
        num_lines: non-blank lines, or entries of a JSON file.
        num_images: distinct images in the valid lines.
        num_malformed: lines without five fields, or entries without an image or a text.
        num_repeated: lines that are replaced by a later line of the same image.
        num_empty: images with at least one part that is empty or says nothing ("none").
        num_duplicated: images whose parts are all equal to those of another image.
        num_contradictory: images with two colours for one garment.
        parts: quality by part.
        examples: first images by problem, and the most frequent implausible words.
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
        """Plain values, printed by `describe --check --json`."""
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
        examples = {name: list(values) for name, values in self.examples.items()}
        return {"file": str(self.path), **counts, "parts": parts, "examples": examples}


def check_file(path: Path) -> Quality:
    """Measures the quality of a file of part descriptions, or a JSON file of dual texts.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8 or not JSON, or no line has the expected format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--check: {path} does not exist; expected a description file")
    parts = DUAL if path.suffix == ".json" else PARTS
    num_lines, valid = _entries(path) if parts is DUAL else _lines(path)
    rows = {name: tuple(sentences) for name, *sentences in valid}
    empty = [name for name, row in rows.items() if any(map(is_nothing, row))]
    counts = Counter(tuple(part.lower() for part in row) for row in rows.values())
    duplicated = [
        name for name, row in rows.items() if counts[tuple(part.lower() for part in row)] > 1
    ]
    contradictory = [name for name, row in rows.items() if contradiction(row)]
    examples = {"empty": empty, "duplicated": duplicated, "contradictory": contradictory}
    return Quality(
        path=path,
        num_lines=num_lines,
        num_images=len(rows),
        num_malformed=num_lines - len(valid),
        num_repeated=len(valid) - len(rows),
        num_empty=len(empty),
        num_duplicated=len(duplicated),
        num_contradictory=len(contradictory),
        parts={
            part: _part_quality(part, [row[at] for row in rows.values()])
            for at, part in enumerate(parts)
        },
        examples={name: tuple(images[:NUM_EXAMPLES]) for name, images in examples.items()}
        | {"implausible words": _most_frequent_implausible(parts, rows.values())},
    )


def _lines(path: Path) -> tuple[int, list[list[str]]]:
    """Number of lines, and the fields of the valid ones: an image and its four sentences."""
    lines = [line for line in utf8_lines(path) if line.strip()]
    split = [[each.strip() for each in line.split("\t\t\t")] for line in lines]
    valid = [fields for fields in split if len(fields) == 1 + len(PARTS) and fields[0]]
    if not valid:
        raise ValueError(
            f"--check: expected an image and {len(PARTS)} sentences per line, separated by three "
            f"tabs; {path} has no such line. Identity and clothing texts need a file name that "
            "ends in .json"
        )
    return len(lines), valid


def _entries(path: Path) -> tuple[int, list[list[str]]]:
    """Number of entries, and the fields of the valid ones: an image and its two texts."""
    entries = read_json_file(path)
    fields = ("file_path", *DUAL)
    listed: list[Any] = entries if isinstance(entries, list) else []
    valid = [
        [str(entry[name]).strip() for name in fields]
        for entry in listed
        if isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in fields)
    ]
    if not valid:
        raise ValueError(f"--check: expected a list of {{{', '.join(fields)}}} in {path}")
    return len(listed), valid


def contradiction(sentences: Sequence[str]) -> str | None:
    """Finds a garment for which the sentences of one image give two colours.

    Two colours are contradictory if they precede one noun without a conjunction ("red blue shirt",
    but not "red and blue shirt"), or if two mentions of the same noun have no colour in common
    ("white shoes" and "black shoes"). "Navy blue" is one colour.

    Returns:
        The garment, or None.
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
    """Lists the implausible words of a sentence; "dress" in "dress shoes" is plausible."""
    tokens = words_of(sentence)
    nouns = all_garments()
    return [
        word
        for word, following in zip(tokens, [*tokens[1:], ""], strict=False)
        if is_implausible(word, part) and not (word in nouns and following in _garments_of(part))
    ]


def is_implausible(word: str, part: str) -> bool:
    """Whether a word is malformed, or names a garment of another part.

    Malformed words have a digit, a non-ASCII letter, three equal letters in a row, no vowel, or
    more than twenty letters.
    """
    if word in all_garments() and word not in _garments_of(part) and word not in BAGS:
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
    """Garments that a part may name: identity texts hair and headwear, clothing texts all."""
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


def _most_frequent_implausible(
    parts: Sequence[str], rows: Iterable[Sequence[str]]
) -> tuple[str, ...]:
    counts = Counter(
        f"{word} ({part})"
        for row in rows
        for part, sentence in zip(parts, row, strict=True)
        for word in implausible_words(sentence, part)
    )
    return tuple(word for word, _ in counts.most_common(NUM_EXAMPLES))
