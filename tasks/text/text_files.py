"""Reading of UTF-8 text and JSON files, with an optional byte-order mark and any line ends."""

from __future__ import annotations

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

MAX_CHARACTERS = 2000
"""Maximum length of a text about one person; text towers use 77 to 512 tokens of it."""


def utf8_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 text file, without line ends and byte-order mark.

    Only LF and CR LF end a line; a form feed or a Unicode line separator does not. Blank lines are
    kept as empty strings.

    Raises:
        ValueError: the file is UTF-16, or a line is not UTF-8; the message names the line and its
            first invalid byte.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path}: expected UTF-8 text, got UTF-16; save the file as UTF-8")
    lines: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            lines.append(line.decode("utf-8").rstrip("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: expected UTF-8 text, got the byte "
                f"0x{line[error.start]:02x}; save the file as UTF-8"
            ) from error
    return lines


def read_json_file(path: Path, remedy: str = "") -> Any:
    """Reads a UTF-8 JSON file.

    Args:
        path: the file.
        remedy: sentence that ends the message of an error.

    Raises:
        ValueError: the file is not UTF-8 or not JSON, an object has a key twice, or values are
            nested too deeply; the message names the file.
    """
    text = "\n".join(utf8_lines(path))
    try:
        return json.loads(text, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: {error.msg}"
        if error.msg == "Extra data":
            message += " (a file of JSON lines is not accepted; write one list)"
    except RecursionError:
        message = "its values are nested too deeply"
    except ValueError as error:  # a repeated key, or a number with thousands of digits
        message = str(error)
    raise ValueError(f"{path}: expected JSON, but {message}. {remedy}".rstrip())


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; the parser alone would silently keep the last value of a key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        shown = json.dumps(values)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise ValueError(f"an object has the key {twice!r} twice: {shown}")
    return values


def normalise_text(text: str, where: str) -> str:
    """Collapses whitespace to single spaces and removes invisible characters.

    Removed are control and format characters (Unicode categories Cc and Cf), such as NUL,
    zero-width spaces and byte-order marks. A text of nothing else becomes "".

    Args:
        text: a text about one person.
        where: location of the text, for the error message.

    Raises:
        ValueError: the text is longer than `MAX_CHARACTERS`, or contains half of a surrogate pair,
            which cannot be stored.
    """
    words = " ".join(_without_invisible(text, where).split())
    if len(words) > MAX_CHARACTERS:
        raise ValueError(
            f"{where}: expected a text about one person of at most {MAX_CHARACTERS:,} characters; "
            f"got {len(words):,}, starting with {words[:60]!r}. Check that it is not a whole file."
        )
    return words


def _without_invisible(text: str, where: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    check_encodable(text, where)
    return "".join(
        letter
        for letter in text
        if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf")
    )


def check_encodable(text: str, where: str) -> None:
    """Checks that a text can be stored as UTF-8.

    Raises:
        ValueError: the text contains half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: expected text, got half of a surrogate pair, {text[error.start]!r}, in "
            f"{text[:60]!r}. Remove the character, or write the file again."
        ) from None


def is_latin(text: str) -> bool:
    """Whether a text has an ASCII letter, as every English sentence has."""
    return any(letter.isascii() and letter.isalpha() for letter in text)
