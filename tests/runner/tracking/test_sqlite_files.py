"""A SQLite file of another program is recognised and left as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runner.config.sections import TrackingConfig
from runner.sweep.optuna_searcher import open_storage
from runner.tracking.mlflow_client import TrackingClient, TrackingError
from runner.tracking.sqlite_files import MLFLOW, OPTUNA, sqlite_problem

VERSION = "create table alembic_version (version_num varchar(32) not null)"


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> dict[str, Path]:
    """Files that neither MLflow nor Optuna may change, by kind."""
    (no_database := tmp_path / "text.db").write_bytes(b"this is no database " * 64)
    (damaged := tmp_path / "damaged.db").write_bytes(b"SQLite format 3\x00" + b"x" * 2000)
    (folder := tmp_path / "folder.db").mkdir()
    newer = (VERSION, "insert into alembic_version values ('ffffffffffff')")
    other = ("create table experiments (id integer, title text)", "create table studies (a text)")
    return {
        "is no SQLite database": no_database,
        "is a damaged SQLite database": damaged,
        "is a folder": folder,
        "the schema revision ffffffffffff, .* newer": database(tmp_path / "newer.db", *newer),
        r"of another program .tables experiments, studies": database(tmp_path / "o.db", *other),
    }


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def test_foreign_files_are_unchanged(foreign: dict[str, Path], tmp_path: Path) -> None:
    for message, file in foreign.items():
        before = content(file)
        names = sorted(path.name for path in tmp_path.iterdir())
        config = TrackingConfig(uri=f"sqlite:///{file}")
        with pytest.raises(TrackingError, match=rf"tracking\.uri: .*{file.name} .*{message}"):
            TrackingClient(config, tmp_path / "artefacts")
        with pytest.raises(ValueError, match=rf"--study: .*{file.name} .*{message}"):
            open_storage(f"sqlite:///{file}")
        assert content(file) == before, file
        assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_each_program_refuses_the_database_of_the_other(tmp_path: Path) -> None:
    study = tmp_path / "study.db"
    open_storage(f"sqlite:///{study}")
    before = study.read_bytes()
    assert sqlite_problem(study, OPTUNA) is None
    open_storage(f"sqlite:///{study}")
    with pytest.raises(TrackingError, match=r"study\.db is a database of Optuna, not of MLflow"):
        TrackingClient(TrackingConfig(uri=f"sqlite:///{study}"), tmp_path)
    assert study.read_bytes() == before
    statements = ("create table experiments (experiment_id integer)", VERSION)
    runs = database(tmp_path / "runs.db", *statements)
    with pytest.raises(ValueError, match=r"runs\.db is a database of MLflow, not of Optuna"):
        open_storage(f"sqlite:///{runs}")


@pytest.mark.parametrize("program", [MLFLOW, OPTUNA], ids=lambda program: program.name)
def test_new_and_known_files_are_accepted(program, tmp_path: Path) -> None:
    assert sqlite_problem(tmp_path / "new.db", program) is None
    (empty := tmp_path / "empty.db").touch()
    assert sqlite_problem(empty, program) is None
    created = database(tmp_path / "a b?#.db", f"create table {program.table} ({program.key} text)")
    assert sqlite_problem(created, program) is None
    revisions = program.revisions()
    assert len(revisions) > 5, "the installed version stores its revisions elsewhere"
    known = database(
        tmp_path / "known.db", VERSION, f"insert into alembic_version values ('{max(revisions)}')"
    )
    assert sqlite_problem(known, program) is None
