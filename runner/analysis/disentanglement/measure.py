"""Measures the disentanglement of one run per domain, and the mean over domains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from pydantic import Field

from models.bdam.config import Config
from models.bdam.network import DecouplingNetwork
from models.learners.bdam import Method
from models.losses.decoupling import Kernel
from runner.analysis.cross_evaluation import settings_for
from runner.analysis.disentanglement.features import (
    CLOTHING,
    IDENTITY,
    PROBED,
    RANKED,
    ImageFeatures,
    extract_features,
    extract_fusion_gate,
    learner_of,
)
from runner.analysis.disentanglement.gates import (
    PUBLISHED,
    fusion_gate_statistics,
    gate_statistics,
)
from runner.analysis.disentanglement.hsic import dependence
from runner.analysis.disentanglement.probes import probe
from runner.analysis.disentanglement.retrieval import TRUTH, search
from runner.analysis.disentanglement.sample import Sample, read_samples, sample_of_panel
from runner.analysis.synthetic_attributes import GROUPS, attribute_indicators, probe_tasks
from runner.analysis.synthetic_panel import Panel, render_panel
from runner.analysis.trained_run import TrainedRun, load_run
from runner.config.run_config import RunConfig, load_config
from runner.results.run_folder import RunStorage, git_revision, write_atomically
from runner.results.run_lookup import find_run
from runner.training.collectives import LocalGroup
from runner.training.model_selection import Which
from runner.training.worker import build_learner
from tasks.benchmarks import seen_and_unseen
from tasks.loading.sampling import derive_seed
from tasks.schema import FrozenConfig

FILE = "disentangle.json"
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")


class Settings(FrozenConfig):
    """Settings of the measurement; results are comparable only with equal settings."""

    people: int = Field(
        default=200, ge=10, le=1000, description="number of people per domain; real data: at most"
    )
    min_people: int = Field(
        default=10, ge=2, description="probes omit attribute values with fewer people"
    )
    folds: int = Field(
        default=5, ge=2, description="number of folds of the probes, split by people"
    )
    images_per_person: int = Field(
        default=4, ge=1, description="real data: largest number of images of a person"
    )
    permutations: int = Field(
        default=200, ge=1, description="number of permutations for the null of HSIC"
    )
    seed: int = Field(
        default=0, ge=0, description="seed of people, outfits, folds and permutations"
    )


@dataclass(frozen=True, eq=False)
class Measurement:
    """Measurement of one run.

    Attributes:
        run: the measured run.
        results: content of disentangle.json.
        sample: images of the first domain.
        panel: its people in old and in new clothes; None if they are not synthetic.
        before: features of the images before training; with a panel also those in new clothes.
        after: the same after training.
    """

    run: TrainedRun
    results: dict[str, Any]
    sample: Sample
    panel: Panel | None
    before: tuple[ImageFeatures, ...]
    after: tuple[ImageFeatures, ...]


Panels = Callable[[RunConfig, str], Panel]


def panel_cache(settings: Settings) -> Panels:
    """Returns a function that renders and caches panels, shared by runs on the same people."""
    cache: dict[str, Panel] = {}

    def panel_of(config: RunConfig, domain: str) -> Panel:
        size = config.backbone.image_height, config.backbone.image_width
        key = f"{domain} {size} {config.benchmark.synthetic.model_dump_json()}"
        if key not in cache:
            cache[key] = render_panel(
                config.benchmark.synthetic, domain, settings.people, 1 + settings.seed, size
            )
        return cache[key]

    return panel_of


def check_run(run: str, storage_root: str) -> None:
    """Checks that a run can be measured, before anything is loaded.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: another learner.
    """
    config = load_config(str(RunStorage(find_run(run, storage_root)).config_file))
    if config.learner.name != "bdam":
        raise ValueError(
            f"disentangle: expected a run of learner bdam, got {config.learner.name} in {run}, "
            "which has no identity and clothing features; give a run of bdam"
        )


def measure(
    run: str,
    storage_root: str,
    settings: Settings,
    overrides: Sequence[str],
    panel_of: Panels,
    *,
    after: str | None = None,
    checkpoint: Which = "last",
    use_gpu: bool = False,
) -> Measurement:
    """Measures a finished run on all its seen domains and writes disentangle.json.

    Raises:
        FileNotFoundError, ValueError: the run does not exist or cannot be measured.
    """
    check_run(run, storage_root)
    trained = load_run(run, storage_root, after=after, checkpoint=checkpoint, use_gpu=use_gpu)
    config = settings_for(trained, None, overrides)
    learner = learner_of(trained)
    panels, samples = _images_of(trained, config, settings, panel_of)
    features = {
        name: _extract(learner, samples[name], panels.get(name), config, trained.device)
        for name in samples
    }
    raw = {
        name: measure_sample(sample, features[name][0], settings)
        | _measure_truth(panels.get(name), features[name], settings)
        for name, sample in samples.items()
    }
    first = next(iter(samples))
    results = {
        **trained.facts(),
        "git_revision": git_revision(),
        "settings": settings.model_dump(),
        "domains": list(samples),
        "num_people": sum(1 + int(each.positions.max()) for each in samples.values()),
        "num_images": sum(len(each.positions) for each in samples.values()),
        "notes": notes(config, learner.network, features[first][0]),
        **summary(mean_of(list(raw.values()))),
        "published": PUBLISHED,
        "by_domain": {name: summary(each) for name, each in raw.items()},
    }
    write_atomically(trained.storage.folder / FILE, json.dumps(results, indent=1))
    untrained = _untrained(config).to(trained.device)
    before = _extract(untrained, samples[first], panels.get(first), config, trained.device)
    return Measurement(trained, results, samples[first], panels.get(first), before, features[first])


def notes(config: RunConfig, network: DecouplingNetwork, features: ImageFeatures) -> list[str]:
    """Notes on the features of this run, and on what is not measured."""
    sentences: list[str] = []
    assert isinstance(config.learner, Config)
    if not config.benchmark.is_synthetic:
        sentences.append(
            "probes and retrieval in other clothes are left out, because they need people with "
            f"known attributes who change clothes, which only synthetic data have, and "
            f"{config.benchmark.name} has not"
        )
    if network.head.gate is None:
        sentences.append("no gate: f_id_gate is f_id, and f_clo_gate is f_clo")
    if features.fusion_gate is None:
        sentences.append("no fusion gate: gallery images are embedded without a learned one")
    if not config.learner.reads_clothing:
        sentences.append("no loss uses the clothing feature: f_clo is not trained")
    if network.to_text is None:
        sentences.append("losses.info.weight=0: v is not trained and not used for retrieval")
    return sentences


def measure_sample(sample: Sample, features: ImageFeatures, settings: Settings) -> dict[str, Any]:
    """Measures dependence and gates, which need no ground truth, on the images of one domain."""
    seed = derive_seed(settings.seed, "disentangle", sample.domain)
    chosen = torch.from_numpy(sample.is_paired)
    raw: dict[str, Any] = {
        "dependence": {
            f"{first}, {second}": {
                kernel: asdict(
                    dependence(
                        features.rows[first][chosen],
                        features.rows[second][chosen],
                        sample.positions[sample.is_paired],
                        kernel,
                        settings.permutations,
                        np.random.default_rng(seed),
                    )
                )
                for kernel in KERNELS
            }
            for first, second in ((IDENTITY, CLOTHING), ("f_id", "f_clo"))
        }
    }
    if features.gate is not None:
        raw["gate"] = gate_statistics(features.gate)
    if features.fusion_gate is not None:
        raw["fusion_gate"] = fusion_gate_statistics(features.fusion_gate)
    return raw


def _measure_truth(
    panel: Panel | None, features: Sequence[ImageFeatures], settings: Settings
) -> dict[str, Any]:
    """Measures what needs ground truth; nothing without a panel."""
    return {} if panel is None else measure_panel(panel, features[0], features[1], settings)


def measure_panel(
    panel: Panel, old: ImageFeatures, new: ImageFeatures, settings: Settings
) -> dict[str, Any]:
    """Measures probes and retrieval on the people of one domain.

    Returns:
        Nested numbers and lists of numbers (one per fold), and the attributes and rare attribute
        values that the probes omit.
    """
    tasks, left_out = probe_tasks(
        panel.old.people, settings.folds, settings.min_people, settings.seed
    )
    probes = {
        task.attribute: {
            "chance": task.chance,
            "features": {
                name: probe(old.rows[name].numpy(), panel.positions, task) for name in PROBED
            },
        }
        for task in tasks
    }
    same, changed = _retrieval_features(panel, old, new)
    images = panel.positions, panel.camera_ids, panel.is_query
    return {
        "probes": probes,
        "retrieval": {
            "same_clothes": search(same, same, *images),
            "other_clothes": search(same, changed, *images),
        },
        "left_out": left_out,
        "rare_words": {each.attribute: ", ".join(each.rare) for each in tasks if each.rare},
    }


def _retrieval_features(
    panel: Panel, old: ImageFeatures, new: ImageFeatures
) -> list[dict[str, torch.Tensor]]:
    """Learned and ground-truth features of the images in old and in new clothes."""
    features = [
        {name: each.rows[name] for name in RANKED if name in each.rows} for each in (old, new)
    ]
    people = (*panel.old.people, *panel.new.people)
    for group, name in TRUTH.items():
        indicators = torch.from_numpy(attribute_indicators(people, group))
        for rows, values in zip(features, indicators.split(len(panel.old.people)), strict=True):
            rows[name] = values[torch.from_numpy(panel.positions)]
    return features


def mean_of(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over domains of nested numbers and lists; a missing entry is ignored.

    Strings, such as omitted attributes, belong to one domain and are dropped.
    """
    names = dict.fromkeys(name for values in each for name in values)
    mean: dict[str, Any] = {}
    for name in names:
        values = [domain[name] for domain in each if name in domain]
        if isinstance(values[0], Mapping):
            mean[name] = mean_of(values)
        elif isinstance(values[0], list):
            mean[name] = [fmean(column) for column in zip(*values, strict=True)]
        elif not isinstance(values[0], str):
            mean[name] = fmean(values)
    return mean


