"""Reading of weights files: formats, wrappers, and files that would execute code."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.backbones.building import build_backbone
from models.backbones.config import BackboneConfig
from models.backbones.resnet import build as build_resnet
from models.backbones.weights import is_weights_file, read_state

ROOT = Path(__file__).parents[3]
STATE = {"visual.proj": torch.arange(6.0).reshape(2, 3), "ln_final.bias": torch.ones(4)}


class Scripted(nn.Module):
    """Parameters, buffers, submodules, and attributes that are no part of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.scale = nn.Parameter(torch.rand(2, 2).half())
        self.tied = self.linear.weight
        self.register_buffer("transposed", torch.arange(6).reshape(2, 3).t())
        self.register_buffer("transient", torch.zeros(1), persistent=False)
        self.plain = torch.ones(2)
        self.sizes = [1, 2]

    def forward(self, images: Tensor) -> Tensor:
        offset = self.plain.sum() + self.transposed.sum() + self.transient.sum() + len(self.sizes)
        return self.linear(images) + offset


class Restored(nn.Module):
    """Writes a file while torch.jit.load restores it."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.file, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.file = state[0]
        self.training = state[1]
        self.weight = torch.ones(2)
        torch.save(self.weight, self.file)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.weight


class Opened:
    """Creates a file while pickle restores it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


def test_torchscript_is_read_like_by_torch_and_not_executed(tmp_path, monkeypatch):
    torch.jit.script(Scripted()).save(path := tmp_path / "archive.pt")
    expected = torch.jit.load(path).state_dict()
    assert len(expected) == 13
    monkeypatch.setattr(torch.jit, "load", None)
    state = read_state(path)
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


def test_torchscript_that_writes_a_file_is_rejected_with_the_command_that_converts(tmp_path):
    path, written = tmp_path / "archive.pt", tmp_path / "written"
    torch.jit.script(Restored(str(written))).save(path)
    torch.jit.load(path)
    assert written.exists(), "the archive does not test what it should"
    written.unlink()
    for name in ("tiny-vit-bert", "tiny-resnet"):
        with pytest.raises(ValueError, match=r"not executed.*torch\.save"):
            _build(name, path)
    assert not written.exists()


@pytest.mark.parametrize("archived", [False, True], ids=["pickle", "torchscript"])
def test_pickles_that_create_other_objects_are_rejected(tmp_path, archived):
    path, written = tmp_path / "weights.pt", tmp_path / "written"
    content = pickle.dumps(Opened(written), protocol=2)
    if archived:
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("constants", "data"):
                archive.writestr(f"archive/{name}.pkl", content)
    else:
        torch.save({"state_dict": STATE, "more": Opened(written)}, path)
    with pytest.raises(ValueError, match=r"io\.open.* is not created; expected tensors") as error:
        read_state(path)
    assert "weights_only" not in str(error.value)
    assert not written.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda pkl: pkl.replace(b"FloatStorage", b"LongStorage\n"[:-1] + b" "),
        lambda pkl: pkl[: len(pkl) // 2],
        lambda pkl: pkl.replace(b"K\x04", b"K\x7f"),
    ],
    ids=["unknown storage", "cut", "longer than its storage"],
)
def test_damaged_torchscript_is_an_error(tmp_path, change):
    path, damaged = tmp_path / "archive.pt", tmp_path / "damaged.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            target.writestr(entry, change(content) if entry.endswith("/data.pkl") else content)
    with pytest.raises(ValueError, match=r"cannot read .*damaged\.pt as a weights file"):
        read_state(damaged)


METADATA: dict[str, Any] = {
    "epoch": 60,
    "rank1": np.float64(0.91),
    "scores": np.ones(3),
    "arguments": argparse.Namespace(root=Path("data")),
    "optimizer": {"state": {}, "param_groups": []},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, **METADATA},
        {"model": STATE, "iteration": 9},
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        {f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()},
        {"state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()}},
    ],
    ids=["plain", "torchreid", "fastreid", "parallel", "compiled", "lightning"],
)
def test_training_checkpoints_are_unwrapped(tmp_path, content, legacy):
    path = tmp_path / "model.pth.tar-60"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    state = read_state(path)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_a_prefix_of_some_names_is_kept(tmp_path):
    torch.save({"model.a": torch.ones(1), "b": torch.ones(1)}, path := tmp_path / "some.pt")
    assert list(read_state(path)) == ["model.a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pt", b"<!DOCTYPE html><html>Quota exceeded</html>", "got a web page"),
        ("page.safetensors", b"\n <html>", "got a web page"),
        ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("empty.pth", b"", "got an empty file; download it again"),
        ("named.safetensors", STATE, "rename the file to .pth"),
        ("long.safetensors", struct.pack("<Q", 2**62) + b"{}", "damaged or incomplete"),
        ("list.pt", [torch.zeros(3)], "got a list"),
        ("tensor.pt", torch.zeros(3), "got a Tensor"),
        ("numbers.pt", {1: torch.zeros(3)}, "got the key 1"),
        ("text.pt", {"state_dict": {"visual.proj": "text"}}, "got a str under 'visual.proj'"),
        ("none.pt", {}, "got no tensors"),
        ("model.pt", nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear.*state_dict"),
    ],
)
def test_other_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"backbone\.weights: .*{name}.*{message}") as error:
        read_state(path)
    assert "\n" not in str(error.value)
    assert not re.search("weights_only|add_safe_globals|trust", str(error.value))


def test_an_incomplete_file_is_named(tmp_path):
    torch.save(STATE, path := tmp_path / "cut.pt")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.pt .*damaged or incomplete.*download it again"):
        read_state(path)


def test_short_safetensors_headers_are_not_taken_for_pickles(tmp_path):
    for length in range(1, 700):
        save_file({"x" * length: torch.ones(1)}, path := tmp_path / "file.safetensors")
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert len(read_state(path)) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("model.pth.tar-60", "CAPITAL.PTH", "last.ckpt", "a.safetensors", "x.bin", "model.pt"),
        *("folder/openai", "/openai"),
    ],
)
def test_file_names(name):
    assert is_weights_file(name)


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b88k", "warm", "a.patch", "v1.5"])
def test_tags(tag):
    assert not is_weights_file(tag)


def test_the_classifier_of_torchreid_is_ignored(tmp_path):
    config = BackboneConfig(name="tiny-resnet", weights="random")
    state = build_resnet(config, seed=1).image.visual.state_dict()
    state |= {"classifier.weight": torch.ones(9, 128), "classifier.bias": torch.ones(9)}
    torch.save({"state_dict": state}, path := tmp_path / "model.pth.tar-60")
    loaded = _build("tiny-resnet", path)
    assert torch.equal(loaded.image.visual.conv1.weight, state["conv1.weight"])


def test_nothing_else_unpickles_or_executes_files():
    calls = re.compile(
        r"torch\.jit\.load\(|pickle\.loads?\(|allow_pickle=True|joblib\.|yaml\.load\("
    )
    files = [path for name in ("models", "runner", "tasks") for path in (ROOT / name).rglob("*.py")]
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    # The command in a message of torchscript.py is a text; script_graph.py is used to check a file
    # directly after it is written.
    found = {path.name for path, text in sources.items() if calls.search(text)}
    assert found == {"script_graph.py", "torchscript.py"}
    for path, text in sources.items():
        for call in re.findall(r"torch\.load\(.*", text):
            assert "weights_only=True" in call, path


def _build(name: str, path: Path) -> Any:
    return build_backbone(BackboneConfig(name=name, weights=str(path)), seed=0)
