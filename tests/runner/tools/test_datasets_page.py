from __future__ import annotations

import pytest

from runner.tools.datasets_page import (
    count_cell,
    datasets_table,
    fill_tables,
    orders_table,
    places_table,
)
from tasks.benchmarks import ORDERS
from tasks.dataset_files import Counts
from tasks.reading import dataset_facts, dataset_names


def page(*names: str) -> str:
    tables = "".join(
        f"Before {name}.\n\n<!-- table {name}: made by make docs -->\nold | row\n"
        "<!-- end of table -->\n\nAfter.\n"
        for name in names
    )
    return f"# Data sets\n\n{tables}"


def test_tables_are_replaced_and_text_is_kept():
    filled = fill_tables(page("places", "datasets", "orders"))
    assert "old | row" not in filled
    for name, table in (
        ("datasets", datasets_table()),
        ("places", places_table()),
        ("orders", orders_table()),
    ):
        start = f"Before {name}.\n\n<!-- table {name}: made by make docs -->\n"
        assert f"{start}{table}<!-- end of table -->\n\nAfter.\n" in filled
    assert fill_tables(filled) == filled


@pytest.mark.parametrize(
    ("names", "names_in_page"),
    [
        ((), "none"),
        (("datasets", "orders"), "datasets, orders"),
        (("datasets", "orders", "places", "places"), "datasets, orders, places, places"),
        (("datasets", "orders", "places", "figures"), "datasets, figures, orders, places"),
    ],
)
def test_wrong_tables_are_an_error(names, names_in_page):
    with pytest.raises(
        ValueError, match=f"datasets, orders, places, each once .* got {names_in_page}$"
    ):
        fill_tables(page(*names))


def test_tables_contain_every_reader_and_layout():
    described, places = datasets_table(), places_table()
    for name in dataset_names():
        facts = dataset_facts(name)
        assert f"| `{name}` | {facts.title}" in described
        assert facts.licence in described
        assert facts.source in described
        for layout in facts.layouts:
            needs = ", ".join(f"`{need}`" for need in layout.needs)
            assert f" | {layout.variant} | {needs} |" in places
    (duke,) = (line for line in described.splitlines() if line.startswith("| `dukemtmc` |"))
    assert "withdrawn" in duke


def test_row_of_market1501():
    (row,) = (line for line in datasets_table().splitlines() if "`market1501`" in line)
    assert row.startswith(
        "| `market1501` | Market-1501 | 12,936 / 751 | 3,368 / 750 | 15,913 / 751 | research only |"
    )


def test_layouts_with_different_counts_have_separate_rows():
    rows = [line.split(" | ")[1:3] for line in datasets_table().splitlines() if "`cuhk03`" in line]
    assert rows == [
        ["CUHK03 (extracted, images_labeled; raw)", "7,368 / 767"],
        ["CUHK03 (extracted, images_detected)", "7,365 / 767"],
    ]


def test_every_order_is_listed():
    for name, (seen, unseen) in ORDERS.items():
        assert f"| `{name}` | {', '.join(seen)} | {', '.join(unseen)} |" in orders_table()


def test_tables_are_well_formed():
    for table in (datasets_table(), places_table(), orders_table()):
        lines = table.splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert all(line.startswith("| ") and line.endswith(" |") for line in lines)


@pytest.mark.parametrize(
    ("counts", "cell"),
    [
        (Counts(12_936, 751, 6), "12,936 / 751"),
        (Counts(identities=3_102), "? / 3,102"),
        (Counts(), "?"),
        (None, "?"),
        (Counts(0, 0, 0), "-"),
    ],
)
def test_formatting_of_counts(counts, cell):
    assert count_cell(counts) == cell
