"""What README and docs tell the reader to type exists."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

import click
import pytest

from runner.config.run_config import learner_names, preset_names, schema_fields, schema_keys
from runner.lifelong import commands as command_names
from tasks.reading import dataset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "cluster.yaml",
    *sorted((ROOT / "deploy").glob("*.yaml")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
]
DECLARED = {
    f"learner.{field}"
    for page in (ROOT / "docs" / "tutorials").glob("*.md")
    for field in re.findall(r"^    (\w+): .* = Field\(", page.read_text("utf-8"), re.MULTILINE)
}
"""Fields of the learners that the tutorials write."""
KEYS = {key for name in learner_names() for key in schema_keys(name)} | DECLARED
MAPPINGS = {
    path
    for path, section, name in schema_fields()
    if get_origin(section.model_fields[name].annotation) is dict
}
SECTIONS = sorted({key.partition(".")[0] for key in KEYS if "." in key})

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_overrides_name_fields(page):
    pattern = rf"(?<![\w./-])((?:{'|'.join(SECTIONS)})(?:\.\w+)+)=(?!=)"
    named = set(re.findall(pattern, page.read_text(encoding="utf-8")))
    assert {key for key in named - KEYS if key.rpartition(".")[0] not in MAPPINGS} == set()


@pages
def test_presets_commands_and_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    presets = set(re.findall(r"--preset ([a-z][\w-]*)(?![\w/.-])", text))
    commands = set(re.findall(r"lifelong\.py ([a-z][a-z-]*)(?=[ `\n])", text))
    makes = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert presets <= set(preset_names())
    assert commands <= set(command_names())
    assert makes <= set(targets)


def typed(text: str, program: str) -> Iterator[list[str]]:
    """The words after a program's name, wherever a page tells the reader to type it."""
    text = re.sub(r"\\\n\s*#?\s*", " ", text)
    for rest in re.findall(rf"(?:^|[\s`/]){program} ([a-z-][^`\n]*)", text, flags=re.MULTILINE):
        yield re.split(r"\s(?:--|#|\|)\s", rest)[0].split()


def options_among(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}


@pages
def test_options_of_a_command_exist(page):
    for words in typed(page.read_text(encoding="utf-8"), r"lifelong\.py"):
        name = words[0] if words[0] in command_names() else "run"
        parser = argparse.ArgumentParser()
        importlib.import_module(f"runner.commands.{name.replace('-', '_')}").add_arguments(parser)
        assert options_among(words) <= set(re.findall(r"--[a-z][a-z0-9-]*", parser.format_help()))


def command_of(cli: click.Command, words: list[str]) -> click.Command:
    """`ray job submit` is a command in a group in a group."""
    for word in words:
        inside = isinstance(cli, click.Group) and cli.get_command(click.Context(cli), word)
        if not inside:
            break
        cli = inside
    return cli


@pages
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("program", "module"), [("ray", "ray.scripts.scripts"), ("mlflow", "mlflow.cli")]
)
def test_options_of_other_programs_exist(page, program, module):
    for words in typed(page.read_text(encoding="utf-8"), program):
        if given := options_among(words):
            command = command_of(importlib.import_module(module).cli, words)
            known = {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
            assert given <= known, f"{program} {command.name}"


@pages
def test_links_lead_somewhere(page):
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 210


def test_the_readme_names_every_data_set():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in dataset_names() if f"`{name}`" not in text] == []
