"""Contrastive pretraining of a tiny backbone on synthetic people, resumable.

Every step encodes a batch of images once, and one sentence of every kind per image. Each kind has
its own contrastive loss: sentences of different kinds in one softmax would mainly teach the model
to distinguish the kinds. Positives are images of the same person, and sentences with the same
content in whatever wording: two wordings of "short brown hair" are no negatives. Linear heads
that predict the attributes of a person from the class token and from the patches support the image
tower; they are dropped afterwards.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.backbones import clip, vit_bert
from models.backbones.config import TINY_VIT_BERT, BackboneConfig
from models.losses.contrastive import same_identity, symmetric_contrastive
from runner.tools.reading import TinyBackbone, image_views
from tasks.loading.sampling import derive_seed
from tasks.loading.transforms import TransformConfig, augment
from tasks.schema import FrozenConfig
from tasks.synthetic.people import Person
from tasks.synthetic.pool import Pool

ATTRIBUTES = (
    "sex", "height", "build", "skin", "hair", "hair_colour", "beard", "eyewear", "headwear",
    "headwear_colour", "upper", "upper_colour", "pattern", "pattern_colour", "lower",
    "lower_colour", "shoes", "shoes_colour", "bag", "bag_colour",
)  # fmt: skip
"""Attributes of `Person` that the heads predict."""

_INVISIBLE = -100
_IMAGES_PER_REPORT = 12_800


class PretrainingConfig(FrozenConfig):
    """Settings of the pretraining."""

    backbone: str = Field(description="tiny-clip or tiny-vit-bert")
    kinds: tuple[str, ...] = Field(description="kinds of sentences")
    seed: int = Field(
        default=0, ge=0, description="seed of people, weights, batches and augmentation"
    )
    num_steps: int = Field(default=6000, ge=1, description="optimiser updates")
    batch_size: int = Field(default=128, ge=2, description="images per batch")
    lr: float = Field(default=1.5e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear warm-up")
    temperature: float = Field(
        default=0.07, gt=0, description="temperature of the contrastive losses"
    )
    attribute_weight: float = Field(
        default=1.0, ge=0, description="weight of the mean cross-entropy of the attribute heads"
    )
    num_domains: int = Field(default=600, ge=1, description="number of random domains")
    num_identities: int = Field(default=150, ge=1, description="identities per domain")
    images_per_identity: int = Field(default=2, ge=1, description="images per identity")
    image_height: int = Field(default=64, ge=8, description="image height in pixels")
    image_width: int = Field(default=32, ge=8, description="image width in pixels")
    pad_pixels: int = Field(
        default=4, ge=0, description="padding before the random crop, in pixels"
    )


@dataclass(frozen=True, slots=True)
class Sentences:
    """N tokenised sentences of one kind.

    Attributes:
        tokens: [M, L] long, token ids of the distinct sentences.
        ends: [M] long, their end-of-text positions.
        rows: [N] long, the row of `tokens` of each sentence.
        contents: [N] long, equal for equal contents.
    """

    tokens: Tensor
    ends: Tensor
    rows: Tensor
    contents: Tensor


class Pretraining:
    """Training of both towers of a tiny backbone.

    The result is bit-reproducible for the same configuration, pool, machine and number of threads,
    with or without interruptions.
    """

    def __init__(self, config: PretrainingConfig, pool: Pool) -> None:
        self.config, self.pool, self.step = config, pool, 0
        self.backbone = _trainable_backbone(config)
        self.sentences = {kind: _tokenize(self.backbone, pool, kind) for kind in config.kinds}
        self.person_ids = torch.from_numpy(pool.person_ids)
        self.attributes, sizes = attribute_targets(pool.people)
        size, total = self.backbone.image.embed_dim, sum(sizes)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.sizes, self.heads = sizes, nn.ModuleList(nn.Linear(size, total) for _ in range(2))
        trained = [each for each in self.backbone.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [*trained, *self.heads.parameters()], weight_decay=config.weight_decay
        )
        self.transform = TransformConfig.model_validate(
            {"pad_pixels": config.pad_pixels, "erase_probabilities": ()}
        )
        self.generator = np.random.default_rng(derive_seed("warm start", config.seed))
        self.remaining = np.empty(0, np.int64)

    def run(self, state_file: Path | None = None, save_every: int = 250) -> TinyBackbone:
        """Trains to the end, printing losses, and returns the backbone in evaluation mode.

        Args:
            state_file: file that an interrupted training with the same configuration continues
                from; written every `save_every` steps and removed by the caller.
            save_every: number of steps.

        Raises:
            ValueError: the file belongs to another configuration.
        """
        if state_file is not None and state_file.is_file():
            self._load(state_file)
        every = max(1, _IMAGES_PER_REPORT // self.config.batch_size)
        start_s, first = time.monotonic(), self.step
        while self.step < self.config.num_steps:
            losses = self._update()
            self.step += 1
            is_last = self.step == self.config.num_steps
            if self.step % every == 0 or is_last:
                seconds = (time.monotonic() - start_s) / (self.step - first)
                parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                print(
                    f"step {self.step}/{self.config.num_steps}  {parts}  {seconds:.2f} s/step",
                    flush=True,
                )
            if state_file is not None and (self.step % save_every == 0 or is_last):
                self._save(state_file)
        return self.backbone.eval()

    def _update(self) -> dict[str, float]:
        config = self.config
        rows, seeds = self._next_batch()
        images = augment(self.pool.images[rows.numpy()], "weak", seeds, self.transform)
        features = self.backbone.image(images)
        views = image_views(features, self.backbone)
        same_person = same_identity(self.person_ids[rows])
        losses = [
            self._contrast(views, self.sentences[kind], rows, same_person) for kind in config.kinds
        ]
        contrast = torch.stack(losses).mean()
        targets = self.attributes[self.person_ids[rows]]
        attributes = self._attribute_loss((features.projected, features.patches.mean(1)), targets)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        self.optimizer.zero_grad(set_to_none=True)
        (contrast + config.attribute_weight * attributes).backward()
        self.optimizer.step()
        return {"contrast": contrast.item(), "attributes": attributes.item()}

    def _contrast(
        self, views: Sequence[Tensor], sentences: Sentences, rows: Tensor, same_person: Tensor
    ) -> Tensor:
        distinct, texts = torch.unique(sentences.rows[rows], return_inverse=True)
        ends = sentences.ends[distinct]
        tokens = sentences.tokens[distinct, : int(ends.max()) + 1]
        tower = self.backbone.text
        encoded = tower(tower.embed_tokens(tokens), ends)[texts]
        contents = sentences.contents[rows]
        positives = same_person | same_identity(texts) | same_identity(contents)
        temperature = self.config.temperature
        return torch.stack(
            [symmetric_contrastive(view, encoded, positives, temperature) for view in views]
        ).mean()

    def _attribute_loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross-entropy over heads and attributes that are visible in the batch."""
        losses: list[Tensor] = []
        for head, rows in zip(self.heads, features, strict=True):
            for logits, labels in zip(head(rows).split(self.sizes, 1), targets.T, strict=True):
                if (labels != _INVISIBLE).any():
                    losses.append(functional.cross_entropy(logits, labels, ignore_index=_INVISIBLE))
        return torch.stack(losses).mean()

    def _next_batch(self) -> tuple[Tensor, np.ndarray]:
        """Returns [B] rows of a shuffled pass over the pool and their [B] augmentation seeds."""
        if len(self.remaining) < self.config.batch_size:
            self.remaining = self.generator.permutation(len(self.person_ids))
        rows, self.remaining = np.split(self.remaining, [self.config.batch_size])
        return torch.from_numpy(rows), self.generator.integers(2**62, size=len(rows))

    def _save(self, path: Path) -> None:
        state = {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "backbone": self.backbone.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.bit_generator.state,
            "remaining": torch.from_numpy(self.remaining),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def _load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["config"] != self.config.model_dump(mode="json"):
            raise ValueError(
                f"{path}: expected the state of a training with the same configuration, got "
                "another one; delete the file to begin anew, or give --output another name"
            )
        self.step = state["step"]
        self.backbone.load_state_dict(state["backbone"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.bit_generator.state = state["generator"]
        self.remaining = state["remaining"].numpy()
        print(f"continuing at step {self.step}", flush=True)


def learning_rate(step: int, config: PretrainingConfig) -> float:
    """Learning rate at `step` (0-based): linear warm-up, then cosine decay to 0 at `num_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def attribute_targets(people: Sequence[Person]) -> tuple[Tensor, list[int]]:
    """Returns the classes [N, len(ATTRIBUTES)] of N people and the number of classes of each.

    Attributes that a person does not show, such as the colour of absent headwear, are -100.
    """
    columns: list[list[int]] = []
    sizes: list[int] = []
    for name in ATTRIBUTES:
        words = sorted({str(getattr(person, name)) for person in people})
        columns.append(
            [
                words.index(str(getattr(person, name))) if _shows(person, name) else _INVISIBLE
                for person in people
            ]
        )
        sizes.append(len(words))
    return torch.tensor(columns).T.contiguous(), sizes


def _shows(person: Person, attribute: str) -> bool:
    match attribute:
        case "headwear_colour":
            return person.headwear != "none"
        case "bag_colour":
            return person.bag != "none"
        case "pattern_colour":
            return person.pattern != "plain" or person.upper in ("jacket", "blazer")
        case "hair":
            return person.headwear != "headscarf"
        case "hair_colour":
            return person.headwear != "headscarf" and person.hair != "bald"
        case _:
            return True


def _trainable_backbone(config: PretrainingConfig) -> TinyBackbone:
    backbone_config = BackboneConfig(
        name=config.backbone,
        weights="random",
        image_height=config.image_height,
        image_width=config.image_width,
    )
    if config.backbone == TINY_VIT_BERT:
        backbone = vit_bert.build(backbone_config, config.seed)
        backbone.text.requires_grad_(True)
        return backbone.train()
    backbone = clip.build(backbone_config, config.seed)
    backbone.text.requires_grad_(True)
    backbone.text.token_embedding.requires_grad_(False)
    backbone.text.logit_scale.requires_grad_(False)
    return backbone.train()


def _tokenize(backbone: TinyBackbone, pool: Pool, kind: str) -> Sentences:
    distinct, rows = np.unique(np.asarray(pool.captions[kind]), return_inverse=True)
    _, contents = np.unique(np.asarray(pool.contents[kind]), return_inverse=True)
    tokens = backbone.text.tokenize(distinct.tolist())
    ends = backbone.text.end_positions(tokens)
    return Sentences(tokens, ends, torch.from_numpy(rows), torch.from_numpy(contents))
