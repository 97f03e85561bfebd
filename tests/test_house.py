"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for room in ("models", "tasks", "runner") for path in (ROOT / room).rglob("*.py")
)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_runner_knows_other_processes(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "runner":
        assert not [name for name in imported(path) if name.startswith("torch.distributed")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_stays_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_loop_knows_no_ray() -> None:
    loop = ROOT / "runner" / "loop.py"
    assert not [name for name in imported(loop) if name.split(".")[0] in ("ray", "mlflow")]
