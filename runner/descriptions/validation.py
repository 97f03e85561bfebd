"""Validation of descriptions: format of the sentences, and required content."""

from __future__ import annotations

import re
import unicodedata

from tasks.text import words

MAX_CHARACTERS = 600
"""Maximum length of a text in characters, about five times the longest requested text."""

_REFUSALS = re.compile(
    r"\b(?:i(?:'m| am)? (?:sorry|unable|not able)|i (?:can(?:no|')t|cannot)|as an ai|"
    r"language model|not possible to|cannot (?:determine|identify|see))\b",
    re.IGNORECASE,
)
_NOTHING = frozenset(
    {"", "none", "no", "nothing", "n/a", "na", "unknown", "not visible", "not sure", "unclear"}
)


_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})


def tidy(text: str) -> str:
    """Collapses whitespace, and replaces typographic apostrophes and dashes by ASCII ones.

    The result contains no line breaks or tabs, which separate lines and fields of a file.
    """
    return " ".join(text.split()).translate(_PLAIN)


def is_nothing(answer: str) -> bool:
    """Whether an answer is empty or means nothing: "none", "not visible"."""
    return tidy(answer).strip(" .").lower() in _NOTHING


def text_problem(text: str, *, min_words: int, max_words: int, max_sentences: int) -> str | None:
    """Returns the format problem of a text, or None.

    A valid text has Latin letters, no placeholders, questions or refusals, begins with a capital
    letter, ends with a full stop, and has the given numbers of words and sentences.
    """
    if not text:
        return "it is empty"
    if len(text) > MAX_CHARACTERS:
        return f"it has {len(text)} characters, at most {MAX_CHARACTERS} are expected"
    if strange := sorted({letter for letter in text if not _is_plain(letter)}):
        return f"it has characters that are not expected: {''.join(strange[:5])!r}"
    if _REFUSALS.search(text):
        return "it is a refusal, not a description"
    if not text[0].isupper() or not text.endswith("."):
        return "it is not a sentence with a capital and a full stop"
    num_words = len(words.words_of(text))
    if not min_words <= num_words <= max_words:
        return f"it has {num_words} words, {min_words} to {max_words} are expected"
    num_sentences = len(re.findall(r"\.(?=\s|$)", text))
    if num_sentences > max_sentences:
        return f"it has {num_sentences} sentences, at most {max_sentences} are expected"
    return None


def _is_plain(letter: str) -> bool:
    if letter in " .,;:'()/%-" or letter.isdigit():
        return True
    return letter.isalpha() and "LATIN" in unicodedata.name(letter, "")


def answer_problem(answer: str, max_words: int) -> str | None:
    """Returns the problem of a short answer for a template, or None."""
    if strange := sorted({letter for letter in answer if not _is_plain(letter)}):
        return f"it has characters that are not expected: {''.join(strange[:5])!r}"
    if _REFUSALS.search(answer):
        return "it is a refusal, not an answer"
    if "." in answer.rstrip(". "):
        return "it is more than one sentence"
    if (num_words := len(words.words_of(answer))) > max_words:
        return f"it has {num_words} words, at most {max_words} are expected"
    return None


def part_problem(part: str, text: str) -> str | None:
    """Returns what is missing in the sentence of a part, or None."""
    tokens = set(words.words_of(text))
    if part == "head":
        named = tokens & (words.HAIR | set(words.GARMENTS["head"]))
        return None if named else "it names neither hair nor anything worn on the head"
    if not words.names_garment(text, part):
        return f"it names nothing that is worn there, such as {words.GARMENTS[part][0]}"
    if words.names_colour(text) or "barefoot" in tokens:
        return None
    return "it names no colour"


def identity_problem(text: str) -> str | None:
    """Returns what is missing: man or woman, and two of age, build, skin, hair; or None."""
    tokens = {piece for word in words.words_of(text) for piece in (word, *word.split("-"))}
    if not tokens & words.MAN_OR_WOMAN:
        return "it does not say whether this is a man or a woman"
    groups = (words.AGE, words.BUILD, words.ORIGIN, words.HAIR)
    if sum(bool(tokens & group) for group in groups) < 2:
        return "it names fewer than two of age, build, skin and hair"
    return None


def clothing_problem(text: str) -> str | None:
    """Returns what is missing: an upper garment, a lower garment, a colour; or None."""
    for part in ("upper", "lower"):
        if not words.names_garment(text, part):
            return f"it names nothing that is worn on the {part} body"
    return None if words.names_colour(text) else "it names no colour"
