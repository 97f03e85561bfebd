"""Passwords and environment references: in memory as given, in nothing that is written or shown."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import pytest
import yaml

from runner.config.run_config import ConfigError, load_config
from runner.lifelong import main
from tests.runner.conftest import MakeArguments

SECRET = "s3cr3t-w0rd"
DATABASE = f"postgresql://me:{SECRET}@127.0.0.1:9/tracking"
SERVER = f"http://me:{SECRET}@127.0.0.1:9"


def leaks(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKING_WORD", SECRET)
    monkeypatch.setenv("TRACKING_URI", DATABASE)


@pytest.mark.usefixtures("no_figures")
def test_a_run_leaves_no_password_behind(
    tiny_arguments: MakeArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (f"tracking.uri={DATABASE}", "run.name=mine", "learner.epochs=1")
    command = ["run", *tiny_arguments(tmp_path, "finetune", *overrides)]
    assert main(command) == 0
    stored = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
    assert stored["tracking"]["uri"] == "postgresql://me:***@127.0.0.1:9/tracking"
    first = json.loads((tmp_path / "mine" / "events.jsonl").read_text().partition("\n")[0])
    assert first["params"]["tracking.uri"] == stored["tracking"]["uri"]
    assert main([*command, "--json"]) == 0  # the same command finds its finished run
    server = f"tracking.uri={SERVER}"
    assert main(["sync", str(tmp_path / "mine"), server, "tracking.request_retries=0"]) == 1
    captured = capsys.readouterr()
    assert "http://127.0.0.1:9: no answer" in captured.err
    assert SECRET not in captured.out + captured.err
    assert leaks(tmp_path) == []
    assert main(["sync", str(tmp_path / "mine")]) == 2
    assert "tracking.uri: the password of postgresql://me:***@" in capsys.readouterr().err


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "uri", ["${oc.env:TRACKING_URI}", "http://me:${oc.env:TRACKING_WORD}@127.0.0.1:9"]
)
def test_a_uri_from_the_environment_stays_a_reference(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["show-config", f"tracking.uri={uri}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["tracking"]["uri"] == uri
    config = load_config("demo", [f"tracking.uri={uri}"])
    assert SECRET in (config.tracking.usable_uri() or "")
    monkeypatch.delenv("TRACKING_URI")
    monkeypatch.delenv("TRACKING_WORD")
    config = load_config("demo", [f"tracking.uri={uri}"])
    with pytest.raises(ValueError, match=r"tracking\.uri: .*'TRACKING_\w+' not found; set the"):
        config.tracking.usable_uri()


@pytest.mark.usefixtures("environment")
def test_the_configuration_in_memory_has_the_password() -> None:
    for uri in (DATABASE, "${oc.env:TRACKING_URI}"):
        config = load_config("demo", [f"tracking.uri={uri}"])
        copies = config.model_copy(), pickle.loads(pickle.dumps(config))
        assert {each.tracking.usable_uri() for each in (config, *copies)} == {DATABASE}
        for text in (repr(config), str(config.tracking), config.model_dump_json()):
            assert SECRET not in text


@pytest.mark.parametrize(
    "override",
    [
        f"tracking.uri=postgre://me:{SECRET}@host/x",
        f"tracking.uri=[{DATABASE}]",
        f"tracking.uri=postgresql://me:{SECRET}${{oc.env:",
        f"tracking.timeout={DATABASE}",
        f"seed={DATABASE}",
        f"--tracking.uri={DATABASE}",
    ],
)
def test_errors_do_not_show_a_password(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):  # raised by argparse
        assert main(["show-config", override]) == 2
    shown = capsys.readouterr()
    assert shown.err
    assert SECRET not in shown.out + shown.err


def test_references_outside_of_results_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_FOLDER", "/somewhere")
    monkeypatch.setenv("SEED", "7")
    overrides = ["benchmark.root=${oc.env:DATA_FOLDER}/data", "seed=${oc.env:SEED}"]
    config = load_config("demo", overrides)
    assert (config.benchmark.root, config.seed) == ("/somewhere/data", 7)
    assert main(["show-config", *overrides]) == 0
    (file := tmp_path / "config.yaml").write_text(text := capsys.readouterr().out)
    stored = yaml.safe_load(text)
    assert stored["benchmark"]["root"] == "${oc.env:DATA_FOLDER}/data"
    assert stored["seed"] == 7, "a setting that changes results is stored as a value"
    assert load_config(str(file)) == config
    monkeypatch.delenv("DATA_FOLDER")
    with pytest.raises(ConfigError, match=r"benchmark\.root: .*'DATA_FOLDER' not found; set the"):
        load_config(str(file))
    assert load_config(str(file), ["benchmark.root=data"]).hash == config.hash
