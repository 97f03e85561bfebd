"""Text files as people save them: UTF-8, perhaps with a byte-order mark or Windows' line ends."""

from __future__ import annotations

import codecs
from pathlib import Path

MAX_CHARACTERS = 2000
"""Of one text about one person; the text towers read 77 to 512 tokens of it."""


def utf8_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without their ends and without a byte-order mark.

    Lines end with LF or CR LF and with nothing else: a form feed or a Unicode line separator
    stays inside its line. Blank lines stay, as empty ones.

    Raises:
        ValueError: a line is not UTF-8; the line and its first wrong byte are named.
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


def one_text(text: str, where: str) -> str:
    """The text with single spaces between its words; "" of a blank one.

    Raises:
        ValueError: it is so long that it is no description of one person; `where` names it.
    """
    words = " ".join(text.split())
    if len(words) > MAX_CHARACTERS:
        raise ValueError(
            f"{where}: expected a text about one person, of at most {MAX_CHARACTERS:,} characters; "
            f"got {len(words):,}, beginning {words[:60]!r}. Is a whole file in one text?"
        )
    return words


def is_latin(text: str) -> bool:
    """Whether it has a Latin letter without accents, as every English sentence has."""
    return any(letter.isascii() and letter.isalpha() for letter in text)
