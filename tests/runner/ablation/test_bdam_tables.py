"""The tables of the decoupling paper: each is a ladder from one baseline, with printed numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from models.learners.bdam import Config
from runner.ablation.cells import plan_cells
from runner.ablation.table_file import TableConfig, load_table
from runner.config.run_config import RunConfig, flatten

MODULE, FUSION, LOSSES = TABLES = ("bdam-module", "bdam-fusion", "bdam-losses")
NOT_PRINTED = {
    MODULE: set[str](),
    FUSION: {"pooled"},
    LOSSES: {"without-info", "without-fused", "own-projection", "without-clothing", "gradnorm"},
}
CHANGED = {
    MODULE: {
        "without-cross-attention": {"decoupling.cross_attention"},
        "without-gate": {"decoupling.gate", "losses.gate.weight"},
        "shallow": {"decoupling.num_layers"},
        "full": {"fusion.mixer"},
    },
    FUSION: {
        "fusion": {"fusion.mixer"},
        "pooled": {"fusion.sequence"},
        "without-mamba": {"fusion.mixer"},
        "without-gate": {"fusion.with_gate"},
        "without-alignment": {"fusion.with_alignment"},
    },
    LOSSES: {
        "without-triplet": {"losses.triplet.weight"},
        "without-adversarial": {"losses.adversarial.weight"},
        "without-decouple": {"losses.decouple.weight"},
        "without-gate": {"losses.gate.weight"},
        "without-info": {"losses.info.weight"},
        "without-fused": {"losses.fused.weight"},
        "own-projection": {"losses.adversarial.projection"},
        "without-clothing": {"losses.clothing.weight"},
        "gradnorm": {"gradnorm.enabled"},
    },
}
"""Settings in which a row differs from its reference."""


@pytest.fixture(scope="module", params=[False, True], ids=["demo", "real"])
def runs(request: pytest.FixtureRequest) -> dict[str, dict[str, RunConfig]]:
    """Configurations by table and row."""
    return {
        name: {
            cell.row: cell.config for cell in plan_cells(table_of(name), [0], real=request.param)
        }
        for name in TABLES
    }


def table_of(name: str) -> TableConfig:
    return load_table(name)[1]


def learner_of(config: RunConfig) -> Config:
    assert isinstance(config.learner, Config)
    return config.learner


def without_full(rows: Mapping[str, RunConfig]) -> list[Config]:
    return [learner_of(config) for row, config in rows.items() if row != "full"]


def test_table_1_has_no_fusion_and_table_2_no_decoupling(
    runs: dict[str, dict[str, RunConfig]],
) -> None:
    assert not any(config.fuses for config in without_full(runs[MODULE]))
    for config in without_full(runs[FUSION]):
        assert not config.decoupling.enabled
        assert not config.reads_clothing
        assert config.balanced == ("info", "fused", "triplet")


def test_tables_share_the_baseline_and_the_full_model(
    runs: dict[str, dict[str, RunConfig]],
) -> None:
    assert runs[MODULE]["without-bdam"].hash == runs[FUSION]["without-fusion"].hash
    assert len({runs[name]["full"].hash for name in TABLES}) == 1


@pytest.mark.parametrize("name", TABLES)
def test_a_row_differs_from_its_reference_in_what_its_label_says(
    runs: dict[str, dict[str, RunConfig]], name: str
) -> None:
    table = table_of(name)
    for row, expected in CHANGED[name].items():
        reference = table.reference_of(row)
        assert reference is not None
        values, others = (flatten(runs[name][each]) for each in (row, reference))
        changed = {key for key in values if values[key] != others[key]}
        assert changed == {f"learner.{key}" for key in expected}, row


def test_without_infonce_no_term_reads_captions(runs: dict[str, dict[str, RunConfig]]) -> None:
    config = learner_of(runs[LOSSES]["without-infonce"])
    assert config.embeds_clothing
    assert config.balanced == ("triplet", "adversarial", "clothing", "decouple", "gate")


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_the_paper_carry_its_numbers(name: str) -> None:
    table = table_of(name)
    assert table.published is not None
    printed = table.published.rows
    assert set(printed) == set(table.rows) - NOT_PRINTED[name]
    for scores in printed.values():
        assert set(scores) == {"seen_mAP", "seen_R1", "seen_R5", "seen_R10"}
        assert scores["seen_mAP"] < scores["seen_R1"] < scores["seen_R5"] < scores["seen_R10"]


def test_equal_runs_carry_equal_numbers(runs: dict[str, dict[str, RunConfig]]) -> None:
    scores: dict[str, Mapping[str, float]] = {}
    for name in TABLES:
        published = table_of(name).published
        assert published is not None
        for row, values in published.rows.items():
            printed = {str(score): value for score, value in values.items()}
            assert scores.setdefault(runs[name][row].hash, printed) == printed, (name, row)
    assert len(scores) == 6 + 6 + 6 - 3
