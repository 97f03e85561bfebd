"""A small world around a learner: 8 people, 4 images each, and a course that drives it."""

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
"""Settings under which a learner's own parts are small, and draw nothing in a step."""


def generator(*keys: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(keys).encode()))


def make_domain(name: str, num_persons: int = NUM_PERSONS) -> Domain:
    """Two people share every head, all share the upper body, feet differ inside a person."""
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
    """Nested settings, those of `over` where both have one."""
    return settings | {
        key: merged(settings[key], value)
        if isinstance(value, dict) and isinstance(settings.get(key), dict)
        else value
        for key, value in over.items()
    }


class Course:
    """Calls a learner as the loop does, in one process and on images that stand for themselves."""

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
        """Four people (or all there are) with three images each, and exemplars beside them.

        Views are the images with some noise; the test view is the images.
        """
        draw = generator(self.domain.name, stage.name, number)
        persons = torch.randperm(self.domain.num_persons, generator=draw)[:4]
        shots = [torch.randperm(IMAGES_PER_PERSON, generator=draw)[:3] for _ in persons]
        indices = (persons[:, None] * IMAGES_PER_PERSON + torch.stack(shots)).flatten()
        main = _batch(self.domain.train, indices, self.images[indices], stage.views, draw)
        return replace(main, replay=self._replay(stage, number))

    def _replay(self, stage: Stage, number: int) -> Batch | None:
        """The learner's exemplars in the shape it asks for, or of all people there are."""
        records, shape = self.learner.replay_records(), self.learner.replay_shape
        if not records:
            return None
        assert shape is not None
        draw = generator(self.domain.name, stage.name, number, "replay")
        people = sorted({record.person_id for record in records})
        chosen = torch.randperm(len(people), generator=draw)[: shape.num_persons]
        indices = list[int]()
        for person in chosen.tolist():
            mine = [n for n, record in enumerate(records) if record.person_id == people[person]]
            indices += [mine[shot % len(mine)] for shot in range(shape.images_per_person)]
        paths = [records[index].image_path for index in indices]
        images = [torch.randn(3, HEIGHT, WIDTH, generator=generator(path)) for path in paths]
        return _batch(records, torch.tensor(indices), torch.stack(images), stage.views, draw)

    def train(self, stage: Stage, numbers: range = range(2)) -> list[StepResult]:
        """Some iterations of a stage, with a step that moves something."""
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
        """All stages of the domain begun last, and its end."""
        for stage in self.learner.stages():
            self.train(stage)
            self.learner.end_stage(stage.name, self.probe)
        self.learner.end_domain(self.probe)

    def learn(self, *domains: Domain | str) -> None:
        for domain in domains:
            self.begin(domain)
            self.finish()

    def terms(self, stage_name: str) -> dict[str, float]:
        """The terms of the next step of a stage, no matter what was trained before."""
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
    """A tiny CLIP with random weights; copy it before it learns."""
    config = BackboneConfig(weights="random", image_height=HEIGHT, image_width=WIDTH)
    return build(config, 0)


@pytest.fixture
def domain() -> Callable[..., Domain]:
    """`domain(name, num_persons=8)`: four images of each person."""
    return make_domain


@pytest.fixture
def course(backbone: ClipBackbone) -> Callable[..., Course]:
    """`course(learner, collective=..., seed=..., **settings)`: a new learner and its course."""

    def begin(name: str, *, seed: int = 0, collective: Any = None, **settings: Any) -> Course:
        module = importlib.import_module(f"models.learners.{name}")
        torch.manual_seed(seed)
        tower = copy.deepcopy(backbone)
        values = merged(SMALL.get(name, {}), settings)
        return Course(
            module.Method(module.Config(**values), tower, collective or LocalCollective())
        )

    return begin
