"""Trains the starting weights of a tiny backbone: `python -m runner.tools.train_tiny_backbones`.

Contrastive pretraining in the small: drawn people of many random "web-like" domains, none of them
a domain of the benchmark, with captions of their parts. It stands in for the web-scale
pretraining that lifelong methods start from, takes minutes on one core, and writes the weights
that ship with the package together with how they came about.
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
"""Domains, and people in each, that the warm start is measured on."""

KINDS: Mapping[str, tuple[str, ...]] = {
    # Hair and shoes are a few pixels: with as many turns as the others they were hardly learned.
    TINY: ("head", "upper", "foot", "lower", "head", "foot", "whole"),
    # A caption says everything; what is a few pixels, or hard to tell, takes more turns of its own.
    TINY_VIT_BERT: (
        "caption", "identity", "caption", "head", "caption", "upper",
        "identity", "caption", "clothing", "head", "lower", "foot",
    ),
}  # fmt: skip
"""The sentences that each backbone learns from, in the order in which they take turns."""

RECIPES: Mapping[str, Mapping[str, float]] = {
    TINY: {},
    TINY_VIT_BERT: {"num_steps": 4500, "lr": 2e-3},
}
"""What of the recipe of the shipped weights is not `WarmStartConfig`'s default."""

WARM_FILES = {TINY: clip_weights.WARM_FILE, TINY_VIT_BERT: vit_bert_weights.WARM_FILE}

TinyBackbone = ClipBackbone | VitBertBackbone


class WarmStartConfig(FrozenConfig):
    """The recipe of the warm start; `RECIPES` says with which the shipped weights were made."""

    seed: int = Field(
        default=0, ge=0, description="decides people, weights, batches and augmentation"
    )
    num_steps: int = Field(default=4000, ge=1, description="optimiser updates")
    batch_size: int = Field(default=64, ge=2, description="images, each with one caption")
    lr: float = Field(default=1e-3, gt=0, description="AdamW's highest learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's weight decay")
    warmup_steps: int = Field(default=100, ge=0, description="linear warm-up before the cosine")
    temperature: float = Field(default=0.07, gt=0, description="of the contrastive loss")
    num_domains: int = Field(default=60, ge=1, description="random domains in the pool")
    num_identities: int = Field(default=150, ge=1, description="people in each of them")
    images_per_identity: int = Field(default=2, ge=1, description="images of each of these people")
    image_height: int = Field(default=64, ge=8, description="pixels")
    image_width: int = Field(default=32, ge=8, description="pixels")
    pad_pixels: int = Field(default=4, ge=0, description="border before a crop to the former size")


@dataclass(frozen=True, slots=True)
class Captions:
    """The N sentences of one kind, ready for the text tower.

    Attributes:
        tokens: [N, L] long.
        ends: [N] long, end-of-text positions.
        ids: [N] long, equal where two sentences are the same string.
    """

    tokens: Tensor
    ends: Tensor
    ids: Tensor


def recipe(name: str, num_steps: int | None = None, seed: int = 0) -> WarmStartConfig:
    """The recipe of a backbone's shipped weights, of another length or seed if these are given."""
    own: dict[str, Any] = {**RECIPES[name], "seed": seed}
    return WarmStartConfig(**(own | ({} if num_steps is None else {"num_steps": num_steps})))


def learning_rate(step: int, config: WarmStartConfig) -> float:
    """Linear warm-up over `warmup_steps`, then a cosine to 0 at `num_steps`; step from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_tokenizer() -> WordTokenizer:
    """The tokenizer of tiny-vit-bert: the words of drawn people's captions and of prompts."""
    prompt = f"{TEMPLATE_START} {PLACEHOLDER} person"
    return vit_bert_weights.word_tokenizer([*vocabulary(), *prompt.split()])


