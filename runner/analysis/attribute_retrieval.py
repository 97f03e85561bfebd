"""What the attribute features of a finished run of VLADR know: people searched by part captions.

A caption of one part of a person (head, upper body, lower body, feet), behind the prompt of that
attribute, is a query; the attribute features v_j of drawn people nobody trained on are searched,
one attribute j at a time. An attribute that learned its part finds it better than the others do;
captions dealt to the wrong people in training leave all of them near chance.
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
from runner.analysis.drawn_attributes import Ints
from runner.analysis.drawn_panel import Panel, draw_panel
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


@dataclass(frozen=True)
class AttributeScores:
    """mAP in percent of people searched by captions.

    Attributes:
        domain: whose people.
        captions: K names of the queries' captions.
        features: what is searched: K attribute features, then the global feature f.
        mAP: [K][K + 1], a row for each caption.
        own: mean of the diagonal: each attribute searched by its own captions.
        other: mean off the diagonal, f aside; None for K = 1.
        chance: of a random ranking.
    """

    domain: str
    captions: tuple[str, ...]
    features: tuple[str, ...]
    mAP: tuple[tuple[float, ...], ...]  # noqa: N815 - the field's spelling
    own: float
    other: float | None
    chance: float


def search_by_captions(
    name: str,
    storage_root: str,
    *,
    num_people: int,
    after: str | None = None,
    use_gpu: bool = False,
) -> tuple[TrainedRun, AttributeScores]:
    """Searches drawn test people of the last domain that the run had learned, writes FILE.

    The prompts in a checkpoint are those of its last domain, so its people are asked for.

    Args:
        name: a run's folder, or its name under `storage_root`.
        storage_root: folder of runs.
        num_people: P test people, those of the benchmark first.
        after: the model as it was after this seen domain; default: the last.
        use_gpu: compute on the first CUDA device.

    Raises:
        FileNotFoundError: no such run.
        ValueError: a run of another learner, without attributes, or on people who are not drawn.
    """
    run = load_run(name, storage_root, after=after, use_gpu=use_gpu)
    learner = _attribute_learner(run)
    domain = after or seen_and_unseen(run.config.benchmark)[0][-1]
    config = run.config
    size = config.backbone.image_height, config.backbone.image_width
    panel = draw_panel(config.benchmark.synthetic, domain, num_people, 1, size)
    captions = _captions(learner, panel, config)
    features = _features(learner, panel.old.pixels, config, run.device)
    scores = score_captions(captions, features, panel.positions, domain, _names(learner))
    results = {
        **run.facts(),
        "git_revision": git_revision(),
        "num_people": num_people,
        **asdict(scores),
    }
    write_atomically(run.storage.folder / FILE, json.dumps(results, indent=1))
    return run, scores


def _attribute_learner(run: TrainedRun) -> Method:
    config, folder = run.config, run.storage.folder.name
    if not isinstance(run.learner, Method):
        raise ConfigError(
            f"attributes searches the attribute features of learner vladr; {folder} is of learner "
            f"{config.learner.name}, which has none: give a run of vladr"
        )
    if not run.learner.config.reads_attributes:
        raise ConfigError(
            f"nothing trained the attribute features of {folder}: learner.losses.cma.weight is 0 "
            "and no form of learner.alignment reads them"
        )
    if not config.benchmark.is_synthetic:
        raise ConfigError(
            "attributes needs part captions of people nobody trained on, which drawn people have; "
            f"{folder} learned benchmark.name={config.benchmark.name}: give a run on synthetic"
        )
    return run.learner


def score_captions(
    captions: Tensor, features: Tensor, positions: Ints, domain: str, names: Sequence[str]
) -> AttributeScores:
    """Ranks all images for every caption by every feature; exact, ties by position.

    Args:
        captions: [K, P, D] features of one caption of each of P people for each attribute.
        features: [N, K + 1, D] attribute features of N images, then the global feature.
        positions: [N] which of the people an image shows.
        domain: whose people.
        names: K names of attributes.
    """
    num_attributes, num_people, _ = captions.shape
    queries = np.arange(num_people)
    found = 100 * np.array(
        [
            [
                evaluate_ranking(said, searched, queries, positions).mAP
                for searched in features.unbind(1)
            ]
            for said in captions
        ]
    )
    square = found[:, :num_attributes]
    off = square[~np.eye(num_attributes, dtype=bool)]
    asked, shown = (
        tuple(Record("", int(each), 0) for each in people) for people in (queries, positions)
    )
    return AttributeScores(
        domain,
        tuple(names),
        (*names, GLOBAL),
        tuple(tuple(row) for row in found.tolist()),
        float(np.trace(square)) / num_attributes,
        float(off.mean()) if len(off) else None,
        100 * chance_scores(Split(asked, shown, "text")).mAP,
    )


def _captions(learner: Method, panel: Panel, config: RunConfig) -> Tensor:
    """[K, P, D]: one annotator's captions of each person, behind the prompts."""
    settings, said = learner.config, list[Sequence[str]]()
    for position, person in enumerate(panel.old.people):
        world = config.benchmark.synthetic.seed
        seed = derive_seed("attribute search", world, panel.domain, position)
        written = write_captions(person, np.random.default_rng(seed))
        record = Record(str(position), position, 0, written.captions, written.parts)
        said.append(attribute_texts(record, settings.num_attributes, settings.descriptions))
    by_attribute = list(zip(*said, strict=True))
    with torch.no_grad(), evaluating(learner):
        rows = [
            learner.textual.encode_texts(texts, k, learner.text)
            for k, texts in enumerate(by_attribute)
        ]
    return torch.stack(rows).float().cpu()


def _names(learner: Method) -> Sequence[str]:
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
            batch = np.ascontiguousarray(pixels[start : start + size])
            seen = network.image(normalise(batch, config.data.transform).to(device))
            whole = functional.normalize(seen.projected, dim=1)[:, None]
            parts.append(torch.cat([network.decoder(seen.patches), whole], 1).float().cpu())
    return torch.cat(parts)


def written(run: TrainedRun) -> Path:
    """Where the scores of a run were written."""
    return run.storage.folder / FILE
