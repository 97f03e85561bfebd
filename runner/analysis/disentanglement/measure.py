"""Everything that is measured of one run, domain by domain, and their mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
    Read,
    network_of,
    read_features,
)
from runner.analysis.disentanglement.hsic import dependence
from runner.analysis.disentanglement.probes import probe
from runner.analysis.disentanglement.retrieval import TRUTH, search
from runner.analysis.drawn_attributes import GROUPS, questions, truth
from runner.analysis.drawn_panel import Panel, draw_panel
from runner.analysis.trained_run import TrainedRun, load_run
from runner.config.run_config import RunConfig, load_config
from runner.results.run_folder import RunStorage, find_run, git_revision, write_atomically
from runner.training.collectives import LocalGroup
from runner.training.model_selection import Which
from runner.training.worker import build_learner
from tasks.benchmarks import seen_and_unseen
from tasks.loading.sampling import derive_seed
from tasks.schema import FrozenConfig

FILE = "disentangle.json"
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")


class Settings(FrozenConfig):
    """How disentanglement is measured; the numbers of two runs compare if these agree."""

    people: int = Field(default=200, ge=10, le=1000, description="people of each domain")
    min_people: int = Field(default=10, ge=2, description="a rarer word is left out of the probes")
    folds: int = Field(default=5, ge=2, description="of the probes, by people")
    permutations: int = Field(default=200, ge=1, description="of the null of HSIC")
    seed: int = Field(default=0, ge=0, description="of outfits, folds and permutations")


@dataclass(frozen=True, eq=False)
class Measured:
    """One run.

    Attributes:
        run: what was measured.
        results: what disentangle.json holds.
        panel: the people of the first domain.
        before: features of its people in old and in new clothes by the network as it began.
        after: the same by the trained network.
    """

    run: TrainedRun
    results: dict[str, Any]
    panel: Panel
    before: tuple[Read, Read]
    after: tuple[Read, Read]


Panels = Callable[[RunConfig, str], Panel]


def panels(settings: Settings) -> Panels:
    """Draws panels, each once: runs on the same drawn people share them."""
    kept: dict[str, Panel] = {}

    def panel_of(config: RunConfig, domain: str) -> Panel:
        size = config.backbone.image_height, config.backbone.image_width
        key = f"{domain} {size} {config.benchmark.synthetic.model_dump_json()}"
        if key not in kept:
            kept[key] = draw_panel(
                config.benchmark.synthetic, domain, settings.people, 1 + settings.seed, size
            )
        return kept[key]

    return panel_of


def check_run(run: str, storage_root: str) -> None:
    """Refuses, before anything is loaded, a run that cannot be measured.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: another learner's, or one on people of whom the truth is not known.
    """
    config = load_config(str(RunStorage(find_run(run, storage_root)).config_file))
    if config.learner.name != "bdam":
        raise ValueError(
            f"disentangle compares the identity and the clothing feature of learner bdam; {run} is "
            f"of learner {config.learner.name}, which has none. Give a run of bdam."
        )
    if not config.benchmark.is_synthetic:
        raise ValueError(
            "disentangle needs people whose every attribute is known and who can be re-dressed; "
            f"{run} learned benchmark.name={config.benchmark.name}. Give a run on synthetic-t2i."
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
) -> Measured:
    """Measures a finished run on every domain that it has seen, and writes disentangle.json.

    Raises:
        FileNotFoundError, ValueError: there is no such run, or it cannot be measured.
    """
    check_run(run, storage_root)
    trained = load_run(run, storage_root, after=after, checkpoint=checkpoint, use_gpu=use_gpu)
    config = settings_for(trained, None, overrides)
    network = network_of(trained)
    domains = seen_and_unseen(config.benchmark)[0]
    raw: dict[str, dict[str, Any]] = {}
    for domain in domains:
        panel = panel_of(config, domain)
        read = _read_both(network, panel, config, trained.device)
        raw[domain] = measure_panel(panel, *read, settings)
    first = panel_of(config, domains[0])
    results = {
        **trained.facts(),
        "git_revision": git_revision(),
        "settings": settings.model_dump(),
        "domains": list(domains),
        "notes": notes(config, network),
        **summary(mean_of(list(raw.values()))),
        "by_domain": {name: summary(each) for name, each in raw.items()},
    }
    write_atomically(trained.storage.folder / FILE, json.dumps(results, indent=1))
    began = _network_before(config).to(trained.device)
    return Measured(
        trained,
        results,
        first,
        _read_both(began, first, config, trained.device),
        _read_both(network, first, config, trained.device),
    )


def notes(config: RunConfig, network: DecouplingNetwork) -> list[str]:
    """What a reader must know of this run's features."""
    said: list[str] = []
    assert isinstance(config.learner, Config)
    if network.head.gate is None:
        said.append("no gate: f_id_gate is f_id, and f_clo_gate is f_clo")
    if not config.learner.reads_clothing:
        said.append("no loss reads the clothing feature: f_clo is not trained")
    if network.to_text is None:
        said.append("losses.info.weight=0 trains no v: nothing is searched by it")
    return said


