"""Writes what the code knows into docs/: `python -m runner.tools.generate_docs [--check]`.

configuration.md comes from the schema; datasets.md gets its tables from the readers.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from runner.config.run_config import (
    NOT_IN_HASH,
    PRESETS,
    RunConfig,
    learner_names,
    preset_names,
    schema_fields,
    validate,
)
from runner.tools.datasets_page import fill_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"

STABLE_KEYS = (
    "seed",
    "run.name",
    "storage.root",
    "tracking.uri",
    "learner.name",
    "learner.num_attributes",
    "learner.descriptions",
    "learner.losses.<term>.weight",
    "learner.alignment",
    "learner.prototypes",
    "learner.interpolation.mode",
    "learner.interpolation.alpha",
    "benchmark.name",
    "benchmark.root",
    "benchmark.identities",
    "benchmark.num_validation_identities",
    "data.persons_per_batch",
    "data.images_per_person",
    "cluster.num_workers",
)
"""Keys that other tools may rely on; none is renamed or changes its meaning."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}

_INTRODUCTION = """\
# Configuration

This page is generated from the schema by `make docs`; edit the `Field(...)` descriptions beside the
code that reads them, not this file. The test suite fails while it is stale.

A run is defined by one validated object, `RunConfig`. It is made from a preset and overrides:

```
python runner/lifelong.py --preset demo seed=1 learner.losses.cma.weight=0.5
```

- `--preset` takes a name from the table below, or a YAML file of your own. A file holds the keys
  that differ from the defaults on this page; `base: [demo]` as one of its keys begins with another
  preset, which the file then changes.
- Overrides are `key=value` with the full dotted path; the last one wins. Values are YAML:
  `benchmark.identities=500`, `learner.alignment=[affinity,prototype_relation]`,
  `tracking.uri=null`. Quote brackets and spaces for your shell.
- Lists are replaced as a whole; mappings are merged key by key. A mapping whose keys have dots is
  given in braces: `'learner.optimizer.lr_factors={"network.head_*": 5}'`.
- Everything is checked before any work begins. An unknown key is refused with the nearest valid
  one, a value out of range with its full path.
- `python runner/lifelong.py show-config [--preset NAME] [key=value ...]` prints the whole result
  and the run's name. What it prints, and the `config.yaml` in a run's folder, are presets
  themselves: `--preset runs/<run name>/config.yaml` repeats that run's configuration.
- Relative paths are taken from `$LIFELONG_REID_HOME`, or else from the current folder (in a job of
  `ray job submit`, whose folder is temporary: from `~/lifelong-reid`).
- Secrets (tokens, passwords of a tracking server) belong in the environment, never in a preset.

The run's name is `<preset>-<learner>-seed<seed>-<hash>` unless `run.name` is set. The hash covers
every field except these, which change no result beyond floating-point order:
{not_in_hash}.
So the same command finds its own run again, and a run may go on with another number of workers.
"""

_STABLE = """\
## Stable keys

Tools may rely on these: they keep their names and meanings. Other keys may change between versions.

{keys}

`<term>` is the name of a loss, as listed under the learner.
"""


@dataclass(frozen=True)
class Entry:
    """One field of the schema, in words.

    Attributes:
        key: dotted path.
        kind: what values it takes.
        default: as YAML's flow style writes it.
        bounds: the range, "" if there is none.
        meaning: the field's description.
    """

    key: str
    kind: str
    default: str
    bounds: str
    meaning: str


def render() -> str:
    """The whole page, as Markdown."""
    sections = ", ".join(f"`{name}`" for name in sorted(NOT_IN_HASH))
    stable = "\n".join(f"- `{key}`" for key in STABLE_KEYS)
    blocks = [
        _INTRODUCTION.replace("{not_in_hash}", sections),
        _presets(),
        _STABLE.replace("{keys}", stable),
        *_tables(None),
    ]
    for learner in learner_names():
        blocks += _tables(learner)
    return "\n".join(blocks)


