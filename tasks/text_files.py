"""Text files as people save them: UTF-8, perhaps with a byte-order mark or Windows' line ends."""

from __future__ import annotations

import codecs
from pathlib import Path


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
