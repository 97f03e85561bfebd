from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset_files import LocatedDataset, read_lines
from tasks.reading import dataset_facts
from tasks.text.text_files import utf8_lines

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff")))


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_round_trip(tmp_path_factory, lines: list[str], end: str, has_mark: bool) -> None:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    text = ("\ufeff" if has_mark else "") + "".join(line + end for line in lines)
    path.write_bytes(text.encode())
    assert utf8_lines(path) == [*lines, ""]


def test_read_lines_of_data_sets_agree(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa 1\r\n\r\nb 2".encode())
    facts = dataset_facts("market1501")
    place = LocatedDataset("market1501", facts, tmp_path, facts.layouts[0])
    assert read_lines(place, path) == ["a 1", "", "b 2"]
