"""Checks that a SQLite file belongs to MLflow or Optuna, before they change its tables."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

LOCK_WAIT_S = 2.0
"""Longest wait for another program's lock."""
LOCKED = "is locked by another program"
_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True)
class _Program:
    """A program with a database.

    Attributes:
        name: name in messages.
        package: Python package.
        migrations: folder of its schema revisions, relative to the package.
        table: table of every schema, with its key; other programs have tables of the same name.
        key: column of the table.
    """

    name: str
    package: str
    migrations: str
    table: str
    key: str

    def revisions(self) -> set[str]:
        """Schema revisions that the installed version knows; empty if they cannot be listed."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return set()
        folder = Path(spec.origin).parent / self.migrations
        return {file.stem.partition("_")[0] for file in folder.glob("*.py")} - {""}


MLFLOW = _Program(
    "MLflow", "mlflow", "store/db_migrations/versions", "experiments", "experiment_id"
)
OPTUNA = _Program("Optuna", "optuna", "storages/_rdb/alembic/versions", "studies", "study_id")


def sqlite_problem(file: Path, program: _Program) -> str | None:
    """Explains why a program must not open a file, without changing it; None if it may.

    MLflow and Optuna create or migrate their tables in any database that they open.

    Returns:
        The end of a sentence that begins with the file; None for a new or empty file, or a
        database of the program that its installed version can read.
    """
    if file.is_dir():
        return "is a folder; expected a SQLite database"
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_HEADER))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not start:
        return None
    if start != _HEADER:
        return "is no SQLite database"
    try:
        address = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, timeout=LOCK_WAIT_S, uri=True)) as database:
            return next(_problems(database, program), None)
    except sqlite3.OperationalError as error:
        return LOCKED if "locked" in str(error) else f"cannot be read ({error})"
    except sqlite3.DatabaseError as error:
        return f"is a damaged SQLite database ({error})"


def _problems(database: sqlite3.Connection, program: _Program) -> Iterator[str]:
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = sorted(str(name) for (name,) in rows)
    other = OPTUNA if program is MLFLOW else MLFLOW
    if _has_tables(database, other):
        yield f"is a database of {other.name}, not of {program.name}"
    if not tables:
        return
    revisions: set[str] = set()
    if "alembic_version" in tables:
        stored = database.execute("SELECT version_num FROM alembic_version").fetchall()
        revisions = {str(revision) for (revision,) in stored}
    known = program.revisions()
    if known and (unknown := sorted(revisions - known)):
        yield (
            f"has the schema revision {unknown[0]}, which the installed {program.name} does not "
            f"know: it belongs to a newer {program.name} or to another program"
        )
    if not revisions and not _has_tables(database, program):
        names = ", ".join(tables[:3]) + (", ..." if len(tables) > 3 else "")
        yield f"is a database of another program (tables {names}), not of {program.name}"


def _has_tables(database: sqlite3.Connection, program: _Program) -> bool:
    columns = database.execute("SELECT name FROM pragma_table_info(?)", (program.table,)).fetchall()
    return (program.key,) in columns
