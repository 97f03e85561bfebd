"""HTML report of finished runs, written from the files of a run alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runner import experiment
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.html_report.model_content import (
    AttentionRow,
    DomainRankings,
    ModelContent,
    RankedList,
    Thumbnail,
)
from runner.html_report.page import write_report, write_run_report
from runner.lifelong import main
from runner.results.finished_runs import read_finished
from runner.tracking.event_log import read_events

MakeConfig = Callable[..., RunConfig]
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Elements of a page: names, attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "line", "circle", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "img", "br", "line", "circle", "path"):
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(file: Path) -> Page:
    page = Page(file.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        storage = tmp_path_factory.mktemp("runs")
        return run_experiment(tiny_config(storage, "finetune", "storage.report=true"))


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    """Copy of the run that a test may change."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copied"))


def test_a_run_ends_with_a_report_of_all_its_scores(finished: RunResult) -> None:
    page = page_of(finished.folder / "report.html")
    matrix = read_finished(str(finished.folder)).matrix
    tips = [cell["data-tip"] or "" for cell in page.all("td") if "data-tip" in cell]
    num_cells = (matrix.num_steps + 1) * len(matrix.seen + matrix.unseen)
    assert len(tips) == 2 * num_cells  # mAP and R1
    for domain in matrix.seen + matrix.unseen:
        score = matrix.score("mAP", matrix.num_steps, domain)
        assert any(f"{domain}, after step 2" in tip and f"mAP {score:.1f}" in tip for tip in tips)
    for words in ("random ranking", "before training", "forgotten", "Camera rule", "stage"):
        assert words in page.text
    chance = finished.results["chance"]["seen_mAP"]
    assert f"random ranking {chance:.1f}" in page.text


def test_the_file_needs_no_network_and_no_other_file(finished: RunResult) -> None:
    text = (finished.folder / "report.html").read_text()
    page = Page(text)
    assert not re.search(r"""(?:=\s*["']?|url\(\s*["']?|import\s*["']?)(?:https?:)?//[a-z]""", text)
    assert page.all("link") == []
    assert all("src" not in each for each in page.all("script"))
    assert "default-src 'none'" in text
    targets = {each["href"] for each in page.all("a")}
    ids = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert targets <= ids


def test_a_report_is_left_out_and_never_fails_the_run(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(experiment, "write_run_report", fail)
    short = ("learner.epochs=1", "benchmark.synthetic.num_seen_domains=1")
    left_out = run_experiment(tiny_config(tmp_path / "off", "finetune", *short))
    failed = run_experiment(tiny_config(tmp_path / "on", "finetune", *short, "storage.report=true"))
    warnings = [
        [event["message"] for event in read_events(run.folder / "events.jsonl").events
         if event["event"] == "log" and event["level"] == "warning"]
        for run in (left_out, failed)
    ]  # fmt: skip
    assert warnings == [[], ["report.html was not written: OSError: no space left"]]
    assert failed.results["scores"] == left_out.results["scores"]
    assert not (failed.folder / "report.html").exists()
    assert not (left_out.folder / "report.html").exists()


def rename_domain(folder: Path, old: str, new: str) -> None:
    for name in ("results.json", "protocol.lock.json", "events.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(json.dumps(old), json.dumps(new)))


def test_names_and_texts_are_escaped(copied: Path) -> None:
    folder = copied.rename(copied.with_name("<b>run<img src=x>"))
    first = read_finished(str(folder)).matrix.seen[0]
    rename_domain(folder, first, HOSTILE)
    line = {"domain": HOSTILE, "split": "test", "path": "<i>a.jpg", "reason": "<u>cut"}
    (folder / "quarantine.jsonl").write_text(json.dumps(line) + "\n{cut off")
    query = Thumbnail("", "query", HOSTILE, text=f'a man in "red" {HOSTILE}')
    model = ModelContent(
        notes=(HOSTILE,),
        checkpoint=HOSTILE,
        rankings=(DomainRankings(HOSTILE, (RankedList(HOSTILE, query, ()),), HOSTILE),),
        attention=(AttentionRow(HOSTILE, "data:,", ((HOSTILE, "data:,"),)),),
    )
    file = write_report([read_finished(str(folder))], folder / "report.html", [model])
    page = page_of(file)
    assert len(page.all("script")) == 1
    assert {name for name, _ in page.tags}.isdisjoint({"i", "u"})
    assert all(each["src"] == "data:," for each in page.all("img"))
    assert page.text.count(HOSTILE) > 8
    assert "<b>run<img src=x>" in page.text


def test_runs_side_by_side(finished: RunResult, copied: Path, tmp_path: Path) -> None:
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(re.sub(r"(?m)^seed: 0", "seed: 7", config))
    lock = json.loads((copied / "protocol.lock.json").read_text())
    lock["image_size"] = [99, 33]
    (copied / "protocol.lock.json").write_text(json.dumps(lock))
    runs = [read_finished(str(each)) for each in (finished.folder, copied)]
    page = page_of(write_report(runs, tmp_path / "folder" / "both.html"))
    assert "Report of 2 runs" in page.text
    assert "finetune seed 7" in page.text
    assert "seed 0 7" in page.text  # a setting that differs
    assert "protocol locks differ" in page.text
    assert "99x33" in page.text
    same = page_of(write_report([runs[0], runs[0]], tmp_path / "same.html"))
    assert "protocol locks of all runs agree" in same.text
    assert "finetune seed 0 (1)" in same.text


def test_the_password_of_a_tracking_server_is_left_out(copied: Path) -> None:
    config = (copied / "config.yaml").read_text()
    uri = "uri: https://me:word@host:5000"
    (copied / "config.yaml").write_text(re.sub(r"(?m)uri: null$", uri, config))
    text = write_run_report(copied).read_text()
    assert "https://host:5000" in text
    assert "word@" not in text


def test_missing_scores_are_shown_as_missing(copied: Path) -> None:
    results: dict[str, Any] = json.loads((copied / "results.json").read_text())
    for rows in results["scores"].values():
        rows[1] = [None] * len(rows[1])
    results["timings"], results["chance"] = {}, None
    (copied / "results.json").write_text(json.dumps(results))
    (copied / "events.jsonl").write_text("")
    page = page_of(write_run_report(copied))
    assert "mAP ·, R1 ·" in " ".join(cell.get("data-tip") or "" for cell in page.all("td"))
    assert "random ranking · ·" in page.text
    assert "no training iterations" in page.text


def test_command(finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    words = ["report", str(finished.folder), "--no-model", "--output", str(file), "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"report": str(file), "bytes": file.stat().st_size, "notes": []}
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert "found no run" in capsys.readouterr().err
