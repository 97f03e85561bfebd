"""Building and searching a gallery index of a million vectors by IVF-PQ, against exact search.

The vectors are drawn to resemble embeddings: people of 20 images each around a centre, the mean
cosine between two images of a person 0.74, and variances along 256 directions that fall
as 1, 1/2, 1/3, ..., as those of trained networks do, turned at random so that no coordinate is
special. Recall depends on such things: a real gallery's is to be measured on the gallery.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from runner.bench.measurements import Findings, Measurement, ratio
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved
from tasks.retrieval.gallery_index import GalleryEntry, GalleryIndex

WIDTH = 256
IMAGES_PER_PERSON = 20
SPREAD = 0.6  # of a person's images, as a part of the spread of the centres
NUM_QUERIES, NUM_SINGLE_QUERIES = 500, 5
NUM_RESULTS = 10
BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Searched:
    """What one pass over the queries took.

    Attributes:
        positions: [Q, 10] that were found.
        queries_per_s: all of them in one call.
        single_ms: median of a few that are asked for one by one.
    """

    positions: Tensor
    queries_per_s: float
    single_ms: float


def measure(bench: Workbench) -> Findings:
    """Recall is the share of the exact first k that are among the first k found."""
    gallery, queries = clustered_features(bench.sizes.num_indexed_vectors, NUM_QUERIES)
    entries = [GalleryEntry("image.jpg", 0, 0, "bench")] * len(gallery)
    indices, build_s = dict[str, GalleryIndex](), dict[str, float]()
    for variant, exact_below in (("exact", len(gallery) + 1), ("ivf_pq", 0)):
        began = time.perf_counter()
        indices[variant] = GalleryIndex.build(gallery, entries, exact_below=exact_below)
        build_s[variant] = time.perf_counter() - began
    del gallery
    found = interleaved(
        {variant: partial(_searched, index, queries) for variant, index in indices.items()},
        bench.repeats,
    )
    speeds, measurements = dict[str, Measurement](), list[Measurement]()
    for variant, passes in found.items():
        name = f"index.{variant}"
        speeds[variant] = Measurement(
            f"{name}.search", "queries/s", tuple(each.queries_per_s for each in passes)
        )
        measurements += [
            Measurement(f"{name}.build", "s", (build_s[variant],)),
            speeds[variant],
            Measurement(f"{name}.one_query", "ms", tuple(each.single_ms for each in passes)),
        ]
    exact, approximate = (found[variant][0].positions for variant in ("exact", "ivf_pq"))
    measurements += [
        Measurement(f"index.ivf_pq.recall@{k}", "", (recall(exact[:, :k], approximate[:, :k]),))
        for k in (1, NUM_RESULTS)
    ]
    speedup = ratio("index.search.ivf_pq / exact", speeds["ivf_pq"], speeds["exact"])
    return Findings(tuple(measurements), (speedup,))


def clustered_features(num_gallery: int, num_queries: int) -> tuple[Tensor, Tensor]:
    """Gallery [G, 256] and queries [Q, 256] of the same people, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    draw: Callable[[int], Tensor] = partial(_normal, generator)
    deviations = torch.arange(1, WIDTH + 1).rsqrt()
    turned, _ = torch.linalg.qr(draw(WIDTH))
    directions = deviations[:, None] * turned
    num_persons = max(1, num_gallery // IMAGES_PER_PERSON)
    centres = draw(num_persons) @ directions
    features = torch.empty(num_gallery + num_queries, WIDTH)
    for block in features.split(BLOCK):
        persons = torch.randint(num_persons, (len(block),), generator=generator)
        block.copy_(centres[persons] + SPREAD * draw(len(block)) @ directions)
    gallery, queries = features.split([num_gallery, num_queries])
    return gallery, queries


def _normal(generator: torch.Generator, count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=generator)


def recall(exact: Tensor, found: Tensor) -> float:
    """Mean share of a row of `exact` [Q, k] that is in the row of `found` [Q, k]."""
    return (exact[:, :, None] == found[:, None, :]).any(dim=2).float().mean().item()


def _searched(index: GalleryIndex, queries: Tensor) -> Searched:
    began = time.perf_counter()
    positions = index.search(queries, NUM_RESULTS).positions
    batch_s = time.perf_counter() - began
    single = list[float]()
    for query in queries[:NUM_SINGLE_QUERIES].split(1):
        began = time.perf_counter()
        index.search(query, NUM_RESULTS)
        single.append(1e3 * (time.perf_counter() - began))
    return Searched(positions, len(queries) / batch_s, median(single))
