"""Downloads from the Hugging Face Hub that fail at once and quietly without a network."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies


def check_reachable(repository: str) -> None:
    """Checks that a repository is in the local cache, or that the name of the hub is known.

    The hub's client would retry for a minute. Behind a proxy nothing is checked, because the proxy
    resolves names.

    Args:
        repository: "<owner>/<name>".

    Raises:
        ConnectionError: the repository is not in the cache, and the hub cannot be found.
    """
    from huggingface_hub import constants  # slow to import
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    is_cached = any(Path(constants.HF_HUB_CACHE, name).glob("snapshots/*/*"))
    host = urlsplit(constants.ENDPOINT).hostname
    if is_cached or host is None or getproxies():
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise ConnectionError(f"cannot find {host}: {error.strerror}") from error


@contextmanager
def without_logs() -> Iterator[None]:
    """Disables log messages in the block: errors of a download end in an exception anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
