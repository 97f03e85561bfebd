"""Findings about the captions of a data set that a person should know before training on them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from tasks.schema import Record
from tasks.text.text_files import is_latin

_CODE = re.compile(
    r"</?[a-z][\w-]*[^<>]*>"  # a tag
    r"|&(?:#\d+|#x[0-9a-f]+|[a-z]+);"  # an HTML entity
    r"|\w\(.*\)\s*[:;{]|\breturn\b.*;|[{}]|=="  # a call before a block, braces, a comparison
    r"|https?://",
    re.IGNORECASE,
)


def caption_findings(records: Iterable[Record]) -> list[str]:
    """Describe unusual captions, one sentence part per kind with its number and first example.

    Kinds: a caption of several people (as a query it has no single answer), captions with code or
    markup, with letters of several alphabets, of a single word, and without a Latin letter, which a
    text encoder trained on English barely distinguishes. All of them are kept.

    Returns:
        For instance "3 captions shared by several people (the first is 'A man.')".
    """
    people: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        for caption in record.captions:
            people[caption].add(record.person_id)
    kinds = {
        "shared by several people": [text for text, ids in people.items() if len(ids) > 1],
        "with code or markup": [text for text in people if _CODE.search(text)],
        "with letters of several alphabets": [text for text in people if mixes_alphabets(text)],
        "of a single word": [text for text in people if " " not in text and is_latin(text)],
        "with no Latin letter": [text for text in people if not is_latin(text)],
    }
    return [
        f"{len(texts):,} captions {kind} (the first is {_short(texts[0])})"
        for kind, texts in kinds.items()
        if texts
    ]


def mixes_alphabets(text: str) -> bool:
    """Whether a text has Latin letters and letters of another alphabet."""
    if text.isascii():
        return False
    alphabets = {
        unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha()
    }
    return len(alphabets) > 1 and "LATIN" in alphabets


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
