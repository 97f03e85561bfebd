"""Parallel decoding: results, interruption, benchmark."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from runner.bench import doctor
from runner.bench.plain_loop import loops_s
from runner.bench.workbench import Sizes, Workbench
from runner.doctor.examine import examine, examine_images
from runner.doctor.open_images import open_image, open_images
from runner.streaming.image_decoding import decode_many
from tasks.dataset_files import ReadOptions
from tasks.datasets import market1501
from tests.tasks.datasets.miniatures.market1501 import build_market_layout
from tests.tasks.datasets.miniatures.painting import paint

LIFELONG = Path(__file__).parents[3] / "runner" / "lifelong.py"


def test_processes_agree_with_a_loop(tmp_path: Path) -> None:
    build_market_layout(tmp_path)
    for path in sorted(tmp_path.rglob("*.jpg"))[3:6]:
        path.write_bytes(path.read_bytes()[:-300])
    paths = [str(path) for path in sorted(tmp_path.rglob("*.jpg"), reverse=True)]
    paths.append("/nowhere.jpg")
    numbers: list[int] = []
    found = open_images(paths, numbers.append, num_processes=2, images_per_chunk=4)
    alone = {path: reason for path in paths if (reason := open_image(path))}
    assert found == alone
    assert list(found) == list(alone)
    assert len(found) == 4
    assert sum(numbers) == len(paths)
    assert max(numbers) == 4
    assert not multiprocessing.active_children()
    assert open_images([]) == {}


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp"])
def test_agrees_with_the_decoder_of_runs(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(suffix)
    paint(tmp_path / f"whole.{suffix}", 3)
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    paths: list[str] = []
    for number in range(60):
        file = bytearray(content[: draw.randrange(len(content))] if number % 2 else content)
        for _ in range(number // 2 % 4):
            file[draw.randrange(len(file)) if file else 0 : 0] = bytes([draw.randrange(256)])
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(file)
        paths.append(str(path))
    decoded = decode_many(paths, 32, 16)
    unreadable = open_images(paths, num_processes=1)
    assert set(unreadable) == {paths[position] for position in decoded.errors}
    assert 0 < len(unreadable) < len(paths)


def test_dead_process_is_an_error(tmp_path: Path) -> None:
    paint(tmp_path / "image.jpg", 1)

    def kill(_: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(RuntimeError, match=r"process that opened images died .* --dataset"):
        open_images([str(tmp_path / "image.jpg")] * 500, kill, num_processes=2, images_per_chunk=1)
    assert not multiprocessing.active_children()


def test_an_interrupt_that_ends_a_process_first_is_an_interrupt(tmp_path: Path) -> None:
    paint(tmp_path / "image.jpg", 1)

    def interrupt(_: int) -> None:
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        open_images(
            [str(tmp_path / "image.jpg")] * 500, interrupt, num_processes=2, images_per_chunk=1
        )
    assert not multiprocessing.active_children()


def test_interrupt_in_the_callback_ends_the_processes(tmp_path: Path) -> None:
    paint(tmp_path / "image.jpg", 1)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_images([str(tmp_path / "image.jpg")] * 500, interrupt, num_processes=2)
    assert not multiprocessing.active_children()


def group_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == pid:
                found.append(process)
    return found


def test_ctrl_c_stops_at_once_and_in_silence(tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    Image.effect_noise((4000, 4000), 60).save(big)  # a quarter of a second each
    for folder in market1501.FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        for number in range(200):
            os.link(big, tmp_path / folder / f"0001_c1s1_{number:06d}_00.jpg")
    process = subprocess.Popen(
        [sys.executable, str(LIFELONG), "doctor", "--deep", "--data", str(tmp_path)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "opening 600 images" in process.stderr.readline()
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert (process.returncode, output, errors) == (130, "", "stopped\n")
    left = [each for each in group_of(process.pid) if each.status() != psutil.STATUS_ZOMBIE]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive


# ---- the bench


def stand_in(script: Path, num_opened: int) -> Path:
    """A command that says at once what `doctor --json` says after seconds."""
    deep, plain = {"num_opened": num_opened, "unreadable": []}, dict[str, int]()
    script.write_text(
        "import json, sys\n"
        f"print(json.dumps({{'market1501': {deep!r} if '--deep' in sys.argv else {plain!r}}}))\n"
    )
    return script


def test_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = Sizes.quick().num_doctor_images
    monkeypatch.setattr(doctor, "ENTRY", stand_in(tmp_path / "doctor.py", size))
    found = doctor.measure(Workbench(tmp_path, repeats=2, sizes=Sizes.quick()))
    assert [each.name for each in found.measurements] == [
        "doctor.deep",
        "doctor.opening",
        "doctor.loop",
        "doctor.loops",
        "doctor.start",
    ]
    assert all(len(each.values) == 2 for each in found.measurements)
    reports = examine(["market1501"], tmp_path / "photographs", ReadOptions())
    report = examine_images(reports)["market1501"]
    assert len(report.image_paths) == size
    assert report.unreadable == {}
    assert {counts.cameras for counts in report.splits.values()} == {2}
    assert not any("no image of their person" in fault for fault in report.faults)


def test_the_bench_rejects_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = stand_in(tmp_path / "doctor.py", 21)
    monkeypatch.setattr(doctor, "ENTRY", script)
    assert doctor.command_s(tmp_path, 21, "--deep") > 0
    with pytest.raises(RuntimeError, match="expected 22 readable images"):
        doctor.command_s(tmp_path, 22, "--deep")
    script.write_text("import sys; sys.exit('no such root')")
    with pytest.raises(RuntimeError, match="status 1:\nno such root"):
        doctor.command_s(tmp_path, 0)


def test_a_loop_that_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="loop process failed"):
        loops_s([tmp_path / "nothing.jpg"], 2)
