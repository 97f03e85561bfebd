"""Plans of sweeps: defaults, invalid options, resuming, and allocation of resources."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.commands import sweep
from runner.config.run_config import RunConfig, load_config
from runner.experiment import read_benchmark
from runner.sweep.objectives import parse_objectives
from runner.sweep.plan import SweepPlan, check_objectives, make_plan
from runner.sweep.resources import Allocation, allocate
from runner.sweep.samplers import check_sampler
from runner.sweep.settings import SPACE_FILE, write_settings
from tasks.schema import Split

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., SweepPlan]:
    """The plan of `sweep smoke` with these arguments, in the test's folder."""
    parser = argparse.ArgumentParser()
    sweep.add_arguments(parser)

    def make(*given: str) -> SweepPlan:
        options, overrides = parser.parse_known_args(["smoke", "--sweeps", str(tmp_path), *given])
        options.overrides = overrides
        return make_plan(options)

    return make


def test_defaults(plan: Callable[..., SweepPlan], tmp_path: Path) -> None:
    made = plan()
    assert made.folder == tmp_path / "smoke-demo-sweep"
    settings = made.settings
    assert (settings.sampler, settings.scheduler, settings.objective) == ("tpe", "asha", "seen_mAP")
    assert (settings.num_trials, settings.concurrent, settings.seeds) == (12, 0, (0,))
    assert plan("--objective", "seen_mAP,forgetting_mAP").settings.scheduler == "none"
    config = made.trial_config
    assert config.cluster.num_workers == 0, "a trial computes in its own process"
    assert not config.checkpoints.keep_domains
    assert made.config.checkpoints.keep_domains, "the best preset is an ordinary one"
    assert plan("cluster.num_workers=2").trial_config.cluster.num_workers == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--trials", "0"], "--trials: expected at least 1, got 0"),
        (["--concurrent", "-1"], "--concurrent: expected at least 1"),
        (["--grace", "0"], "--grace: expected at least 1"),
        (["--sampler-seed", "-1"], "--sampler-seed: expected at least 0, got -1"),
        (["--sampler", "bayes"], "--sampler: expected one of tpe, random, gp, nsga2; got 'bayes'"),
        (["--scheduler", "hyperband"], "--scheduler: expected one of asha, median, none"),
        (["--objective", "seen_map"], "did you mean seen_mAP"),
        (
            ["--objective", "seen_mAP,unseen_mAP", "--scheduler", "asha"],
            "--scheduler asha: expected one objective, got 2",
        ),
        (["--seeds", "0,x"], "--seeds: expected integers"),
        (["--seeds", "1,1"], "--seeds: expected different numbers"),
        (["--name", "../elsewhere"], "--name: expected only letters"),
        (["--preset", "nothing"], "--preset: expected a file or one of"),
        (["storage.root=/x"], "set --sweeps and --name"),
        (["run.name=x"], "set the sweep's name with --name"),
        (["seed=3"], "--seeds"),
        (["learner.losses.prototype_relation.weight=3"], "searched and overridden"),
        (["learner.num_attribute=3"], "learner.num_attributes"),
    ],
)
def test_invalid_options_raise(
    plan: Callable[..., SweepPlan], given: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(*given)


def test_resuming_with_other_options_names_both(plan: Callable[..., SweepPlan]) -> None:
    with pytest.raises(FileNotFoundError, match="omit --resume to start a sweep"):
        plan("--resume")
    begun = plan("--seeds", "0,1", "--sampler", "random")
    begun.folder.mkdir(parents=True)
    write_settings(begun.folder, begun.settings)
    for given, message in (
        (("--seeds", "0"), "started with --seeds 0,1, got --seeds 0"),
        (("--sampler", "tpe"), "started with --sampler random, got --sampler tpe"),
        (("--no-default",), "started with the default trial, got --no-default"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            plan("--resume", *given)


def test_the_same_command_resumes_a_sweep(plan: Callable[..., SweepPlan]) -> None:
    with pytest.raises(FileNotFoundError, match=r"sweep\.json"):
        plan("--resume")
    first = plan("--seeds", "1,2", "--trials", "4", "tracking.uri=null")
    first.folder.mkdir()
    write_settings(first.folder, first.settings)
    (first.folder / SPACE_FILE).write_text(first.space_text)
    again = plan("--seeds", "1,2", "--trials", "4", "tracking.uri=null")
    assert again.resumed, "the same command resumes"
    assert again.settings == first.settings
    with pytest.raises(ValueError, match="--trials 4, got --trials 12; resume it"):
        plan("--seeds", "1,2", "tracking.uri=null")
    with pytest.raises(ValueError, match="no --study, got --study sqlite:////x"):
        plan("--seeds", "1,2", "--trials", "4", "--study", "sqlite:////x", "tracking.uri=null")
    assert plan("--resume").settings == first.settings
    same = plan("--resume", "--seeds", "1,2", "--trials", "4", "tracking.uri=null")
    assert same.settings == first.settings
    longer = plan("--resume", "--trials", "9", "--concurrent", "1").settings
    assert longer == replace(first.settings, num_trials=9, concurrent=1)
    for other in (["--seeds", "1"], ["--sampler", "gp"], ["learner.num_attributes=2"]):
        with pytest.raises(ValueError, match="the sweep was started with"):
            plan("--resume", *other)


def test_a_changed_search_space_is_refused_with_what_differs(
    plan: Callable[..., SweepPlan],
) -> None:
    first = plan("--trials", "4", "tracking.uri=null")
    first.folder.mkdir()
    write_settings(first.folder, first.settings)
    stored = first.folder / SPACE_FILE
    for text in ("# another comment\n" + first.space_text, first.space_text.rstrip()):
        stored.write_text(text)
        assert plan("--resume").settings == first.settings, "comments and layout may change"
    entries = yaml.safe_load(first.space_text)
    moved = [key for key in entries if key != "preset" and "when" not in entries[key]][-1]
    stored.write_text(yaml.safe_dump({moved: entries.pop(moved), **entries}, sort_keys=False))
    with pytest.raises(ValueError, match=r"differs from the one .* another order"):
        plan("--resume")
    stored.write_text(first.space_text.rstrip() + "\nseed: {type: int, low: 0, high: 9}\n")
    with pytest.raises(ValueError, match=r"line \d+ was 'seed: .*', got absent; give .*--name"):
        plan("--resume")


def test_the_storage_of_a_study_is_stored_without_password(plan: Callable[..., SweepPlan]) -> None:
    urls = {"sqlite:////x/study.db": True, "postgresql://me:secret@host/study": False}
    for url, is_open in urls.items():
        first = plan("--name", f"s{len(url)}", "--study", url)
        first.folder.mkdir()
        write_settings(first.folder, first.settings)
        if is_open:
            assert plan("--name", f"s{len(url)}", "--resume").settings.storage == url
        else:
            with pytest.raises(ValueError, match="whose password is not stored"):
                plan("--name", f"s{len(url)}", "--resume")
            for resume in (["--resume"], []):
                again = plan("--name", f"s{len(url)}", *resume, "--study", url)
                assert again.settings.storage == url


def test_passwords_in_overrides_are_not_stored(plan: Callable[..., SweepPlan]) -> None:
    uri = "tracking.uri=http://me:secret@127.0.0.1:9"
    first = plan(uri)
    first.folder.mkdir()
    write_settings(first.folder, first.settings)
    assert "secret" not in (first.folder / "sweep.json").read_text()
    for resume in (["--resume"], []):
        assert plan(*resume, uri).settings.overrides == (uri,)
    with pytest.raises(ValueError, match=r"the password of http://me:\*\*\*@127.* is not stored"):
        plan("--resume").config.tracking.usable_uri()
    with pytest.raises(ValueError, match="the sweep was started with") as error:
        plan("--resume", uri, "learner.num_attributes=2")
    assert "secret" not in str(error.value)


def test_missing_libraries_of_gp_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sampler("gp")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install scipy torch"):
        check_sampler("gp")
    check_sampler("tpe")


def test_objectives_without_validation_identities_raise(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    benchmark = read_benchmark(tiny_config(tmp_path))
    every = parse_objectives("seen_mAP,unseen_R1,forgetting_mAP,average_incremental_mAP")
    check_objectives(every, benchmark)

    def without_validation(domains: Any) -> Any:
        return tuple(replace(each, validation=Split((), ())) for each in domains)

    no_unseen = replace(benchmark, unseen=without_validation(benchmark.unseen))
    check_objectives(parse_objectives("seen_mAP"), no_unseen)
    no_seen = replace(benchmark, seen=without_validation(benchmark.seen))
    check_objectives(parse_objectives("unseen_mAP"), no_seen)
    one = replace(benchmark, seen=benchmark.seen[:1])
    cases = [
        (no_unseen, "unseen_mAP", "no unseen domain has any"),
        (replace(benchmark, unseen=()), "unseen_mAP", "there are none"),
        (no_seen, "seen_mAP", "has no validation identities"),
        (one, "forgetting_mAP", "at least 2 learned domains"),
        (benchmark.for_course("joint"), "backward_transfer_mAP", "at least 2 learned domains"),
    ]
    for invalid, name, message in cases:
        with pytest.raises(ValueError, match=message):
            check_objectives(parse_objectives(name), invalid)


# ---- resources


def config_of(*overrides: str) -> RunConfig:
    return load_config("demo-sweep", ["cluster.num_workers=0", *overrides])


TWO = [{"CPU": 2.0}]


@pytest.mark.parametrize(
    ("overrides", "nodes", "wanted", "expected"),
    [
        ([], TWO, None, Allocation(2)),
        ([], TWO, 1, Allocation(1)),
        ([], [{"CPU": 64.0}], None, Allocation(9)),  # limited by the number of trials
        (["cluster.threads_per_worker=2"], [{"CPU": 3.0}, {"CPU": 3.0}], None, Allocation(2)),
        (["cluster.use_gpu=true"], [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], None, Allocation(2)),
        (["cluster.num_workers=1"], TWO, None, Allocation(1, 1.0)),
        (["cluster.num_workers=1"], TWO, 2, Allocation(2, 0.25)),
        (["cluster.num_workers=2"], TWO, None, Allocation(1, 0.5)),
        (
            ["cluster.num_workers=2", "cluster.cpus_per_worker=1"],
            [{"CPU": 8.0}],
            None,
            Allocation(2, 1.0),
        ),
    ],
)
def test_allocation(
    overrides: list[str], nodes: list[dict[str, float]], wanted: int | None, expected: Allocation
) -> None:
    assert allocate(config_of(*overrides), nodes, wanted, 9) == expected


@pytest.mark.parametrize(
    ("overrides", "nodes", "wanted", "message"),
    [
        ([], TWO, 3, "at most --concurrent 2 fits"),
        (["cluster.threads_per_worker=4"], [{"CPU": 3.0}] * 2, None, "not even one trial fits"),
        (["cluster.use_gpu=true"], [{"CPU": 8.0}], None, "there are 8 CPUs and 0 GPUs"),
        (["cluster.num_workers=2"], TWO, 2, "2 workers of 0.25"),
    ],
)
def test_trials_that_do_not_fit_raise(
    overrides: list[str], nodes: list[dict[str, float]], wanted: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        allocate(config_of(*overrides), nodes, wanted, 9)
