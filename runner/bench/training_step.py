"""Duration of VLADR's image step (ViT-B/16, 256x128, 16 images), compared with a reference."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from models.backbones.clip import BackboneConfig, build
from models.backbones.tower import ImageTextBackbone
from models.learner import Encode, LocalCollective, Stage, StepResult
from models.learners.vladr import IDENTITY_STAGE, IMAGE_STAGE, Config, Method
from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.reference_step import TERMS, ReferenceStep, build_reference_optimizer
from runner.bench.step_sections import TOTAL, Step, timed_step
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved
from runner.training.optim import build_optimizer, set_learning_rate, set_trainable
from tasks.schema import Batch, Domain, Record, Split
from tasks.synthetic.captions import write_captions
from tasks.synthetic.domains import training_domains
from tasks.synthetic.people import sample_person

NUM_PERSONS, IMAGES_PER_PERSON = 4, 4
OUR_PASSES = ("both_views",)
REFERENCE_PASSES = ("weak_view", "strong_view", "weak_view_again")
TOLERANCE = 1e-3


def measure(workbench: Workbench) -> BenchResult:
    """Measures both versions on all CPUs, from the same weights, after comparing their losses.

    Raises:
        RuntimeError: the losses of the two versions differ.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        variants = build_steps(workbench.sizes.step_backbone, workbench.sizes.step_image_height)
        seconds = interleaved(variants, workbench.repeats)
    finally:
        torch.set_num_threads(threads)
    measured = {
        f"step.{name}.{section}": Measurement(
            f"step.{name}.{section}", "s", tuple(each[section] for each in steps)
        )
        for name, steps in seconds.items()
        for section in steps[0]
    }
    ours, reference = (measured[f"step.{name}.{TOTAL}"] for name in ("ours", "reference"))
    speedup = ratio("step.reference / ours", reference, ours, Target(">=", 2.0))
    return BenchResult(tuple(measured.values()), (speedup,))


def build_steps(backbone: str, image_height: int) -> dict[str, Step]:
    """Builds the functions `ours` and `reference`, which do one step and time its sections.

    Raises:
        RuntimeError: the losses of the two versions differ.
    """
    generator = torch.Generator().manual_seed(0)
    first = described_domain(0, images_per_person=1)
    second = described_domain(1, images_per_person=IMAGES_PER_PERSON)
    settings = BackboneConfig(
        name=backbone, weights="random", image_height=image_height, image_width=image_height // 2
    )
    torch.manual_seed(0)
    learner = learner_in_second_domain(build(settings, 0), image_height, first, second, generator)
    (stage,) = [stage for stage in learner.stages() if stage.name == IMAGE_STAGE]
    set_trainable(learner, stage.trainable)
    learner.train()
    twin = copy.deepcopy(learner)
    batch = random_batch(second, image_height, generator)
    reference = ReferenceStep(twin, second)
    check_agreement(learner(batch, stage.name), reference.forward(batch))
    assert learner.old is not None
    assert twin.old is not None
    return {
        "ours": timed_step(
            lambda: learner(batch, stage.name),
            _our_optimizer(learner, stage),
            {learner.network.image: OUR_PASSES, learner.old.module.image: ("old_model",)},
        ),
        "reference": timed_step(
            lambda: reference.forward(batch),
            build_reference_optimizer(twin, stage.optimizer),
            {twin.network.image: REFERENCE_PASSES, twin.old.module.image: ("old_model",)},
        ),
    }


def check_agreement(ours: StepResult, reference: StepResult) -> None:
    """Checks that the loss terms of the two versions agree.

    Raises:
        RuntimeError: a term differs.
    """
    assert set(ours.terms) == set(reference.terms) == set(TERMS)
    pairs = {name: (ours.terms[name].item(), reference.terms[name].item()) for name in TERMS}
    differing = {
        name: pair
        for name, pair in pairs.items()
        if abs(pair[0] - pair[1]) > TOLERANCE * max(1.0, abs(pair[1]))
    }
    if differing:
        raise RuntimeError(f"step: expected equal loss terms, got (ours, reference): {differing}")


def described_domain(index: int, images_per_person: int, num_persons: int = NUM_PERSONS) -> Domain:
    """Creates a domain of synthetic people with part descriptions, without image files."""
    style = training_domains()[index]
    rng = np.random.default_rng(index)
    records = list[Record]()
    for person_id in range(num_persons):
        person = sample_person(style.wardrobe, rng)
        for number in range(images_per_person):
            parts = write_captions(person, rng).parts
            path = f"{style.name}/{person_id}-{number}.jpg"
            records.append(Record(path, person_id, number, (" ".join(parts),), parts))
    return Domain(style.name, tuple(records), Split((), ()), Split((), ()))


def _config() -> Config:
    """Settings of the authors that affect the computation of the stage."""
    values: dict[str, Any] = {
        "num_attribute_tokens": 0,
        "alignment": ["affinity"],
        "losses": {
            "identity": {"label_smoothing": 0.0},
            "image_text": {"temperature": 1.0},
            "cma": {"temperature": 1.0, "positives": "diagonal"},
            "affinity": {"temperature": 0.005, "reduction": "sum", "probability_floor": 1e-8},
        },
    }
    return Config.model_validate(values)


def learner_in_second_domain(
    backbone: ImageTextBackbone,
    image_height: int,
    first: Domain,
    second: Domain,
    generator: Generator,
) -> Method:
    """Creates a VLADR learner on the CPU before the image stage of its second domain."""
    learner = Method(_config(), backbone, LocalCollective())
    for domain in (first, second):
        images = _images(len(domain.train), image_height, generator)

        def probe(encode: Encode, images: Tensor = images) -> dict[str, Tensor]:
            learner.eval()
            with torch.no_grad():
                return dict(encode(images))

        learner.begin_domain(domain, probe)
        learner.end_stage(IDENTITY_STAGE, probe)
        if domain is first:
            learner.end_domain(probe)
    with torch.no_grad():
        # Simulate training: with equal old and new networks, the affinity term would be 0.
        for parameter in learner.network.image.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * parameter.abs().mean() * noise)
    return learner


def random_batch(domain: Domain, image_height: int, generator: Generator) -> Batch:
    """Creates a batch of all training images of a domain, with random pixels in both views."""
    indices = torch.arange(len(domain.train))
    views = {name: _images(len(indices), image_height, generator) for name in ("weak", "strong")}
    person_ids = torch.tensor([record.person_id for record in domain.train])
    return Batch(indices, person_ids, torch.zeros_like(indices), views)


def _images(num_images: int, height: int, generator: Generator) -> Tensor:
    return torch.randn(num_images, 3, height, height // 2, generator=generator)


def _our_optimizer(learner: Method, stage: Stage) -> torch.optim.Optimizer:
    optimizer = build_optimizer(learner, stage.optimizer)
    set_learning_rate(optimizer, stage.optimizer.lr)
    return optimizer
