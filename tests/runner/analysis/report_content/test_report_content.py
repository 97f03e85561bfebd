"""Content of reports that needs a model: ranked lists, attention maps, gates, prototypes."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner import experiment
from runner.analysis.report_content.attention_maps import attention_rows, blended
from runner.analysis.report_content.collect import collect_content, queries_of_a_kind
from runner.analysis.report_content.learned_state import (
    gate_histograms,
    histogram,
    similarity_map,
)
from runner.analysis.report_content.rankings import (
    broken_queries,
    chosen_queries,
    domain_rankings,
    rank_split,
)
from runner.analysis.report_content.thumbnails import SIZE, file_uri, pixels_uri
from runner.analysis.trained_run import TrainedRun, embedding
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, read_benchmark, run_experiment
from runner.lifelong import main
from runner.results.finished_runs import read_finished
from runner.results.run_folder import RunStorage
from runner.training.collectives import LocalGroup
from runner.training.worker import build_learner
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import Benchmark, Record, Split

MakeConfig = Callable[..., RunConfig]


def split_of(num_people: int, query_by: str = "image") -> Split:
    """Two queries and four gallery images per person, by three cameras."""
    query = [Record(f"q{n}", n // 2, n % 2, (f"person {n // 2}",)) for n in range(2 * num_people)]
    gallery = [Record(f"g{n}", n // 4, n % 3) for n in range(4 * num_people)]
    return Split(tuple(query), tuple(gallery), query_by)  # type: ignore[arg-type]


class Embeddings:
    """Random embeddings by image path or text; paths in `unreadable` cannot be read."""

    def __init__(self, unreadable: Sequence[str] = (), seed: int = 0) -> None:
        self.unreadable = unreadable
        self.generator = torch.Generator().manual_seed(seed)

    def images(self, records: Sequence[Record]) -> tuple[torch.Tensor, torch.Tensor]:
        readable = torch.tensor([record.image_path not in self.unreadable for record in records])
        rows = torch.randn(len(records), 6, generator=self.generator) * readable[:, None]
        return rows, readable

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.randn(len(texts), 6, generator=self.generator)


@pytest.mark.parametrize("query_by", ["image", "text"])
def test_mean_precision_is_the_map_of_the_evaluation(query_by: str) -> None:
    split = split_of(5, query_by)
    ranking = rank_split(Embeddings(["g3", "g9"]), split)  # type: ignore[arg-type]
    kept = ranking.gallery_readable
    ids = [torch.tensor([each.person_id for each in part]) for part in (split.query, split.gallery)]
    cameras = [
        None if query_by == "text" else torch.tensor([each.camera_id for each in part])
        for part in (split.query, split.gallery)
    ]
    scores = evaluate_ranking(
        ranking.queries,
        ranking.gallery[kept],
        ids[0],
        ids[1][kept],
        cameras[0],
        None if cameras[1] is None else cameras[1][kept],
    )
    assert np.nanmean(ranking.precision) == pytest.approx(scores.mAP)
    assert np.isfinite(ranking.precision).sum() == scores.num_valid_queries


def test_first_results_follow_the_camera_rule_and_leave_out_unreadable_images() -> None:
    split = split_of(5)
    ranking = rank_split(Embeddings(["g3", "q4"]), split)  # type: ignore[arg-type]
    assert np.isnan(ranking.precision[4])
    for query, record in enumerate(split.query):
        wanted = sorted(
            (
                index
                for index, each in enumerate(split.gallery)
                if index != 3
                and (each.person_id, each.camera_id) != (record.person_id, record.camera_id)
            ),
            key=lambda index: (-float(ranking.gallery[index] @ ranking.queries[query]), index),
        )
        assert ranking.first_results(query, 50) == wanted
    assert len(ranking.first_results(0)) == 10


@given(
    st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_best_and_worst_queries_are_chosen_once(precision: list[float], count: int) -> None:
    values = np.array(precision)
    chosen = chosen_queries(values, count)
    indices = [index for _, index in chosen]
    known = values[np.isfinite(values)]
    assert len(set(indices)) == len(indices) == min(len(indices), len(known), 3 * count)
    assert np.isfinite(values[indices]).all()
    if len(known):
        assert values[indices[0]] == known.max()
        assert chosen[0][0] == "best"
    if len(known) > 1:
        assert known.min() in values[indices]
    if len(known) >= 3 * count:
        assert [kind for kind, _ in chosen] == [
            kind for kind in ("best", "median", "worst") for _ in range(count)
        ]


def test_broken_queries_are_real_losses_the_largest_first() -> None:
    split = split_of(3)
    before = rank_split(Embeddings(), split)  # type: ignore[arg-type]
    precision = before.precision.copy()
    precision[[1, 4]] -= (0.1, 0.3)
    precision[2] += 0.2
    after = replace(before, precision=precision)
    broken = broken_queries("plaza", before, after, 5)
    assert [each.before.query.caption for each in broken] == ["id 2 cam 1", "id 0 cam 2"]
    assert broken_queries("plaza", before, before, 5) == []


def test_an_attention_map_is_brightest_where_the_weight_is_largest() -> None:
    weights = np.zeros((4, 2), np.float32)
    weights[3, 1] = 0.2
    drawn = blended(np.full((64, 32, 3), 90, np.uint8), weights).astype(int)
    assert drawn[-1, -1, 0] > 200  # orange
    assert drawn[-1, -1, 2] < 60
    assert (drawn[:16] == drawn[0, 0, 0]).all()  # grey without attention


def test_similarity_of_prototypes() -> None:
    prototypes = torch.eye(3)[
        torch.tensor([[0, 1], [0, 2]])
    ]  # two domains, two attributes, one in common
    heat_map = similarity_map(prototypes, ["a", "b"])
    assert [[cell.text for cell in cells] for _, cells in heat_map.rows] == [
        ["100.0", "50.0"],
        ["50.0", "100.0"],
    ]
    assert "by attribute 100.0, 0.0" in heat_map.rows[0][1][1].tip


def test_a_histogram_has_all_values() -> None:
    values = np.array([[0.0, 0.5], [1.0, 0.49]])
    made = histogram("plaza", values)
    assert sum(made.shares) == pytest.approx(100)
    assert (made.shares[0], made.shares[9], made.shares[10], made.shares[-1]) == (25, 25, 25, 25)
    assert made.mean == pytest.approx(0.4975)


def test_many_domains_show_fewer_queries() -> None:
    counts = [queries_of_a_kind(number) for number in (1, 4, 12, 100)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (2, 1)


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_thumbnails(tmp_path: Path) -> None:
    Image.new("RGB", (600, 600), "red").save(tmp_path / "large.png")
    assert decoded(file_uri(str(tmp_path / "large.png"))).size == (SIZE[0], SIZE[0])
    assert decoded(pixels_uri(np.zeros((64, 32, 3), np.uint8))).size == (SIZE[1] // 2, SIZE[1])
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    assert file_uri(str(tmp_path / "cut.png")) == file_uri(str(tmp_path / "absent.png")) == ""


@contextmanager
def untrained(config: RunConfig, folder: Path) -> Iterator[tuple[TrainedRun, Benchmark]]:
    learner = build_learner(config, LocalGroup())
    yield (
        TrainedRun(RunStorage(folder), config, "", learner, torch.device("cpu")),
        read_benchmark(config),
    )


def test_attention_of_vladr(tmp_path: Path, tiny_config: MakeConfig) -> None:
    with untrained(tiny_config(tmp_path, "vladr"), tmp_path) as (run, benchmark):
        rows = attention_rows(run, benchmark.domains)
        assert [row.domain for row in rows] == [
            domain.name for domain in benchmark.domains for _ in range(2)
        ]
        assert [name for name, _ in rows[0].maps] == ["head", "upper", "lower", "foot"]
        sizes = {decoded(uri).size for row in rows for uri in (row.image, row.maps[0][1])}
        assert sizes == {(SIZE[1] // 2, SIZE[1])}
        assert gate_histograms(run, benchmark.domains) == []


def test_captions_and_gates_of_bdam(tmp_path: Path, tiny_config: MakeConfig) -> None:
    with untrained(tiny_config(tmp_path, "bdam"), tmp_path) as (run, benchmark):
        domain = benchmark.seen[0]
        assert domain.test.query_by == "text"
        with embedding(run, benchmark, tmp_path / "quarantine.jsonl") as embedder:
            ranked = domain_rankings(domain.name, rank_split(embedder, domain.test), 1)
        captions = {record.caption for record in domain.test.query}
        assert {each.query.text for each in ranked.lists} <= captions
        assert all(each.query.image == "" for each in ranked.lists)
        assert all(result.image for each in ranked.lists for result in each.results)
        gates = gate_histograms(run, [domain])
        assert sum(gates[0].shares) == pytest.approx(100)
        assert attention_rows(run, benchmark.domains) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        return run_experiment(tiny_config(tmp_path_factory.mktemp("runs"), "finetune"))


def test_report_of_a_run_with_its_model(
    finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    assert main(["report", str(finished.folder), "--output", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []
    text = file.read_text()
    assert file.stat().st_size < 15_000_000
    for domain in (*finished.results["domains"]["seen"], *finished.results["domains"]["unseen"]):
        assert f"<summary>{domain}</summary>" in text
    assert len(re.findall(r"(?:best|median|worst), AP [\d.]+ %</p>", text)) >= 6
    assert 'class="thumb match"' in text
    assert 'class="thumb other"' in text


def test_precision_of_a_report_is_that_of_the_run(finished: RunResult) -> None:
    run = read_finished(str(finished.folder))
    content = collect_content([run])[0]
    last = [run.matrix.score("mAP", 2, domain) for domain in run.matrix.seen]
    for ranked, score in zip(content.rankings, last, strict=False):
        assert score is not None
        best, worst = (float(ranked.lists[at].title.split()[-2]) for at in (0, -1))
        assert worst - 0.05 <= score <= best + 0.05
    assert {each.domain for each in content.broken} <= {run.matrix.seen[0]}


def test_what_is_gone_is_left_out_with_a_sentence(finished: RunResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "copied"))
    run = read_finished(str(folder))
    lock = json.loads(json.dumps(run.lock))
    lock["domains"][run.matrix.seen[0]]["records_sha256"]["test_query"] = "0"
    content = collect_content([replace(run, lock=lock)])[0]
    assert content.rankings == ()
    assert "Ranked lists and images were left out" in content.notes[0]
    assert "benchmark.root" in content.notes[0]
    next(folder.glob("checkpoints/after-01-*")).unlink()
    content = collect_content([run])[0]
    assert content.rankings
    assert content.broken == ()
    assert f"checkpoint after {run.matrix.seen[0]}" in content.notes[0]
    next(folder.glob("checkpoints/after-02-*")).unlink()
    content = collect_content([run])[0]
    assert content.checkpoint == ""
    assert "The trained model was left out" in content.notes[0]