def entries(learner: str | None = None) -> list[Entry]:
    """The fields of every section but `learner`; or, given its name, those of that learner."""
    named = learner or learner_names()[0]
    defaults = validate({"learner": {"name": named}}).model_dump(mode="json")
    found: list[Entry] = []
    for key, section, name in schema_fields(learner):
        if (learner is not None) == key.startswith("learner."):
            field = section.model_fields[name]
            default = reduce(lambda values, part: values[part], key.split("."), defaults)
            found.append(
                Entry(
                    key,
                    describe_type(field.annotation),
                    json.dumps(default),
                    describe_bounds(field.metadata),
                    field.description or "",
                )
            )
    return found


def describe_type(annotation: Any) -> str:
    """A field's type in words: "`a` or `b`", "list of numbers", "text or `null`"."""
    if annotation is NoneType:
        return "`null`"
    if annotation in _TYPES:
        return _TYPES[annotation]
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Literal:
            return " or ".join(f"`{value}`" for value in arguments)
        case origin if origin in (Union, UnionType):
            return " or ".join(describe_type(argument) for argument in arguments)
        case origin if origin is Annotated:
            bounds = describe_bounds(arguments[1:])
            return describe_type(arguments[0]) + (f" {bounds}" if bounds else "")
        case origin if origin is tuple and arguments[-1] is not Ellipsis:
            return f"list of {len(arguments)} {_plural(arguments[0])}"
        case origin if origin is tuple:
            return f"list of {_plural(arguments[0])}"
        case origin if origin is dict:
            return f"mapping from {describe_type(arguments[0])} to {_plural(arguments[1])}"
    raise TypeError(f"document.py has no words for the type {annotation!r}; teach it some")


def describe_bounds(metadata: Iterable[Any]) -> str:
    """The limits among a field's metadata: "at least 0, below 1"."""
    found: list[str] = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found.append(describe_bounds(item.metadata))
        found += [
            f"{words} {getattr(item, name):g}"
            for name, words in _BOUNDS.items()
            if getattr(item, name, None) is not None
        ]
        if pattern := getattr(item, "pattern", None):
            found.append(f"matches `{pattern}`")
        if length := getattr(item, "min_length", None):
            found.append(f"{length} or more characters")
    return ", ".join(text for text in found if text)


def _plural(annotation: Any) -> str:
    return describe_type(annotation) + ("s" if annotation in _TYPES else "")


def _presets() -> str:
    rows = []
    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        rows.append(f"| `{name}` | {_cell(first.removeprefix('#').strip())} |")
    head = "## Presets\n\n| Name | What it is |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _tables(learner: str | None) -> list[str]:
    """A heading, what the section is for, and a table, for every section and its larger parts."""
    config = validate({"learner": {"name": learner or learner_names()[0]}})
    groups: dict[str, list[Entry]] = {}
    for entry in entries(learner):
        parents = entry.key.split(".")[:-1]
        groups.setdefault(".".join(parents[:2]), []).append(entry)
    return [_table(path, config, groups[path]) for path in groups]


def _table(path: str, config: RunConfig, rows: Sequence[Entry]) -> str:
    section = reduce(getattr, path.split("."), config) if path else config
    about = (inspect.getdoc(type(section)) or "").partition("\n\n")[0].replace("\n", " ")
    title = path or "Top level"
    if path.startswith("learner"):
        title += f" ({config.learner.name})"
    level = "###" if "." in path else "##"
    lines = [
        f"{level} {title}",
        "",
        _cell(about),
        "",
        "| Key | Type | Default | Range | Meaning |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.key}` | {row.kind} | `{row.default}` | {row.bounds} | {_cell(row.meaning)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Plain words as Markdown that shows them as they are, in a table too."""
    return text.replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages, or with --check only says whether they are up to date (0) or stale (1).

    Raises:
        ValueError: datasets.md, which is partly written by hand, is missing or lacks a table.
    """
    parser = argparse.ArgumentParser(
        prog="python -m runner.tools.generate_docs", description=__doc__
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one is stale")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where the pages are")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    texts = {
        folder / "configuration.md": render(),
        folder / "datasets.md": fill_tables(_content(folder / "datasets.md")),
    }
    stale = [page for page, text in texts.items() if _content(page) != text]
    if not options.check:
        for page in stale:
            page.write_text(texts[page], encoding="utf-8", newline="\n")
        return 0
    for page in stale:
        print(f"{page} does not fit the code any more; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def _content(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