def train(config: WarmStartConfig, pool: Pool, name: str = TINY) -> TinyBackbone:
    """Trains both towers of a tiny backbone on the pool; prints its progress.

    A batch has captions of one kind only (with kinds mixed inside a batch, telling the kinds
    apart drowns what is to be learned), and the kinds take turns. Positives are images of the
    same person and identical captions.

    The result is a function of `config`, `pool` and `name`, to the last bit on one machine with
    one number of threads.
    """
    backbone, kinds = _trainable_backbone(name, config), KINDS[name]
    captions = {kind: _tokenized(backbone, pool.captions[kind]) for kind in kinds}
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
    """Zero-shot mAP in percent on people that the backbone has not seen, all against all.

    "image": the first image of each person among all other images. "head", ..., one for each of
    the backbone's kinds: the sentence of that first image among all images, those of the person
    being matches; with "_by_patches" the same among the means of the patches of tiny-vit-bert.
    "image_chance" and "text_chance" are what a random ranking is expected to reach.
    """
    with torch.no_grad():
        pixels = normalise(pool.images, TransformConfig.model_validate({})).split(256)
        views = zip(*(_views_of_images(backbone, part) for part in pixels), strict=True)
        images, *patches = (nn.functional.normalize(torch.cat(view), dim=1) for view in views)
    persons, first = np.unique(pool.person_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(images)), first)
    rest = pool.person_ids[others]
    figures = {"image": evaluate_ranking(images[first], images[others], persons, rest).mAP}
    for kind in dict.fromkeys(KINDS[name]):
        texts = backbone.text.encode_texts([pool.captions[kind][row] for row in first])
        texts = nn.functional.normalize(texts, dim=1)
        figures[kind] = evaluate_ranking(texts, images, persons, pool.person_ids).mAP
        for pooled in patches:
            name_of_pooled = f"{kind}_by_patches"
            figures[name_of_pooled] = evaluate_ranking(texts, pooled, persons, pool.person_ids).mAP
    figures["image_chance"] = _random_map(len(rest) // len(persons), len(rest))
    figures["text_chance"] = _random_map(len(images) // len(persons), len(images))
    return {name: round(100 * value, 2) for name, value in figures.items()}


def _random_map(num_matches: int, num_gallery: int) -> float:
    """Expected average precision of a random ranking with that many matches in the gallery."""
    harmonic = sum(1 / rank for rank in range(1, num_gallery + 1))
    share = (num_matches - 1) / max(1, num_gallery - 1)
    return (harmonic + (num_gallery - harmonic) * share) / num_gallery


def save(backbone: TinyBackbone, path: Path, facts: Mapping[str, Any]) -> None:
    """Writes the weights, and beside them a JSON of `facts` and the weights' hash.

    A CLIP's are written under open_clip's names, without the token embedding: it is drawn from a
    fixed seed.
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
    """Shuffled passes over the pool, cut into full batches, with a seed for each image's view."""

    def __init__(self, num_images: int, config: WarmStartConfig) -> None:
        self.generator = np.random.default_rng(derive_seed("warm start", config.seed))
        self.num_images, self.batch_size = num_images, config.batch_size
        self.left = np.empty(0, np.int64)

    def next(self) -> tuple[Tensor, np.ndarray]:
        """Rows [B] of the pool, and a seed [B] for the augmentation of each."""
        if len(self.left) < self.batch_size:
            self.left = self.generator.permutation(self.num_images)
        rows, self.left = np.split(self.left, [self.batch_size])
        return torch.from_numpy(rows), self.generator.integers(2**62, size=len(rows))


def _trainable_backbone(name: str, config: WarmStartConfig) -> TinyBackbone:
    described = BackboneConfig(
        name=name,
        weights="random",
        image_height=config.image_height,
        image_width=config.image_width,
    )
    if name == TINY_VIT_BERT:
        backbone = vit_bert.build(described, config.seed)
        backbone.text.requires_grad_(True)
        return backbone.train()
    backbone = clip.build(described, config.seed)
    backbone.text.requires_grad_(True)
    backbone.text.token_embedding.requires_grad_(False)
    backbone.text.logit_scale.requires_grad_(False)
    return backbone.train()


def _tokenized(backbone: TinyBackbone, sentences: Sequence[str]) -> Captions:
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
    views = _views_of_images(backbone, images)
    losses = [symmetric_contrastive(view, text, positives, temperature) for view in views]
    return torch.stack(losses).mean()


def _views_of_images(backbone: TinyBackbone, images: Tensor) -> tuple[Tensor, ...]:
    """What of B images learns to fit texts, [B, D] each.

    BDAM reads a ViT's patches and leaves its class token out: contrasted by that alone, the patches
    would know nothing of texts. tiny-clip is as CLIP is.
    """
    features = backbone.image(images)
    if isinstance(backbone, ClipBackbone):
        return (features.projected,)
    return features.projected, features.patches.mean(1)


def _draw(config: WarmStartConfig, num_domains: int, num_identities: int, purpose: str) -> Pool:
    return draw_pool(
        num_domains,
        num_identities,
        config.images_per_identity,
        derive_seed("warm start", purpose, config.seed),
        height=config.image_height,
        width=config.image_width,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the pool, trains, measures on other people, and writes weights and facts."""
    options = _parser().parse_args(arguments)
    name = str(options.backbone)
    path = Path(options.output or WARM_FILES[name])
    torch.set_num_threads(1)  # the weights depend on the number of threads in their last bits
    config = recipe(name, num_steps=options.steps, seed=options.seed)
    if name == TINY_VIT_BERT:
        make_tokenizer().save(str(vit_bert_weights.TOKENIZER_FILE))
    print(f"drawing {config.num_domains} domains of {config.num_identities} people", flush=True)
    pool = _draw(config, config.num_domains, config.num_identities, "training")
    backbone = train(config, pool, name)
    figures = measure(backbone, _draw(config, *HELD_OUT, "held out"), name)
    print(json.dumps(figures, indent=2))
    chosen = "" if name == TINY else f" --backbone {name}"
    facts = {
        "command": f"python -m runner.tools.train_tiny_backbones{chosen} "
        f"--steps {config.num_steps} --seed {config.seed}",
        "generator_version": GENERATOR_VERSION,
        "recipe": config.model_dump(),
        "zero_shot_map_percent": figures,
    }
    save(backbone, path, facts)
    print(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.tools.train_tiny_backbones", description=__doc__
    )
    parser.add_argument("--backbone", choices=tuple(WARM_FILES), default=TINY, help="what to train")
    parser.add_argument("--steps", type=int, help="optimiser updates (default: the shipped ones')")
    parser.add_argument("--seed", type=int, default=0, help="decides everything drawn")
    parser.add_argument("--output", type=Path, help="where to write the weights")
    return parser


if __name__ == "__main__":
    main()
