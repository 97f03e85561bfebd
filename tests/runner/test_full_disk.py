"""A full disk at any file ends a run in one sentence; with more space the same command finishes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import experiment, lifelong
from runner.config import json_files
from runner.experiment import run_experiment
from runner.tracking import event_log
from runner.training import checkpoint_files

MakeConfig = Callable[..., Any]
MakeArguments = Callable[..., list[str]]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_call(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Fails at the given call of a function and at all later ones."""
    num_calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return full() if num_calls >= number else function(*arguments, **named)

    return call


PLACES = {
    "configuration": (json_files, "flush_to_disk", 1, "config.yaml"),
    "events": (event_log, "_append", 9, "events.jsonl"),
    "checkpoint": (checkpoint_files, "_write_files", 2, "position-000-00-0001"),
    "domain": (checkpoint_files, "save_file", 4, "after-01-plaza.safetensors"),
    "figures": (experiment, "write_figures", 1, "matrix.png"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_message_names_the_file_and_the_run_continues(
    place: str,
    tmp_path: Path,
    tiny_arguments: MakeArguments,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    no_figures: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, function, number, file = PLACES[place]
    with monkeypatch.context() as patched:
        patched.setattr(module, function, at_call(getattr(module, function), number))
        assert lifelong.main(tiny_arguments(tmp_path / "runs")) == 1
    shown = capsys.readouterr().err
    assert "cannot write" in shown
    assert file in shown
    assert "no space left on device" in shown
    assert "run the same command" in shown
    assert "Traceback" not in shown
    assert shown.count("no space left") == 1
    results = run_experiment(tiny_config(tmp_path / "runs")).results
    expected = run_experiment(tiny_config(tmp_path / "whole")).results
    assert numbers_of(results) == numbers_of(expected)
