"""Reading of UTF-8 text files with an optional byte-order mark and Unix or Windows line ends."""

from __future__ import annotations

import codecs
from pathlib import Path

MAX_CHARACTERS = 2000
"""Maximum length of a text about one person; text towers use 77 to 512 tokens of it."""


def utf8_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 text file, without line ends and byte-order mark.

    Only LF and CR LF end a line; a form feed or a Unicode line separator does not. Blank lines are
    kept as empty strings.

    Raises:
        ValueError: a line is not UTF-8; the message names the line and its first invalid byte.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
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


def normalise_text(text: str, where: str) -> str:
    """Collapses whitespace to single spaces; a blank text becomes "".

    Args:
        text: a text about one person.
        where: location of the text, for the error message.

    Raises:
        ValueError: the text is longer than `MAX_CHARACTERS`.
    """
    words = " ".join(text.split())
    if len(words) > MAX_CHARACTERS:
        raise ValueError(
            f"{where}: expected a text about one person of at most {MAX_CHARACTERS:,} characters; "
            f"got {len(words):,}, starting with {words[:60]!r}. Check that it is not a whole file."
        )
    return words


def is_latin(text: str) -> bool:
    """Whether a text has an ASCII letter, as every English sentence has."""
    return any(letter.isascii() and letter.isalpha() for letter in text)