def measure_panel(panel: Panel, old: Read, new: Read, settings: Settings) -> dict[str, Any]:
    """Everything that is measured on the people of one domain, by name.

    Returns:
        Nested numbers and lists of numbers (a number for each fold or permutation), and words:
        which attributes and which rare words the probes left out.
    """
    asked, left_out = questions(
        panel.old.people, settings.folds, settings.min_people, settings.seed
    )
    probes = {
        question.attribute: {
            "chance": question.chance,
            "features": {
                name: probe(old.rows[name].numpy(), panel.positions, question) for name in PROBED
            },
        }
        for question in asked
    }
    seed = derive_seed(settings.seed, "disentangle", panel.domain)
    chosen = torch.from_numpy(panel.is_query)
    found = {
        f"{first}, {second}": {
            kernel: asdict(
                dependence(
                    old.rows[first][chosen],
                    old.rows[second][chosen],
                    panel.positions[panel.is_query],
                    kernel,
                    settings.permutations,
                    np.random.default_rng(seed),
                )
            )
            for kernel in KERNELS
        }
        for first, second in ((IDENTITY, CLOTHING), ("f_id", "f_clo"))
    }
    worn, changed = _searched_by(panel, old, new)
    images = panel.positions, panel.camera_ids, panel.is_query
    raw = {
        "probes": probes,
        "dependence": found,
        "retrieval": {
            "same_clothes": search(worn, worn, *images),
            "other_clothes": search(worn, changed, *images),
        },
        "left_out": left_out,
        "rare_words": {each.attribute: ", ".join(each.rare) for each in asked if each.rare},
    }
    if old.gate is not None:
        raw["gate"] = {
            "mean": float(old.gate.mean()),
            "below_0.1": float((old.gate < 0.1).float().mean()),
            "above_0.9": float((old.gate > 0.9).float().mean()),
        }
    return raw


def _searched_by(panel: Panel, old: Read, new: Read) -> list[dict[str, torch.Tensor]]:
    """What images in old and in new clothes are searched by: features, and the truth."""
    found = [{name: read.rows[name] for name in RANKED if name in read.rows} for read in (old, new)]
    everybody = (*panel.old.people, *panel.new.people)
    for group, name in TRUTH.items():
        known = torch.from_numpy(truth(everybody, group))
        for rows, people in zip(found, known.split(len(panel.old.people)), strict=True):
            rows[name] = people[torch.from_numpy(panel.positions)]
    return found


def mean_of(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over domains of nested numbers and lists; what a domain lacks is the mean of the rest.

    Words (what was left out) are of a domain alone and are dropped.
    """
    names = dict.fromkeys(name for values in each for name in values)
    mean: dict[str, Any] = {}
    for name in names:
        values = [known[name] for known in each if name in known]
        if isinstance(values[0], Mapping):
            mean[name] = mean_of(values)
        elif isinstance(values[0], list):
            mean[name] = [fmean(column) for column in zip(*values, strict=True)]
        elif not isinstance(values[0], str):
            mean[name] = fmean(values)
    return mean


def summary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The lists in words that a reader understands: spread over folds, place in the null."""
    probes = raw["probes"]
    groups = {
        group: {
            "chance": fmean(probes[name]["chance"] for name in asked),
            "features": {
                feature: [
                    fmean(values)
                    for values in zip(
                        *(probes[name]["features"][feature] for name in asked), strict=True
                    )
                ]
                for feature in PROBED
            },
        }
        for group, names in GROUPS.items()
        if (asked := [name for name in names if name in probes])
    }
    said = {
        "probes": {"groups": _probed(groups), "attributes": _probed(probes)},
        "dependence": {
            pair: {kernel: _placed(found) for kernel, found in kernels.items()}
            for pair, kernels in raw["dependence"].items()
        },
    }
    kept = ("retrieval", "gate", "left_out", "rare_words")
    return said | {name: raw[name] for name in kept if raw.get(name)}


def _probed(probes: Mapping[str, Any]) -> dict[str, Any]:
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


def _placed(found: Mapping[str, Any]) -> dict[str, float]:
    null = np.array(found["null"])
    return {
        "hsic": found["hsic"],
        "null_mean": float(null.mean()),
        "null_95": float(np.quantile(null, 0.95)),
        "p_value": float((1 + (null >= found["hsic"]).sum()) / (1 + len(null))),
        "alignment": found["alignment"],
    }


def _read_both(
    network: DecouplingNetwork, panel: Panel, config: RunConfig, device: torch.device
) -> tuple[Read, Read]:
    old, new = (
        read_features(network, outfit.pixels, config, device) for outfit in (panel.old, panel.new)
    )
    return old, new


def _network_before(config: RunConfig) -> DecouplingNetwork:
    """The network as the run's seed makes it, before any training."""
    learner = build_learner(config, LocalGroup()).eval()
    assert isinstance(learner, Method)
    return learner.network
