"""Event log: no event is lost, whatever happens to its writers."""

import json
import math
import multiprocessing
import pickle
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.tracking.event_log import EventLog, as_number, read_events


def emit_many(path: Path, writer: int, num_events: int) -> None:
    log = EventLog(path)
    for number in range(num_events):
        log.emit("iteration", writer=writer, iteration=number, padding="x" * 500)


def test_events_are_read_in_order(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run", name="a", seen=["x", "y"], params={"data.size": (1, 2)})
    log.emit("log", level="info", message="Zürich ok\nsecond line")
    events, offset, num_malformed = read_events(log.path)
    assert [event["event"] for event in events] == ["run", "log"]
    assert events[0]["params"] == {"data.size": [1, 2]}
    assert events[1]["message"] == "Zürich ok\nsecond line"
    assert events[0]["time"] <= events[1]["time"]
    assert (offset, num_malformed) == (log.path.stat().st_size, 0)
    assert read_events(log.path, offset) == ([], offset, 0)


def test_reading_continues_from_offset(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("log", message="first")
    offset = read_events(log.path).offset
    log.emit("log", message="second")
    assert [event["message"] for event in read_events(log.path, offset).events] == ["second"]


def test_a_missing_file_is_empty(tmp_path):
    assert read_events(tmp_path / "none.jsonl", 7) == ([], 7, 0)


def test_a_limited_read_stops_at_a_line(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(100):
        log.emit("log", message=str(number))
    seen, offset, reads = [], 0, 0
    while (part := read_events(log.path, offset, max_bytes=500)).events:
        seen += [int(event["message"]) for event in part.events]
        offset, reads = part.offset, reads + 1
    assert seen == list(range(100))
    assert reads > 5


def test_incomplete_line_is_left_for_next_read(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).emit("log", message="whole")
    with path.open("ab") as file:
        file.write(b'{"time": 1, "event": "lo')
    events, offset, num_malformed = read_events(path)
    assert len(events) == 1
    assert num_malformed == 0
    with path.open("ab") as file:
        file.write(b'g", "message": "late"}\n')
    assert read_events(path, offset).events == [{"time": 1, "event": "log", "message": "late"}]


def test_event_after_partial_line_is_read(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("log", message="before")
    with path.open("ab") as file:
        file.write(b'{"time": 1, "event": "itera')
    log.emit("log", message="after")
    events, offset, num_malformed = read_events(path)
    assert [event["message"] for event in events] == ["before", "after"]
    assert num_malformed == 1
    assert offset == path.stat().st_size


def test_malformed_lines_are_counted(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'[1]\n{"event": 3, "time": 1}\n{"event": "log"}\n\n\xff\xfe\n')
    assert read_events(path) == ([], path.stat().st_size, 4)


def test_concurrent_writers_do_not_interleave_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=emit_many, args=(path, i, 200)) for i in range(2)]
    workers += [threading.Thread(target=emit_many, args=(path, i, 200)) for i in range(2, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    events, _, num_malformed = read_events(path)
    assert num_malformed == 0
    for writer in range(4):
        numbers = [event["iteration"] for event in events if event["writer"] == writer]
        assert numbers == list(range(200))


def test_event_log_can_be_pickled(tmp_path):
    log = pickle.loads(pickle.dumps(EventLog(tmp_path / "events.jsonl")))
    log.emit("log", message="hello")
    assert len(read_events(log.path).events) == 1


def test_non_finite_numbers(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("iteration", loss=math.nan, terms={"id": math.inf, "ida": -math.inf})
    line = log.path.read_text()
    event = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isnan(as_number(event["loss"]))
    assert as_number(event["terms"]["id"]) == math.inf
    assert as_number(event["terms"]["ida"]) == -math.inf


@pytest.mark.parametrize("value", [None, True, "market", "1e3", [1.0], {}])
def test_values_that_are_not_numbers(value):
    assert as_number(value) is None


def test_unsupported_types_name_the_field(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(TypeError, match=r"iteration\.terms\.id: expected JSON .* got complex"):
        log.emit("iteration", terms={"id": 1j})
    assert not log.path.exists()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(value=json_values)
def test_json_round_trip(tmp_path_factory, value):
    log = EventLog(tmp_path_factory.mktemp("spool") / "events.jsonl")
    log.emit("log", value=value)
    assert read_events(log.path).events[0]["value"] == value
