"""Run folder: one process, one configuration, one protocol."""

import json

import pytest

from runner.config.run_config import load_config
from runner.results.run_folder import RunStorage, git_revision, write_atomically


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """`configured(*overrides)`: a configuration whose run lives under tmp_path."""
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path))

    def load(*overrides):
        return load_config("demo", ["storage.root=runs", "run.name=mine", *overrides])

    return load


def test_folder_is_storage_root_and_run_name(configured, tmp_path, monkeypatch):
    assert RunStorage.of(configured()).folder == tmp_path / "runs" / "mine"
    elsewhere = tmp_path / "elsewhere"
    config = configured(f"storage.root={elsewhere}", "run.name=null")
    assert RunStorage.of(config).folder == elsewhere / config.run_name
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    config = configured("storage.root=~/runs")
    assert RunStorage.of(config).folder == tmp_path / "me" / "runs" / "mine"


def test_starts_are_counted_and_configuration_is_stored(configured):
    config = configured()
    for attempt in (1, 2, 3):
        storage = RunStorage.of(config)
        assert storage.open(config, fresh=False) == attempt
        assert json.loads(storage.attempt_file.read_text()) == {"attempt": attempt}
        storage.close()
    assert load_config(str(storage.config_file)) == config


def test_folder_is_locked_by_one_process(configured):
    config = configured()
    first, second = RunStorage.of(config), RunStorage.of(config)
    first.open(config, fresh=False)
    with pytest.raises(RuntimeError, match=r"mine is being written by another process; wait"):
        second.open(config, fresh=False)
    with pytest.raises(RuntimeError, match="another process"):
        second.open(config, fresh=True)
    assert first.config_file.exists(), "who is refused drops nothing"
    first.close()
    assert second.open(config, fresh=False) == 2


def test_failed_start_releases_lock(configured):
    config, other = configured(), configured("seed=5")
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    storage.close()
    refused = RunStorage.of(other)
    with pytest.raises(ValueError, match="another configuration"):
        refused.open(other, fresh=False)
    assert storage.open(config, fresh=False) == 2
    del refused


def test_unwritable_folder_is_named(configured, tmp_path):
    (tmp_path / "file").write_text("")
    config = configured("storage.root=file/x")
    with pytest.raises(PermissionError, match=r"storage\.root: cannot write to .*file/x/mine"):
        RunStorage.of(config).open(config, fresh=False)


def test_other_configuration_is_rejected_with_keys(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    storage.close()
    other = configured("seed=5", "learner.losses.cma.weight=0.25", "cluster.num_workers=2")
    with pytest.raises(ValueError, match="another configuration") as caught:
        RunStorage.of(other).open(other, fresh=False)
    message = str(caught.value)
    assert "seed: 0 there, 5 here" in message
    assert "learner.losses.cma.weight: 10.0 there, 0.25 here" in message
    assert "num_workers" not in message, "what changes no result is no difference"
    assert "choose another run.name, or start over with --fresh" in message


def test_settings_without_effect_on_results_may_change(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    storage.close()
    other = configured("cluster.num_workers=2", "tracking.uri=null", "checkpoints.keep=5")
    assert storage.open(other, fresh=False) == 2
    assert load_config(str(storage.config_file)) == other


def test_configuration_of_another_version_is_rejected(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    storage.close()
    with storage.config_file.open("a") as file:
        file.write("old_option: 1\n")
    with pytest.raises(ValueError, match=r"this version cannot read \(old_option: unknown key"):
        storage.open(config, fresh=False)
    storage.open(config, fresh=True)


def test_fresh_empties_folder_and_continues_count(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    storage.write_results({"seed": 0})
    storage.write_lock({"images": 1})
    storage.checkpoints.mkdir()
    (storage.checkpoints / "position-000-00-0000").mkdir()
    storage.close()
    other = configured("seed=5")
    assert storage.open(other, fresh=True) == 2, "a worker of start 1 must not pass for one of this"
    for gone in (storage.results_file, storage.lock_file, storage.checkpoints):
        assert not gone.exists()
    assert load_config(str(storage.config_file)) == other


def test_results_are_read_back(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    assert storage.results() is None
    results = {"scores": {"mAP": [[1.0, None]]}, "seed": 0}
    storage.write_results(results)
    assert storage.results() == results


def test_changed_protocol_is_rejected(configured):
    config = configured()
    storage = RunStorage.of(config)
    storage.open(config, fresh=False)
    lock = {"order": ["plaza", "night"], "images": 32}
    storage.write_lock(lock)
    storage.write_lock({"images": 32, "order": ["plaza", "night"]})
    assert json.loads(storage.lock_file.read_text()) == lock
    with pytest.raises(ValueError, match=r"no longer match .*protocol\.lock\.json"):
        storage.write_lock({**lock, "images": 31})
    assert json.loads(storage.lock_file.read_text()) == lock


def test_failed_write_keeps_old_text(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_atomically(file, "old")

    def torn(self, text):
        with self.open("w") as handle:
            handle.write(text[:1])
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(type(file), "write_text", torn)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(file, "new")
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert file.read_text() == "new"


def test_git_revision_is_commit_or_none():
    revision = git_revision()
    assert revision is None or len(revision.rstrip("+")) == 40
