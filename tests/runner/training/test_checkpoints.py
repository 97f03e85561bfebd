"""Checkpoints are atomic, exact, and written only by the owner of the run."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

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
