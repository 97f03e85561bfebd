"""Cost of fusion modules: FLOPs, memory, and the ablation table."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from models.heads.fusion import Fusion, FusionConfig, Modality
from runner.ablation import costs
from runner.ablation.cells import plan_cells
from runner.ablation.costs import costs_of
from runner.ablation.efficiency_plot import Axis, draw_efficiency, efficiency_axes
from runner.ablation.plot import draw_costs
from runner.ablation.summary import Row, TableSummary, summarise
from runner.ablation.table_file import load_table
from runner.ablation.view import show, to_csv, to_json, to_markdown
from runner.config.run_config import load_config
from runner.profiling.fusion_cost import (
    SCAN_OPERATIONS,
    FusionCost,
    TensorMemory,
    fusion_flops,
    measure_costs,
)
from runner.results.finished_runs import Estimate
from runner.results.published import load_published

IMAGES, PATCHES, WORDS, WIDTH, DIM = 3, 5, 4, 12, 8


def flops(**settings: object) -> int:
    """FLOPs of a small fusion on three images of five patches with descriptions of four words."""
    values = {"dim": DIM, "num_heads": 2, "mlp_ratio": 2, "dropout": 0} | settings
    config = FusionConfig.model_validate(values)
    fusion = Fusion(config, WIDTH, WIDTH, WIDTH, torch.Generator().manual_seed(0)).eval()
    image, text = (
        Modality(torch.randn(IMAGES, WIDTH), torch.randn(IMAGES, length, WIDTH))
        for length in (PATCHES, WORDS)
    )
    return fusion_flops(fusion, (image, text))


def products(positions: int, *sizes: tuple[int, int]) -> int:
    """FLOPs of linear layers of these sizes: two per weight, position and image."""
    return 2 * IMAGES * positions * sum(one * other for one, other in sizes)


ALIGNMENT = ((WIDTH, DIM), (DIM, DIM))
ENDS = products(1, (2 * DIM, 2), (DIM, WIDTH))  # gate and projection
LENGTH = PATCHES + WORDS


def test_flops_of_the_simple_mixer() -> None:
    expected = products(2, *ALIGNMENT) + ENDS + products(1, (DIM, 2 * DIM), (2 * DIM, DIM))
    assert flops(mixer="simple") == expected


def test_flops_of_the_transformer_mixer() -> None:
    weights = [(DIM, DIM)] * 4 + [(DIM, 2 * DIM), (2 * DIM, DIM)]
    attention = 2 * (2 * IMAGES * LENGTH * LENGTH * DIM)
    aligned = products(2 + LENGTH, *ALIGNMENT)
    expected = aligned + ENDS + 3 * (products(LENGTH, *weights) + attention)
    assert flops(mixer="transformer", num_transformer_layers=3) == expected


@pytest.mark.parametrize("sequence", ["tokens", "pooled"])
def test_flops_of_the_mamba_mixer(sequence: str) -> None:
    inner, states, rank, conv = 2 * DIM, 4, 1, 3
    length = LENGTH if sequence == "tokens" else 1
    weights = [(DIM, 2 * inner), (inner, rank + 2 * states), (rank, inner), (inner, DIM)]
    weights += [(conv, inner)]
    scan = SCAN_OPERATIONS * IMAGES * length * inner * states
    aligned = products(2 + (LENGTH if sequence == "tokens" else 0), *ALIGNMENT)
    expected = aligned + ENDS + 2 * (products(length, *weights) + scan)
    found = flops(
        mixer="mamba", sequence=sequence, num_layers=2, state_size=states, conv_width=conv
    )
    assert found == expected


def test_tensor_memory_counts_live_storages() -> None:
    start = torch.ones(1000)
    with TensorMemory() as memory:
        first = start + 1
        assert memory.current_bytes == 4000
        view = first.view(10, 100)[2:]
        first += 1
        assert memory.current_bytes == 4000, "views and in-place operations allocate no memory"
        second = view * 2
        assert memory.current_bytes == 4000 + 4 * 800
        del first, view
        assert memory.current_bytes == 4 * 800
        del second
        total = torch.ones(3000).sum()
        del total
    assert (memory.current_bytes, memory.peak_bytes) == (0, 12004)


def test_without_fusion_only_the_towers_cost() -> None:
    mixers = {"mixed": "learner.fusion.mixer=simple", "off": "learner.losses.fused.weight=0"}
    given = {
        name: load_config("demo-t2i", ["backbone.weights=random", each])
        for name, each in mixers.items()
    }
    found = measure_costs(given, 2)
    assert found["off"].num_parameters == found["off"].flops == 0
    assert 0 < found["off"].image_flops < found["mixed"].image_flops
    assert found["mixed"].flops < found["mixed"].image_flops
    assert found["mixed"].memory_bytes > 4 * 32 * 3 * 64 * 32 / 2
    assert all(len(each.image_ms) == 2 and min(each.image_ms) > 0 for each in found.values())
    assert min(found["mixed"].fusion_ms) > 0 == found["off"].fusion_ms[0]
    with pytest.raises(ValueError, match="expected bdam, got finetune"):
        measure_costs({"other": load_config("demo-finetune", ["backbone.weights=random"])}, 1)


# ---- in a table

COSTS = {
    name: FusionCost(size, 100.0 * size, 1e7 + size, (0.1, 0.2), (ms, 2 * ms), 4096)
    for name, size, ms in (
        ("none", 100, 1.0), ("simple", 2000, 2.0), ("transformer", 30000, 3.0), ("mamba", 4000, 9.0)
    )
}  # fmt: skip


@pytest.fixture
def summary() -> TableSummary:
    _, table = load_table("bdam-efficiency")
    empty = summarise("bdam-efficiency", table, [0], [], {}, load_published())
    return replace(empty, costs=COSTS)


def test_the_ablation_table_contains_costs(summary: TableSummary) -> None:
    assert summary.table.measures == "fusion"
    console = Console(file=io.StringIO(), width=80)
    show(console, summary)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    (at,) = [number for number, line in enumerate(lines) if "30 k" in line]
    assert lines[at].split() == ["transformer", "30", "k", "3", "M", "10", "M", "4.5", "3.00",
                                 "4.1", "kB", "·"]  # fmt: skip
    assert lines[at + 1].split() == ["3-6"]
    assert "What fusion costs:" in to_markdown(summary)
    rows = {each["row"]: each for each in csv.DictReader(io.StringIO(to_csv(summary)))}
    assert float(rows["mamba"]["image_ms"]) == 13.5
    rows = {each["name"]: each for each in to_json(summary)["rows"]}
    assert rows["simple"]["costs"]["num_parameters"] == 2000
    assert len(draw_costs(summary).axes) == 1


@given(
    st.lists(st.none() | st.floats(0, 1e12), min_size=1, max_size=6),
    st.booleans(),
)
def test_normalised_axes_run_from_the_worst_to_the_best_row(
    values: list[float | None], is_cost: bool
) -> None:
    axis = Axis("x", tuple(values), ("",) * len(values), is_cost)
    shares = axis.normalised
    assert [share is None for share in shares] == [value is None for value in values]
    known = [
        (value, share) for value, share in zip(values, shares, strict=True) if share is not None
    ]
    assert all(0 <= share <= 1 for _, share in known)
    for value, share in known:
        for other, other_share in known:
            if value is not None and other is not None and value < other:
                assert share >= other_share if is_cost else share <= other_share
    if known:
        best = (min if is_cost else max)(value for value, _ in known if value is not None)
        assert all(share == 1 for value, share in known if value == best)
    if len({value for value, _ in known}) > 1:
        assert min(share for _, share in known) == 0


def test_efficiency_is_drawn_on_normalised_axes(
    summary: TableSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings = [axis.heading.split("\n")[0] for axis in efficiency_axes(summary)]
    assert headings == ["R1 (%)", "parameters", "FLOPs", "ms", "memory (B)"]
    # Without a finished run there is no accuracy; the costs are still drawn.
    assert efficiency_axes(summary)[0].normalised == (None,) * 4
    (axes,) = draw_efficiency(summary).axes
    assert len([line for line in axes.lines if np.size(line.get_xdata()) == 4]) == 4
    accuracy = dict(zip(COSTS, (40.0, 42.0, 44.0, 41.0), strict=True))
    monkeypatch.setattr(Row, "estimate", lambda row, _: Estimate(accuracy[row.name], 0.5))
    (axes,) = draw_efficiency(summary).axes
    heights = [
        np.asarray(line.get_ydata()).tolist()
        for line in axes.lines
        if np.size(line.get_xdata()) == 5
    ]
    assert [line[0] for line in heights] == [0, 0.5, 1, 0.25]
    assert [line[3] for line in heights] == [1, pytest.approx(0.875), 0.75, 0]
    assert [line[4] for line in heights] == [1, 1, 1, 1]  # equal memory
    texts = [text.get_text() for text in axes.texts]
    assert {"transformer", "44.0 ± 0.5", "30 k", "3 M", "4.5", "4.1 k"} <= set(texts)


def test_costs_are_measured_again_only_for_changed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = load_table("bdam-efficiency")
    cells = plan_cells(table, [3, 4])
    measured_names: list[list[str]] = []

    def measured(configs: dict[str, object], repeats: int) -> dict[str, FusionCost]:
        measured_names.append(list(configs))
        return COSTS

    monkeypatch.setattr(costs, "measure_costs", measured)
    assert costs_of(tmp_path / "table", cells, measure=False) == {}
    assert costs_of(tmp_path / "table", cells, measure=True) == COSTS
    assert costs_of(tmp_path / "table", plan_cells(table, [0]), measure=True) == COSTS
    assert measured_names == [list(COSTS)]
    assert len(json.loads((tmp_path / "table" / "costs.json").read_text())["config_hashes"]) == 4
    costs_of(tmp_path / "table", plan_cells(table, [0], ["learner.fusion.dim=16"]), measure=True)
    assert len(measured_names) == 2
