"""Artefact locations of a SQLite database that was moved or copied together with its artefacts.

MLflow stores the location of artefacts as absolute paths. After `mv runs elsewhere` they would
point to a folder that is gone, and after `cp -r runs copy` the copy would write into the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from runner.tracking.sqlite_files import LOCK_WAIT_S

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


def follow_artefacts(database: Path) -> None:
    """Points a database to the artefacts beside it if it lies elsewhere than when it was made.

    Nothing changes if the stored folder is still beside this database, or if it is anywhere else
    than beside a database of this name.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=LOCK_WAIT_S)) as connection, connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {str(name) for (name,) in names}
        if "experiments" not in tables:
            return
        stored = connection.execute("SELECT DISTINCT artifact_location FROM experiments")
        for (location,) in stored.fetchall():
            beside = _moved_to(str(location or ""), database)
            if beside is None:
                continue
            for table, column in _LOCATIONS:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (beside, len(location) + 1, location, len(location) + 1, f"{location}/"),
                    )


def _moved_to(location: str, database: Path) -> str | None:
    """URI of the folder beside the database that the location stands for; None if it is current."""
    parts = urlparse(location)
    if parts.scheme != "file":
        return None
    old = Path(unquote(parts.path))
    new = database.absolute().parent / old.name
    if not new.is_dir() or (old.exists() and old.samefile(new)):
        return None
    of_old = old.parent / database.name
    is_copy = of_old.exists() and not of_old.samefile(database)
    return new.as_uri() if is_copy or not old.exists() else None
