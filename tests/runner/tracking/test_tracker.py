"""All events of a run reach MLflow once, whatever process or server fails."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from runner.config.sections import TrackingConfig
from runner.tracking import mlflow_sender
from runner.tracking.event_log import EventLog, read_events
from runner.tracking.mlflow_client import TrackingError, public_uri, resolve_uri
from runner.tracking.mlflow_note import run_note
from runner.tracking.mlflow_payloads import PARENT, RunHistory
from runner.tracking.mlflow_sender import TrackingState
from runner.tracking.tracker import Tracker, sync
from tasks.retrieval.metrics import ResultMatrix

SEEN = ["market", "cuhk"]
UNSEEN = ["grid"]


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> str:
    """One database per session, because creating it is slow."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    folder = tmp_path_factory.mktemp("first") / "run"
    folder.mkdir()
    emit_run(folder)
    sync(folder, TrackingConfig(uri=uri))
    return uri


@pytest.fixture
def dead_uri() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent_uri():
    """A server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "runs" / "demo-vladr-seed1"
    folder.mkdir(parents=True)
    return folder


def emit_run(folder: Path, attempt: int = 1, num_workers: int = 0) -> None:
    EventLog(folder / "events.jsonl").emit(
        "run",
        name=folder.name,
        preset="demo",
        learner="vladr",
        benchmark="synthetic",
        seed=1,
        seen=SEEN,
        unseen=UNSEEN,
        params={"data.persons_per_batch": 16, "cluster.num_workers": num_workers, "run.name": None},
        git_revision="abc123",
        lock="10c4",
        total_iterations=8,
        attempt=attempt,
    )


def emit_iterations(folder: Path, domain_index: int, iterations: range) -> None:
    log = EventLog(folder / "events.jsonl")
    facts = {"domain": SEEN[domain_index], "domain_index": domain_index, "stage": "icar"}
    log.emit("stage", **facts, epochs=2, iterations_per_epoch=2, first_iteration=iterations[0])
    for iteration in iterations:
        log.emit(
            "iteration",
            **facts,
            epoch=0,
            iteration=iteration,
            loss=10.0 - iteration,
            terms={"id": 1.0 + iteration, "triplet": float("nan")},
            weights={"id": 1.0, "triplet": 0.5},
            lr=1e-3,
            images_per_s=100.0,
        )


def emit_evaluation(folder: Path, step: int) -> None:
    scores = {name: {"mAP": 10.0 * step + i, "R1": 50.0} for i, name in enumerate(SEEN + UNSEEN)}
    EventLog(folder / "events.jsonl").emit(
        "evaluation", step=step, split="test", scores=scores, seconds=1.5
    )


def emit_end_of_domain(folder: Path, domain_index: int) -> None:
    EventLog(folder / "events.jsonl").emit(
        "domain_finished",
        domain=SEEN[domain_index],
        domain_index=domain_index,
        timings={"train": 3.0, "stages": {"icar": 2.0}},
        memory_version=domain_index + 1,
        stored_bytes_per_domain=1536.0,
    )
    emit_evaluation(folder, domain_index + 1)


def emit_end(folder: Path) -> None:
    EventLog(folder / "events.jsonl").emit(
        "finished",
        summary={"seen_mAP": 20.5, "forgetting_mAP": -10.0, "forward_transfer_mAP": 3.5},
        timings={"total": 12.0},
    )


def emit_whole_run(folder: Path) -> None:
    """A run that crashed in its second domain, was resumed, and repeated two iterations."""
    emit_run(folder)
    emit_evaluation(folder, 0)
    emit_iterations(folder, 0, range(4))
    emit_end_of_domain(folder, 0)
    emit_iterations(folder, 1, range(4, 7))
    emit_run(folder, attempt=2, num_workers=1)
    emit_iterations(folder, 1, range(5, 8))
    emit_end_of_domain(folder, 1)
    emit_end(folder)


def client_of(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def history(client, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def children(client, experiment: str, parent_id: str) -> dict[str, str]:
    """Run ids of nested runs, by name."""
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    query = f"tags.mlflow.parentRunId = '{parent_id}'"
    return {
        run.info.run_name: run.info.run_id for run in client.search_runs([experiment_id], query)
    }


def check_whole_run(client, experiment: str, folder: Path) -> None:
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([experiment_id], "tags.learner = 'vladr'")
    assert [run.info.run_name for run in runs] == [folder.name]
    parent = runs[0]
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"data.persons_per_batch": "16"}
    assert parent.data.tags["lock"] == "10c4"
    assert parent.data.tags["attempt"] == "2"
    assert parent.data.tags["git_revision"] == "abc123"
    run_id = parent.info.run_id
    assert history(client, run_id, "test/mAP/cuhk") == [(0, 1.0), (1, 11.0), (2, 21.0)]
    assert history(client, run_id, "mAP_seen") == [(1, 10.0), (2, 20.5)]
    assert history(client, run_id, "mAP_unseen") == [(0, 2.0), (1, 12.0), (2, 22.0)]
    assert history(client, run_id, "mAP_forgetting") == [(2, -10.0)]
    assert history(client, run_id, "mAP_forward_transfer") == [(2, 3.5)]
    assert history(client, run_id, "time/total") == [(0, 12.0)]
    assert history(client, run_id, "memory/version") == [(1, 1.0), (2, 2.0)]
    assert history(client, run_id, "memory/stored_bytes_per_domain") == [(1, 1536.0), (2, 1536.0)]
    nested = children(client, experiment, run_id)
    assert sorted(nested) == ["01-market", "02-cuhk"]
    for name, iterations in (("01-market", range(4)), ("02-cuhk", range(4, 8))):
        child = client.get_run(nested[name])
        assert child.info.status == "FINISHED"
        assert child.data.params == {"icar.epochs": "2", "icar.iterations_per_epoch": "2"}
        losses = [(i, 10.0 - i) for i in iterations]
        assert history(client, nested[name], "icar/loss") == losses
        assert history(client, nested[name], "icar/term/id") == [(i, 1.0 + i) for i in iterations]
        assert len(history(client, nested[name], "icar/term/triplet")) == 4
        assert history(client, nested[name], "icar/weight/id") == [(iterations[0], 1.0)]
        assert history(client, nested[name], "time/stages/icar") == [(0, 2.0)]
        assert history(client, nested[name], "memory/version") == [(0, float(name[:2]))]


# ---- payloads


def test_repeated_iterations_are_sent_once(run_folder):
    emit_whole_run(run_folder)
    deliveries = RunHistory().take(read_events(run_folder / "events.jsonl").events)
    assert [delivery.run for delivery in deliveries] == [PARENT, "01-market", "02-cuhk"]
    losses = [point for point in deliveries[2].metrics if point.name == "icar/loss"]
    assert [point.step for point in losses] == [4, 5, 6, 7]


def test_slices_equal_whole_log(run_folder):
    emit_whole_run(run_folder)
    events = read_events(run_folder / "events.jsonl").events
    whole = {d.run: d.metrics for d in RunHistory().take(events)}
    sliced: dict[str, list] = {}
    in_parts = RunHistory()
    for event in events:
        for delivery in in_parts.take([event]):
            sliced.setdefault(delivery.run, []).extend(delivery.metrics)
    assert repr(sliced) == repr(whole)  # nan != nan


def test_prototypes_are_points_of_the_run_and_of_each_domain(run_folder):
    emit_whole_run(run_folder)
    deliveries = RunHistory().take(read_events(run_folder / "events.jsonl").events)
    found = {
        delivery.run: [
            (point.step, point.value)
            for point in delivery.metrics
            if point.name == "memory/version"
        ]
        for delivery in deliveries
    }
    assert found == {PARENT: [(1, 1.0), (2, 2.0)], "01-market": [(0, 1.0)], "02-cuhk": [(0, 2.0)]}


def test_no_average_over_a_missing_score(run_folder):
    emit_run(run_folder)
    EventLog(run_folder / "events.jsonl").emit(
        "evaluation",
        step=2,
        split="test",
        seconds=1.0,
        scores={"market": {"mAP": 1.0}, "cuhk": {"mAP": None}, "grid": {"mAP": 3.0}},
    )
    points = RunHistory().take(read_events(run_folder / "events.jsonl").events)[0].metrics
    names = {point.name for point in points}
    assert names == {"test/mAP/market", "test/mAP/grid", "mAP_unseen"}


def test_the_averages_come_first_in_mlflow(run_folder):
    emit_whole_run(run_folder)
    parent = RunHistory().take(read_events(run_folder / "events.jsonl").events)[0]
    names = sorted({point.name for point in parent.metrics})
    assert names[:2] == ["R1_seen", "R1_unseen"]
    assert names == sorted(names, key=lambda name: ("/" in name, name))
    assert len(names) < 20


def test_forgetting_after_each_step_is_that_of_the_result_matrix(run_folder):
    log, seen = EventLog(run_folder / "events.jsonl"), ["a", "b", "c"]
    log.emit("run", seen=seen, unseen=[], name="x")
    matrix = ResultMatrix(tuple(seen))
    for step in range(4):
        row = {each: {"mAP": 50.0 + 7 * step * (index - 1)} for index, each in enumerate(seen)}
        log.emit("evaluation", step=step, split="test", scores=row)
        for each in seen:
            matrix.record(step, each, row[each])
    (parent,) = RunHistory().take(read_events(run_folder / "events.jsonl").events)
    points = {each.step: each.value for each in parent.metrics if each.name == "mAP_forgetting"}
    assert sorted(points) == [2, 3]
    assert points[3] == pytest.approx(matrix.forgetting("mAP"))


def test_stages_are_separate_curves(run_folder):
    log = EventLog(run_folder / "events.jsonl")
    emit_run(run_folder)
    for iteration, stage in enumerate(("mtad", "icar")):
        facts = {"domain": "market", "domain_index": 0, "stage": stage}
        log.emit("iteration", **facts, iteration=iteration, loss=1.0, lr=1e-3)
    domain = RunHistory().take(read_events(run_folder / "events.jsonl").events)[1]
    names = [point.name for point in domain.metrics]
    assert names == ["mtad/loss", "mtad/lr", "icar/loss", "icar/lr"]


def test_the_description_ends_with_the_final_table(run_folder):
    emit_whole_run(run_folder)
    parent = RunHistory().take(read_events(run_folder / "events.jsonl").events)[0]
    note = parent.tags["mlflow.note.content"]
    assert note.startswith("**vladr** on **synthetic**, seed 1")
    assert "| cuhk | 21.0 | 50.0 |" in note
    assert "| **seen average** | 20.5 |" in note
    assert len(run_note({"seen": ["x" * 99] * 99}, {}, {})) <= 4000


def test_failure_ends_open_runs(run_folder):
    emit_run(run_folder)
    emit_iterations(run_folder, 0, range(2))
    EventLog(run_folder / "events.jsonl").emit("failed", error="out of memory")
    deliveries = RunHistory().take(read_events(run_folder / "events.jsonl").events)
    assert [delivery.status for delivery in deliveries] == ["FAILED", "FAILED"]
    assert deliveries[0].tags["error.attempt_1"] == "out of memory"


def test_a_stopped_run_is_killed_not_failed(run_folder):
    emit_run(run_folder, attempt=2)
    emit_iterations(run_folder, 0, range(2))
    EventLog(run_folder / "events.jsonl").emit("stopped", reason="Ctrl-C")
    payloads = RunHistory().take(read_events(run_folder / "events.jsonl").events)
    assert [payload.status for payload in payloads] == ["KILLED", "KILLED"]
    assert payloads[0].tags["stopped.attempt_2"] == "Ctrl-C"


def test_characters_that_mlflow_refuses_are_replaced(database, run_folder):
    EventLog(run_folder / "events.jsonl").emit(
        "evaluation", step=0, split="test", seconds=1.0, scores={"a/b(c)": {"mAP": 1.0}}
    )
    report = sync(run_folder, TrackingConfig(uri=database, experiment="names"))
    assert "test/mAP/a_b_c_" in client_of(database).get_run(report.run_id).data.metrics


# ---- sync


def test_sync_sends_everything_once(database, run_folder):
    config = TrackingConfig(uri=database, experiment="sync")
    emit_whole_run(run_folder)
    (run_folder / "results.json").write_text("{}")
    (run_folder / "matrix.png").write_bytes(b"png")
    (run_folder / "report.html").write_text("<!doctype html>")
    first = sync(run_folder, config)
    assert first.num_events_sent == len(read_events(run_folder / "events.jsonl").events)
    assert first.num_artefacts_sent == 3
    second = sync(run_folder, config)
    assert (second.num_events_sent, second.num_metrics_sent, second.num_artefacts_sent) == (0, 0, 0)
    assert first.run_id == second.run_id
    client = client_of(database)
    check_whole_run(client, "sync", run_folder)
    paths = [file.path for file in client.list_artifacts(first.run_id)]
    assert sorted(paths) == ["matrix.png", "report.html", "results.json"]
    assert not Path("mlruns").exists()
    assert (run_folder.parent / "mlartifacts").is_dir()


def test_a_changed_file_is_sent_again(database, run_folder):
    config = TrackingConfig(uri=database, experiment="files")
    emit_run(run_folder)
    (run_folder / "results.json").write_text("{}")
    assert sync(run_folder, config).num_artefacts_sent == 1
    (run_folder / "results.json").write_text('{"a": 1}')
    assert sync(run_folder, config).num_artefacts_sent == 1


def test_lost_state_causes_no_duplicates(database, run_folder, monkeypatch):
    """After a crash at any write, unconfirmed events are sent again and stored once."""
    monkeypatch.setattr(mlflow_sender, "_SLICE_BYTES", 600)
    config = TrackingConfig(uri=database, experiment="doubt")
    saved: list[str] = []
    save = TrackingState.save

    def remember(self, folder, uri):
        save(self, folder, uri)
        saved.append((folder / "tracking.json").read_text())

    monkeypatch.setattr(TrackingState, "save", remember)
    emit_whole_run(run_folder)
    sync(run_folder, config)
    states = list(saved)
    assert len(states) > 8
    for state in (states[0], states[1], states[len(states) // 2], states[-2]):
        (run_folder / "tracking.json").write_text(state)
        sync(run_folder, config)
    check_whole_run(client_of(database), "doubt", run_folder)


def test_state_is_stored_per_server(database, run_folder, tmp_path):
    emit_whole_run(run_folder)
    copy = tmp_path / "copy.db"
    shutil.copy(database.removeprefix("sqlite:///"), copy)
    for uri in (database, f"sqlite:///{copy}"):
        config = TrackingConfig(uri=uri, experiment="two")
        assert sync(run_folder, config).num_events_sent > 0
        assert sync(run_folder, config).num_events_sent == 0
        check_whole_run(client_of(uri), "two", run_folder)


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_folder_is_not_sent_again(tmp_path, move):
    from mlflow.tracking._tracking_service import utils

    first = tmp_path / "first" / "runs"
    folder = first / "demo-vladr-seed1"
    folder.mkdir(parents=True)
    emit_whole_run(folder)
    (folder / "results.json").write_text("{}")
    sync(folder, TrackingConfig(uri=f"sqlite:///{first}/mlflow.db"))
    second = tmp_path / "second"
    move(str(first), str(second))
    utils._artifact_repos_cache.clear()  # by run id; the next command is another process
    before = {path: path.read_bytes() for path in first.rglob("*.json")}
    moved = second / folder.name
    (moved / "results.json").write_text('{"new": 1}')
    uri = f"sqlite:///{second}/mlflow.db"
    report = sync(moved, TrackingConfig(uri=uri))
    assert (report.num_events_sent, report.num_artefacts_sent) == (0, 1)
    check_whole_run(client_of(uri), "lifelong-reid", moved)
    assert {path: path.read_bytes() for path in first.rglob("*.json")} == before
    (sent,) = second.glob("mlartifacts/*/artifacts/results.json")
    assert sent.read_text() == '{"new": 1}'
    assert sync(moved, TrackingConfig(uri=uri)).num_artefacts_sent == 0


def test_a_copy_of_a_run_without_its_database_is_sent_as_a_whole(run_folder, database, tmp_path):
    emit_whole_run(run_folder)
    sync(run_folder, TrackingConfig(uri=database, experiment="copies"))
    copy = shutil.copytree(run_folder, tmp_path / "elsewhere" / run_folder.name)
    uri = f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    report = sync(copy, TrackingConfig(uri=uri, experiment="copies"))
    assert report.num_events_sent > 10
    check_whole_run(client_of(uri), "copies", copy)


def test_artefacts_outside_the_folder_of_the_database_stay_there(run_folder, tmp_path):
    emit_whole_run(run_folder)
    (run_folder / "results.json").write_text("{}")
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    (tmp_path / "shared" / "mlartifacts").mkdir(parents=True)
    for _ in range(2):
        sync(run_folder, TrackingConfig(uri=uri))
    assert list(run_folder.parent.glob("mlartifacts/*/artifacts/results.json"))


def test_a_deleted_run_is_explained(database, run_folder):
    config = TrackingConfig(uri=database, experiment="deleted")
    emit_run(run_folder)
    sync(run_folder, config)
    states = json.loads((run_folder / "tracking.json").read_text())
    states[database]["runs"]["run"] = "0" * 32
    (run_folder / "tracking.json").write_text(json.dumps(states))
    emit_evaluation(run_folder, 0)
    with pytest.raises(TrackingError, match=r"no longer has run 0+; delete .*tracking\.json"):
        sync(run_folder, config)


def test_state_of_another_event_log_is_rejected(database, run_folder):
    config = TrackingConfig(uri=database, experiment="shorter")
    emit_whole_run(run_folder)
    sync(run_folder, config)
    (run_folder / "events.jsonl").unlink()
    emit_run(run_folder)
    with pytest.raises(TrackingError, match=r"shorter than the part already sent"):
        sync(run_folder, config)


def test_sync_of_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run's events\.jsonl"):
        sync(tmp_path, TrackingConfig())


def test_sync_without_uri(run_folder):
    emit_run(run_folder)
    with pytest.raises(ValueError, match=r"tracking.uri: expected a server, got null"):
        sync(run_folder, TrackingConfig(uri=None))


def test_sync_to_a_dead_server(dead_uri, run_folder):
    emit_run(run_folder)
    with pytest.raises(TrackingError, match=r"no answer .*refused.*No data is lost"):
        sync(run_folder, TrackingConfig(uri=dead_uri))


def test_an_unwritable_database_folder(run_folder):
    emit_run(run_folder)
    (run_folder / "file").write_text("")
    with pytest.raises(TrackingError, match=r"cannot create the folder of .*mlflow\.db"):
        sync(run_folder, TrackingConfig(uri=f"sqlite:///{run_folder}/file/mlflow.db"))


# ---- the tracker


def test_resumed_run_continues_same_mlflow_runs(database, run_folder):
    config = TrackingConfig(uri=database, experiment="tracker", drain_interval_s=0.05)
    tracker = Tracker(run_folder, config).start()
    emit_run(run_folder)
    emit_evaluation(run_folder, 0)
    emit_iterations(run_folder, 0, range(4))
    emit_end_of_domain(run_folder, 0)
    emit_iterations(run_folder, 1, range(4, 7))
    assert tracker.close(20).error is None
    tracker = Tracker(run_folder, config).start()
    emit_run(run_folder, attempt=2, num_workers=1)
    emit_iterations(run_folder, 1, range(5, 8))
    emit_end_of_domain(run_folder, 1)
    emit_end(run_folder)
    report = tracker.close(20)
    assert (report.pending, report.error) == (0, None)
    check_whole_run(client_of(database), "tracker", run_folder)


def test_events_arrive_during_the_run(database, run_folder):
    config = TrackingConfig(uri=database, experiment="live", drain_interval_s=0.05)
    tracker = Tracker(run_folder, config).start()
    emit_run(run_folder)
    deadline = time.monotonic() + 20
    while PARENT not in TrackingState.load(run_folder, database).runs:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    emit_iterations(run_folder, 0, range(2))
    run_id = TrackingState.load(run_folder, database).runs[PARENT]
    while not children(client_of(database), "live", run_id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(TrackingError, match="sent by another process"):
        sync(run_folder, config)
    tracker.close(20)
    assert client_of(database).get_run(run_id).info.status == "RUNNING"


def test_dead_server_causes_one_warning(database, dead_uri, run_folder):
    config = TrackingConfig(uri=dead_uri, drain_interval_s=0.05)
    tracker = Tracker(run_folder, config).start()
    start = time.monotonic()
    emit_whole_run(run_folder)
    assert time.monotonic() - start < 0.5
    time.sleep(0.5)
    report = tracker.close(10)
    events = read_events(run_folder / "events.jsonl").events
    warnings = [event["message"] for event in events if event["event"] == "log"]
    assert len(warnings) == 1
    assert f"lifelong.py sync {run_folder}" in warnings[0]
    assert report.pending == len(events)
    assert "refused" in report.error
    assert sync(run_folder, TrackingConfig(uri=database, experiment="dead")).num_events_sent > 0
    sync(run_folder, TrackingConfig(uri=database, experiment="dead"))
    check_whole_run(client_of(database), "dead", run_folder)


def test_silent_server_does_not_block(silent_uri, run_folder):
    tracker = Tracker(run_folder, TrackingConfig(uri=silent_uri, request_timeout_s=2)).start()
    emit_run(run_folder)
    start = time.monotonic()
    report = tracker.close(0.3)
    assert time.monotonic() - start < 1.0
    assert report.pending == 1
    assert "not done after 0.3 s" in report.error


def test_tracking_that_is_off(run_folder):
    tracker = Tracker(run_folder, TrackingConfig(uri=None)).start()
    emit_run(run_folder)
    assert tracker.close(1).pending == 0
    assert [path.name for path in run_folder.iterdir()] == ["events.jsonl"]


def test_importing_the_tracker_imports_no_mlflow():
    code = (
        "import sys, runner.tracking.tracker; "
        "sys.exit('mlflow' in sys.modules or 'ray' in sys.modules)"
    )
    root = Path(mlflow_sender.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ---- tracking.uri


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "http://host:5000",
        "https://u:p@host",
        "sqlite:////a/b.db",
        "postgresql+psycopg2://h/d",
    ],
)
def test_accepted_uris(uri):
    assert TrackingConfig(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["runs/mlruns", "file:///tmp/mlruns", "ftp://host", "localhost:5000"]
)
def test_rejected_uris(uri):
    with pytest.raises(ValidationError, match=r"expected http\(s\)://host:port, sqlite:///file"):
        TrackingConfig(uri=uri)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_database_without_file_is_rejected(uri):
    with pytest.raises(ValidationError, match=r"expected"):
        TrackingConfig(uri=uri)


def test_a_relative_database_is_resolved(tmp_path):
    assert resolve_uri("sqlite:///runs/a.db", tmp_path) == f"sqlite:///{tmp_path}/runs/a.db"
    assert resolve_uri("sqlite:////abs/a.db", tmp_path) == "sqlite:////abs/a.db"
    assert resolve_uri("http://host", tmp_path) == "http://host"


def test_passwords_are_not_written_to_files(run_folder):
    uri = "http://me:secret@127.0.0.1:9/path"
    assert public_uri(uri) == "http://127.0.0.1:9/path"
    TrackingState().save(run_folder, uri)
    assert "secret" not in (run_folder / "tracking.json").read_text()


# ---- a real server


@pytest.mark.slow
def test_server_dies_during_run(mlflow_server, run_folder):
    start, stop = mlflow_server
    uri = start()
    config = TrackingConfig(uri=uri, experiment="mortal", drain_interval_s=0.05)
    tracker = Tracker(run_folder, config).start()
    emit_run(run_folder)
    emit_evaluation(run_folder, 0)
    emit_iterations(run_folder, 0, range(4))
    deadline = time.monotonic() + 60
    while TrackingState.load(run_folder, uri).offset < (run_folder / "events.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stop()
    emit_end_of_domain(run_folder, 0)
    emit_iterations(run_folder, 1, range(4, 7))
    time.sleep(0.5)
    (run_folder / "results.json").write_text("{}")
    report = tracker.close(10)
    assert report.pending > 0
    assert "no answer" in report.error
    emit_run(run_folder, attempt=2, num_workers=1)
    emit_iterations(run_folder, 1, range(5, 8))
    emit_end_of_domain(run_folder, 1)
    emit_end(run_folder)
    assert start() == uri
    assert sync(run_folder, config).num_artefacts_sent == 1
    assert sync(run_folder, config).num_events_sent == 0
    check_whole_run(client_of(uri), "mortal", run_folder)
