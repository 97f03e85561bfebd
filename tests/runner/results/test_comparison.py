"""Comparison of finished runs: groups, comparable scores, order of the output."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runner import lifelong
from runner.config.run_config import load_config, to_yaml
from runner.results.comparison import Comparison, compare_runs
from runner.results.comparison_view import show_comparison, shown_metrics
from runner.results.finished_runs import Column, read_finished
from runner.results.published import PublishedResults, load_published
from runner.results.run_folder import RunStorage
from tasks.benchmarks import BenchmarkConfig, load_benchmark, seen_and_unseen
from tasks.retrieval.metrics import METRICS, ResultMatrix

NOTHING = PublishedResults(sources={}, remarks={}, rows=())
TINY = {
    "num_seen_domains": 2,
    "num_unseen_domains": 1,
    "num_train_identities": 7,
    "num_unseen_validation_identities": 3,
    "num_test_identities": 3,
    "num_cameras": 2,
    "height": 16,
    "width": 8,
    "supersampling": 1,
}
DRAWN = ["benchmark.num_validation_identities=2"]
DRAWN += [f"benchmark.synthetic.{key}={value}" for key, value in TINY.items()]
LREID_1 = ["benchmark.name=lreid-1"]

Lock = dict[str, Any]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def synthetic_lock(tmp_path_factory: pytest.TempPathFactory) -> Lock:
    """The lock of a tiny synthetic benchmark."""
    root = str(tmp_path_factory.mktemp("people"))
    fields = {"root": root, "synthetic": TINY, "num_validation_identities": 2}
    config = BenchmarkConfig.model_validate(fields)
    return dict(load_benchmark(config, image_height=16, image_width=8).lock)


def under(lock: Lock, benchmark: str, seen: tuple[str, ...], unseen: tuple[str, ...]) -> Lock:
    """The lock of another benchmark, with the synthetic domains under other names."""
    names = {"benchmark": benchmark, "order": list(seen), "unseen": list(unseen)}
    models = {**dict.fromkeys(seen, "plaza"), **dict.fromkeys(unseen, "mall")}
    domains = {name: copy.deepcopy(lock["domains"][model]) for name, model in models.items()}
    return copy.deepcopy(lock) | names | {"domains": domains}


def by_index(shift: float) -> Callable[[int, int], float]:
    """Simple scores: 60 + 2 per domain, minus one point per step after learning."""
    return lambda step, index: 60 + 2 * index + shift - max(0, step - index - 1)


PLAIN = by_index(0)


@pytest.fixture
def make(tmp_path: Path, synthetic_lock: Lock) -> Make:
    """Writes the folder of a finished run under tmp_path and returns it."""

    def write(
        name: str,
        *overrides: str,
        score: Callable[[int, int], float] = PLAIN,
        change: Callable[[Lock], Any] = lambda lock: None,
        selected: tuple[int, float] | None = None,
    ) -> Path:
        config = load_config("demo", [f"run.name={name}", *(overrides or DRAWN)])
        seen, unseen = seen_and_unseen(config.benchmark)
        lock = under(synthetic_lock, config.benchmark.name, seen, unseen)
        if config.benchmark.name == "synthetic":
            lock["domains"] = copy.deepcopy(synthetic_lock["domains"])
        change(lock)
        matrix = ResultMatrix(tuple(lock["order"]), tuple(lock["unseen"]))
        for step in range(matrix.num_steps + 1):
            for index, domain in enumerate((*lock["order"], *lock["unseen"])):
                value = score(step, index)
                scores = {metric: value + 4 * rank for rank, metric in enumerate(METRICS)}
                matrix.record(step, domain, scores)
        storage = RunStorage(tmp_path / name)
        storage.folder.mkdir()
        storage.config_file.write_text(to_yaml(config))
        storage.write_lock(lock)
        entry = selected and {
            "epoch": selected[0],
            "validation": {},
            "test": {metric: selected[1] + 4 * rank for rank, metric in enumerate(METRICS)},
        }
        storage.write_results(
            {
                "git_revision": "0123456789" * 4 + "+",
                "config_hash": config.hash,
                "domains": {"seen": lock["order"], "unseen": lock["unseen"]},
                "scores": matrix.to_json(),
                "selection": {"domain": lock["order"][0], "validation": entry},
            }
        )
        return storage.folder

    return write


def compare(*folders: Path, published: bool = False, every_unseen: bool = False) -> Comparison:
    runs = [read_finished(str(folder)) for folder in folders]
    literature = load_published() if published else NOTHING
    return compare_runs(runs, literature, every_unseen=every_unseen)


def shown(comparison: Comparison, metric: str = "both", width: int = 100, **console: Any) -> str:
    output = Console(file=io.StringIO(), width=width, **console)
    show_comparison(output, comparison, shown_metrics(comparison, metric))
    return output.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def row(text: str, start: str) -> list[str]:
    """Cells of the first table row whose name starts with `start`."""
    lines = [line.strip() for line in text.splitlines()]
    return next(line for line in lines if line.startswith(start))[len(start) :].split()


def other_tests(domain: str) -> Callable[[Lock], Any]:
    return lambda lock: lock["domains"][domain]["records_sha256"].update(test_gallery="f" * 64)


def other_people(domain: str) -> Callable[[Lock], Any]:
    return lambda lock: lock["domains"][domain]["identities"]["train"].update(count=4, ids=[1])


def labels(comparison: Comparison, column: Column) -> list[str]:
    """Labels of runs whose scores are not comparable in a column."""
    return sorted(label for label, each in comparison.incomparable if each == column)


SEEN, UNSEEN, FORGETTING = (
    Column("seen average"),
    Column("unseen average"),
    Column("forgetting"),
)


def test_seeds_are_grouped_into_one_row(make: Make) -> None:
    shifts = {3: 0.0, 0: 0.5, 7: 2.5}
    folders = [
        make(f"s{seed}", *DRAWN, f"seed={seed}", f"benchmark.root=/{seed}", score=by_index(shift))
        for seed, shift in shifts.items()
    ]
    comparison = compare(*folders)
    (group,) = comparison.groups
    assert [member.config.seed for member in group.members] == [0, 3, 7]
    estimate = group.estimate(Column("seen", "station"), "R1")
    values = [62 + 4 + shift for shift in shifts.values()]
    assert estimate is not None
    assert estimate.mean == pytest.approx(statistics.mean(values))
    assert estimate.deviation == pytest.approx(statistics.stdev(values))
    text = shown(comparison)
    assert "Protocol locks agree." in text
    assert all(name in text for name in ("s0", "s3", "s7", "01234567+"))
    assert row(text, "A vladr") == ["60.0/64.0", "63.0/67.0", "61.5/65.5", "65.0/69.0", "1.0"]
    assert row(text, "3 seeds") == ["±1.3/1.3"] * 4 + ["±0.0"]


def test_repeated_seed_starts_new_group(make: Make) -> None:
    first = make("first")
    assert [len(each.members) for each in compare(first).groups] == [1]
    folders = [
        make("setting", *DRAWN, "seed=1", "learner.losses.cma.weight=0.25"),
        make("people", *DRAWN, "seed=2", change=other_people("plaza")),
        make("same-seed"),
    ]
    groups = compare(first, *folders, make("seed", *DRAWN, "seed=4")).groups
    names = {each.label: [member.folder.name for member in each.members] for each in groups}
    assert names == {"A": ["first", "seed"], "B": ["setting"], "C": ["people"], "D": ["same-seed"]}
    estimate = groups[1].estimate(SEEN, "mAP")
    assert estimate is not None
    assert estimate.deviation is None


def test_score_missing_in_one_member_is_missing(make: Make) -> None:
    folders = [make(f"s{seed}", *DRAWN, f"seed={seed}") for seed in (0, 1)]
    results = json.loads((folders[1] / "results.json").read_text())
    results["scores"]["mAP"][-1][0] = None
    (folders[1] / "results.json").write_text(json.dumps(results))
    (group,) = compare(*folders).groups
    assert group.estimate(Column("seen", "plaza"), "mAP") is None
    assert group.estimate(Column("seen", "plaza"), "R1") is not None
    assert row(shown(compare(*folders)), "A vladr")[0] == "-/63.0"


def test_different_test_lists_are_marked_and_not_ranked(make: Make) -> None:
    folders = [
        make("low"),
        make("high", *DRAWN, "learner.losses.cma.weight=0.5", score=by_index(1)),
        make("highest", score=by_index(9), change=other_tests("plaza")),
    ]
    comparison = compare(*folders)
    assert labels(comparison, Column("seen", "plaza")) == ["C"]
    assert labels(comparison, SEEN) == labels(comparison, FORGETTING) == ["C"]
    assert labels(comparison, Column("seen", "station")) == labels(comparison, UNSEEN) == []
    assert comparison.trained_otherwise == {}
    text = shown(comparison)
    assert row(text, "C vladr") == ["68.0/72.0†", "71.0/75.0", "69.5/73.5†", "73.0/77.0", "1.0†"]
    assert "† does not compare with the first run" in text
    assert "‡" not in text
    output = Console(file=io.StringIO(), width=100, record=True, force_terminal=True)
    show_comparison(output, comparison, ("mAP", "R1"))
    bold = re.findall(r"\x1b\[1m([\d.]+)\x1b", output.export_text(styles=True))
    assert bold == [
        *("1.0",),  # forgetting of A, which B has too
        *("60.0", "64.0", "61.5", "65.5", "1.0"),  # plaza and averages: the better of A and B
        *("71.0", "75.0", "73.0", "77.0"),  # where C was tested alike
    ]


def test_single_score_is_not_best(make: Make) -> None:
    comparison = compare(make("one"), make("other", change=other_tests("plaza")))
    styled = shown(comparison, force_terminal=True)
    numbers = re.findall(r"\x1b\[1m([\d.]+)\x1b", styled)
    assert "59.0" not in numbers
    assert "62.0" in numbers, "station compares"


def test_different_training_people_are_marked(make: Make) -> None:
    comparison = compare(make("one"), make("other", change=other_people("station")))
    assert comparison.incomparable == frozenset()
    assert list(comparison.trained_otherwise) == ["B"]
    text = shown(comparison)
    assert "station  5 training identities in A, 4 in B (4 only in A)" in text
    assert "‡ B against A: trained on different people (station)." in text
    assert row(text, "B vladr‡")
    assert "†" not in text


def test_another_order(make: Make) -> None:
    backwards = make("backwards", *DRAWN, "benchmark.order=[station,plaza]", change=reorder)
    comparison = compare(make("one"), backwards)
    assert comparison.incomparable == {("B", FORGETTING)}
    text = shown(comparison)
    assert "learned in another order: plaza, station in A; station, plaza in B" in text
    assert "‡ B against A: learned other domains, or in another order." in text


def reorder(lock: Lock) -> None:
    lock["order"] = ["station", "plaza"]


def test_missing_domains_leave_blanks(make: Make) -> None:
    def without(lock: Lock) -> None:
        lock["order"] = ["plaza"]
        del lock["domains"]["station"]

    comparison = compare(make("both"), make("one", change=without))
    assert [column.name for column in comparison.columns] == [
        *("plaza", "station", "seen average", "unseen average", "forgetting"),
    ]
    assert labels(comparison, SEEN) == ["B"], "an average over other domains"
    text = shown(comparison)
    assert row(text, "B vladr‡") == ["60.0/64.0", "-", "60.0/64.0†", "62.0/66.0", "-"]
    assert "learned domains: plaza, station in A; plaza in B" in text


def test_reference_of_column_may_be_later_run(make: Make) -> None:
    def plaza_alone(lock: Lock) -> None:
        lock["order"] = ["plaza"]

    folders = [
        make("plaza", change=plaza_alone),
        make("both"),
        make("other", change=other_tests("station")),
    ]
    assert labels(compare(*folders), Column("seen", "station")) == ["C"]


def test_differences_precede_scores(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    make("one", *LREID_1)
    make("two", *LREID_1, change=other_tests("viper"))
    assert lifelong.main(["compare", "one", str(tmp_path / "two"), "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    places = [
        text.index(words)
        for words in (
            *("Protocol locks differ:", "viper  test gallery lists differ"),
            *("Published rows carry no lock", "market1501  cuhk_sysu", "A vladr"),
            *("56.0/60.0", "VLADR [1]", "[1] CLIP ViT-B/16; figs/results.png"),
        )
    ]
    assert places[:4] == sorted(places[:4])
    assert places[5:] == sorted(places[5:])
    scores = [match.start() for match in re.finditer(r"\d\d\.\d/\d\d\.\d", text)]
    assert places[2] < min(scores)


@pytest.mark.parametrize("width", [80, 100])
def test_wide_tables_are_continued_below(make: Make, width: int) -> None:
    folders = [make(f"s{seed}", *LREID_1, f"seed={seed}", score=by_index(seed)) for seed in (0, 1)]
    other = make("other", *LREID_1, change=other_tests("market1501"))
    comparison = compare(*folders, other, published=True, every_unseen=True)
    text = shown(comparison, width=width)
    assert max(map(len, text.splitlines())) <= width
    headings = [column.name for column in comparison.columns]
    assert len(headings) == 5 + 3 + 7
    assert all(heading in text for heading in headings)
    for score in ("66.6/68.4", "70.4/79.9", "77.8/72.0", "56.5/60.5"):
        assert text.count(score) == 1
    assert "…" not in text


def test_one_metric(make: Make) -> None:
    comparison = compare(make("one", *LREID_1), published=True)
    text = shown(comparison, "R1", width=120)
    own = ["60.0", "63.0", "66.0", "69.0", "72.0", "66.0", "80.0", "2.5"]
    theirs = ["91.9", "92.5", "76.2", "70.5", "68.4", "79.9", "72.0", "-"]
    assert row(text, "A vladr") == own
    assert row(text, "VLADR [1]") == theirs
    assert row(shown(comparison, "mAP"), "VLADR [1]")[:2] == ["80.1", "92.0"]


def test_published_rows_require_benchmark_order(make: Make) -> None:
    def rows(*overrides: str) -> list[str]:
        name = re.sub(r"\W", "", "".join(overrides))
        text = shown(compare(make(name, *overrides), published=True), "mAP")
        return [
            line.split(" [")[0] for line in text.splitlines() if re.match(r"\w.* \[\d+\]", line)
        ]

    assert set(rows("benchmark.name=lreid-2")) == {"VLADR", "KRKC"}
    assert "fine-tuning" in rows("benchmark.name=lreid-1-duke")
    assert rows(*LREID_1, "benchmark.order=[market1501,lpw]") == []
    assert rows("benchmark.name=market1501") == []
    assert rows("benchmark.name=lreid-53") == []
    text = shown(compare(make("none", "benchmark.name=market1501"), published=True))
    assert "No published rows for market1501 in this order." in text
    assert "carry no lock" not in text


def test_a_published_average_over_other_domains_is_marked(make: Make) -> None:
    comparison = compare(make("one", *LREID_1, "benchmark.unseen=[viper,grid]"), published=True)
    text = shown(comparison)
    assert "77.8/72.0†" in text
    assert re.search(r"70\.4/79\.9(?!†)", text)
    assert "†" not in shown(compare(make("all", *LREID_1), published=True))


def test_metrics_of_text_queries(make: Make) -> None:
    def by_text(lock: Lock) -> None:
        for domain in lock["domains"].values():
            domain["query_by"] = "text"

    comparison = compare(make("t2i", "benchmark.name=rstpreid", change=by_text), published=True)
    assert comparison.columns == (Column("seen", "rstpreid"),)
    text = shown(comparison)
    assert row(text, "A vladr") == ["64.00/68.00/72.00/60.00"]
    assert row(text, "RDE [3]") == ["65.35/83.95/89.90/50.88"]
    assert "here a query is its caption alone" in text


# Several data sets, each learned alone ------------------------------------------------------------

DATA_SETS = ("cuhk_pedes", "icfg_pedes", "rstpreid")
TABLE_5 = {
    "IRRA": ("73.38/89.93/93.71/66.13", "63.46/80.25/85.82/38.06", "60.20/81.30/88.20/47.17"),
    "IRLT": ("73.67/89.71/93.57/65.94", "63.57/80.57/86.32/38.34", "60.51/82.85/89.71/47.64"),
    "CFAM": ("74.46/90.19/94.01/-", "64.72/81.35/86.31/-", "61.49/82.26/89.23/-"),
    "HAM": ("77.99/91.34/95.03/69.72", "69.95/83.88/88.39/42.72", "72.50/87.70/91.95/55.47"),
    "IVT": ("65.59/83.11/89.21/-", "56.04/73.60/80.22/-", "46.70/70.00/78.80/-"),
    "identity/clothing": (
        *("79.93/92.95/96.47/72.61", "68.68/84.29/89.74/41.78", "74.33/88.85/92.95/57.68"),
    ),
}


def by_text(lock: Lock) -> None:
    for domain in lock["domains"].values():
        domain["query_by"] = "text"


def test_published_rows_of_several_data_sets_without_a_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert lifelong.main(["compare", "--published", *DATA_SETS]) == 0
    text = capsys.readouterr().out
    for method, cells in TABLE_5.items():
        assert re.findall(r"[\d.]+(?:/[\d.-]+){3}", " ".join(row(text, method))) == list(cells)
    # IRRA has a row for each source, and the remark says what differs.
    assert len(re.findall(r"^IRRA \[\d\]", text, re.MULTILINE)) == 2
    assert "IRRA's own paper prints mAP 66.13 on cuhk_pedes" in " ".join(text.split())
    assert "63.36/80.82/85.82/38.06" in text
    assert "carry no lock" not in text
    assert "†" not in text
    assert lifelong.main(["compare", "--published", *DATA_SETS, "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert actual["runs"] == []
    assert len(actual["published"]) == 3 * 13
    assert {each["benchmark"] for each in actual["published"]} == set(DATA_SETS)


def test_published_rows_of_an_order_without_a_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert lifelong.main(["compare", "--published", "lreid-1", "--metric", "mAP"]) == 0
    text = capsys.readouterr().out
    assert row(text, "PAD")[1:] == [*"-----", "70.7", "78.6"]
    assert "second-hand" in text
    assert lifelong.main(["compare", "--published", "lreid-2", "--metric", "R1"]) == 0
    assert capsys.readouterr().out == "No published scores of R1.\n"


def test_data_sets_stand_side_by_side(make: Make) -> None:
    folders = [
        make(f"{name}{seed}", f"benchmark.name={name}", f"seed={seed}", score=by_index(shift),
             change=by_text)
        for shift, name in enumerate(DATA_SETS) for seed in (0, 1)
    ]  # fmt: skip
    other = make("other", "benchmark.name=rstpreid", "data.persons_per_batch=8", change=by_text)
    comparison = compare(*folders, other, published=True)
    assert [column.domain for column in comparison.columns] == list(DATA_SETS)
    assert comparison.differences == []
    assert comparison.trained_otherwise == {}
    text = shown(comparison, width=120)
    own = row(text, "A,B,C vladr")
    assert own == [f"{64 + n}.00/{68 + n}.00/{72 + n}.00/{60 + n}.00" for n in range(3)]
    assert row(text, "D vladr") == ["-", "-", "64.00/68.00/72.00/60.00"]
    assert row(text, "IRLT [3]") == list(TABLE_5["IRLT"])
    assert "2 seeds" in text


@pytest.mark.parametrize("width", [80, 120])
def test_one_table_of_data_sets_fits_the_console(make: Make, width: int) -> None:
    folders = [
        make(name, f"benchmark.name={name}", change=by_text, selected=(3, 50.5))
        for name in DATA_SETS
    ]
    text = shown(compare(*folders, published=True), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("────") > 0
    assert len(re.findall("^─+$", text, re.MULTILINE)) == 1, "one table"
    lines = ("54.50/58.50", "62.50/50.50") if width == 80 else ("54.50/58.50/62.50/50.50",)
    assert all(text.count(line) == 3 for line in lines)


def test_training_is_compared_within_a_data_set(make: Make) -> None:
    def fewer_people(lock: Lock) -> None:
        by_text(lock)
        other_people("icfg_pedes")(lock)

    folders = [
        make("a", "benchmark.name=cuhk_pedes", change=by_text),
        make("b", "benchmark.name=icfg_pedes", change=by_text),
        make("c", "benchmark.name=icfg_pedes", "data.persons_per_batch=8", change=fewer_people),
    ]
    comparison = compare(*folders)
    assert list(comparison.trained_otherwise) == ["C"]
    assert "‡ C against B: trained on different people (icfg_pedes)." in shown(comparison)


def test_unknown_published_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert lifelong.main(["compare", "--published", "cuhk_pede"]) == 2
    error = capsys.readouterr().err
    assert "icfg_pedes" in error
    assert "did you mean cuhk_pedes?" in error
    assert lifelong.main(["compare"]) == 2
    assert "--published BENCHMARK" in capsys.readouterr().err


# Checkpoints --------------------------------------------------------------------------------------

ONE_DATA_SET = ("benchmark.name=rstpreid",)


def test_selected_epoch_is_shown_where_there_is_one(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    make("chosen", *ONE_DATA_SET, change=by_text, selected=(7, 80.0))
    make("plain", *ONE_DATA_SET, "data.persons_per_batch=8", change=by_text)
    given = ["compare", "chosen", "plain", "--runs", str(tmp_path), "--no-published"]
    assert lifelong.main(given) == 0
    text = capsys.readouterr().out
    assert re.search(r"84\.00/88\.00/92\.00/80\.00\n +validation epoch", text)
    assert re.search(r"64\.00/68\.00/72\.00/60\.00\n +end of training", text)
    assert re.search(r"epoch +code", text)
    assert re.search(r" 7 +01234567\+ +chosen", text)
    assert re.search(r" last +01234567\+ +plain", text)
    assert lifelong.main([*given, "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)["runs"]
    assert (one["checkpoint"], one["members"][0]["epoch"]) == ("validation", 7)
    assert (other["checkpoint"], other["members"][0]["epoch"]) == ("last", None)
    assert one["domains"]["rstpreid"]["mAP"]["mean"] == 80
    assert lifelong.main([*given, "--checkpoint", "last"]) == 0
    text = capsys.readouterr().out
    assert text.count("64.00/68.00/72.00/60.00") == 2
    assert "epoch" not in text


def test_all_seeds_of_a_group_have_one_checkpoint(make: Make) -> None:
    folders = [
        make("s0", *ONE_DATA_SET, selected=(1, 70.0)),
        make("s1", *ONE_DATA_SET, "seed=1", selected=(2, 74.0)),
    ]
    (group,) = compare(*folders).groups
    assert [member.epoch for member in group.members] == [1, 2]
    estimate = group.estimate(Column("seen", "rstpreid"), "mAP")
    assert estimate is not None
    assert estimate.mean == 72
    # One seed could not select an epoch: all seeds are shown at the end of training.
    folders.append(make("s2", *ONE_DATA_SET, "seed=2"))
    (group,) = compare(*folders).groups
    assert group.checkpoint == "last"
    estimate = group.estimate(Column("seen", "rstpreid"), "mAP")
    assert estimate is not None
    assert estimate.mean == 60


def test_unseen_domains_have_no_score_at_the_selected_epoch(make: Make) -> None:
    folder = make("one", *ONE_DATA_SET, "benchmark.unseen=[cuhk_pedes]", selected=(4, 66.0))
    (group,) = compare(folder).groups
    assert group.estimate(UNSEEN, "mAP") is None
    assert group.estimate(SEEN, "mAP") is not None


def test_damaged_selection_is_reported(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("one", *ONE_DATA_SET, selected=(4, 66.0))
    corrupt(folder, "results.json", lambda each: each["selection"]["validation"].pop("test"))
    assert lifelong.main(["compare", str(folder)]) == 2
    assert "selection.validation" in capsys.readouterr().err
    assert lifelong.main(["compare", str(folder), "--checkpoint", "last"]) == 0


# Rankings -----------------------------------------------------------------------------------------


def reranked(lock: Lock) -> None:
    lock["reranking"] = {"enabled": True, "k1": 20}


def single_shot(lock: Lock) -> None:
    lock["evaluation_protocol"] = "single_gallery_shot"


@pytest.mark.parametrize(
    ("ranking", "words"), [(reranked, "re-ranking"), (single_shot, "single gallery shot")]
)
def test_published_rows_need_the_standard_ranking(
    make: Make, ranking: Callable[[Lock], Any], words: str
) -> None:
    other = make("other", *LREID_1, change=ranking)
    comparison = compare(other, published=True)
    assert comparison.published == ()
    text = shown(comparison, width=200)
    assert f"No published rows beside A ({words}): published results use the standard" in text
    assert "70.4/79.9" not in text
    # Beside a standard run they are shown, and do not compare with the other one.
    standard = make("standard", *LREID_1, "seed=3")
    text = shown(compare(standard, other, published=True), width=200)
    assert row(text, "A vladr")[0] == "56.0/60.0"
    assert row(text, "B vladr")[0] == "56.0/60.0†"
    assert re.search(r"80\.1/91\.9(?!†)", text)
    text = shown(compare(other, standard, published=True), width=200)
    assert "80.1/91.9†" in text


# Long names ---------------------------------------------------------------------------------------


def test_long_run_names_are_not_broken(make: Make) -> None:
    name = "demo-vladr-with-a-name-that-says-everything-seed0-0123456789abcdef"
    text = shown(compare(make(name), make("short", *DRAWN, "seed=1")), width=80)
    assert f"A seed 0  {name}" in text
    assert "learner  backbone" in text
    assert re.search(r"A +vladr +tiny-clip +synthetic +0 +01234567\+", text)
    assert "A seed 0" not in shown(compare(make("s")), width=80)


def test_json(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("one", *LREID_1)
    make("two", *LREID_1, score=by_index(1 / 3), change=other_tests("lpw"))
    given = ["compare", "one", "two", "--json", "--runs", str(tmp_path)]
    assert lifelong.main(given) == 0
    actual = json.loads(capsys.readouterr().out)
    keys = ["differing_settings", "runs", "paired", "differences", "published"]
    assert list(actual) == keys
    (difference,) = actual["differences"]
    assert difference["sentence"] == "lpw: test gallery lists differ"
    one, two = actual["runs"]
    assert one["domains"]["msmt17"]["R1"] == {"mean": 69, "standard_deviation": None}
    assert two["domains"]["msmt17"]["R1"]["mean"] == pytest.approx(69 + 1 / 3, abs=1e-12)
    matrix = read_finished(str(tmp_path / "two")).matrix
    assert two["forgetting"]["mAP"]["mean"] == matrix.forgetting("mAP")
    assert two["unseen_average"]["mINP"]["mean"] == matrix.unseen_average("mINP")
    assert two["not_comparable"] == ["lpw", "seen average", "forgetting"]
    assert one["not_comparable"] == one["trained_otherwise"] == []
    assert [member["seed"] for member in one["members"]] == [0]
    assert {"VLADR", "KRKC"} <= {each["method"] for each in actual["published"]}
    assert all(len(each["source"]) > 3 for each in actual["published"])
    assert lifelong.main([*given, "--no-published"]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == []


def corrupt(folder: Path, file: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: (run / "results.json").unlink(), "is not finished: it has no results.json"),
        (lambda run: (run / "protocol.lock.json").unlink(), "expected protocol.lock.json"),
        (lambda run: (run / "config.yaml").unlink(), "found no run at"),
        (
            lambda run: (run / "config.yaml").write_text("learner: {name: vladr, nodes: 1}"),
            "this version cannot read the run: learner.nodes: unknown key",
        ),
        (lambda run: (run / "results.json").write_text("{"), "is damaged"),
        (lambda run: corrupt(run, "results.json", lambda each: each.pop("scores")), "is damaged"),
        (
            lambda run: corrupt(run, "results.json", lambda each: each["scores"]["mAP"].pop()),
            "is damaged .*mAP: expected 3 rows",
        ),
        (
            lambda run: corrupt(run, "protocol.lock.json", lambda each: each["order"].reverse()),
            "they belong to different runs",
        ),
    ],
)
def test_unfinished_or_damaged_folder(
    make: Make, capsys: pytest.CaptureFixture[str], wrong: Callable[[Path], Any], message: str
) -> None:
    fine, folder = make("fine"), make("broken")
    wrong(folder)
    assert lifelong.main(["compare", str(fine), str(folder)]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert "broken" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fine", "fine"], "is given twice"),
        (["fine", "seed=1"], r"seed=1: .*compare has no overrides"),
        (["fine", "storage.root=x"], "is now --runs x"),
        (["nowhere"], "found no run at"),
    ],
)
def test_wrong_arguments(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    make("fine")
    assert lifelong.main(["compare", "--runs", str(tmp_path), *given]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_resuming_with_changed_data_lists_differences(make: Make, synthetic_lock: Lock) -> None:
    storage = RunStorage(make("begun"))
    before = storage.lock_file.read_text()
    now = copy.deepcopy(synthetic_lock)
    other_people("plaza")(now)
    for domain in now["domains"].values():
        domain["variant"] = "V2"
    with pytest.raises(ValueError, match="no longer match") as refused:
        storage.write_lock(now)
    assert (
        "(plaza: variant drawn in the lock, V2 in the data now; plaza: 5 training identities in "
        "the lock, 4 in the data now (4 only in the lock); station: variant drawn in the lock, V2 "
        "in the data now; and 1 more); restore the data"
    ) in str(refused.value)
    assert storage.lock_file.read_text() == before
    storage.lock_file.write_text("{")
    with pytest.raises(ValueError, match=r"protocol\.lock\.json is damaged \(it ends within"):
        storage.write_lock(synthetic_lock)


def mean(scores: Mapping[str, Mapping[str, float]], metric: str) -> float:
    return statistics.fmean(each[metric] for each in scores.values())


def test_published_averages_match_published_scores() -> None:
    """Both sides are rounded to one decimal, so they agree to 0.05 + 0.05."""
    whole = [row for row in load_published().rows if set(row.domains) == set(row.order)]
    checked = [(row, metric, score) for row in whole for metric, score in row.seen_average.items()]
    assert len(checked) == 22
    for published, metric, score in checked:
        assert abs(mean(published.domains, metric) - score) <= 0.1 + 1e-9, published


def test_published_rows_have_sources() -> None:
    literature = load_published()
    for published in literature.rows:
        config = BenchmarkConfig.model_validate({"name": published.benchmark})
        assert seen_and_unseen(config) == (published.order, published.unseen)
    assert {row.source for row in literature.rows} == set(literature.sources)
    assert {key for row in literature.rows for key in row.remarks} == set(literature.remarks)
    identities = [(row.benchmark, row.method, row.source) for row in literature.rows]
    assert len(set(identities)) == len(identities) == 57


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "hearsay"}, "no source 'hearsay'"),
        ({"remarks": ["nice"]}, "no remark 'nice'"),
        ({"domains": {"grid": {"mAP": 1}}}, "lreid-1 does not have grid"),
        ({"domains": {"lpw": {"mAP": 101}}}, "less than or equal to 100"),
        ({"domains": {"lpw": {"mINP": 1}}}, "mINP"),
        ({"seen_average": {}}, "expected a score, got none"),
        ({"sauce": ""}, "Extra inputs"),
    ],
)
def test_invalid_published_row_is_rejected(change: dict[str, Any], message: str) -> None:
    plain = {"benchmark": "lreid-1", "method": "M", "backbone": None, "source": "s"}
    fine = plain | {"seen_average": {"mAP": 1}}
    content = {"sources": {"s": "a paper"}, "remarks": {}}
    assert PublishedResults.model_validate({**content, "rows": [fine]})
    with pytest.raises(ValueError, match=message):
        PublishedResults.model_validate({**content, "rows": [fine | change]})


WITHOUT = [*DRAWN, "data.images_per_person=2"]


def test_differing_settings_come_first(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "learner.interpolation.mode=fixed"
    make("with", *DRAWN)
    make("without", *DRAWN, other)
    make("third", *WITHOUT, "seed=4")
    words = ["compare", "with", "without", "third", "--runs", str(tmp_path)]
    assert lifelong.main(words) == 0
    text = capsys.readouterr().out
    assert text.index("Settings that differ") < text.index("mAP/R1")
    assert row(text, "learner.interpolation.mode") == ["A,C", "none", "B", "fixed"]
    assert row(text, "data.images_per_person") == ["A,B", "4", "C", "2"]
    assert "\nseed" not in text
    assert "Seeds differ (A 0; B 0; C 4)" in text
    assert lifelong.main([*words, "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["differing_settings"]
    assert settings["learner.interpolation.mode"] == {"A": "none", "B": "fixed", "C": "none"}


def test_settings_of_a_disabled_section_do_not_differ(make: Make) -> None:
    one, other = make("one", *DRAWN), make("other", *DRAWN, "learner.gradnorm.alpha=0.5")
    comparison = compare(one, other)
    assert comparison.settings == {}
    assert len(comparison.groups) == 2, "a repeated seed starts a new group"


def test_equal_seeds_are_compared_in_pairs(make: Make) -> None:
    folders = [make(f"a{seed}", *DRAWN, f"seed={seed}", score=by_index(seed)) for seed in range(3)]
    folders += [
        make(f"b{seed}", *WITHOUT, f"seed={seed}", score=by_index(seed + gain))
        for seed, gain in ((1, 2.0), (2, 3.0), (7, 9.0))
    ]
    comparison = compare(*folders)
    pair = next(each for each in comparison.paired if each.column.kind == "seen average")
    assert (pair.label, pair.reference) == ("B", "A")
    assert pair.difference.by_seed == pytest.approx({1: 2.0, 2: 3.0})
    # t = 2.5 / (0.7071 / sqrt(2)) = 5 with one degree of freedom: p = 2 / pi * atan(1 / 5)
    assert pair.difference.p_value == pytest.approx(2 / math.pi * math.atan(1 / 5))
    text = shown(comparison, metric="mAP")
    assert row(text, "B - A  seen average mAP") == ["+2.5", "±", "0.7", "2", "0.13", "+2.0", "+3.0"]
    assert "Seeds differ" in text


def test_equal_differences_and_single_seeds_have_no_p(make: Make) -> None:
    folders = [make(f"a{seed}", *DRAWN, f"seed={seed}") for seed in range(2)]
    folders += [make(f"b{seed}", *WITHOUT, f"seed={seed}") for seed in range(2)]
    comparison = compare(*folders)
    assert {each.difference.p_value for each in comparison.paired} == {None}
    assert compare(folders[0], folders[2]).paired == ()


def test_other_test_data_are_not_paired(make: Make) -> None:
    folders = [make(f"a{seed}", *DRAWN, f"seed={seed}") for seed in range(2)]
    folders += [
        make(f"b{seed}", *WITHOUT, f"seed={seed}", change=other_tests("plaza")) for seed in range(2)
    ]
    kinds = {each.column.kind for each in compare(*folders).paired}
    assert kinds == {"unseen average"}


@pytest.mark.parametrize("format", ["markdown", "latex", "csv"])
def test_formats(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    make("a0", *DRAWN, score=by_index(0))
    make("a1", *DRAWN, "seed=1", score=by_index(1))
    make("b_b", *WITHOUT, "backbone.weights=random")
    words = ["compare", "a0", "a1", "b_b", "--runs", str(tmp_path), "--metric", "mAP"]
    assert lifelong.main([*words, "--format", format]) == 0
    text = capsys.readouterr().out
    if format == "csv":
        first, second = csv.DictReader(io.StringIO(text))
        assert (first["label"], first["method"], first["num_seeds"]) == ("A", "vladr", "2")
        expected = statistics.mean([60, 61]) - 0.5 + 1
        assert float(first["seen_average_mAP"]) == pytest.approx(expected)
        assert float(first["seen_average_mAP_deviation"]) == pytest.approx(math.sqrt(0.5))
        assert second["data.images_per_person"] == "2"
        assert second["seen_average_mAP_deviation"] == ""
        return
    lines = text.splitlines()
    assert all(len(line) > 80 for line in lines if "vladr" in line), "no line is wrapped"
    assert text.count("vladr") == 2
    if format == "markdown":
        assert "| A | vladr |" in text
        assert "61.0 ± 0.7" in text
    else:
        assert lines[0].startswith(r"\begin{tabular}{llll")
        assert r"61.0 $\pm$ 0.7" in text
        assert r"data.images\_per\_person" in text
        assert lines[-1] == r"\end{tabular}"
