"""The generated tables of docs/datasets.md, from the readers' facts and the benchmarks' orders.

The rest of the page is written by hand. A table stands between `<!-- table NAME: made by make docs
-->` and `<!-- end of table -->`; what stands there is replaced.
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
    """The page with every table as the code has it now.

    Raises:
        ValueError: the page lacks a table, has it twice, or has one that nobody makes.
    """
    tables = {"datasets": datasets_table(), "places": places_table(), "orders": orders_table()}
    named = [match["name"] for match in _TABLE.finditer(page)]
    if sorted(named) != sorted(tables):
        raise ValueError(
            f"docs/datasets.md: expected the tables {', '.join(sorted(tables))}, each once between "
            f"its two comments; found {', '.join(sorted(named)) or 'none'}"
        )
    return _TABLE.sub(lambda match: f"{match[1]}{tables[match['name']]}{match[3]}", page)


def datasets_table() -> str:
    """What each data set holds, what may be done with it, and who describes it."""
    rows: list[Sequence[str]] = []
    for name, facts in _all_facts():
        groups = _alike(facts.layouts)
        for group in groups:
            title = facts.title if len(groups) == 1 else f"{facts.title} ({_names(group, groups)})"
            counts = (count_cell(group[0].expected.get(split)) for split in _SPLITS)
            rows.append((f"`{name}`", title, *counts, _terms(facts), facts.source))
    return _table(("Name", "Data set", "Train", "Query", "Gallery", "Terms", "Source"), rows)


def places_table() -> str:
    """Where each data set goes, and by which files a layout is known."""
    rows: list[Sequence[str]] = []
    for name, facts in _all_facts():
        folders = ", ".join(f"`{folder}/`" for folder in facts.folders)
        for layout in facts.layouts:
            needs = ", ".join(f"`{need}`" for need in layout.needs)
            rows.append((f"`{name}`", folders, layout.variant, needs))
            folders = ""
    return _table(("Name", "Folder below `benchmark.root`", "Layout", "Known by"), rows)


def orders_table() -> str:
    """The benchmarks that have a name."""
    rows = [
        (f"`{name}`", ", ".join(seen), ", ".join(unseen)) for name, (seen, unseen) in ORDERS.items()
    ]
    return _table(("`benchmark.name`", "Learned, in this order", "Only tested"), rows)


def count_cell(counts: Counts | None) -> str:
    """Images, or queries, / identities; "?" for what no source says, "-" where there is nothing."""
    if counts is None or (counts.images is None and counts.identities is None):
        return "?"
    if counts.images == 0:
        return "-"
    numbers = (counts.images, counts.identities)
    return " / ".join("?" if number is None else f"{number:,}" for number in numbers)


def _terms(facts: DatasetFacts) -> str:
    is_said = not facts.withdrawn or "withdrawn" in facts.licence
    return facts.licence if is_said else f"{facts.licence}; {facts.withdrawn}"


def _all_facts() -> list[tuple[str, DatasetFacts]]:
    return [(name, dataset_facts(name)) for name in dataset_names()]


def _alike(layouts: Iterable[Layout]) -> list[list[Layout]]:
    """The layouts, those of which the same counts are expected together."""
    groups: list[list[Layout]] = []
    for layout in layouts:
        expected = dict(layout.expected)
        alike = next((group for group in groups if dict(group[0].expected) == expected), None)
        if alike is None:
            groups.append([layout])
        else:
            alike.append(layout)
    return groups


def _names(group: Iterable[Layout], groups: Iterable[Iterable[Layout]]) -> str:
    """The layouts' variants; with what it is known by, where groups share one."""
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
