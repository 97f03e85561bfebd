"""Time and memory of ranking random features at the sizes of Market-1501 and MSMT17.

`ours` ranks all queries. `argsort` is the common evaluator (similarities of all queries, argsort of
each row, loop over the queries); it ranks only the first 500 queries, because its time and memory
grow with their number. Each measurement runs in a separate process to measure its peak memory.
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

from runner.bench.measurements import BenchResult, Measurement, Target, ratio
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
    """Size of a test split.

    Attributes:
        name: name of the data set.
        num_queries: number of query images.
        num_gallery: number of gallery images.
        num_persons: number of persons; the person of each image is uniformly random.
        num_cameras: number of cameras; the camera of each image is uniformly random.
    """

    name: str
    num_queries: int
    num_gallery: int
    num_persons: int
    num_cameras: int

    def divided(self, divisor: int) -> Scale:
        """Returns the scale with the numbers of images and persons divided by `divisor`."""
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
# One fifth of the 8.8 ms measured for the common compiled evaluator at the size of MSMT17.
TARGETS = {
    "ranking.msmt17.ours": Target("<=", 1.76),
    "ranking.msmt17.ours.memory": Target("<=", 1000),
}


@dataclass(frozen=True)
class RankingCost:
    """Cost of one evaluation.

    Attributes:
        ms_per_query: wall time without the generation of features.
        memory_mb: increase of the peak memory of the process during ranking.
    """

    ms_per_query: float
    memory_mb: float


@dataclass(frozen=True, eq=False)
class Split:
    """Features, person ids and camera ids, each as a pair (queries, gallery)."""

    features: tuple[FloatArray, FloatArray]
    person_ids: tuple[IntArray, IntArray]
    camera_ids: tuple[IntArray, IntArray]

    def first(self, num_queries: int) -> Split:
        """Returns the first `num_queries` queries with the whole gallery."""
        return Split(
            (self.features[0][:num_queries], self.features[1]),
            (self.person_ids[0][:num_queries], self.person_ids[1]),
            (self.camera_ids[0][:num_queries], self.camera_ids[1]),
        )


def measure(workbench: Workbench) -> BenchResult:
    """Measures both evaluators in turn, at both scales."""
    measurements, ratios = list[Measurement](), list[Measurement]()
    for scale in SCALES:
        reduced = scale.divided(workbench.sizes.ranking_divisor)
        variants = {name: partial(rank_in_subprocess, name, reduced) for name in EVALUATORS}
        times = dict[str, Measurement]()
        for variant, costs in interleaved(variants, workbench.repeats).items():
            name = f"ranking.{scale.name}.{variant}"
            values = tuple(cost.ms_per_query for cost in costs)
            memory = tuple(cost.memory_mb for cost in costs)
            times[variant] = Measurement(name, "ms/query", values, TARGETS.get(name))
            name += ".memory"
            measurements += [times[variant], Measurement(name, "MB", memory, TARGETS.get(name))]
        name = f"ranking.{scale.name}.argsort / ours"
        ratios.append(ratio(name, times["argsort"], times["ours"]))
    return BenchResult(tuple(measurements), tuple(ratios))


def rank_in_subprocess(evaluator: str, scale: Scale) -> RankingCost:
    """Runs `rank` in a separate process.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", __name__, evaluator, json.dumps(asdict(scale))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"ranking with {evaluator} at {scale} failed:\n{process.stderr}")
    return RankingCost(**json.loads(process.stdout))


def random_split(scale: Scale, seed: int = 0) -> Split:
    """Generates random unit features: the hardest case, as matches occur at all ranks."""
    generator = torch.Generator().manual_seed(seed)

    def features(count: int) -> FloatArray:
        vectors = torch.randn(count, WIDTH, generator=generator)
        vectors /= vectors.norm(dim=1, keepdim=True)
        return vectors.numpy()

    def ids(bound: int) -> tuple[IntArray, IntArray]:
        query, gallery = (
            torch.randint(bound, (count,), generator=generator).numpy()
            for count in (scale.num_queries, scale.num_gallery)
        )
        return query, gallery

    return Split(
        (features(scale.num_queries), features(scale.num_gallery)),
        ids(scale.num_persons),
        ids(scale.num_cameras),
    )


def rank_ours(split: Split) -> float:
    """Computes mAP with `tasks.retrieval.ranking`."""
    query, gallery = map(torch.from_numpy, split.features)
    return evaluate_ranking(query, gallery, *split.person_ids, *split.camera_ids).mAP


def rank_by_argsort(split: Split) -> float:
    """Computes mAP from the full rankings of all queries, like common evaluators."""
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


def rank(evaluator: str, scale: Scale) -> RankingCost:
    """Ranks once in this process.

    Raises:
        RuntimeError: the mAP of the two evaluators differs.
    """
    EVALUATORS[evaluator](random_split(scale.divided(100)))  # initialises the libraries
    split = random_split(scale)
    if evaluator == "argsort":
        split = split.first(NUM_ARGSORT_QUERIES)
    peak_before = _peak_bytes()
    start_s = time.perf_counter()
    mAP = EVALUATORS[evaluator](split)
    wall_s = time.perf_counter() - start_s
    memory = _peak_bytes() - peak_before
    if evaluator == "argsort" and not abs(mAP - (ours := rank_ours(split))) <= TOLERANCE:
        raise RuntimeError(f"expected equal mAP of both evaluators, got argsort {mAP}, ours {ours}")
    return RankingCost(1e3 * wall_s / len(split.features[0]), memory / 1e6)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(evaluator: str, scale: str) -> None:
    """Entry point of the subprocess: prints a `RankingCost` as JSON."""
    fields: dict[str, Any] = json.loads(scale)
    print(json.dumps(asdict(rank(evaluator, Scale(**fields)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
