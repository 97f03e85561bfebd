"""Gallery index, search and contact sheet of a finished run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
from runner.analysis.gallery_search import (
    Query,
    build_index,
    gallery_of,
    images_below,
    open_index,
    queries_of,
    search,
)
from runner.analysis.trained_run import TrainedRun, load_run
from runner.commands.index import _search_command
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.plotting.contact_sheet import SheetCell, _fitted, draw_sheet
from tasks.schema import Record
from tests.tasks.datasets.miniatures.painting import paint

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    return run_experiment(tiny_config(tmp_path_factory.mktemp("runs"), "finetune"))


@pytest.fixture(scope="module")
def run(finished: RunResult) -> TrainedRun:
    return load_run(str(finished.folder), "runs")


def test_results_match_protocol(run: TrainedRun, tmp_path: Path) -> None:
    benchmark = benchmark_to_test(run, settings_for(run, None, []))
    name = benchmark.domains[0].name
    images = gallery_of(benchmark, [name])
    index = build_index(run, images, tmp_path / "index")
    queries = queries_of(benchmark, [name], 3)
    actual = search(run, open_index(run, tmp_path / "index"), queries, 4, tmp_path / "index")
    assert len(index) == len(images) == len(benchmark.domains[0].test.gallery)
    assert len({each.query.name for each in actual}) == 3
    for each in actual:
        assert [hit.similarity for hit in each.hits] == sorted(
            (hit.similarity for hit in each.hits), reverse=True
        )
        assert len(each.hits) == 4
        record = each.query.image
        for hit in each.hits:
            same = hit.entry.person_id == record.person_id
            assert hit.kind == ("match" if same else "other")
            assert not (same and hit.entry.camera_id == record.camera_id)


def test_an_embedding_with_attributes_is_indexed_and_searched(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    settings = ("learner.embedding=necks_attributes", "learner.num_decoder_heads=4")
    finished = run_experiment(tiny_config(tmp_path / "runs", "vladr", *settings))
    run = load_run(str(finished.folder), str(tmp_path / "runs"))
    benchmark = benchmark_to_test(run, settings_for(run, None, []))
    domain = benchmark.domains[0]
    index = build_index(run, gallery_of(benchmark, [domain.name]), tmp_path / "index")
    network: Any = run.learner.network
    width, dim = network.image.width, network.image.embed_dim
    assert index.width == width + dim + 4 * dim
    opened = open_index(run, tmp_path / "index")
    image = Query(domain.test.gallery[0])
    (found,) = search(run, opened, [image], 1, tmp_path / "index")
    assert found.hits[0].entry.image_path == image.image.image_path
    assert found.hits[0].similarity == pytest.approx(1, abs=1e-4)
    plain = run_experiment(tiny_config(tmp_path / "runs", "vladr", settings[1]))
    with pytest.raises(ValueError, match="expected an index of"):
        open_index(load_run(str(plain.folder), str(tmp_path / "runs")), tmp_path / "index")


def test_full_gallery_excludes_only_same_camera(run: TrainedRun, tmp_path: Path) -> None:
    benchmark = benchmark_to_test(run, settings_for(run, None, []))
    domain = benchmark.domains[0]
    index = build_index(run, gallery_of(benchmark, [domain.name]), tmp_path / "index")
    (actual,) = search(run, index, queries_of(benchmark, [domain.name], 1), 10_000, tmp_path / "x")
    record = actual.query.image
    expected = {
        each.image_path
        for each in domain.test.gallery
        if (each.person_id, each.camera_id) != (record.person_id, record.camera_id)
    }
    assert {hit.entry.image_path for hit in actual.hits} == expected


def test_index_of_another_model_is_rejected(run: TrainedRun, tmp_path: Path) -> None:
    benchmark = benchmark_to_test(run, settings_for(run, None, []))
    build_index(run, gallery_of(benchmark, []), tmp_path / "index")
    first = benchmark.domains[0].name
    earlier = load_run(str(run.storage.folder), "runs", after=first)
    with pytest.raises(ValueError, match="build the index again"):
        open_index(earlier, tmp_path / "index")
    with pytest.raises(FileNotFoundError, match=r"expected an index at .*lifelong\.py index"):
        open_index(run, tmp_path / "nowhere")


def test_text_queries_require_text_learner(run: TrainedRun, tmp_path: Path) -> None:
    paint(tmp_path / "images" / "1.png", 1)
    index = build_index(run, images_below(tmp_path / "images"), tmp_path / "index")
    with pytest.raises(ValueError, match="got finetune, which cannot embed texts"):
        search(run, index, [Query(None, "a red coat")], 1, tmp_path / "index")

    run.learner.embeds_texts = True
    run.learner.embed_texts = lambda texts: torch.ones(len(texts), index.width)
    try:
        images = [Query(Record(str(tmp_path / "images" / "1.png"), -1, -1))]
        actual = search(run, index, [Query(None, "a red coat"), *images], 3, tmp_path / "index")
    finally:
        del run.learner.embeds_texts, run.learner.embed_texts
    assert [each.query.name for each in actual] == ["a red coat", "1.png"]
    assert actual[1].hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert actual[0].hits[0].similarity < 0.99


def test_the_commands_on_a_folder_of_images(
    run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "photos"
    for person in range(3):
        paint(gallery / f"{person}" / "a.png", person)
    (gallery / "broken.jpg").write_bytes(b"no image")
    index = ["--index", str(tmp_path / "index")]
    folder = str(run.storage.folder)
    made = ["--data", str(gallery), "--output", str(tmp_path / "index")]
    assert main(["index", folder, *made]) == 0
    shown = capsys.readouterr().out
    assert "indexed 3 images" in shown
    hint = shlex.split(next(line for line in shown.splitlines() if line.startswith("Search")))
    assert hint[-5:] == [folder, "--image", "FILE", *index]
    assert "broken.jpg" in (tmp_path / "index-quarantine.jsonl").read_text()
    sheet = tmp_path / "sheet.png"
    query = ["--image", str(gallery / "1" / "a.png"), "--k", "2", "--output", str(sheet)]
    assert main(["search", folder, *query, *index]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "a.png"
    assert shown.splitlines()[1].split()[-1] == str(gallery / "1" / "a.png")
    with Image.open(sheet) as image:
        assert image.width > image.height
    assert sorted(path.name for path in gallery.rglob("*")) == [
        "0", "1", "2", "a.png", "a.png", "a.png", "broken.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{run}"], "expected a query"),
        (["search", "{run}", "--text", " "], "--text: expected a text"),
        (["search", "{run}", "--text", "red " * 2500], "of at most 2,000 characters; got 9,999"),
        (["search", "{run}", "--image", "/nowhere.jpg"], "/nowhere.jpg does not exist"),
        (["search", "{run}", "--image", "{run}/config.yaml", "--k", "0"], "--k: expected at least"),
        (["index", "{run}", "--data", "/nowhere"], "expected a folder, got /nowhere"),
        (["index", "{run}", "--data", "{run}/checkpoints"], "expected files ending in"),
        (["index", "{run}", "--domain", "moon"], "got 'moon'"),
        (["index", "{run}", "--output", "{run}"], "expected a new or empty folder"),
    ],
)
def test_bad_input(
    run: TrainedRun, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(run=run.storage.folder) for each in arguments]
    assert main(given) == 2
    errors = capsys.readouterr().err
    assert any(part in errors for part in message.split("|")), errors


def test_an_index_of_texts_suggests_a_text_query_of_the_same_model() -> None:
    run: Any = SimpleNamespace(
        learner=SimpleNamespace(embeds_texts=True),
        storage=SimpleNamespace(folder=Path("runs/my run")),
    )
    options = argparse.Namespace(checkpoint="validation", after="plaza", output=None)
    words = ["search", "runs/my run", "--text", "TEXT", "--checkpoint", "validation"]
    assert shlex.split(_search_command(options, run))[-8:] == [*words, "--after", "plaza"]


def test_queries_of_several_domains_have_different_names() -> None:
    record = Record("/data/plaza/0001.png", 1, 0)
    names = [Query(record, domain=each).name for each in ("plaza", "station")]
    assert names == ["plaza: 0001.png", "station: 0001.png"]
    assert Query(record).name == "0001.png"


def test_names_that_differ_at_the_end_stay_different_on_a_sheet() -> None:
    draw, font = ImageDraw.Draw(Image.new("L", (9, 9))), ImageFont.load_default(11)
    names = [f"holiday-pictures-of-2024-{number:04d}.jpg" for number in range(3)]
    fitted = [_fitted(draw, name, font) for name in names]
    assert len(set(fitted)) == 3
    assert all(name.startswith("hol") and "…" in name for name in fitted)
    assert _fitted(draw, "short", font) == "short"


def test_contact_sheet_truncates_lines_and_scales_images(tmp_path: Path) -> None:
    Image.new("L", (300, 20)).save(tmp_path / "wide.png")
    wide = SheetCell(str(tmp_path / "wide.png"), ("x" * 200, "two", "three"), "other")
    text = SheetCell(None, ("query",), "query", "a woman with a very long description " * 20)
    draw_sheet([[text, wide], [wide]], tmp_path / "out" / "sheet.png")
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size[0] < 400
    with pytest.raises(ValueError, match="at least one query"):
        draw_sheet([], tmp_path / "none.png")
