"""Pretrains a tiny backbone: `python -m runner.tools.train_tiny_backbones`.

Small-scale contrastive pretraining on synthetic people with captions of their parts, from many
random "web-like" domains outside the benchmark. It replaces the web-scale pretraining that lifelong
methods start from and takes minutes on one core. It writes the weights that ship with the package
and a JSON file that describes how they were trained.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn

from models.backbones import clip, clip_weights, vit_bert, vit_bert_weights
from models.backbones.clip import ClipBackbone
from models.backbones.config import TINY, TINY_VIT_BERT, BackboneConfig
from models.backbones.vit_bert import VitBertBackbone
from models.backbones.weights import file_sha256
from models.losses.contrastive import same_identity_or_caption, symmetric_contrastive
from models.vladr.prompts import PLACEHOLDER, TEMPLATE_START
from tasks.loading.sampling import derive_seed
from tasks.loading.transforms import TransformConfig, augment, normalise
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import FrozenConfig
from tasks.synthetic import GENERATOR_VERSION
from tasks.synthetic.captions import vocabulary
from tasks.synthetic.pool import Pool, draw_pool

HELD_OUT = (4, 50)
"""Number of domains, and identities per domain, for the evaluation."""

KINDS: Mapping[str, tuple[str, ...]] = {
    # Head and foot cover few pixels and are hardly learned unless they occur more often.
    TINY: ("head", "upper", "foot", "lower", "head", "foot", "whole"),
    # A caption describes everything; small or ambiguous parts also occur on their own.
    TINY_VIT_BERT: (
        "caption", "identity", "caption", "head", "caption", "upper",
        "identity", "caption", "clothing", "head", "lower", "foot",
    ),
}  # fmt: skip
"""Kinds of sentences per backbone, in the order in which batches cycle through them."""

RECIPES: Mapping[str, Mapping[str, float]] = {
    TINY: {},
    TINY_VIT_BERT: {"num_steps": 4500, "lr": 2e-3},
}
"""Settings of the shipped weights that differ from the defaults of `WarmStartConfig`."""

WARM_FILES = {TINY: clip_weights.WARM_FILE, TINY_VIT_BERT: vit_bert_weights.WARM_FILE}

TinyBackbone = ClipBackbone | VitBertBackbone


class WarmStartConfig(FrozenConfig):
    """Settings of the pretraining; `RECIPES` contains those of the shipped weights."""

    seed: int = Field(
        default=0, ge=0, description="seed of people, weights, batches and augmentation"
    )
    num_steps: int = Field(default=4000, ge=1, description="optimiser updates")
    batch_size: int = Field(default=64, ge=2, description="images per batch, each with one caption")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear warm-up")
    temperature: float = Field(
        default=0.07, gt=0, description="temperature of the contrastive loss"
    )
    num_domains: int = Field(default=60, ge=1, description="number of random domains")
    num_identities: int = Field(default=150, ge=1, description="identities per domain")
    images_per_identity: int = Field(default=2, ge=1, description="images per identity")
    image_height: int = Field(default=64, ge=8, description="image height in pixels")
    image_width: int = Field(default=32, ge=8, description="image width in pixels")
    pad_pixels: int = Field(
        default=4, ge=0, description="padding before the random crop, in pixels"
    )


@dataclass(frozen=True, slots=True)
class Captions:
    """N tokenised sentences of one kind.

    Attributes:
        tokens: [N, L] long, token ids.
        ends: [N] long, end-of-text positions.
        ids: [N] long, equal for equal sentences.
    """

    tokens: Tensor
    ends: Tensor
    ids: Tensor


def recipe(name: str, num_steps: int | None = None, seed: int = 0) -> WarmStartConfig:
    """Returns the recipe of the shipped weights of a backbone, optionally with another length."""
    settings: dict[str, Any] = {**RECIPES[name], "seed": seed}
    if num_steps is not None:
        settings["num_steps"] = num_steps
    return WarmStartConfig(**settings)


def learning_rate(step: int, config: WarmStartConfig) -> float:
    """Learning rate at `step` (0-based): linear warm-up, then cosine decay to 0 at `num_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_tokenizer() -> WordTokenizer:
    """Builds the tokenizer of tiny-vit-bert: words of synthetic captions and of prompts."""
    prompt = f"{TEMPLATE_START} {PLACEHOLDER} person"
    return vit_bert_weights.word_tokenizer([*vocabulary(), *prompt.split()])


def train(config: WarmStartConfig, pool: Pool, name: str = TINY) -> TinyBackbone:
    """Trains both towers of a tiny backbone on the pool and prints the loss.

    A batch contains captions of one kind only, and batches cycle through the kinds. With several
    kinds in a batch, the model mainly learns to distinguish the kinds. Positives are images of the
    same person and identical captions.

    The result is bit-reproducible for the same arguments, machine and number of threads.
    """
    backbone, kinds = _trainable_backbone(name, config), KINDS[name]
    captions = {kind: _tokenize(backbone, pool.captions[kind]) for kind in kinds}
    person_ids = torch.from_numpy(pool.person_ids)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in backbone.parameters() if parameter.requires_grad],
        weight_decay=config.weight_decay,
    )
    transform = TransformConfig.model_validate(
        {"pad_pixels": config.pad_pixels, "erase_probabilities": ()}
    )
    batches = _Batches(len(person_ids), config)
    recent: list[float] = []
    start = time.monotonic()
    for step in range(config.num_steps):
        rows, seeds = batches.next()
        kind = captions[kinds[step % len(kinds)]]
        images = augment(pool.images[rows.numpy()], "weak", seeds, transform)
        loss = _loss(backbone, images, kind, rows, person_ids[rows], config.temperature)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == config.num_steps:
            mean, seconds = sum(recent) / len(recent), time.monotonic() - start
            print(
                f"step {step + 1}/{config.num_steps}  loss {mean:.3f}  {seconds:.0f} s", flush=True
            )
            recent.clear()
    return backbone.eval()


def measure(backbone: TinyBackbone, pool: Pool, name: str = TINY) -> dict[str, float]:
    """Computes the zero-shot mAP in percent on held-out identities.

    Returns:
        "image": retrieval of the other images with the first image of each person. One entry per
        kind of sentence, for example "head": retrieval of all images of the person with the
        sentence of the first image; with "_by_patches", images are represented by the mean of the
        patches of tiny-vit-bert. "image_chance" and "text_chance": expected mAP of a random
        ranking.
    """
    with torch.no_grad():
        pixels = normalise(pool.images, TransformConfig.model_validate({})).split(256)
        views = zip(*(_image_features(backbone, part) for part in pixels), strict=True)
        images, *patches = (nn.functional.normalize(torch.cat(view), dim=1) for view in views)
    persons, first = np.unique(pool.person_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(images)), first)
    other_ids = pool.person_ids[others]
    scores = {"image": evaluate_ranking(images[first], images[others], persons, other_ids).mAP}
    for kind in dict.fromkeys(KINDS[name]):
        texts = backbone.text.encode_texts([pool.captions[kind][row] for row in first])
        texts = nn.functional.normalize(texts, dim=1)
        scores[kind] = evaluate_ranking(texts, images, persons, pool.person_ids).mAP
        for pooled in patches:
            ranked = evaluate_ranking(texts, pooled, persons, pool.person_ids)
            scores[f"{kind}_by_patches"] = ranked.mAP
    scores["image_chance"] = _random_map(len(other_ids) // len(persons), len(other_ids))
    scores["text_chance"] = _random_map(len(images) // len(persons), len(images))
    return {name: round(100 * value, 2) for name, value in scores.items()}


def _random_map(num_matches: int, num_gallery: int) -> float:
    """Expected average precision of a random ranking."""
    harmonic = sum(1 / rank for rank in range(1, num_gallery + 1))
    share = (num_matches - 1) / max(1, num_gallery - 1)
    return (harmonic + (num_gallery - harmonic) * share) / num_gallery


def save(backbone: TinyBackbone, path: Path, facts: Mapping[str, Any]) -> None:
    """Saves the weights, and a JSON file of `facts` and the hash of the weights.

    CLIP weights use the parameter names of open_clip. They exclude the token embedding, which is
    initialised from a fixed seed.
    """
    state = {key: tensor.detach().contiguous() for key, tensor in backbone.state_dict().items()}
    if isinstance(backbone, ClipBackbone):
        state = {
            key.removeprefix("image.").removeprefix("text."): each for key, each in state.items()
        }
        del state[clip_weights.TOKEN_TABLE_KEY]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    described = {"sha256": file_sha256(path), **facts}
    path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n")


class _Batches:
    """Full batches from shuffled passes over the pool, with an augmentation seed per image."""

    def __init__(self, num_images: int, config: WarmStartConfig) -> None:
        self.generator = np.random.default_rng(derive_seed("warm start", config.seed))
        self.num_images, self.batch_size = num_images, config.batch_size
        self.remaining = np.empty(0, np.int64)

    def next(self) -> tuple[Tensor, np.ndarray]:
        """Returns [B] rows of the pool and their [B] augmentation seeds."""
        if len(self.remaining) < self.batch_size:
            self.remaining = self.generator.permutation(self.num_images)
        rows, self.remaining = np.split(self.remaining, [self.batch_size])
        return torch.from_numpy(rows), self.generator.integers(2**62, size=len(rows))


def _trainable_backbone(name: str, config: WarmStartConfig) -> TinyBackbone:
    backbone_config = BackboneConfig(
        name=name,
        weights="random",
        image_height=config.image_height,
        image_width=config.image_width,
    )
    if name == TINY_VIT_BERT:
        backbone = vit_bert.build(backbone_config, config.seed)
        backbone.text.requires_grad_(True)
        return backbone.train()
    backbone = clip.build(backbone_config, config.seed)
    backbone.text.requires_grad_(True)
    backbone.text.token_embedding.requires_grad_(False)
    backbone.text.logit_scale.requires_grad_(False)
    return backbone.train()


def _tokenize(backbone: TinyBackbone, sentences: Sequence[str]) -> Captions:
    distinct, ids = np.unique(np.asarray(sentences), return_inverse=True)
    tokens = backbone.text.tokenize(distinct.tolist())
    rows = torch.from_numpy(ids)
    return Captions(tokens[rows], backbone.text.end_positions(tokens)[rows], rows)


def _loss(
    backbone: TinyBackbone,
    images: Tensor,
    captions: Captions,
    rows: Tensor,
    person_ids: Tensor,
    temperature: float,
) -> Tensor:
    ends = captions.ends[rows]
    tokens = captions.tokens[rows, : int(ends.max()) + 1]
    text = backbone.text(backbone.text.embed_tokens(tokens), ends)
    positives = same_identity_or_caption(person_ids, captions.ids[rows])
    views = _image_features(backbone, images)
    losses = [symmetric_contrastive(view, text, positives, temperature) for view in views]
    return torch.stack(losses).mean()


def _image_features(backbone: TinyBackbone, images: Tensor) -> tuple[Tensor, ...]:
    """Returns the image features that are contrasted with texts, each [B, D].

    For tiny-vit-bert these are the projected class token and the mean of the patches: BDAM uses
    only the patches, which a loss on the class token alone would not align with texts. For
    tiny-clip it is the projected class token, as in CLIP.
    """
    features = backbone.image(images)
    if isinstance(backbone, ClipBackbone):
        return (features.projected,)
    return features.projected, features.patches.mean(1)


def _generate_pool(
    config: WarmStartConfig, num_domains: int, num_identities: int, purpose: str
) -> Pool:
    return draw_pool(
        num_domains,
        num_identities,
        config.images_per_identity,
        derive_seed("warm start", purpose, config.seed),
        height=config.image_height,
        width=config.image_width,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Generates the pool, trains, evaluates on held-out identities, and saves the weights."""
    options = _parser().parse_args(arguments)
    name = str(options.backbone)
    path = Path(options.output or WARM_FILES[name])
    torch.set_num_threads(1)  # the last bits of the weights depend on the number of threads
    config = recipe(name, num_steps=options.steps, seed=options.seed)
    if name == TINY_VIT_BERT:
        make_tokenizer().save(str(vit_bert_weights.TOKENIZER_FILE))
    print(
        f"generating {config.num_domains} domains of {config.num_identities} identities", flush=True
    )
    pool = _generate_pool(config, config.num_domains, config.num_identities, "training")
    backbone = train(config, pool, name)
    scores = measure(backbone, _generate_pool(config, *HELD_OUT, "held out"), name)
    print(json.dumps(scores, indent=2))
    option = "" if name == TINY else f" --backbone {name}"
    facts = {
        "command": f"python -m runner.tools.train_tiny_backbones{option} "
        f"--steps {config.num_steps} --seed {config.seed}",
        "generator_version": GENERATOR_VERSION,
        "recipe": config.model_dump(),
        "zero_shot_map_percent": scores,
    }
    save(backbone, path, facts)
    print(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.tools.train_tiny_backbones", description=__doc__
    )
    parser.add_argument(
        "--backbone", choices=tuple(WARM_FILES), default=TINY, help="backbone to train"
    )
    parser.add_argument(
        "--steps", type=int, help="optimiser updates (default: as for the shipped weights)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--output", type=Path, help="file to write the weights to")
    return parser


if __name__ == "__main__":
    main()
