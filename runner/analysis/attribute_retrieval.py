"""Person retrieval by part captions with the attribute features of a finished VLADR run.

A query is a caption of one part of a person (head, upper body, lower body, feet) after the prompt
of that attribute. The gallery is the attribute features v_j of synthetic test people, one attribute
j at a time. An attribute that has learned its part retrieves it better than the other attributes;
if captions were assigned to wrong people in training, all attributes stay near chance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.learners.vladr import Method
from models.vladr.prompts import attribute_texts
from runner.analysis.synthetic_attributes import Ints
from runner.analysis.synthetic_panel import Panel, render_panel
from runner.analysis.trained_run import TrainedRun, load_run
from runner.config.run_config import ConfigError, RunConfig
from runner.results.run_folder import git_revision, write_atomically
from runner.training.evaluation import evaluating
from runner.training.precision import autocast
from tasks.benchmarks import seen_and_unseen
from tasks.loading.sampling import derive_seed
from tasks.loading.transforms import normalise
from tasks.retrieval.random_baseline import chance_scores
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import Record, Split
from tasks.synthetic.captions import PARTS, write_captions

FILE = "attributes.json"
GLOBAL = "f"
ALL = "all"


@dataclass(frozen=True)
class AttributeScores:
    """mAP in percent of person retrieval by captions.

    Attributes:
        domain: domain of the people.
        captions: K attribute names of the query captions.
        features: names of the K attribute features, then of the global feature f.
        mAP: [K][K + 1], one row per caption.
        own: mean of the diagonal: captions and feature of the same attribute.
        other: mean of the off-diagonal without f: different attributes; None for K = 1.
        whole: mean of the last column: the global feature f.
        chance: mAP of a random ranking.
    """

    domain: str
    captions: tuple[str, ...]
    features: tuple[str, ...]
    mAP: tuple[tuple[float, ...], ...]  # noqa: N815 - the field's spelling
    own: float
    other: float | None
    whole: float
    chance: float


def search_by_captions(
    name: str,
    storage_root: str,
    *,
    num_people: int,
    after: str | None = None,
    domains: Sequence[str] = (),
    use_gpu: bool = False,
) -> tuple[TrainedRun, tuple[AttributeScores, ...]]:
    """Scores retrieval by captions on synthetic test people, one domain at a time.

    Writes the scores to FILE in the run folder.

    Args:
        name: run folder, or the run's name under `storage_root`.
        storage_root: folder of runs.
        num_people: number P of test people of a domain, those of the benchmark first.
        after: load the checkpoint after this seen domain; default: the last domain.
        domains: domains of the people, or "all" for every seen and unseen domain; default: the
            domain that the checkpoint learned last.
        use_gpu: compute on the first CUDA device.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: another learner, no trained attribute features, no synthetic benchmark, or an
            unknown domain.
    """
    run = load_run(name, storage_root, after=after, use_gpu=use_gpu)
    learner, config = _attribute_learner(run), run.config
    seen, unseen = seen_and_unseen(config.benchmark)
    chosen = tuple(domains) or (after or seen[-1],)
    if chosen == (ALL,):
        chosen = (*seen, *unseen)
    if unknown := [each for each in chosen if each not in {*seen, *unseen}]:
        raise ConfigError(
            f"--domain {unknown[0]}: expected {ALL}, or one of {', '.join((*seen, *unseen))}"
        )
    size = config.backbone.image_height, config.backbone.image_width
    scores: list[AttributeScores] = []
    for domain in chosen:
        panel = render_panel(config.benchmark.synthetic, domain, num_people, 1, size)
        captions = _captions(learner, panel, config)
        features = _features(learner, panel.old.pixels, config, run.device)
        names = attribute_names(learner)
        scores.append(score_captions(captions, features, panel.positions, domain, names))
    results = {
        **run.facts(),
        "git_revision": git_revision(),
        "num_people": num_people,
        "domains": [asdict(each) for each in scores],
    }
    write_atomically(scores_file(run), json.dumps(results, indent=1))
    return run, tuple(scores)


def _attribute_learner(run: TrainedRun) -> Method:
    config, folder = run.config, run.storage.folder.name
    if not isinstance(run.learner, Method):
        raise ConfigError(
            f"attributes: expected a run of learner vladr, got {config.learner.name} in {folder}, "
            "which has no attribute features; give a run of vladr"
        )
    if not run.learner.config.reads_attributes:
        raise ConfigError(
            f"attributes: expected trained attribute features, got {folder} with "
            "learner.losses.cma.weight=0 and a learner.alignment that does not use them"
        )
    if not config.benchmark.is_synthetic:
        raise ConfigError(
            "attributes: expected a synthetic benchmark, which has part captions of test people, "
            f"got benchmark.name={config.benchmark.name} in {folder}; give a run on synthetic"
        )
    return run.learner


def score_captions(
    captions: Tensor, features: Tensor, positions: Ints, domain: str, names: Sequence[str]
) -> AttributeScores:
    """Ranks all images for every caption and every feature; exact, ties broken by position.

    Args:
        captions: [K, P, D] features of one caption per attribute and person.
        features: [N, K + 1, D] attribute features of N images, then the global feature.
        positions: [N] position of the person in each image.
        domain: domain of the people.
        names: K attribute names.
    """
    num_attributes, num_people, _ = captions.shape
    queries = np.arange(num_people)
    scores = 100 * np.array(
        [
            [
                evaluate_ranking(caption, gallery, queries, positions).mAP
                for gallery in features.unbind(1)
            ]
            for caption in captions
        ]
    )
    square = scores[:, :num_attributes]
    off_diagonal = square[~np.eye(num_attributes, dtype=bool)]
    query, gallery = (
        tuple(Record("", int(each), 0) for each in people) for people in (queries, positions)
    )
    return AttributeScores(
        domain,
        tuple(names),
        (*names, GLOBAL),
        tuple(tuple(row) for row in scores.tolist()),
        float(np.trace(square)) / num_attributes,
        float(off_diagonal.mean()) if len(off_diagonal) else None,
        float(scores[:, -1].mean()),
        100 * chance_scores(Split(query, gallery, "text")).mAP,
    )


def _captions(learner: Method, panel: Panel, config: RunConfig) -> Tensor:
    """[K, P, D] features of one annotator's captions of each person, after the prompts."""
    settings, texts_of_people = learner.config, list[Sequence[str]]()
    for position, person in enumerate(panel.old.people):
        world = config.benchmark.synthetic.seed
        seed = derive_seed("attribute search", world, panel.domain, position)
        generated = write_captions(person, np.random.default_rng(seed))
        record = Record(str(position), position, 0, generated.captions, generated.parts)
        texts_of_people.append(
            attribute_texts(record, settings.num_attributes, settings.descriptions)
        )
    by_attribute = list(zip(*texts_of_people, strict=True))
    with torch.no_grad(), evaluating(learner):
        rows = [
            learner.textual.encode_texts(texts, k, learner.text)
            for k, texts in enumerate(by_attribute)
        ]
    return torch.stack(rows).float().cpu()


def attribute_names(learner: Method) -> Sequence[str]:
    """Names of the K attributes: body parts, or numbers from 1."""
    settings = learner.config
    if settings.descriptions == "parts":
        return PARTS
    return [str(k + 1) for k in range(settings.num_attributes)]


def _features(
    learner: Method, pixels: np.ndarray, config: RunConfig, device: torch.device
) -> Tensor:
    """v_k and N(f) of images [N, H, W, 3] uint8 -> [N, K + 1, D] float32 on the CPU."""
    network, size = learner.network, config.data.evaluation_batch_size
    parts: list[Tensor] = []
    with torch.no_grad(), evaluating(network), autocast(config.precision, device):
        for start in range(0, len(pixels), size):
            batch = pixels[start : start + size]
            encoded = network.image(normalise(batch, config.data.transform, device))
            whole = functional.normalize(encoded.projected, dim=1)[:, None]
            parts.append(torch.cat([network.decoder(encoded.patches), whole], 1).float().cpu())
    return torch.cat(parts)


def scores_file(run: TrainedRun) -> Path:
    """File with the scores of a run."""
    return run.storage.folder / FILE
