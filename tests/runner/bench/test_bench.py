"""Benchmarks: statistics, reading of runs, compared steps, the JSON file."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from models.learner import StepResult
from runner.bench import __main__ as bench
from runner.bench import ranking, views
from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.timed_runs import Gap, gaps, run_command, steady_images_per_s
from runner.bench.tracking import free_port
from runner.bench.training_step import (
    OUR_PASSES,
    REFERENCE_PASSES,
    build_steps,
    check_agreement,
    described_domain,
)
from runner.bench.workbench import Sizes, Workbench
from runner.config.run_config import load_config
from runner.profiling.interleave import interleaved

# ---- statistics


@given(st.lists(st.tuples(*[st.floats(0.01, 100)] * 2), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_ratios_are_computed_per_repeat(pairs):
    above = Measurement("a", "s", tuple(pair[0] for pair in pairs))
    below = Measurement("b", "s", tuple(pair[1] for pair in pairs))
    result = ratio("a / b", above, below)
    assert result.values == tuple(a / b for a, b in pairs)
    assert sum(value <= result.median for value in result.values) >= len(pairs) / 2
    assert sum(value >= result.median for value in result.values) >= len(pairs) / 2


def test_a_slowdown_of_the_machine_does_not_change_ratios():
    slowing = (1.0, 2.0, 4.0)
    ours = Measurement("ours", "s", slowing)
    reference = Measurement("reference", "s", tuple(3 * value for value in slowing))
    assert ratio("reference / ours", reference, ours).values == (3.0, 3.0, 3.0)


def test_a_ratio_requires_equal_numbers_of_values():
    with pytest.raises(ValueError, match="shorter"):
        ratio("a / b", Measurement("a", "s", (1.0, 2.0)), Measurement("b", "s", (1.0,)))


def test_variants_are_interleaved():
    calls: list[str] = []

    def variant(name: str) -> int:
        calls.append(name)
        return len(calls)

    result = interleaved({"A": lambda: variant("A"), "B": lambda: variant("B")}, 3)
    assert calls == ["A", "B"] * 3
    assert result == {"A": [1, 3, 5], "B": [2, 4, 6]}


def test_targets():
    assert Target(">=", 0.95).met(0.95)
    assert not Target(">=", 0.95).met(0.94)
    assert Target("<=", 1.0).met(1.0)
    assert not Target("<=", 1.0).met(1.1)
    assert Measurement("a", "s", (3.0, 1.0, 1.1), Target("<=", 1.0)).met is False
    assert Measurement("a", "s", (1.0,)).met is None


# ---- the file and the table


def example_result() -> BenchResult:
    speeds = BenchResult((Measurement("loop.ray", "images/s", (90.0, 110.0, 95.0)),))
    shares = BenchResult(
        (), (Measurement("loop.ray / in_process", "x", (0.9, 1.0), Target(">=", 0.95)),)
    )
    return speeds + shares


def test_the_json_file_holds_medians_values_ratios_and_the_machine():
    result = json.loads(json.dumps(bench.report(example_result(), bench.machine())))
    machine = result.pop("machine")
    assert result == {
        "loop.ray": {"median": 95.0, "values": [90.0, 110.0, 95.0], "unit": "images/s"},
        "ratios": {
            "loop.ray / in_process": {
                "median": 0.95,
                "values": [0.9, 1.0],
                "unit": "x",
                "aim": ">= 0.95",
                "met": True,
            }
        },
    }
    assert machine["cpus"] >= 1
    assert torch.__version__.startswith(machine["torch"].partition("+")[0])


def test_the_table_shows_medians_and_targets():
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(bench.table(example_result()))
    shown = console.export_text()
    assert "loop.ray / in_process" in shown
    assert ">= 0.95 met" in shown
    assert "90 - 110" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "lop"], "invalid choice: 'lop'"),
        (["--repeats", "0"], "expected at least 1, got 0"),
    ],
)
def test_invalid_options_are_rejected(arguments, message, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert message in capsys.readouterr().err


# ---- reading a run


def event(kind: str, time: float, domain: int, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "time": time, "domain_index": domain, **fields}


def iterations(domain: int, stage: str, ends: list[tuple[int, float]]) -> list[dict[str, Any]]:
    return [event("iteration", end, domain, stage=stage, epoch=epoch) for epoch, end in ends]


def test_the_steady_state_excludes_the_first_epoch_of_each_domain():
    events = [
        *iterations(0, "mtad-identity", [(0, 1.0), (1, 50.0)]),
        # Two iterations an epoch, written at its end; the first epoch is slow.
        *iterations(0, "icar", [(0, 100.0), (0, 100.0), (1, 102.0), (1, 102.0), (2, 104.0)]),
        *iterations(1, "icar", [(0, 200.0), (1, 202.0)]),
    ]
    # 3 iterations in 4 s, then 1 in 2 s.
    assert steady_images_per_s(events, "icar", 64) == pytest.approx(4 * 64 / 6)


def test_the_steady_state_requires_two_epochs():
    with pytest.raises(ValueError, match="stage icar: expected at least two epochs"):
        steady_images_per_s(iterations(0, "icar", [(0, 1.0), (0, 2.0)]), "icar", 64)


def test_gaps_between_domains():
    events = [
        event("stage", 5.0, 0),
        event("domain_finished", 20.0, 0, timings={"waiting": 9.0}),
        event("stage", 23.0, 1),
        event("stage", 30.0, 1),
        event("domain_finished", 40.0, 1, timings={"waiting": 0.5}),
    ]
    assert gaps(events) == [Gap(waiting=0.5, begin_domain=2.5)]


def test_a_failed_command_raises_with_its_output(tmp_path):
    with pytest.raises(RuntimeError, match=r"status 2:(.|\n)*expected a file or one of"):
        run_command("no-such-preset", [], tmp_path)


def test_configuration_of_the_small_runs(tmp_path):
    workbench = Workbench(tmp_path, repeats=1, sizes=Sizes())
    vladr = workbench.config("vladr")
    assert vladr.benchmark.synthetic.num_seen_domains == 2
    assert vladr.cluster.threads_per_worker == load_config("demo").cluster.threads_per_worker
    assert Path(vladr.benchmark.root).is_relative_to(tmp_path)
    assert workbench.config("finetune", "seed=3").seed == 3


# ---- the compared steps


def test_both_steps_train_the_same_losses():
    """Building them compares their losses on one batch, and raises where they differ."""
    steps = build_steps("tiny-clip", 64)
    assert set(steps) == {"ours", "reference"}
    rest = {"heads_and_losses", "backward", "optimizer", "total"}
    passes = {"ours": set(OUR_PASSES), "reference": set(REFERENCE_PASSES)}
    for name, step in steps.items():
        for _ in range(2):
            seconds = step()
            assert seconds.keys() == passes[name] | {"old_model"} | rest
            total = seconds.pop("total")
            assert min(seconds.values()) > 0
            assert sum(seconds.values()) == pytest.approx(total)


def test_views_are_measured_beside_torchvision(tmp_path):
    result = views.measure(Workbench(tmp_path, repeats=1, sizes=Sizes.quick())).to_json()
    assert all(len(each["values"]) == 3 for name, each in result.items() if name != "ratios")
    ratios = result["ratios"]
    assert set(ratios) == {
        "views.weak.ours / torchvision",
        "views.strong.ours / torchvision",
        "views.both.2_threads / 1_thread",
    }
    assert all(value > 0 for each in ratios.values() for value in each["values"])


def test_different_loss_terms_are_an_error():
    names = ("identity", "triplet", "image_text", "cma", "affinity")
    terms = {name: torch.tensor(1.0) for name in names}
    weights = dict.fromkeys(names, 1.0)
    one = StepResult.of(terms, weights)
    other = StepResult.of(terms | {"cma": torch.tensor(1.01)}, weights)
    check_agreement(one, one)
    with pytest.raises(RuntimeError, match=r"equal loss terms.*\{'cma'"):
        check_agreement(one, other)


def test_the_step_uses_part_descriptions():
    domain = described_domain(1, images_per_person=4)
    assert len(domain.train) == 16
    assert domain.num_persons == 4
    assert all(len(record.parts) == 4 for record in domain.train)
    assert domain == described_domain(1, images_per_person=4)


# ---- real ones


def test_the_free_port_is_unused():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


def test_both_evaluators_agree():
    split = ranking.random_split(ranking.SCALES[0].divided(20))
    assert ranking.rank_ours(split) == pytest.approx(ranking.rank_by_argsort(split), abs=1e-6)
    assert 0 < ranking.rank_ours(split.first(3)) < 1


@pytest.mark.slow
def test_ranking_at_a_small_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "SCALES", ranking.SCALES[1:])
    sizes = Sizes(ranking_divisor=300)
    result = ranking.measure(Workbench(tmp_path, repeats=1, sizes=sizes))
    names = [each.name for each in result.measurements]
    assert names == [
        f"ranking.msmt17.{name}" for name in ("ours", "ours.memory", "argsort", "argsort.memory")
    ]
    assert set(ranking.TARGETS) < set(names)
    assert all(each.median > 0 for each in result.measurements if each.unit == "ms/query")
    assert [each.name for each in result.ratios] == ["ranking.msmt17.argsort / ours"]


def test_a_failed_ranking_raises_with_its_output():
    with pytest.raises(RuntimeError, match=r"ranking with no-such(.|\n)*KeyError"):
        ranking.rank_in_subprocess("no-such", ranking.SCALES[0].divided(1000))


def test_the_command_writes_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ranking, "measure", lambda _: example_result())
    output = tmp_path / "bench.json"
    assert bench.main(["--only", "ranking", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["loop.ray"]["median"] == 95.0
    assert "loop.ray" in capsys.readouterr().out
