"""Images/s of `doctor --deep` on 50,000 JPEGs of 256x128, and of a plain loop that opens some.

The command is timed as somebody who types it would: Python's start, the imports and the reading of
the names are in it. The loop is in this process, with nothing to start. As many such loops at once
as there are CPUs say what the machine can give: two CPUs may be one core, and then do not give two
loops' worth. The files are hard links to a few hundred drawn pictures, so all read from memory:
what is measured is decoding, not a disk.
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

from runner.bench.measurements import Aim, Findings, Measurement, ratio
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


def measure(bench: Workbench) -> Findings:
    """The command, the same without --deep, the loop, and a loop for each CPU, in turns.

    "doctor.opening" is what is left of the command's time for the images alone.
    """
    root = bench.folder / "photographs"
    paths = make_data_set(root, bench.sizes.num_doctored_images)
    some = paths[::LOOPED_EVERY]
    num_loops = len(os.sched_getaffinity(0))
    variants = {
        "deep": lambda: command_s(root, len(paths), "--deep"),
        "start": lambda: command_s(root, 0),
        "loop": lambda: loop_s(some),
        "loops": lambda: loops_s(some, num_loops),
    }
    seconds = interleaved(variants, bench.repeats)
    alone = [deep - start for deep, start in zip(seconds["deep"], seconds["start"], strict=True)]
    deep = _images_per_s("doctor.deep", len(paths), seconds["deep"])
    opening = _images_per_s("doctor.opening", len(paths), alone)
    loop = _images_per_s("doctor.loop", len(some), seconds["loop"])
    loops = _images_per_s("doctor.loops", num_loops * len(some), seconds["loops"])
    start = Measurement("doctor.start", "s", tuple(seconds["start"]))
    return Findings(
        (deep, opening, loop, loops, start),
        (
            ratio("doctor.deep / loop", deep, loop, Aim(">=", 1.0)),
            ratio("doctor.opening / loops", opening, loops, Aim(">=", 0.85)),
        ),
    )


def _images_per_s(name: str, num_images: int, seconds: list[float]) -> Measurement:
    return Measurement(name, "images/s", tuple(num_images / each for each in seconds))


def make_data_set(root: Path, num_images: int) -> list[Path]:
    """Market-1501's layout with drawn people; the same few pictures again and again.

    Two thirds of the images train; each person's images are by two cameras.
    """
    num_people = min(NUM_PEOPLE, max(1, num_images // 80))
    pool = draw_pool(1, num_people, IMAGES_EACH, seed=0, height=HEIGHT, width=WIDTH)
    drawn = root / "drawn"
    drawn.mkdir(parents=True)
    for number, pixels in enumerate(pool.images):
        Image.fromarray(pixels).save(drawn / f"{number}.jpg", quality=90)
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
        os.link(drawn / f"{number % len(pool.images)}.jpg", paths[-1])
    return paths


def command_s(root: Path, num_opened: int, *options: str) -> float:
    """Seconds of `doctor` on the data set.

    Raises:
        RuntimeError: it failed, or it did not open all images.
    """
    command = [sys.executable, str(ENTRY), "doctor", "--data", str(root), "--dataset", _NAME]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--json", *options], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"doctor ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)[_NAME]
    if found.get("num_opened", 0) != num_opened or found.get("unreadable"):
        raise RuntimeError(f"expected {num_opened} good images; doctor found {done.stdout[-2000:]}")
    return seconds
