"""`describe --backend openai` against a real server that misbehaves."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

import runner.descriptions.chat_client as chat
from runner.descriptions.chat_client import backoff_s, retry_after_s
from runner.descriptions.images import data_url
from runner.descriptions.store import DescriptionStore
from runner.lifelong import main
from tasks.text.descriptions import read_descriptions
from tests.runner.descriptions.conftest import KEY, arguments
from tests.runner.descriptions.endpoint import DUAL_ANSWERS, PART_ANSWERS, Endpoint, Handler

Describe = Callable[..., int]

LIFELONG = Path(__file__).parents[3] / "runner" / "lifelong.py"
PARTS = (
    "The young man has short black hair.",
    "He wears a white striped shirt.",
    "He wears blue jeans.",
    "He wears white sneakers and carries a black backpack.",
)


def test_every_image_is_described_once_and_the_file_is_readable(
    describe: Describe, endpoint: Endpoint, images_folder: Path, tmp_path: Path
) -> None:
    assert describe() == 0
    found = read_descriptions(tmp_path / "kept" / "people_description.txt")
    assert found.parts == {path.name: PARTS for path in images_folder.iterdir()}
    assert found.num_duplicates == 0
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == 12
    assert endpoint.headers["Authorization"] == "Bearer abc123"
    assert describe() == 0
    assert set(endpoint.asked.values()) == {1}, "a second job asked again"


def test_key_is_not_written_to_files(describe: Describe, tmp_path: Path) -> None:
    assert describe() == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"abc123" in path.read_bytes()]


def test_equal_images_are_asked_for_once(
    describe: Describe, endpoint: Endpoint, images_folder: Path, tmp_path: Path
) -> None:
    (images_folder / "copy.png").write_bytes((images_folder / "01.png").read_bytes())
    assert describe() == 0
    assert sum(endpoint.asked.values()) == 12
    assert len(read_descriptions(tmp_path / "kept" / "people_description.txt").parts) == 13


def test_transient_errors_are_retried(
    describe: Describe, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Each image meets another misfortune, or two of them; in the end all are described."""

    def fault(handler: Handler, image: str, attempt: int) -> bool:
        kind = int(image[:8], 16) % 7
        if attempt > 2 or (attempt == 2 and kind < 5):
            return False
        match kind:
            case 0:
                handler.respond(429, "slow down", Retry_After="0.3")
            case 1:
                handler.respond(500, "oh")
            case 2:
                time.sleep(3)  # longer than the client waits
            case 3:
                handler.respond(200, '{"choices": [{"mess')
            case 4:
                handler.answer("")
            case 5:
                handler.answer('{"sex": "man", ')
            case _:
                handler.answer("I'm sorry, I can't help with that.")
        return True

    endpoint.fault = fault
    assert describe("--timeout-s", "2", "--concurrency", "4") == 0
    assert len(read_descriptions(tmp_path / "kept" / "people_description.txt").parts) == 12
    assert set(endpoint.answered.values()) == {1}, "an image was asked for after its success"
    assert max(endpoint.asked.values()) == 3


def test_all_threads_respect_retry_after(describe: Describe, endpoint: Endpoint) -> None:
    told: list[float] = []

    def fault(handler: Handler, image: str, attempt: int) -> bool:
        with endpoint.lock:
            is_first = not told
            if is_first:
                told.append(time.monotonic())
        if is_first:
            handler.respond(429, "slow down", Retry_After="2")
        return is_first

    endpoint.fault = fault
    assert describe("--concurrency", "2") == 0
    times = sorted(each for several in endpoint.times.values() for each in several)
    early = [each for each in times if told[0] + 0.7 < each < told[0] + 1.95]
    assert early == []
    assert times[-1] - told[0] < 30


