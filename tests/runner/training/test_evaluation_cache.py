"""Runs with and without a cache of decoded test images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.config.run_config import RunConfig
from runner.experiment import read_benchmark, run_experiment

MakeConfig = Callable[..., RunConfig]


def test_the_cache_changes_neither_scores_nor_records(
    people: Path,
    tiny_config: MakeConfig,
    tmp_path: Path,
    no_figures: None,
    numbers_of: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    benchmark = read_benchmark(tiny_config(tmp_path, "finetune"))
    # A copy of the data, because one test image is damaged.
    data = tmp_path / "data"
    shutil.copytree(people, data)
    test = benchmark.seen[0].test.gallery[1].image_path
    (data / Path(test).relative_to(people)).write_bytes(b"damaged")

    def run(storage: str, share: float) -> tuple[dict[str, Any], list[Any], int]:
        overrides = f"benchmark.root={data}", f"data.evaluation_cache_share={share}"
        config = tiny_config(tmp_path / storage, "finetune", *overrides)
        result = run_experiment(config)
        file = result.folder / "quarantine.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        unreadable = result.results["num_unreadable_test_images"]
        return numbers_of(result.results), lines, unreadable

    off, on = run("off", 0.0), run("on", 0.2)
    assert on == off
    assert len(on[1]) == 1
    assert on[2]


def test_the_cache_does_not_change_the_name_of_a_run(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    names = {
        tiny_config(tmp_path, "finetune", f"data.evaluation_cache_share={share}").run_name
        for share in (0.0, 0.2)
    }
    assert len(names) == 1


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_the_range_is_refused(
    tiny_config: MakeConfig, tmp_path: Path, share: float
) -> None:
    with pytest.raises(ValueError, match=r"data\.evaluation_cache_share"):
        tiny_config(tmp_path, "finetune", f"data.evaluation_cache_share={share}")
