"""Embeddings of every domain's test and validation people -> one row of the result matrices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.learner import Learner
from runner.config.sections import DataConfig, EvaluationConfig, Precision
from runner.streaming.image_decoding import IMAGE_DECODER
from runner.streaming.image_stream import DomainStream
from runner.training.collectives import WorkerGroup
from runner.training.precision import autocast
from tasks.loading.transforms import normalise
from tasks.retrieval.matching import RankingProtocol
from tasks.retrieval.ranking import RankingScores, evaluate_ranking
from tasks.retrieval.reranking import evaluate_reranked
from tasks.retrieval.single_shot import SingleShotScores, evaluate_single_shot
from tasks.schema import Benchmark, Record, Split


def pinned_settings(evaluation: EvaluationConfig) -> dict[str, Any]:
    """Settings of decoding and ranking that two comparable results share, for the protocol lock."""
    reranking = evaluation.reranking
    pinned: dict[str, Any] = {
        "image_decoder": IMAGE_DECODER,
        "reranking": reranking.model_dump() if reranking.enabled else None,
    }
    if evaluation.protocol != "standard":  # earlier locks have no such key
        pinned["evaluation_protocol"] = evaluation.protocol
    return pinned


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All of a module in eval mode; afterwards every part of it in the mode it had before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@dataclass(frozen=True)
class Embedder:
    """A learner with all it needs to embed files; work is shared by the workers of `group`.

    It computes in the run's precision: another one gives other embeddings.
    """

    learner: Learner
    stream: DomainStream
    group: WorkerGroup
    device: torch.device
    data: DataConfig
    precision: Precision

    def images(self, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
        """Embeds the images of records with their descriptions, each worker its share.

        Images are streamed through the workers once and only embeddings are kept. An unreadable
        image is quarantined by the stream.

        Returns:
            [N, D] float32 on the CPU, zeros for unreadable images, and [N] bool: which exist.

        Raises:
            ValueError: no image can be read.
        """
        share = np.array_split(np.arange(len(records)), self.group.world_size)[self.group.rank]
        features: list[Tensor] = []
        positions: list[np.ndarray] = []
        half = autocast(self.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), half:
            for found, pixels in self.stream.test_images([records[index] for index in share]):
                images = normalise(pixels, self.data.transform).to(self.device)
                said = [records[index].identity for index in share[found]]
                features.append(self.learner.embed_gallery(images, said).float())
                positions.append(share[found])
        if not features:
            raise ValueError(
                f"none of {len(share)} images to embed can be read; the first is "
                f"{records[share[0]].image_path if len(share) else 'missing'}"
            )
        rows = self.group.gather_rows(torch.cat(features))
        where = torch.from_numpy(np.concatenate(positions)).to(rows.device)
        where = self.group.gather_rows(where).cpu()
        ordered = torch.zeros(len(records), rows.shape[1])
        present = torch.zeros(len(records), dtype=torch.bool)
        ordered[where] = rows.cpu()
        present[where] = True
        return ordered, present

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32 embeddings of texts on the CPU, computed by this worker alone."""
        size = self.data.evaluation_batch_size
        half = autocast(self.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), half:
            parts = [
                self.learner.embed_texts(texts[start : start + size]).float().cpu()
                for start in range(0, len(texts), size)
            ]
        return torch.cat(parts)


@dataclass(frozen=True)
class EvaluationRow:
    """Scores in percent by split ("test", "validation"), domain and metric, and what they took.

    Attributes:
        scores: by split, domain and metric.
        num_images: embedded images.
        num_valid_queries: queries that had a match, by split and domain.
        num_unreadable: test images that took no part, by domain, where there are any.
        seconds: decoding, embedding and ranking together.
    """

    scores: dict[str, dict[str, dict[str, float]]]
    num_images: int
    num_valid_queries: dict[str, dict[str, int]]
    num_unreadable: dict[str, int]
    seconds: float


