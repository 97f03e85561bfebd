"""The table `vladr-controls`: settings of its rows, and resuming of controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runner import experiment
from runner.ablation.cells import plan_cells
from runner.ablation.table_file import load_table
from runner.config.run_config import RunConfig, flatten
from runner.experiment import RunResult, run_experiment
from runner.training.checkpoints import Checkpoint, CheckpointStore

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]

CONTROLS = ("permuted_identities", "permuted_captions")


class PowerCutError(Exception):
    """Simulated end of a process."""


def test_rows_change_only_the_control() -> None:
    _, table = load_table("vladr-controls")
    rows = {cell.row: flatten(cell.config) for cell in plan_cells(table, [0])}
    right = rows["right"]

    def changed(row: str) -> dict[str, Any]:
        return {key: value for key, value in rows[row].items() if right.get(key) != value}

    assert changed("permuted-identities") == {"learner.control": "permuted_identities"}
    assert changed("permuted-captions") == {"learner.control": "permuted_captions"}
    random = changed("random-backbone")
    assert random.pop("preset") == "demo-zero_shot"
    assert random == {"learner.name": "zero_shot", "backbone.weights": "random"}


def test_the_reference_is_a_run_of_the_ablation_table() -> None:
    whole, ablation = (
        {cell.row: cell.config.run_name for cell in plan_cells(load_table(name)[1], [0])}
        for name in ("vladr-controls", "vladr-ablation")
    )
    assert whole["right"] == ablation["ida-prototype-relation"]
    assert len(set(whole.values())) == 4


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    """Run without a control."""
    return run_experiment(tiny_config(tmp_path_factory.mktemp("right"), "vladr"))


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_the_same_after_resuming(
    control: str,
    right: RunResult,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)
    setting = f"learner.control={control}"
    whole = run_experiment(tiny_config(tmp_path / "whole", "vladr", setting))
    assert whole.folder.name != right.folder.name, "the control is in the run's hash"
    save, calls = CheckpointStore.save, count(1)

    def save_and_die(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        save(self, checkpoint)
        # Once between assigning captions and prompts, and once in the image stage.
        if next(calls) in (2, 4):
            raise PowerCutError

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    config = tiny_config(tmp_path / "pieces", "vladr", setting)
    for _ in range(2):
        with pytest.raises(PowerCutError):
            run_experiment(config)
    pieces = run_experiment(config)
    assert numbers_of(pieces.results) == numbers_of(whole.results)
    last = "checkpoints/after-02-station.safetensors"
    of_whole, of_pieces, of_right = (load_file(run.folder / last) for run in (whole, pieces, right))
    assert all(torch.equal(of_whole[path], tensor) for path, tensor in of_pieces.items())
    path = "textual.entry_ids" if control == "permuted_captions" else "textual.identity_features"
    assert of_whole[path].shape == of_right[path].shape
    assert not torch.equal(of_whole[path], of_right[path])
