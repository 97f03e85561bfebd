"""Embeddings of every domain's test and validation people -> one row of the result matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from runner.decoding import DataConfig
from tasks.ranking import RankingScores, evaluate_ranking
from tasks.schema import Benchmark, Record, Split
from tasks.transforms import normalise

if TYPE_CHECKING:
    from runner.loop import WorkerContext


@dataclass(frozen=True)
class EvaluationRow:
    """Scores in percent by split ("test", "validation"), domain and metric, and what they took."""

    scores: dict[str, dict[str, dict[str, float]]]
    num_images: int
    seconds: float


def evaluate_domains(
    embed: Callable[[Tensor], Tensor],
    benchmark: Benchmark,
    context: WorkerContext,
    data: DataConfig,
) -> EvaluationRow:
    """Embeds all splits of all domains, each worker its share, and ranks them exactly.

    Images are streamed through the workers once and only embeddings are kept. An unreadable image
    is quarantined by the stream and takes no part. Every worker returns the same row.
    """
    began = time.perf_counter()
    parts = [
        (kind, domain.name, split)
        for domain in benchmark.domains
        for kind, split in (("test", domain.test), ("validation", domain.validation))
        if split.query and split.gallery
    ]
    records = [record for _, _, split in parts for record in (*split.query, *split.gallery)]
    features, present = _embed(embed, records, context, data)
    scores: dict[str, dict[str, dict[str, float]]] = {"test": {}, "validation": {}}
    if context.group.rank == 0:
        start = 0
        for kind, name, split in parts:
            stop = start + len(split.query) + len(split.gallery)
            ranked = _rank(split, features[start:stop], present[start:stop])
            scores[kind][name] = ranked.percent()
            start = stop
    scores = context.group.broadcast(scores)
    return EvaluationRow(scores, len(records), time.perf_counter() - began)


def _embed(
    embed: Callable[[Tensor], Tensor],
    records: list[Record],
    context: WorkerContext,
    data: DataConfig,
) -> tuple[Tensor, Tensor]:
    """[N, D] embeddings on the CPU in the order of `records`, and [N] which of them exist."""
    group = context.group
    share = np.array_split(np.arange(len(records)), group.world_size)[group.rank]
    features: list[Tensor] = []
    positions: list[np.ndarray] = []
    for found, pixels in context.stream.test_images([records[index] for index in share]):
        images = normalise(pixels, data.transform).to(context.device)
        with torch.no_grad():
            features.append(embed(images).float())
        positions.append(share[found])
    rows = group.gather_rows(torch.cat(features))
    where = group.gather_rows(torch.from_numpy(np.concatenate(positions)).to(rows.device)).cpu()
    ordered = torch.zeros(len(records), rows.shape[1])
    present = torch.zeros(len(records), dtype=torch.bool)
    ordered[where] = rows.cpu()
    present[where] = True
    return ordered, present


def _rank(split: Split, features: Tensor, present: Tensor) -> RankingScores:
    records = np.array(
        [(record.person_id, record.camera_id) for record in (*split.query, *split.gallery)]
    )
    ids, cameras = torch.from_numpy(records).T
    is_query = torch.arange(len(records)) < len(split.query)
    query, gallery = is_query & present, ~is_query & present
    return evaluate_ranking(
        features[query],
        features[gallery],
        ids[query],
        ids[gallery],
        cameras[query],
        cameras[gallery],
    )