def test_image_without_valid_answer_is_failed(
    describe: Describe, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = PART_ANSWERS | {"upper_colour": "loud"}
    assert describe() == 1
    output = capsys.readouterr().out
    assert (
        "0 of 12 images are described (12 requested in this job), 12 failed, 0 remaining" in output
    )
    assert "12 x bad answer: upper_colour: no colour is named in 'loud'" in output
    assert set(endpoint.asked.values()) == {3}
    assert "not accepted: upper_colour: no colour" in endpoint.prompts[-1]
    assert (tmp_path / "kept" / "people_description.txt").read_text() == ""
    assert describe() == 1
    assert set(endpoint.asked.values()) == {3}, "it asked again without --retry-failed"
    endpoint.answers = PART_ANSWERS
    assert describe("--retry-failed") == 0
    assert set(endpoint.asked.values()) == {4}


def test_missing_answer_is_a_transient_failure(describe: Describe, endpoint: Endpoint) -> None:
    unlucky: set[str] = set()

    def fault(handler: Handler, image: str, attempt: int) -> bool:
        with endpoint.lock:
            if len(unlucky) < 2:
                unlucky.add(image)
        if image in unlucky:
            handler.respond(503, "later")
        return image in unlucky

    endpoint.fault = fault
    assert describe("--max-retries", "2") == 1
    assert {endpoint.asked[image] for image in unlucky} == {3}
    endpoint.fault = lambda handler, image, attempt: False
    assert describe() == 0
    assert {endpoint.asked[image] for image in unlucky} == {4}
    assert sum(endpoint.answered.values()) == 12


def test_outage_stops_the_job(
    describe: Describe, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(handler: Handler, image: str, attempt: int) -> bool:
        if len(endpoint.answered) >= 3:
            handler.respond(502, "gone")
            return True
        return False

    endpoint.fault = fault
    assert describe("--concurrency", "1", "--max-retries", "1") == 1
    output = capsys.readouterr().out
    assert "3 of 12 images are described" in output
    assert "6 remaining" in output
    assert "the endpoint stopped answering: no answer: HTTP 502 (2 attempts)" in output


def test_rejected_image_is_not_asked_again(
    describe: Describe, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(handler: Handler, image: str, attempt: int) -> bool:
        if int(image[:8], 16) % 3:
            return False
        handler.respond(400, "policy")
        return True

    endpoint.fault = fault
    assert describe() == 1
    assert set(endpoint.asked.values()) == {1}
    assert "answers HTTP 400: policy" in capsys.readouterr().out


def test_request_budget(
    describe: Describe, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe("--max-requests", "5") == 1
    assert sum(endpoint.asked.values()) == 5
    output = capsys.readouterr().out
    assert "5 of 12 images are described" in output
    assert "7 remaining" in output
    assert "the request budget is used up after 5 requests" in output
    assert describe() == 0
    assert set(endpoint.asked.values()) == {1}


def test_unreadable_images_cost_no_requests(
    describe: Describe, endpoint: Endpoint, images_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (images_folder / "02.jpg").read_bytes()
    (images_folder / "02.jpg").write_bytes(whole[: len(whole) // 2])
    (images_folder / "03.png").write_bytes(b"")
    assert describe() == 1
    assert sum(endpoint.asked.values()) == 10
    output = capsys.readouterr().out
    assert "10 of 12 images are described (12 requested in this job), 2 failed" in output
    assert "unreadable image" in output


def test_dual_texts(describe: Describe, endpoint: Endpoint, exported, images_folder: Path) -> None:
    fenced = f"Here it is:\n```json\n{json.dumps(DUAL_ANSWERS)}\n```"
    endpoint.fault = lambda handler, image, attempt: handler.answer(fenced) or True
    assert describe("--prompt", "dual") == 0
    assert exported() == [
        {"file_path": path.name, **DUAL_ANSWERS} for path in sorted(images_folder.iterdir())
    ]


def test_prompt_and_model_are_part_of_the_source(describe: Describe, endpoint: Endpoint) -> None:
    assert describe() == 0
    assert describe("--model", "other") == 0
    assert set(endpoint.asked.values()) == {2}


def test_unsupported_formats_are_sent_as_png(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 6), (10, 200, 30))
    picture.save(tmp_path / "a.bmp")
    kind, _, data = data_url(tmp_path / "a.bmp").partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert (sent.size, sent.getpixel((0, 0))) == ((4, 6), (10, 200, 30))


# ---- killed and resumed


def journal_lines(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "journal.jsonl").read_bytes().count(b"\n")
    return 0


def test_killed_job_resumes(endpoint: Endpoint, images_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    endpoint.delay_s = 0.15
    command = [*arguments(images_folder, endpoint.url, kept), "--concurrency", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(LIFELONG), *command], stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while journal_lines(kept) < 4:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    recorded = {
        json.loads(line)["image"]
        for line in (kept / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    }
    assert 4 <= len(recorded) < 12
    time.sleep(0.5)  # what was under way reaches the server's counters
    asked_before = dict(endpoint.asked)
    endpoint.delay_s = 0.0
    assert main(command) == 0
    assert {image: endpoint.asked[image] for image in recorded} == dict.fromkeys(recorded, 1)
    assert {image: asked_before[image] for image in recorded} == dict.fromkeys(recorded, 1)
    assert sum(endpoint.asked.values()) <= 12 + 2, "more than what was under way was asked twice"
    assert len(read_descriptions(kept / "people_description.txt").parts) == 12


def test_two_jobs_do_not_share_a_folder(
    describe: Describe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DescriptionStore(tmp_path / "kept"):
        assert describe() == 1
    assert "is being written by another process" in capsys.readouterr().err


# ---- wrong before it begins


def refused(capsys: pytest.CaptureFixture[str], *command: str, status: int = 2) -> str:
    assert main(["describe", *command]) == status
    errors = capsys.readouterr().err
    assert len(errors) < 1500
    return " ".join(errors.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--dataset", "market150"), "expected one of .* did you mean market1501"),
        (("--backend", "opnai"), "--backend: expected one of .* did you mean openai"),
        (("--prompt", "part"), "--prompt: expected one of parts, dual; got 'part'"),
        (("--key-variable", "NO_SUCH"), "environment variable NO_SUCH, which is not set"),
        (("--url", "localhost:80"), "--url: expected http://"),
        (("--split", "train"), "--split train: .* a folder of images has no splits"),
        (("--export", "/no/such/file.txt"), "--export: /no/such/file.txt cannot be written"),
    ],
)
def test_invalid_input(
    change: tuple[str, str],
    message: str,
    endpoint: Endpoint,
    images_folder: Path,
    tmp_path: Path,
    capsys,
) -> None:
    import re

    output = refused(
        capsys, *arguments(images_folder, endpoint.url, tmp_path / "kept")[1:], *change
    )
    assert re.search(message, output)
    assert sum(endpoint.asked.values()) == 0
    assert not (tmp_path / "kept").exists()


def test_missing_endpoint_is_an_error_at_once(images_folder: Path, tmp_path: Path, capsys) -> None:
    command = arguments(images_folder, "http://127.0.0.1:9/v1", tmp_path / "kept")[1:]
    output = refused(capsys, *command, status=1)
    assert "no server answers" in output
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("status", [401, 404])
def test_wrong_key_or_model_stops_the_job(
    status: int, endpoint: Endpoint, describe: Describe, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.fault = lambda handler, image, attempt: handler.respond(status, "no") or True
    assert describe("--concurrency", "2") == 1
    output = " ".join(capsys.readouterr().err.split())
    assert f"answers HTTP {status}: no" in output
    assert sum(endpoint.asked.values()) <= 4


def test_redirects_are_not_followed(endpoint: Endpoint, describe: Describe, capsys) -> None:
    elsewhere = f"{endpoint.url}/elsewhere"
    endpoint.fault = lambda handler, image, attempt: (
        handler.respond(302, "moved", Location=elsewhere) or True
    )
    assert describe("--concurrency", "1") == 1
    assert "answers HTTP 302: moved; use the address" in " ".join(capsys.readouterr().err.split())


def test_missing_arguments(images_folder: Path, capsys) -> None:
    assert "expected --backend and --dataset or --data" in refused(capsys)
    output = refused(capsys, "--data", str(images_folder), "--backend", "openai")
    assert "expected --model" in output


def test_two_images_with_one_name_are_rejected(
    describe: Describe, endpoint: Endpoint, images_folder: Path, capsys
) -> None:
    (images_folder / "more").mkdir()
    (images_folder / "more" / "00.jpg").write_bytes((images_folder / "02.jpg").read_bytes())
    assert describe() == 2
    assert "different images of one name" in capsys.readouterr().err
    assert sum(endpoint.asked.values()) == 0


# ---- waiting


def test_exponential_backoff_with_jitter(monkeypatch) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT_S", 1.0)
    assert [backoff_s(attempt, 0, 0.5) for attempt in range(4)] == [0.5, 1, 2, 4]
    assert backoff_s(50, 0, 1.0) == chat.LONGEST_WAIT_S
    assert backoff_s(3, 0, 0.0) == 0
    assert backoff_s(0, 7, 0.0) == 7


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s("2.5", now) == 2.5
    assert retry_after_s("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30
    assert retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert [retry_after_s(each, now) for each in (None, "", "soon", "-3")] == [0, 0, 0, 0]


def test_stop_ends_pauses(endpoint: Endpoint) -> None:
    settings = chat.ChatSettings(endpoint.url, "tiny")
    client = chat.ChatClient(settings, None)
    image = "data:image/png;base64,AAAA"
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": image}}]
    endpoint.fault = lambda handler, image, attempt: (
        handler.respond(429, "", Retry_After="100") or True
    )
    caught: list[type] = []

    def ask() -> None:
        try:
            client.ask([{"role": "user", "content": content}])
        except Exception as error:
            caught.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 20
    while not endpoint.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    client.stop()
    thread.join(10)
    assert caught == [chat.StoppedError]


def test_the_key_name_in_the_fixture_is_used(endpoint: Endpoint, describe: Describe) -> None:
    assert KEY in os.environ
    assert describe("--key-variable", "none") == 0
    assert "Authorization" not in endpoint.headers
