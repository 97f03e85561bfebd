"""MLflow runs of a folder, found again by a tag: for results that are sent as a whole.

A run is looked up before it is created, and a digest of what was sent last is stored as a tag.
The same command can therefore be repeated at any time, also after an outage of the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from runner.config.sections import TrackingConfig
from runner.results.run_folder import write_atomically
from runner.tracking.mlflow_client import DIGEST_TAG, TrackingClient, server_errors


class TaggedRuns:
    """MLflow runs that belong to one folder, by key.

    Args:
        client: MLflow client.
        token: identifies the folder among all runs of the server.
    """

    def __init__(self, client: TrackingClient, token: str) -> None:
        self.client = client
        self._token = token
        self._runs = client.find_runs(token)

    def open(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        digest: str,
        *,
        parent: str | None = None,
        start_ms: int | None = None,
    ) -> tuple[str, bool]:
        """Returns the MLflow run's id, created if needed, and whether it must be (re)sent.

        Args:
            key: key of the run within its folder.
            name: run name shown by MLflow.
            tags: tags set when the run is created.
            digest: digest of what is to be sent.
            parent: id of the parent run, if this is a nested run.
            start_ms: Unix time at which a new run began; default now.
        """
        full_key = f"{self._token}/{key}"
        if full_key in self._runs:
            run_id, sent_digest = self._runs[full_key]
            return run_id, sent_digest != digest
        run_id = self.client.create_run(full_key, name, tags=tags, parent=parent, start_ms=start_ms)
        return run_id, True

    def mark_sent(
        self,
        run_id: str,
        digest: str,
        status: Literal["RUNNING", "FINISHED", "FAILED"] = "FINISHED",
        end_ms: int | None = None,
    ) -> None:
        """Sets the status and stores the digest. Call it last: the run then has everything."""
        self.client.set_status(run_id, status, end_ms)
        self.client.log(run_id, tags={DIGEST_TAG: digest})


@contextlib.contextmanager
def tagged_runs(
    folder: Path, tracking: TrackingConfig, artefact_folder: Path
) -> Iterator[TaggedRuns]:
    """Connects to the server and yields the MLflow runs that belong to a folder.

    Args:
        folder: its tracking.json holds the token that identifies it; the token is on disk before
            the server sees it.
        tracking: tracking configuration with an absolute `uri`.
        artefact_folder: folder for artefacts if the server is a database.

    Raises:
        TrackingError: the server does not answer or refuses. Any exception inside the block is
            converted too.
    """
    with server_errors(tracking):
        yield TaggedRuns(TrackingClient(tracking, artefact_folder), _token(folder))


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _token(folder: Path) -> str:
    path = folder / "tracking.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["token"])
    token = uuid.uuid4().hex
    write_atomically(path, json.dumps({"token": token}) + "\n")
    return token