def check_queries(learner: type[Learner], name: str, splits: Mapping[str, Split]) -> None:
    """Refuses, before any work, text queries for a learner that embeds no texts.

    Args:
        learner: the method.
        name: what the user calls it.
        splits: test split by domain.

    Raises:
        ValueError: says which domain, and what to do.
    """
    for domain, split in splits.items():
        if split.query_by == "text" and not learner.embeds_texts:
            raise ValueError(
                f"{domain} is searched by text, but learner {name} embeds no texts; choose a "
                "text-to-image learner, or a benchmark with image queries"
            )


def check_protocol(protocol: RankingProtocol, splits: Mapping[str, Split]) -> None:
    """Refuses the single-gallery-shot protocol for text queries, for which it is not defined.

    Args:
        protocol: the configured `evaluation.protocol`.
        splits: test split by domain.

    Raises:
        ValueError: names the first domain with text queries and the remedy.
    """
    for domain, split in splits.items():
        if protocol == "single_gallery_shot" and split.query_by == "text":
            raise ValueError(
                f"evaluation.protocol: expected standard, because {domain} has text queries; got "
                f"{protocol}; set evaluation.protocol=standard or choose a benchmark with image "
                "queries"
            )


def evaluate_domains(
    embedder: Embedder, benchmark: Benchmark, settings: EvaluationConfig, *, seed: int = 0
) -> EvaluationRow:
    """Embeds all splits of all domains, each worker its share, and ranks them exactly.

    An unreadable image takes no part. Every worker returns the same row. `seed` determines the
    random galleries of the single-gallery-shot protocol.
    """
    began = time.perf_counter()
    parts = [
        (kind, domain.name, split)
        for domain in benchmark.domains
        for kind, split in (("test", domain.test), ("validation", domain.validation))
        if split.query and split.gallery
    ]
    records = [record for _, _, split in parts for record in _images(split)]
    features, present = embedder.images(records)
    scores: dict[str, dict[str, dict[str, float]]] = {"test": {}, "validation": {}}
    valid: dict[str, dict[str, int]] = {"test": {}, "validation": {}}
    unreadable: dict[str, int] = {}
    if embedder.group.rank == 0:
        start = 0
        for kind, name, split in parts:
            stop = start + len(_images(split))
            ranked = _rank(
                embedder, split, features[start:stop], present[start:stop], settings, seed
            )
            scores[kind][name] = ranked.percent()
            valid[kind][name] = ranked.num_valid_queries
            num_missing = int((~present[start:stop]).sum())
            if kind == "test" and num_missing:
                unreadable[name] = num_missing
            start = stop
    scores, valid, unreadable = embedder.group.broadcast((scores, valid, unreadable))
    return EvaluationRow(scores, len(records), valid, unreadable, time.perf_counter() - began)


def _images(split: Split) -> tuple[Record, ...]:
    return split.gallery if split.query_by == "text" else (*split.query, *split.gallery)


def _rank(
    embedder: Embedder,
    split: Split,
    features: Tensor,
    present: Tensor,
    settings: EvaluationConfig,
    seed: int,
) -> RankingScores | SingleShotScores:
    """Scores of a split from the embeddings of its `_images`."""
    device = embedder.device
    if split.query_by == "text":
        queries = embedder.texts([record.caption for record in split.query])
        query_ids, gallery_ids = _ids(split.query), _ids(split.gallery)[present]
        gallery = features[present].to(device)
        return evaluate_ranking(queries.to(device), gallery, query_ids, gallery_ids)
    records = _images(split)
    ids, cameras = _ids(records), torch.tensor([record.camera_id for record in records])
    is_query = torch.arange(len(records)) < len(split.query)
    query, gallery = is_query & present, ~is_query & present
    given = (
        features[query].to(device),
        features[gallery].to(device),
        ids[query],
        ids[gallery],
        cameras[query],
        cameras[gallery],
    )
    if settings.protocol == "single_gallery_shot":
        return evaluate_single_shot(*given, seed=seed)
    if settings.reranking.enabled:
        return evaluate_reranked(*given, settings=settings.reranking)
    return evaluate_ranking(*given)


def _ids(records: Sequence[Record]) -> Tensor:
    return torch.tensor([record.person_id for record in records])
