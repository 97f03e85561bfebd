"""Generated tables of docs/datasets.md: facts of the readers and orders of the benchmarks.

The rest of the page is written by hand. The text between `<!-- table NAME: made by make docs -->`
and `<!-- end of table -->` is replaced.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.benchmarks import ORDERS
from tasks.dataset_files import Counts, DatasetFacts, Layout
from tasks.reading import dataset_facts, dataset_names

_SPLITS = ("train", "query", "gallery")
_TABLE = re.compile(
    r"(<!-- table (?P<name>[\w-]+): made by make docs -->\n).*?(<!-- end of table -->)", re.DOTALL
)


def fill_tables(page: str) -> str:
    """Replaces all tables of the page.

    Raises:
        ValueError: a table is missing, duplicated or unknown.
    """
    tables = {"datasets": datasets_table(), "places": places_table(), "orders": orders_table()}
    named = [match["name"] for match in _TABLE.finditer(page)]
    if sorted(named) != sorted(tables):
        raise ValueError(
            f"docs/datasets.md: expected the tables {', '.join(sorted(tables))}, each once between "
            f"its two comments, got {', '.join(sorted(named)) or 'none'}"
        )
    return _TABLE.sub(lambda match: f"{match[1]}{tables[match['name']]}{match[3]}", page)


def datasets_table() -> str:
    """Builds the table of sizes, terms and sources of the data sets."""
    rows: list[Sequence[str]] = []
    for name, facts in _all_facts():
        groups = _group_by_counts(facts.layouts)
        for group in groups:
            title = facts.title if len(groups) == 1 else f"{facts.title} ({_names(group, groups)})"
            counts = (count_cell(group[0].expected.get(split)) for split in _SPLITS)
            rows.append((f"`{name}`", title, *counts, _terms(facts), facts.source))
    return _table(("Name", "Data set", "Train", "Query", "Gallery", "Terms", "Source"), rows)


def places_table() -> str:
    """Builds the table of folders and layouts of the data sets."""
    rows: list[Sequence[str]] = []
    for name, facts in _all_facts():
        folders = ", ".join(f"`{folder}/`" for folder in facts.folders)
        for layout in facts.layouts:
            needs = ", ".join(f"`{need}`" for need in layout.needs)
            rows.append((f"`{name}`", folders, layout.variant, needs))
            folders = ""
    return _table(("Name", "Folder below `benchmark.root`", "Layout", "Required files"), rows)


def orders_table() -> str:
    """Builds the table of the named benchmarks."""
    rows = [
        (f"`{name}`", ", ".join(seen), ", ".join(unseen)) for name, (seen, unseen) in ORDERS.items()
    ]
    return _table(("`benchmark.name`", "Seen domains, in order", "Unseen domains"), rows)


def count_cell(counts: Counts | None) -> str:
    """Formats "images / identities": "?" for unknown counts, "-" for an empty split."""
    if counts is None or (counts.images is None and counts.identities is None):
        return "?"
    if counts.images == 0:
        return "-"
    numbers = (counts.images, counts.identities)
    return " / ".join("?" if number is None else f"{number:,}" for number in numbers)


def _terms(facts: DatasetFacts) -> str:
    is_complete = not facts.withdrawn or "withdrawn" in facts.licence
    return facts.licence if is_complete else f"{facts.licence}; {facts.withdrawn}"


def _all_facts() -> list[tuple[str, DatasetFacts]]:
    return [(name, dataset_facts(name)) for name in dataset_names()]


def _group_by_counts(layouts: Iterable[Layout]) -> list[list[Layout]]:
    """Groups layouts by their expected counts."""
    groups: list[list[Layout]] = []
    for layout in layouts:
        expected = dict(layout.expected)
        same = next((group for group in groups if dict(group[0].expected) == expected), None)
        if same is None:
            groups.append([layout])
        else:
            same.append(layout)
    return groups


def _names(group: Iterable[Layout], groups: Iterable[Iterable[Layout]]) -> str:
    """Names the variants of a group; adds a required file if several groups have the variant."""
    num_groups = Counter(name for each in groups for name in {layout.variant for layout in each})
    named = (
        layout.variant
        if num_groups[layout.variant] == 1
        else f"{layout.variant}, {layout.needs[0]}"
        for layout in group
    )
    return "; ".join(dict.fromkeys(named))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
