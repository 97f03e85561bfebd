"""Fixtures for learner tests: a domain of 8 identities with 4 images, and a small trainer."""

from __future__ import annotations

import copy
import importlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.clip import BackboneConfig, ClipBackbone, build
from models.learner import Encode, Learner, LocalCollective, OptimizerConfig, Stage, StepResult
from runner.training.evaluation import evaluating
from runner.training.optim import build_optimizer, set_trainable
from tasks.schema import Batch, Domain, Record, Split

NUM_PERSONS, IMAGES_PER_PERSON = 8, 4
HEIGHT, WIDTH = 32, 16
OPTIMIZER = OptimizerConfig(name="sgd", lr=0.02)
SMALL: dict[str, dict[str, Any]] = {
    "bdam": {
        "text_tower": "frozen",
        "decoupling": {"dim": 16, "num_layers": 1, "num_heads": 2, "mlp_ratio": 2, "dropout": 0},
        "fusion": {"mixer": "simple", "dim": 16, "num_layers": 1, "state_size": 4, "dropout": 0},
    },
}
"""Settings that make a learner small and its steps free of random numbers."""


def generator(*keys: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(keys).encode()))


def make_domain(name: str, num_persons: int = NUM_PERSONS) -> Domain:
    """Make a domain; pairs share the head text, all share the upper body, feet vary per image."""
    num_images = num_persons * IMAGES_PER_PERSON
    persons = [index // IMAGES_PER_PERSON for index in range(num_images)]
    train = tuple(
        Record(
            f"{name}/{index:04d}.jpg",
            person,
            index % IMAGES_PER_PERSON,
            (
                f"a person with hair {person // 2} and a red coat, shoes {index % 3}",
                f"hair {person // 2} over a coat",
            ),
            (f"hair {person // 2}", "a red coat", f"trousers {person}", f"shoes {index % 3}"),
            f"a person of build {person // 2}",
            f"a red coat, trousers {person} and shoes {index % 3}",
        )
        for index, person in enumerate(persons)
    )
    return Domain(name, train, Split((), ()), Split((), ()))


def merged(settings: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings; values of `over` take precedence."""
    return settings | {
        key: merged(settings[key], value)
        if isinstance(value, dict) and isinstance(settings.get(key), dict)
        else value
        for key, value in over.items()
    }


class Trainer:
    """Calls a learner like the training loop, in one process and on random images."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.domain = make_domain("none")
        self.images = torch.randn(4, 3, HEIGHT, WIDTH, generator=generator("images"))

    def begin(self, domain: Domain | str) -> None:
        self.domain = make_domain(domain) if isinstance(domain, str) else domain
        shape = (len(self.domain.train), 3, HEIGHT, WIDTH)
        self.images = torch.randn(shape, generator=generator("images", self.domain.name))
        torch.manual_seed(zlib.crc32(self.domain.name.encode()))
        self.learner.begin_domain(self.domain, self.probe)

    def probe(self, encode: Encode) -> dict[str, Tensor]:
        with torch.no_grad(), evaluating(self.learner):
            return dict(encode(self.images))

    def batch(self, stage: Stage, number: int) -> Batch:
        """Make a batch of up to four identities with three images each, and exemplars.

        Views are the images plus noise; the test view is the unchanged images.
        """
        draw = generator(self.domain.name, stage.name, number)
        persons = torch.randperm(self.domain.num_persons, generator=draw)[:4]
        shots = [torch.randperm(IMAGES_PER_PERSON, generator=draw)[:3] for _ in persons]
        indices = (persons[:, None] * IMAGES_PER_PERSON + torch.stack(shots)).flatten()
        main = _batch(self.domain.train, indices, self.images[indices], stage.views, draw)
        return replace(main, replay=self._replay(stage, number))

    def _replay(self, stage: Stage, number: int) -> Batch | None:
        """Make a batch of the learner's exemplars in its `replay_shape`, if it has any."""
        records, shape = self.learner.replay_records(), self.learner.replay_shape
        if not records:
            return None
        assert shape is not None
        draw = generator(self.domain.name, stage.name, number, "replay")
        people = sorted({record.person_id for record in records})
        chosen = torch.randperm(len(people), generator=draw)[: shape.num_persons]
        indices = list[int]()
        for person in chosen.tolist():
            rows = [n for n, record in enumerate(records) if record.person_id == people[person]]
            indices += [rows[shot % len(rows)] for shot in range(shape.images_per_person)]
        paths = [records[index].image_path for index in indices]
        images = [torch.randn(3, HEIGHT, WIDTH, generator=generator(path)) for path in paths]
        return _batch(records, torch.tensor(indices), torch.stack(images), stage.views, draw)

    def train(self, stage: Stage, numbers: range = range(2)) -> list[StepResult]:
        """Run some iterations of a stage with SGD."""
        set_trainable(self.learner, stage.trainable)
        factors = {"lr_factors": stage.optimizer.lr_factors}
        optimizer = build_optimizer(self.learner, OPTIMIZER.model_copy(update=factors))
        self.learner.train()
        results = list[StepResult]()
        for number in numbers:
            result = self.learner(self.batch(stage, number), stage.name)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
            results.append(result)
        return results

    def finish(self) -> None:
        """Run all stages and the end of the current domain."""
        for stage in self.learner.stages():
            self.train(stage)
            self.learner.end_stage(stage.name, self.probe)
        self.learner.end_domain(self.probe)

    def learn(self, *domains: Domain | str) -> None:
        for domain in domains:
            self.begin(domain)
            self.finish()

    def terms(self, stage_name: str) -> dict[str, float]:
        """Compute the terms of a stage's first batch."""
        (stage,) = [stage for stage in self.learner.stages() if stage.name == stage_name]
        self.learner.train()
        result = self.learner(self.batch(stage, 0), stage.name)
        return {name: float(value.detach()) for name, value in result.terms.items()}


def _batch(
    records: Sequence[Record],
    indices: Tensor,
    images: Tensor,
    views: Sequence[str],
    draw: torch.Generator,
) -> Batch:
    chosen = [records[index] for index in indices.tolist()]
    noise = {view: torch.randn(images.shape, generator=draw) for view in views}
    return Batch(
        indices,
        torch.tensor([record.person_id for record in chosen]),
        torch.tensor([record.camera_id for record in chosen]),
        {view: images + (view != "test") * 0.2 * value for view, value in noise.items()},
    )


@pytest.fixture(scope="session")
def backbone() -> ClipBackbone:
    """A tiny CLIP with random weights; copy it before training."""
    config = BackboneConfig(weights="random", image_height=HEIGHT, image_width=WIDTH)
    return build(config, 0)


@pytest.fixture
def domain() -> Callable[..., Domain]:
    """`domain(name, num_persons=8)`: a domain with four images per identity."""
    return make_domain


@pytest.fixture
def course(backbone: ClipBackbone) -> Callable[..., Trainer]:
    """`course(learner, collective=..., seed=..., **settings)`: a trainer with a new learner."""

    def begin(name: str, *, seed: int = 0, collective: Any = None, **settings: Any) -> Trainer:
        module = importlib.import_module(f"models.learners.{name}")
        torch.manual_seed(seed)
        tower = copy.deepcopy(backbone)
        values = merged(SMALL.get(name, {}), settings)
        return Trainer(
            module.Method(module.Config(**values), tower, collective or LocalCollective())
        )

    return begin
