"""Downloads without a network fail at once, with one message."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from models.backbones.clip_weights import _pretrained
from models.backbones.hub import check_reachable, without_logs


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_weights_without_a_network_are_one_error_with_a_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(
        RuntimeError, match=r"cannot find huggingface.*set backbone\.weights"
    ) as error:
        _pretrained("ViT-B-16", "laion2b_s34b_b88k", False)
    assert str(error.value).count("could not load") == 1
    assert not caplog.records


def test_a_cached_repository_needs_no_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    with pytest.raises(ConnectionError):
        check_reachable("owner/name")
    (snapshot / "weights.bin").touch()
    check_reachable("owner/name")


def test_a_proxy_resolves_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    check_reachable("owner/name")


def test_logs_are_disabled_only_within_the_block(caplog: pytest.LogCaptureFixture) -> None:
    with without_logs():
        logging.getLogger("any").error("within")
    logging.getLogger("any").error("after")
    assert [record.message for record in caplog.records] == ["after"]
