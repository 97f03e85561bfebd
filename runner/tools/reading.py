"""How well a backbone reads: retrieval of held-out synthetic people by one sentence each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.backbones.clip import ClipBackbone
from models.backbones.tower import ImageFeatures
from models.backbones.vit_bert import VitBertBackbone
from tasks.loading.transforms import TransformConfig, normalise
from tasks.retrieval.random_baseline import expected_average_precision
from tasks.retrieval.ranking import evaluate_ranking
from tasks.synthetic.captions import exact_contents
from tasks.synthetic.pool import Pool

TinyBackbone = ClipBackbone | VitBertBackbone

Scores = dict[str, dict[str, float]]
"""mAP in percent by kind of query; see `measure_reading`."""


def image_views(features: ImageFeatures, backbone: TinyBackbone) -> tuple[Tensor, ...]:
    """Returns the features of B images that are compared with texts, each [B, D].

    For tiny-vit-bert these are the projected class token and the mean of the patches: BDAM uses
    only the patches, which a loss on the class token alone would not align with texts. For
    tiny-clip it is the projected class token, as in CLIP.
    """
    if isinstance(backbone, ClipBackbone):
        return (features.projected,)
    return features.projected, features.patches.mean(1)


@torch.no_grad()
def measure_reading(backbone: TinyBackbone, pool: Pool, kinds: Sequence[str]) -> Scores:
    """Computes the zero-shot mAP in percent on held-out people.

    Args:
        backbone: backbone in evaluation mode.
        pool: images and sentences of people that the backbone was not trained on.
        kinds: kinds of sentences.

    Returns:
        For "image": retrieval of the other images with the first image of each person. For each
        kind: retrieval of all images of a person with the sentence of the first image. Entries:
        "mAP"; "mAP_by_patches" if images also have a feature of their patches; "chance", the
        expectation of a random ranking; "oracle", see `oracle_map`.
    """
    parts = normalise(pool.images, TransformConfig.model_validate({})).split(256)
    views = zip(*(image_views(backbone.image(part), backbone) for part in parts), strict=True)
    images, *patches = (functional.normalize(torch.cat(view), dim=1) for view in views)
    persons, first = np.unique(pool.person_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(images)), first)
    other_ids = pool.person_ids[others]
    by_image = evaluate_ranking(images[first], images[others], persons, other_ids).mAP
    scores: Scores = {"image": {"mAP": by_image, "chance": _chance(other_ids, len(persons))}}
    chance = _chance(pool.person_ids, len(persons))
    for kind in kinds:
        texts = backbone.text.encode_texts([pool.captions[kind][row] for row in first])
        texts = functional.normalize(texts, dim=1)
        scores[kind] = {"mAP": evaluate_ranking(texts, images, persons, pool.person_ids).mAP}
        for view in patches:
            ranking = evaluate_ranking(texts, view, persons, pool.person_ids)
            scores[kind]["mAP_by_patches"] = ranking.mAP
        scores[kind] |= {"chance": chance, "oracle": oracle_map(pool, kind)}
    return {
        kind: {name: round(100 * value, 2) for name, value in row.items()}
        for kind, row in scores.items()
    }


def oracle_map(pool: Pool, kind: str) -> float:
    """mAP of a reader who knows every attribute of every person, with the same noisy sentences.

    A sentence and a person are compared by the words and pairs of neighbouring words that the
    sentence and the exact sentence about the person share, both in the fixed wording.
    """
    persons, first = np.unique(pool.person_ids, return_index=True)
    queries = [_ngrams(pool.contents[kind][row]) for row in first]
    people = [_ngrams(exact_contents(person).by_kind()[kind]) for person in pool.people]
    vocabulary = {gram: index for index, gram in enumerate(sorted(set().union(*queries, *people)))}
    texts, gallery = (_multi_hot(rows, vocabulary) for rows in (queries, people))
    gallery = gallery[torch.from_numpy(pool.person_ids)]
    return evaluate_ranking(texts, gallery, persons, pool.person_ids).mAP


def _ngrams(text: str) -> set[str]:
    words = re.findall(r"[\w-]+", text.lower())
    return {*words, *(f"{one} {two}" for one, two in itertools.pairwise(words))}


def _multi_hot(rows: Sequence[set[str]], vocabulary: dict[str, int]) -> Tensor:
    matrix = torch.zeros(len(rows), len(vocabulary))
    for row, grams in zip(matrix, rows, strict=True):
        row[[vocabulary[gram] for gram in grams]] = 1
    return functional.normalize(matrix, dim=1)


def _chance(gallery_ids: NDArray[np.int64], num_persons: int) -> float:
    return expected_average_precision(len(gallery_ids) // num_persons, len(gallery_ids))
