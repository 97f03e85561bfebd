from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.schema import Record
from tasks.text.descriptions import attach, format_descriptions, join_parts, read_descriptions

ROW = ("A cap.", "A shirt.", "Jeans", "Shoes.")


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def line(name: str, *parts: str) -> str:
    return "\t\t\t".join((name, *(parts or ROW))) + "\n"


def test_descriptions_are_read_by_base_name(tmp_path: Path) -> None:
    path = write(tmp_path / "d.txt", line("a.jpg") + "\n" + line("b.jpg", "1", "2", "3", "4"))
    descriptions = read_descriptions(path)
    assert descriptions.parts == {"a.jpg": ROW, "b.jpg": ("1", "2", "3", "4")}
    assert descriptions.num_duplicates == 0
    assert descriptions.path == path


def test_last_line_of_an_image_is_used(tmp_path: Path) -> None:
    text = line("a.jpg") + line("b.jpg") + line("a.jpg", "w", "x", "y", "z") * 2
    descriptions = read_descriptions(write(tmp_path / "d.txt", text))
    assert descriptions.parts["a.jpg"] == ("w", "x", "y", "z")
    assert descriptions.num_duplicates == 2


def test_error_names_a_short_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.txt", line("a.jpg") + "b.jpg\t\t\tA cap.\t\t\tA shirt.\n")
    with pytest.raises(ValueError, match=r"d\.txt, line 2: expected 5 fields .* got 3: 'b\.jpg"):
        read_descriptions(path)


def test_error_names_long_lines_and_empty_fields(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: expected 5 fields .* got 6"):
        read_descriptions(write(tmp_path / "d.txt", line("a.jpg", *ROW, "more")))
    with pytest.raises(ValueError, match=r"line 1: field 3 of 5 is empty"):
        read_descriptions(write(tmp_path / "d.txt", line("a.jpg", "1", " ", "3", "4")))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"description file .*no\.txt does not exist"):
        read_descriptions(tmp_path / "no.txt")


def test_windows_line_ends_and_byte_order_mark_are_removed(tmp_path: Path) -> None:
    text = "\ufeff" + (line("a.jpg") + "\n" + line("b.jpg")).replace("\n", "\r\n")
    descriptions = read_descriptions(write(tmp_path / "d.txt", text))
    assert descriptions.parts == {"a.jpg": ROW, "b.jpg": ROW}


def test_other_separators_do_not_end_a_line(tmp_path: Path) -> None:
    odd = ("A\x0bcap.", "A\u2028shirt.", "Jeans\x85", "A \ufeffshoe.")
    descriptions = read_descriptions(write(tmp_path / "d.txt", line("a.jpg", *odd)))
    assert descriptions.parts == {"a.jpg": ("A\x0bcap.", "A\u2028shirt.", "Jeans", "A \ufeffshoe.")}


def test_error_names_a_line_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    wrong = line("b.jpg", "A caf\u00e9 cap.", "2", "3", "4").encode("latin-1")
    path.write_bytes(line("a.jpg").encode() + wrong + line("c.jpg").encode())
    with pytest.raises(ValueError, match=r"d\.txt, line 2: expected UTF-8.*0xe9.*save the file"):
        read_descriptions(path)


def test_a_file_saved_as_utf16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_bytes(line("a.jpg").encode("utf-16"))
    with pytest.raises(ValueError, match=r"expected UTF-8 text, got UTF-16"):
        read_descriptions(path)


def test_attach_sets_parts_and_caption(tmp_path: Path) -> None:
    text = line("a.jpg") + line("test.jpg")
    descriptions = read_descriptions(write(tmp_path / "d.txt", text))
    record = Record("/x/b.jpg/a.jpg", 3, 1)
    (attached,) = attach([record], descriptions)
    assert attached == Record(
        "/x/b.jpg/a.jpg", 3, 1, captions=("A cap. A shirt. Jeans. Shoes.",), parts=ROW
    )


def test_attach_names_missing_images(tmp_path: Path) -> None:
    descriptions = read_descriptions(write(tmp_path / "d.txt", line("a.jpg")))
    records = [Record(f"/x/{name}.jpg", 0, 0) for name in "abc"]
    with pytest.raises(ValueError, match=r"d\.txt lacks b\.jpg and 1 more of 3 training images"):
        attach(records, descriptions)


WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1)


@given(st.dictionaries(WORDS, st.tuples(WORDS, WORDS, WORDS, WORDS), max_size=5))
def test_format_and_read_round_trip(tmp_path_factory: pytest.TempPathFactory, parts) -> None:
    path = tmp_path_factory.mktemp("d") / "d.txt"
    path.write_text(format_descriptions(parts), encoding="utf-8", newline="\n")
    assert read_descriptions(path).parts == parts


def test_join_adds_missing_full_stops() -> None:
    assert join_parts(("a", "b.")) == "a. b."
    assert join_parts(()) == ""


def test_existing_captions_are_kept(tmp_path: Path) -> None:
    descriptions = read_descriptions(write(tmp_path / "d.txt", line("a.jpg")))
    (attached,) = attach([Record("/x/a.jpg", 3, 1, ("One.", "Two."))], descriptions)
    assert attached == Record("/x/a.jpg", 3, 1, ("One.", "Two."), ROW)
