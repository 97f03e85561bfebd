"""Checkpoints are atomic, exact, and written only by the owner of the run."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from runner.config.disk_space import DiskFullError
from runner.config.json_files import DamagedFileError
from runner.training import checkpoint_files
from runner.training.checkpoint_files import read_learner
from runner.training.checkpoints import (
    Checkpoint,
    CheckpointStore,
    DamagedCheckpointError,
    FencedError,
    Position,
)

BEGIN = Position()


def tensors(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=draw),
        "half": torch.randn(5, generator=draw).bfloat16(),
        "transposed": torch.randn(3, 4, generator=draw).T,
        "counts": torch.tensor([1, 2**40]),
        "scalar": torch.tensor(7),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 4),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_bit_equal(first, second):
    assert first.keys() == second.keys()
    for path, tensor in first.items():
        other = second[path]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), path
        assert torch.equal(bits(tensor), bits(other)), path


def checkpoint(position=BEGIN, seed=0, optimizer=None):
    return Checkpoint(position, tensors(seed), {"offset": 8}, optimizer, {"iteration": seed})


def test_a_checkpoint_is_restored_exactly(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", "abc")
    assert store.latest() is None
    saved = checkpoint(Position(1, 2, 3))
    store.save(saved)
    loaded = CheckpointStore(tmp_path / "checkpoints", "abc").latest()
    assert loaded is not None
    assert_bit_equal(saved.tensors, loaded.tensors)
    assert loaded.position == Position(1, 2, 3)
    assert loaded.facts == {"offset": 8}
    assert loaded.run_state == {"iteration": 0}
    assert loaded.optimizer is None


def train_steps(module, optimizer, draw, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(6, 4, generator=draw)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_a_resumed_optimiser_is_bit_equal(tmp_path, name):
    def build(module):
        groups = [
            {"params": [module.weight], "lr": 1e-2, "weight_decay": 0.1, "lr_factor": 1.0},
            {"params": [module.bias], "lr": 2e-2, "weight_decay": 0.0, "lr_factor": 2.0},
        ]
        settings = {"momentum": 0.9} if name == "SGD" else {}
        return getattr(torch.optim, name)(groups, lr=1e-2, **settings)

    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    optimizer = build(module)
    train_steps(module, optimizer, torch.Generator().manual_seed(1), 3)
    store = CheckpointStore(tmp_path, "abc")
    state = dict(module.state_dict())
    store.save(Checkpoint(Position(0, 0, 1), state, {}, optimizer.state_dict()))
    train_steps(module, optimizer, torch.Generator().manual_seed(2), 3)

    loaded = store.latest()
    assert loaded is not None
    assert loaded.optimizer is not None
    resumed = nn.Linear(4, 3)
    resumed.load_state_dict(loaded.tensors)
    again = build(resumed)
    again.load_state_dict(loaded.optimizer)
    assert [group["lr_factor"] for group in again.param_groups] == [1.0, 2.0]
    train_steps(resumed, again, torch.Generator().manual_seed(2), 3)
    assert_bit_equal(dict(module.state_dict()), dict(resumed.state_dict()))


def test_only_tensors_are_unpickled(tmp_path):
    store = CheckpointStore(tmp_path, "abc")
    folder = store.save(checkpoint(optimizer={"state": {}}))
    torch.save({"state": Position}, folder / "optimizer.pt")
    (folder / "checksums.json").unlink()
    with pytest.raises(DamagedCheckpointError, match="Weights only load failed"):
        store.latest()


def test_the_latest_position_is_loaded_and_old_ones_are_deleted(tmp_path):
    store = CheckpointStore(tmp_path, "abc", keep=2)
    positions = [Position(), Position(0, 0, 9), Position(0, 1, 2), Position(0, 1, 10), Position(2)]
    assert positions == sorted(positions)
    for seed, position in enumerate(positions):
        store.save(checkpoint(position, seed))
        latest = store.latest()
        assert latest is not None
        assert (latest.position, latest.run_state["iteration"]) == (position, seed)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["position-000-01-0010", "position-002-00-0000"]


def test_saving_the_same_position_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path, "abc")
    store.save(checkpoint(Position(1), 0, optimizer={"state": {}}))
    store.save(checkpoint(Position(1), 1))
    latest = store.latest()
    assert latest is not None
    assert (latest.run_state, latest.optimizer) == ({"iteration": 1}, None)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_another_configuration_is_rejected(tmp_path):
    CheckpointStore(tmp_path, "abc").save(checkpoint())
    with pytest.raises(
        ValueError, match=r"of configuration xyz, got .*abc.*choose another run\.name"
    ):
        CheckpointStore(tmp_path, "xyz").latest()


def test_incomplete_checkpoints_are_ignored_and_deleted(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, "abc")
    store.save(checkpoint(Position(0, 0, 1), 1))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("runner.training.checkpoint_files._flush", killed)
        with pytest.raises(KeyboardInterrupt):
            store.save(checkpoint(Position(0, 0, 2), 2))
    assert len(list(tmp_path.iterdir())) == 2
    latest = store.latest()
    assert latest is not None
    assert latest.run_state == {"iteration": 1}
    (tmp_path / ".position-000-00-0002.99999").mkdir()
    store.save(checkpoint(Position(0, 0, 3), 3))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["position-000-00-0001", "position-000-00-0003"]


def test_an_older_start_cannot_write_after_a_newer_one(tmp_path):
    attempt_file = tmp_path / "attempt.json"
    attempt_file.write_text(json.dumps({"attempt": 1}))
    store = CheckpointStore(tmp_path / "c", "abc", attempt_file, attempt=1)
    store.save(checkpoint(Position(0, 0, 1)))
    attempt_file.write_text(json.dumps({"attempt": 2}))
    message = r"start 2 of this run has taken over its folder; this process \(start 1\) stops"
    with pytest.raises(FencedError, match=message):
        store.save(checkpoint(Position(0, 0, 2)))
    with pytest.raises(FencedError, match=message):
        store.save_domain(0, "plaza", tensors(), {})
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["position-000-00-0001"]
    newer = CheckpointStore(tmp_path / "c", "abc", attempt_file, attempt=2)
    newer.save(checkpoint(Position(0, 0, 2)))


def test_learners_of_all_domains_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "c", "abc", keep=1)
    paths = [
        store.save_domain(index, name, tensors(index), {"offset": index})
        for index, name in enumerate("ab")
    ]
    for domain in range(3):
        store.save(checkpoint(Position(domain)))
    assert [path.name for path in paths] == ["after-01-a.safetensors", "after-02-b.safetensors"]
    for index, path in enumerate(paths):
        assert_bit_equal(tensors(index), load_file(path))
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["facts"]) == {"offset": index}
    assert len(list((tmp_path / "c").iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"cut"])
def test_a_damaged_learner_is_named(tmp_path, content):
    file = CheckpointStore(tmp_path, "abc").save_domain(0, "plaza", tensors(), {"offset": 3})
    assert_bit_equal(read_learner(file).tensors, tensors())
    assert read_learner(file).facts == {"offset": 3}
    file.write_bytes(content if content != b"cut" else file.read_bytes()[:-9])
    with pytest.raises(DamagedFileError, match=r"after-01-plaza\.safetensors is damaged .*--fresh"):
        read_learner(file)


def damaged(folder, kind):
    file = folder / kind.partition(" ")[0]
    if kind == "file instead of folder":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    elif kind == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind.endswith("truncated"):
        file.write_bytes(file.read_bytes()[:-7])
    elif kind.endswith("zeroed"):
        file.write_bytes(bytes(file.stat().st_size))
    elif kind.endswith("missing"):
        file.unlink()
    else:
        other = CheckpointStore(folder.parent / "other", "abc").save(
            checkpoint(Position(0, 0, 2), 9, {"state": {0: {"step": torch.tensor(9.0)}}})
        )
        shutil.copyfile(other / file.name, file)
        shutil.rmtree(other.parent)


FILE_NAMES = ("tensors.safetensors", "optimizer.pt", "state.json")
DAMAGES = [
    *("file instead of folder", "empty folder", "checksums.json truncated"),
    *(
        f"{file} {damage}"
        for file in FILE_NAMES
        for damage in ("truncated", "zeroed", "missing", "replaced")
    ),
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_skipped(tmp_path, kind):
    store = CheckpointStore(tmp_path, "abc")
    store.save(checkpoint(Position(0, 0, 1), 1, {"state": {}}))
    newest = store.save(checkpoint(Position(0, 0, 2), 2, {"state": {}}))
    damaged(newest, kind)
    loaded = store.latest()
    assert loaded is not None
    assert (loaded.position, loaded.run_state) == (Position(0, 0, 1), {"iteration": 1})
    assert len(store.damaged) == 1
    assert "position-000-00-0002 is damaged" in store.damaged[0]
    # The next checkpoint removes the damaged one, although its position is later.
    store.save(checkpoint(Position(0, 0, 1, 5), 3))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["position-000-00-0001", "position-000-00-0001-000005"]
    latest = store.latest()
    assert latest is not None
    assert (latest.run_state, store.damaged) == ({"iteration": 3}, [])


def test_a_run_with_damaged_checkpoints_only_does_not_start_over(tmp_path):
    store = CheckpointStore(tmp_path, "abc")
    for position in (Position(0, 0, 1), Position(0, 0, 2)):
        damaged(store.save(checkpoint(position)), "tensors.safetensors truncated")
    with pytest.raises(DamagedCheckpointError, match=r"0002 is damaged .*no undamaged.*--fresh"):
        store.latest()


def test_checkpoints_without_checksums_are_read(tmp_path):
    """Older versions wrote none, and neither did they write the selected epoch."""
    store = CheckpointStore(tmp_path, "abc")
    folder = store.save(checkpoint(Position(0, 0, 1), 1))
    (folder / "checksums.json").unlink()
    state = json.loads((folder / "state.json").read_text())
    del state["selected_epoch"]
    del state["position"]["iteration"]
    (folder / "state.json").write_text(json.dumps(state))
    latest = store.latest()
    assert latest is not None
    assert latest.run_state == {"iteration": 1}


def test_copies_made_by_a_synchronisation_service_are_ignored(tmp_path):
    store = CheckpointStore(tmp_path, "abc")
    newest = store.save(checkpoint(Position(0, 0, 2), 2))
    shutil.copytree(newest, tmp_path / f"{newest.name} (conflicted copy 2026-11-22)")
    store.save(checkpoint(Position(0, 0, 3), 3))
    latest = store.latest()
    assert latest is not None
    assert latest.run_state == {"iteration": 3}


def test_files_are_on_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    flushed, renamed = [], []
    fsync = os.fsync

    def record(descriptor):
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        renamed.append((tmp_path / "position-000-00-0001").exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store = CheckpointStore(tmp_path, "abc")
    folder = store.save(checkpoint(Position(0, 0, 1), 1, {"state": {}}))
    before = [
        os.path.basename(path) for path, done in zip(flushed, renamed, strict=True) if not done
    ]
    assert {path.name for path in folder.iterdir()} < set(before)
    assert any(name.startswith(".position") for name in before), "the directory is not flushed"
    assert flushed[-1] == str(tmp_path), "the rename is not flushed"


@pytest.mark.parametrize("file", ["tensors.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch, file, code):
    store = CheckpointStore(tmp_path, "abc")
    store.save(checkpoint(Position(0, 0, 1), 1, {"state": {}}))
    write = checkpoint_files._write_files

    def full(folder, *arguments):
        write(folder, *arguments)
        (folder / file).unlink()
        raise OSError(code, os.strerror(code), str(folder / file))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_files, "_write_files", full)
        with pytest.raises(
            DiskFullError, match=r"cannot write .*position-000-00-0002: .*MB needed"
        ):
            store.save(checkpoint(Position(0, 0, 2), 2, {"state": {}}))
    assert [path.name for path in tmp_path.iterdir()] == ["position-000-00-0001"]
    store.save(checkpoint(Position(0, 0, 2), 2, {"state": {}}))
    latest = store.latest()
    assert latest is not None
    assert latest.run_state == {"iteration": 2}


LIMITED = """
import resource, sys, torch
from pathlib import Path
from runner.config.disk_space import DiskFullError
from runner.training.checkpoints import Checkpoint, CheckpointStore, Position
store = CheckpointStore(Path(sys.argv[1]), "abc")
small = {"weight": torch.zeros(10)}
store.save(Checkpoint(Position(0, 0, 1), small, {}))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
large = {"weight": torch.zeros(100_000)}
for checkpoint in (
    Checkpoint(Position(0, 0, 2), large, {}),
    Checkpoint(Position(0, 0, 2), small, {}, {"state": {0: large}}),
    Checkpoint(Position(0, 0, 2), small, {"fact": "x" * 300_000}),
):
    try:
        store.save(checkpoint)
    except DiskFullError as error:
        print(error.strerror)
try:
    store.save_domain(0, "plaza", large, {})
except DiskFullError as error:
    print(error.strerror)
"""


def test_a_file_size_limit_is_explained(tmp_path):
    """The libraries' own writers report the limit, so this needs no patched function."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("size limit" in line for line in lines)
    assert "0.4 MB needed" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["position-000-00-0001"]
