"""Time and memory of ranking splits as large as Market-1501's and MSMT17's, random features.

Ours ranks all queries. The field's usual evaluator, written down here as it is commonly written
(the similarities of all queries, an argsort of each row, a loop over the queries), ranks the first
500 of the same data; what it would need for all of them grows with their number. Each measurement
has a process of its own, so that the peak of its memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runner.bench.measurements import Aim, Findings, Measurement, ratio
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved
from tasks.retrieval.ranking import evaluate_ranking

NUM_ARGSORT_QUERIES = 500
WIDTH = 512
TOLERANCE = 1e-5

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """How large a test split is.

    Attributes:
        name: of the data set.
        num_queries: images ranked for.
        num_gallery: images ranked.
        num_persons: that both are drawn from, all equally likely.
        num_cameras: likewise.
    """

    name: str
    num_queries: int
    num_gallery: int
    num_persons: int
    num_cameras: int

    def divided(self, divisor: int) -> Scale:
        """The same with a part of the images and persons."""
        return replace(
            self,
            num_queries=max(1, self.num_queries // divisor),
            num_gallery=max(1, self.num_gallery // divisor),
            num_persons=max(1, self.num_persons // divisor),
        )


SCALES = (
    Scale("market1501", 3368, 15913, 751, 6),
    Scale("msmt17", 11659, 82161, 3060, 15),
)
# A fifth of what the field's compiled evaluator was measured to need at MSMT17's gallery, 8.8 ms.
AIMS = {"ranking.msmt17.ours": Aim("<=", 1.76), "ranking.msmt17.ours.memory": Aim("<=", 1000)}


@dataclass(frozen=True)
class Ranked:
    """What one evaluation took.

    Attributes:
        ms_per_query: wall time, the features given.
        memory_mb: peak of the process's memory beyond what it held before, features included.
    """

    ms_per_query: float
    memory_mb: float


@dataclass(frozen=True, eq=False)
class Split:
    """Features, person ids and camera ids, each of the queries and of the gallery."""

    features: tuple[FloatArray, FloatArray]
    person_ids: tuple[IntArray, IntArray]
    camera_ids: tuple[IntArray, IntArray]

    def first(self, num_queries: int) -> Split:
        """The first queries and the whole gallery."""
        return Split(
            (self.features[0][:num_queries], self.features[1]),
            (self.person_ids[0][:num_queries], self.person_ids[1]),
            (self.camera_ids[0][:num_queries], self.camera_ids[1]),
        )


def measure(bench: Workbench) -> Findings:
    """Both evaluators in turns, at both scales."""
    measurements, ratios = list[Measurement](), list[Measurement]()
    for scale in SCALES:
        part = scale.divided(bench.sizes.ranking_divisor)
        variants = {name: partial(in_child, name, part) for name in EVALUATORS}
        times = dict[str, Measurement]()
        for variant, found in interleaved(variants, bench.repeats).items():
            name = f"ranking.{scale.name}.{variant}"
            values = tuple(each.ms_per_query for each in found)
            memory = tuple(each.memory_mb for each in found)
            times[variant] = Measurement(name, "ms/query", values, AIMS.get(name))
            name += ".memory"
            measurements += [times[variant], Measurement(name, "MB", memory, AIMS.get(name))]
        name = f"ranking.{scale.name}.argsort / ours"
        ratios.append(ratio(name, times["argsort"], times["ours"]))
    return Findings(tuple(measurements), tuple(ratios))


def in_child(evaluator: str, scale: Scale) -> Ranked:
    """`rank` in a process of its own.

    Raises:
        RuntimeError: it failed; with all that it said.
    """
    command = [sys.executable, "-m", __name__, evaluator, json.dumps(asdict(scale))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ranking with {evaluator} at {scale} failed:\n{done.stderr}")
    return Ranked(**json.loads(done.stdout))


def random_split(scale: Scale, seed: int = 0) -> Split:
    """Unit features without any order among them: the hardest case, matches are everywhere."""
    generator = torch.Generator().manual_seed(seed)

    def features(count: int) -> FloatArray:
        drawn = torch.randn(count, WIDTH, generator=generator)
        drawn /= drawn.norm(dim=1, keepdim=True)
        return drawn.numpy()

    def numbers(bound: int) -> tuple[IntArray, IntArray]:
        query, gallery = (
            torch.randint(bound, (count,), generator=generator).numpy()
            for count in (scale.num_queries, scale.num_gallery)
        )
        return query, gallery

    return Split(
        (features(scale.num_queries), features(scale.num_gallery)),
        numbers(scale.num_persons),
        numbers(scale.num_cameras),
    )


def rank_ours(split: Split) -> float:
    """mAP by `tasks.retrieval.ranking`."""
    query, gallery = map(torch.from_numpy, split.features)
    return evaluate_ranking(query, gallery, *split.person_ids, *split.camera_ids).mAP


def rank_by_argsort(split: Split) -> float:
    """mAP by the whole rankings of all queries, as the field's evaluators compute it."""
    query, gallery = split.features
    query_ids, gallery_ids = split.person_ids
    query_cameras, gallery_cameras = split.camera_ids
    order = np.argsort(-(query @ gallery.T), axis=1)
    matches = gallery_ids[order] == query_ids[:, None]
    precisions = list[float]()
    for number, ranking in enumerate(order):
        same_person = gallery_ids[ranking] == query_ids[number]
        kept = ~(same_person & (gallery_cameras[ranking] == query_cameras[number]))
        hits = matches[number][kept]
        if hits.any():
            precision = hits.cumsum() / np.arange(1, len(hits) + 1)
            precisions.append(float((precision * hits).sum() / hits.sum()))
    return float(np.mean(precisions))


EVALUATORS = {"ours": rank_ours, "argsort": rank_by_argsort}


def rank(evaluator: str, scale: Scale) -> Ranked:
    """Ranks once in this process.

    Raises:
        RuntimeError: the evaluators do not agree on the queries that both can rank.
    """
    EVALUATORS[evaluator](random_split(scale.divided(100)))  # what the libraries set up at first
    split = random_split(scale)
    if evaluator == "argsort":
        split = split.first(NUM_ARGSORT_QUERIES)
    before = _peak_bytes()
    began = time.perf_counter()
    found = EVALUATORS[evaluator](split)
    wall_s = time.perf_counter() - began
    memory = _peak_bytes() - before
    if evaluator == "argsort" and not abs(found - (ours := rank_ours(split))) <= TOLERANCE:
        raise RuntimeError(f"mAP by argsort is {found}, ours {ours}: one of them is wrong")
    return Ranked(1e3 * wall_s / len(split.features[0]), memory / 1e6)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(evaluator: str, scale: str) -> None:
    """The process of one measurement: prints a `Ranked` as JSON."""
    fields: dict[str, Any] = json.loads(scale)
    print(json.dumps(asdict(rank(evaluator, Scale(**fields)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
