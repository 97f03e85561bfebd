"""Embedding and ranking of the test and validation splits of all domains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.backbones.tower import TextTower
from models.learner import Encode, Learner, Probe
from runner.config.sections import DataConfig, EvaluationConfig, Precision
from runner.streaming.image_decoding import IMAGE_DECODER
from runner.streaming.image_stream import DomainStream, OpenedDomain
from runner.training.collectives import WorkerGroup
from runner.training.precision import autocast
from tasks.loading.transforms import normalise
from tasks.retrieval.matching import RankingProtocol
from tasks.retrieval.ranking import RankingScores, evaluate_ranking
from tasks.retrieval.reranking import evaluate_reranked
from tasks.retrieval.single_shot import SingleShotScores, evaluate_single_shot
from tasks.schema import Benchmark, Record, Split


def pinned_settings(evaluation: EvaluationConfig) -> dict[str, Any]:
    """Decoding and ranking settings that comparable results must share, for the protocol lock."""
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
    """Sets a module to eval mode, then restores the previous mode of each submodule.

    Compiled blocks run eagerly: each new batch size would compile them again.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@dataclass(frozen=True)
class Embedder:
    """Embeds images and texts with a learner, distributed over the workers of `group`.

    Embeddings are computed in the precision of the run, because another precision changes them.
    """

    learner: Learner
    stream: DomainStream
    group: WorkerGroup
    device: torch.device
    data: DataConfig
    precision: Precision

    def images(self, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
        """Embeds images with their descriptions; each worker embeds an equal share.

        Images are decoded once and only their embeddings are kept. The stream lists unreadable
        images.

        Args:
            records: N images.

        Returns:
            Embeddings [N, D], float32 on the CPU, zeros for unreadable images; and [N] bool, true
            for readable images.

        Raises:
            ValueError: no image can be read.
        """
        share = np.array_split(np.arange(len(records)), self.group.world_size)[self.group.rank]
        features: list[Tensor] = []
        positions: list[np.ndarray] = []
        precision = autocast(self.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), precision:
            for readable, pixels in self.stream.test_images([records[index] for index in share]):
                images = normalise(pixels, self.data.transform, self.device)
                descriptions = [records[index].identity for index in share[readable]]
                features.append(self.learner.embed_gallery(images, descriptions).float())
                positions.append(share[readable])
        if not features:
            raise ValueError(
                f"expected at least one readable image, got none of {len(share)}; the first is "
                f"{records[share[0]].image_path if len(share) else 'missing'}, check the data root"
            )
        rows = self.group.gather_rows(torch.cat(features))
        indices = torch.from_numpy(np.concatenate(positions)).to(rows.device)
        indices = self.group.gather_rows(indices).cpu()
        ordered = torch.zeros(len(records), rows.shape[1])
        is_readable = torch.zeros(len(records), dtype=torch.bool)
        ordered[indices] = rows.cpu()
        is_readable[indices] = True
        return ordered, is_readable

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeds texts on this worker alone: [N, D], float32 on the CPU."""
        size = self.data.evaluation_batch_size
        precision = autocast(self.precision, self.device)
        with torch.no_grad(), evaluating(self.learner), precision:
            parts = [
                self.learner.embed_texts(texts[start : start + size]).float().cpu()
                for start in range(0, len(texts), size)
            ]
        return torch.cat(parts)

    def probe(self, opened: OpenedDomain) -> Probe:
        """Returns the learner's `Probe` for the training images of a domain.

        Each worker encodes an equal share of the images; all workers receive all rows.
        """

        def probe(encode: Encode) -> dict[str, Tensor]:
            group, size = self.group, self.data.evaluation_batch_size
            share = np.array_split(np.arange(len(opened.domain.train)), group.world_size)[
                group.rank
            ]
            chunks: list[dict[str, Tensor]] = []
            precision = autocast(self.precision, self.device)
            with torch.no_grad(), evaluating(self.learner), precision:
                for start in range(0, len(share), size):
                    pixels = opened.images.fetch(share[start : start + size])
                    images = normalise(pixels, self.data.transform, self.device)
                    encoded = encode(images)
                    chunks.append({name: value.float() for name, value in encoded.items()})
            return {
                name: group.gather_rows(torch.cat([chunk[name] for chunk in chunks]))
                for name in chunks[0]
            }

        return probe


@dataclass(frozen=True)
class EvaluationRow:
    """Scores of one evaluation of all domains.

    Attributes:
        scores: in percent, by split ("test" or "validation"), domain and metric.
        num_images: number of embedded images.
        num_valid_queries: queries with at least one match in the gallery, by split and domain.
        num_unreadable: unreadable test images by domain, without domains that have none.
        truncated: for each domain with newly truncated texts, a message that counts them.
        seconds: wall time of decoding, embedding and ranking.
    """

    scores: dict[str, dict[str, dict[str, float]]]
    num_images: int
    num_valid_queries: dict[str, dict[str, int]]
    num_unreadable: dict[str, int]
    truncated: list[str]
    seconds: float


def check_queries(learner: type[Learner], name: str, splits: Mapping[str, Split]) -> None:
    """Checks that the learner can embed the queries of all domains.

    Args:
        learner: class of the method.
        name: configured name of the method.
        splits: test split by domain.

    Raises:
        ValueError: a domain has text queries, but the learner does not embed texts.
    """
    for domain, split in splits.items():
        if split.query_by == "text" and not learner.embeds_texts:
            raise ValueError(
                f"learner.name: {domain} has text queries, but learner {name} does not embed "
                "texts; choose a text-to-image learner, or a benchmark with image queries"
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
    """Embeds all splits of all domains and ranks them exactly.

    Unreadable images are excluded. All workers share the embedding and return the same row.
    `seed` determines the random galleries of the single-gallery-shot protocol.
    """
    start_s = time.perf_counter()
    parts = [
        (kind, domain.name, split)
        for domain in benchmark.domains
        for kind, split in (("test", domain.test), ("validation", domain.validation))
        if split.query and split.gallery
    ]
    records = [record for _, _, split in parts for record in _images(split)]
    features, is_readable = embedder.images(records)
    scores: dict[str, dict[str, dict[str, float]]] = {"test": {}, "validation": {}}
    valid: dict[str, dict[str, int]] = {"test": {}, "validation": {}}
    unreadable: dict[str, int] = {}
    truncated = [truncated_texts(embedder.learner, "gallery descriptions")]
    if embedder.group.rank == 0:
        start = 0
        for kind, name, split in parts:
            stop = start + len(_images(split))
            readable = is_readable[start:stop]
            ranked = _rank(embedder, split, features[start:stop], readable, settings, seed)
            truncated.append(truncated_texts(embedder.learner, f"{name}, {kind} split"))
            scores[kind][name] = ranked.percent()
            valid[kind][name] = ranked.num_valid_queries
            num_unreadable = int((~readable).sum())
            if kind == "test" and num_unreadable:
                unreadable[name] = num_unreadable
            start = stop
    messages = [message for message in truncated if message]
    shared = embedder.group.broadcast((scores, valid, unreadable, messages))
    scores, valid, unreadable, messages = shared
    seconds = time.perf_counter() - start_s
    return EvaluationRow(scores, len(records), valid, unreadable, messages, seconds)


def truncated_texts(learner: Learner, name: str) -> str:
    """Describes the texts that the learner truncated since the last call; "" if there are none.

    Args:
        learner: the learner, with or without a text tower.
        name: data set of the texts, for the message.
    """
    towers = [module for module in learner.modules() if isinstance(module, TextTower)]
    number = sum(tower.take_num_truncated() for tower in towers)
    if not number:
        return ""
    return (
        f"{name}: {number} texts are longer than {towers[0].context_length} tokens "
        "(backbone.context_length) and are cut"
    )


def _images(split: Split) -> tuple[Record, ...]:
    return split.gallery if split.query_by == "text" else (*split.query, *split.gallery)


def _rank(
    embedder: Embedder,
    split: Split,
    features: Tensor,
    is_readable: Tensor,
    settings: EvaluationConfig,
    seed: int,
) -> RankingScores | SingleShotScores:
    """Ranks one split.

    Args:
        embedder: embeds the text queries.
        split: queries and gallery.
        features: [N, D] embeddings of `_images(split)`.
        is_readable: [N] bool; false excludes the image.
        settings: protocol and re-ranking of image queries.
        seed: of the random galleries of the single-gallery-shot protocol.
    """
    device = embedder.device
    if split.query_by == "text":
        queries = embedder.texts([record.caption for record in split.query])
        query_ids, gallery_ids = _ids(split.query), _ids(split.gallery)[is_readable]
        gallery = features[is_readable].to(device)
        return evaluate_ranking(queries.to(device), gallery, query_ids, gallery_ids)
    records = _images(split)
    ids, cameras = _ids(records), torch.tensor([record.camera_id for record in records])
    is_query = torch.arange(len(records)) < len(split.query)
    query, gallery = is_query & is_readable, ~is_query & is_readable
    arguments = (
        features[query].to(device),
        features[gallery].to(device),
        ids[query],
        ids[gallery],
        cameras[query],
        cameras[gallery],
    )
    if settings.protocol == "single_gallery_shot":
        return evaluate_single_shot(*arguments, seed=seed)
    if settings.reranking.enabled:
        return evaluate_reranked(*arguments, settings=settings.reranking)
    return evaluate_ranking(*arguments)


def _ids(records: Sequence[Record]) -> Tensor:
    return torch.tensor([record.person_id for record in records])