def summary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Summarises lists: mean and spread over folds, and position in the null distribution."""
    kept = ("retrieval", "gate", "fusion_gate", "left_out", "rare_words")
    summarised = {
        "dependence": {
            pair: {kernel: _against_null(each) for kernel, each in kernels.items()}
            for pair, kernels in raw["dependence"].items()
        },
        **{name: raw[name] for name in kept if raw.get(name)},
    }
    if "probes" not in raw:
        return summarised
    return {"probes": _summarise_probes(raw["probes"]), **summarised}


def _summarise_probes(probes: Mapping[str, Any]) -> dict[str, Any]:
    groups = {
        group: {
            "chance": fmean(probes[name]["chance"] for name in probed),
            "features": {
                feature: [
                    fmean(values)
                    for values in zip(
                        *(probes[name]["features"][feature] for name in probed), strict=True
                    )
                ]
                for feature in PROBED
            },
        }
        for group, names in GROUPS.items()
        if (probed := [name for name in names if name in probes])
    }
    return {"groups": _over_folds(groups), "attributes": _over_folds(probes)}


def _over_folds(probes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "chance": each["chance"],
            "features": {
                feature: {"balanced_accuracy": fmean(folds), "spread": stdev(folds)}
                for feature, folds in each["features"].items()
            },
        }
        for name, each in probes.items()
    }


def _against_null(dependence: Mapping[str, Any]) -> dict[str, float]:
    null = np.array(dependence["null"])
    return {
        "hsic": dependence["hsic"],
        "null_mean": float(null.mean()),
        "null_95": float(np.quantile(null, 0.95)),
        "p_value": float((1 + (null >= dependence["hsic"]).sum()) / (1 + len(null))),
        "alignment": dependence["alignment"],
    }


def _images_of(
    run: TrainedRun, config: RunConfig, settings: Settings, panel_of: Panels
) -> tuple[dict[str, Panel], dict[str, Sample]]:
    """Panels, if the people are synthetic, and images, by seen domain."""
    if not config.benchmark.is_synthetic:
        people, images = settings.people, settings.images_per_person
        return {}, read_samples(run, config, people, images, settings.seed)
    panels = {name: panel_of(config, name) for name in seen_and_unseen(config.benchmark)[0]}
    samples = {name: sample_of_panel(panel, settings.seed) for name, panel in panels.items()}
    return panels, samples


def _extract(
    learner: Method, sample: Sample, panel: Panel | None, config: RunConfig, device: torch.device
) -> tuple[ImageFeatures, ...]:
    """Features of the images; with a panel also those in new clothes, without fusion gate."""
    features = extract_features(learner.network, sample.pixels, config, device)
    gate = extract_fusion_gate(learner, sample.pixels, sample.descriptions, config, device)
    features = replace(features, fusion_gate=gate)
    if panel is None:
        return (features,)
    return features, extract_features(learner.network, panel.new.pixels, config, device)


def _untrained(config: RunConfig) -> Method:
    """Learner with the initial weights of the run's seed."""
    learner = build_learner(config, LocalGroup()).eval()
    assert isinstance(learner, Method)
    return learner
