"""Tables and plots of a finished run."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import runner.results.report
from runner.plotting.result_matrix import separate
from runner.results.report import results_table, write_figures
from tasks.retrieval.metrics import ResultMatrix


def results_of(num_seen: int, num_unseen: int) -> dict:
    seen = tuple(f"seen-{index}" for index in range(num_seen))
    unseen = tuple(f"unseen-{index}" for index in range(num_unseen))
    matrix = ResultMatrix(seen, unseen)
    generator = np.random.default_rng(0)
    for step in range(num_seen + 1):
        for domain in seen + unseen:
            matrix.record(step, domain, {"mAP": 80 * generator.random(), "R1": 90.0})
    return {
        "learner": "vladr",
        "benchmark": "synthetic",
        "seed": 1,
        "git_revision": "abc",
        "domains": {"seen": list(seen), "unseen": list(unseen)},
        "scores": matrix.to_json(),
        "summary": matrix.summary(),
        "timings": {},
    }


def lines_of(results: dict) -> list[str]:
    console = Console(file=io.StringIO(), width=110)
    console.print(results_table(results))
    return [line.strip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(("num_seen", "num_unseen"), [(5, 3), (1, 0), (1, 2), (33, 1)])
def test_plots_of_any_size(tmp_path, num_seen, num_unseen):
    paths = write_figures(results_of(num_seen, num_unseen), tmp_path)
    assert [path.name for path in paths] == ["matrix.png", "curves.png"]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[0] > 300
        assert pixels.std() > 10
        assert (pixels[:, -1] > 250).all(), "something is cut off at the right edge"


def test_missing_scores_leave_gaps(tmp_path):
    results = results_of(3, 1)
    results["scores"]["mAP"][-1] = [None] * 4
    results["summary"] = dict.fromkeys(results["summary"])
    assert all(path.stat().st_size > 5000 for path in write_figures(results, tmp_path))
    assert any(line.startswith("1   seen-0") for line in lines_of(results))


def test_versions_and_size_of_the_prototypes_are_shown():
    results = results_of(2, 1)
    assert not any("prototypes" in line for line in lines_of(results))
    memory = {"memory_version": 2, "memory_versions": {"seen-0": 1, "seen-1": 2}}
    lines = lines_of(results | memory | {"stored_bytes_per_domain": 1536.0})
    rows = [line.split() for line in lines]
    assert [row[-1] for row in rows if row[1:2] in (["seen-0"], ["seen-1"])] == ["1", "2"]
    assert "stored per domain: 1.54 kB, prototypes version 2" in lines
    # Exemplars are stored, but not published.
    lines = lines_of(results | {"memory_version": 0, "stored_bytes_per_domain": 384.0})
    assert "stored per domain: 384 B" in lines


def test_mismatched_rows_are_rejected(tmp_path):
    results = results_of(2, 1)
    results["scores"]["mAP"].pop()
    with pytest.raises(ValueError, match=r"mAP: expected 3 rows"):
        write_figures(results, tmp_path)


def test_plots_do_not_import_pyplot(tmp_path):
    code = (
        "import sys, runner.results.report as r; assert 'matplotlib' not in sys.modules\n"
        "import json, pathlib; results = json.loads(sys.stdin.read())\n"
        "r.write_figures(results, pathlib.Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps(results_of(2, 1)),
        text=True,
        check=True,
        cwd=Path(runner.results.report.__file__).parents[1],
    )


def test_table_matches_matrix():
    results = results_of(2, 1)
    results["scores"]["mAP"] = [[10.0, 11.0, 12.0], [60.0, 21.0, 22.0], [55.5, 70.0, 30.0]]
    matrix = ResultMatrix.from_json(results["scores"], ("seen-0", "seen-1"), ("unseen-0",))
    results["summary"] = matrix.summary()
    lines = lines_of(results)
    rows = [line.split() for line in lines]
    assert lines[0] == "vladr on synthetic, seed 1 (%)"
    assert ["1", "seen-0", "55.5", "90.0", "10.0", "60.0", "4.5"] in rows
    assert ["2", "seen-1", "70.0", "90.0", "11.0", "70.0", "·"] in rows
    assert ["seen", "average", "62.8", "90.0"] in rows
    assert ["unseen-0", "30.0", "90.0", "12.0", "·", "·"] in rows
    assert ["unseen", "average", "30.0", "90.0"] in rows
    caption = " ".join(lines[-2:])
    assert "forgetting 4.5, backward transfer -4.5, forward transfer 10.0" in caption
    assert "average incremental 61.4" in caption


def test_the_table_of_one_domain():
    lines = lines_of(results_of(1, 0))
    assert not any("unseen" in line for line in lines)
    assert any("forgetting ·" in line for line in lines)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 100), max_size=12))
def test_labels_are_separated_in_order(positions):
    moved = separate(positions, 5.0)
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    gaps = np.diff([moved[index] for index in order])
    assert (gaps > 5.0 - 1e-6).all()
    assert np.mean(moved or [0]) == pytest.approx(np.mean(positions or [0]), abs=1e-6)


def test_distant_labels_do_not_move():
    assert separate([50.0, 10.0, 30.0], 5.0) == [50.0, 10.0, 30.0]
