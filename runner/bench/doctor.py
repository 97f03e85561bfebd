"""Images/s of `doctor --deep` on 50,000 JPEGs of 256x128, compared with a plain loop.

The time of the command includes the start of Python, imports and reading of file names. The plain
loop runs in this process. One loop per CPU, run concurrently, gives the maximum throughput of the
machine, because two logical CPUs may share a core. The files are hard links to a few hundred
synthetic images, so they are read from memory: the benchmark measures decoding, not the disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.plain_loop import loop_s, loops_s
from runner.bench.timed_runs import ENTRY
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved
from tasks.datasets.market1501 import FOLDERS
from tasks.synthetic.pool import draw_pool

HEIGHT, WIDTH = 256, 128
NUM_PEOPLE, IMAGES_EACH = 32, 8
LOOPED_EVERY = 10
_NAME = "market1501"


def measure(workbench: Workbench) -> BenchResult:
    """Measures the command with and without --deep, one loop, and one loop per CPU.

    "doctor.opening" is the time of the command minus the time without --deep.
    """
    root = workbench.folder / "photographs"
    paths = make_data_set(root, workbench.sizes.num_doctor_images)
    sample = paths[::LOOPED_EVERY]
    num_loops = len(os.sched_getaffinity(0))
    variants = {
        "deep": lambda: command_s(root, len(paths), "--deep"),
        "start": lambda: command_s(root, 0),
        "loop": lambda: loop_s(sample),
        "loops": lambda: loops_s(sample, num_loops),
    }
    seconds = interleaved(variants, workbench.repeats)
    opening_s = [
        deep - start for deep, start in zip(seconds["deep"], seconds["start"], strict=True)
    ]
    deep = _images_per_s("doctor.deep", len(paths), seconds["deep"])
    opening = _images_per_s("doctor.opening", len(paths), opening_s)
    loop = _images_per_s("doctor.loop", len(sample), seconds["loop"])
    loops = _images_per_s("doctor.loops", num_loops * len(sample), seconds["loops"])
    start = Measurement("doctor.start", "s", tuple(seconds["start"]))
    return BenchResult(
        (deep, opening, loop, loops, start),
        (
            ratio("doctor.deep / loop", deep, loop, Target(">=", 1.0)),
            ratio("doctor.opening / loops", opening, loops, Target(">=", 0.85)),
        ),
    )


def _images_per_s(name: str, num_images: int, seconds: list[float]) -> Measurement:
    return Measurement(name, "images/s", tuple(num_images / value for value in seconds))


def make_data_set(root: Path, num_images: int) -> list[Path]:
    """Creates a data set in the layout of Market-1501 from hard links to synthetic images.

    Two thirds of the images are training images; each person is seen by two cameras.
    """
    num_people = min(NUM_PEOPLE, max(1, num_images // 80))
    pool = draw_pool(1, num_people, IMAGES_EACH, seed=0, height=HEIGHT, width=WIDTH)
    source = root / "source"
    source.mkdir(parents=True)
    for number, pixels in enumerate(pool.images):
        Image.fromarray(pixels).save(source / f"{number}.jpg", quality=90)
    for folder in FOLDERS:
        (root / "Market-1501" / folder).mkdir(parents=True)
    paths: list[Path] = []
    train, query, gallery = FOLDERS
    folders = cycle((train, train, train, train, query, gallery))
    for number, folder in enumerate(islice(folders, num_images)):
        person, camera = 1 + number // 24, 1 + (number // 6 + (folder == gallery)) % 2
        person += 0 if folder == train else 5000
        name = f"{person:04d}_c{camera}s1_{number:06d}_00.jpg"
        paths.append(root / "Market-1501" / folder / name)
        os.link(source / f"{number % len(pool.images)}.jpg", paths[-1])
    return paths


def command_s(root: Path, num_opened: int, *options: str) -> float:
    """Times the command `doctor` on the data set, in seconds.

    Args:
        root: folder of the data set.
        num_opened: number of images that the command must open.
        *options: further options of the command.

    Raises:
        RuntimeError: the command failed, or it did not open `num_opened` images.
    """
    command = [sys.executable, str(ENTRY), "doctor", "--data", str(root), "--dataset", _NAME]
    start_s = time.perf_counter()
    process = subprocess.run(
        [*command, "--json", *options], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start_s
    if process.returncode != 0:
        raise RuntimeError(
            f"doctor failed with status {process.returncode}:\n{process.stderr[-2000:]}"
        )
    summary = json.loads(process.stdout)[_NAME]
    if summary.get("num_opened", 0) != num_opened or summary.get("unreadable"):
        raise RuntimeError(f"expected {num_opened} readable images, got {process.stdout[-2000:]}")
    return seconds
