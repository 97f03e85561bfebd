"""Rules of the layout that the import-linter contracts of pyproject.toml do not express."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for package in ("models", "tasks", "runner") for path in (ROOT / package).rglob("*.py")
)
MAX_LINES = 400
MAY_IMPORT = {
    "ray": ("runner.on_ray.", "runner.sweep.", "runner.ablation.run", "runner.descriptions.blip2"),
    "mlflow": ("runner.tracking.", "runner.ablation.mlflow", "runner.sweep.mlflow"),
    "optuna": ("runner.sweep.",),
    "torch.distributed": ("runner.",),
}
"""External packages and the modules that may import them; `runner.bench` may import all."""

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """Every imported name, at module level and inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Imports between the project's modules, those inside functions included."""
    return grimp.build_graph("runner", "tasks", "models", cache_dir=None)


@each_file
def test_a_file_stays_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@each_file
def test_external_packages_are_imported_where_they_belong(path: Path) -> None:
    module = module_of(path)
    for package, allowed in MAY_IMPORT.items():
        if any(name == package or name.startswith(f"{package}.") for name in imported(path)):
            assert module.startswith((*allowed, "runner.bench.")), f"{module} imports {package}"


def test_models_import_only_the_schema_of_tasks(graph: grimp.ImportGraph) -> None:
    found = {
        (module, imported)
        for module in graph.modules
        if module.partition(".")[0] == "models"
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] == "tasks"
    }
    assert {imported for _, imported in found} == {"tasks.schema"}, found


def test_no_module_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    imports = {
        module: graph.find_modules_directly_imported_by(module) - {module}
        for module in graph.modules
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", ["runner", "models", "tasks"])
def test_no_package_imports_itself_through_others(package: str) -> None:
    graph = grimp.build_graph("runner", "tasks", "models", cache_dir=None)
    children = graph.find_children(package)
    for child in children:
        graph.squash_module(child)
    imports = {
        child: (graph.find_modules_directly_imported_by(child) & children) - {child}
        for child in children
    }
    TopologicalSorter(imports).prepare()


def test_few_files_lie_directly_in_runner() -> None:
    assert sorted(path.name for path in (ROOT / "runner").glob("*.py")) == [
        *("__init__.py", "experiment.py", "lifelong.py")
    ]
