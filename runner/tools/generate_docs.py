"""Generates pages of docs/ from the code: `python -m runner.tools.generate_docs [--check]`.

configuration.md is generated from the schema, commands.md from the help texts, and the tables of
datasets.md from the readers.
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

from runner.config.hashed_fields import NOT_IN_HASH
from runner.config.run_config import (
    PRESETS,
    RunConfig,
    learner_names,
    preset_names,
    schema_fields,
    validate,
)
from runner.tools.commands_page import render_commands
from runner.tools.datasets_page import fill_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"

_HELP_PYTHON = (3, 11)  # argparse of other versions breaks lines of help texts elsewhere
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
"""Keys that other tools may rely on; their names and meanings do not change."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}

_INTRODUCTION = """\
# Configuration

This page is generated from the schema by `make docs`. Edit the `Field(...)` descriptions in the
code, not this file. A test fails if the page is out of date.

A run is defined by one validated object, `RunConfig`, which is built from a preset and overrides:

```
python runner/lifelong.py --preset demo seed=1 learner.losses.cma.weight=0.5
```

- `--preset` takes a name from the table below or the path of a YAML file. The file contains the
  keys that differ from the defaults on this page. With the key `base: [demo]` it starts from
  another preset.
- Overrides are `key=value` with the full dotted path; the last override wins. Values are YAML:
  `benchmark.identities=500`, `learner.alignment=[affinity,prototype_relation]`,
  `tracking.uri=null`. Quote brackets and spaces for your shell.
- Lists are replaced; mappings are merged key by key. Write a mapping whose keys contain dots in
  braces: `'learner.optimizer.lr_factors={"network.head_*": 5}'`.
- The configuration is validated before the run starts. The error for an unknown key suggests the
  nearest valid key; the error for an invalid value names its full path.
- `python runner/lifelong.py show-config [--preset NAME] [key=value ...]` prints the complete
  configuration and the name of the run. Its output and the `config.yaml` in the folder of a run are
  valid presets: `--preset runs/<run name>/config.yaml` repeats the configuration of that run.
- Relative paths are resolved against `$LIFELONG_REID_HOME` if it is set, otherwise against the
  current folder (in a job of `ray job submit`, whose folder is temporary: `~/lifelong-reid`).
- Set secrets (tokens and passwords of a tracking server) in the environment, never in a preset.
  `${oc.env:NAME}` refers to an environment variable; files of a run keep the reference.

The name of a run is `<preset>-<learner>-seed<seed>-<hash>` unless `run.name` is set. The hash
covers all fields except these, which affect at most the order of floating-point operations:
{not_in_hash}.
The same command therefore resumes its run, and a run can be resumed with another number of workers.
"""

_STABLE = """\
## Stable keys

Names and meanings of these keys do not change. Other keys may change between versions.

{keys}

`<term>` is the name of a loss, as listed under the learner.
"""


@dataclass(frozen=True)
class Entry:
    """Description of one field of the schema.

    Attributes:
        key: dotted path of the field.
        kind: type of the field in words.
        default: default value in the flow style of YAML.
        bounds: valid range, or "".
        meaning: description of the field.
    """

    key: str
    kind: str
    default: str
    bounds: str
    meaning: str


def render() -> str:
    """Renders configuration.md."""
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
    """Lists the fields of all sections except `learner`, or of the given learner only."""
    named = learner or learner_names()[0]
    defaults = validate({"learner": {"name": named}}).model_dump(mode="json")
    result: list[Entry] = []
    for key, section, name in schema_fields(learner):
        if (learner is not None) == key.startswith("learner."):
            field = section.model_fields[name]
            default = reduce(lambda values, part: values[part], key.split("."), defaults)
            result.append(
                Entry(
                    key,
                    describe_type(field.annotation),
                    json.dumps(default),
                    describe_bounds(field.metadata),
                    field.description or "",
                )
            )
    return result


def describe_type(annotation: Any) -> str:
    """Describes the type of a field, for example "`a` or `b`" or "list of numbers"."""
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
    raise TypeError(f"expected a supported field type, got {annotation!r}; add it to describe_type")


def describe_bounds(metadata: Iterable[Any]) -> str:
    """Describes the bounds in the metadata of a field, for example "at least 0, below 1"."""
    bounds: list[str] = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            bounds.append(describe_bounds(item.metadata))
        bounds += [
            f"{words} {getattr(item, name):g}"
            for name, words in _BOUNDS.items()
            if getattr(item, name, None) is not None
        ]
        if pattern := getattr(item, "pattern", None):
            bounds.append(f"matches `{pattern}`")
        if length := getattr(item, "min_length", None):
            bounds.append(f"{length} or more characters")
    return ", ".join(text for text in bounds if text)


def _plural(annotation: Any) -> str:
    return describe_type(annotation) + ("s" if annotation in _TYPES else "")


def _presets() -> str:
    rows = []
    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        rows.append(f"| `{name}` | {_cell(first.removeprefix('#').strip())} |")
    head = "## Presets\n\n| Name | Description |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _tables(learner: str | None) -> list[str]:
    """Renders each section as a heading, a description and a table of fields."""
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
    """Escapes plain text for a cell of a Markdown table."""
    return text.replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages; with --check, returns 0 if they are up to date and 1 otherwise.

    Raises:
        ValueError: datasets.md, which is partly written by hand, is missing or lacks a table.
    """
    parser = argparse.ArgumentParser(
        prog="python -m runner.tools.generate_docs", description=__doc__
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a page is out of date"
    )
    parser.add_argument("--folder", type=Path, default=DOCS, help="folder of the pages")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    texts = {
        folder / "configuration.md": render(),
        folder / "datasets.md": fill_tables(_content(folder / "datasets.md")),
    }
    if sys.version_info[:2] == _HELP_PYTHON:
        texts[folder / "commands.md"] = render_commands()
    outdated = [page for page, text in texts.items() if _content(page) != text]
    if not options.check:
        for page in outdated:
            page.write_text(texts[page], encoding="utf-8", newline="\n")
        return 0
    for page in outdated:
        print(f"{page}: out of date; run `make docs`", file=sys.stderr)
    return 1 if outdated else 0


def _content(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
