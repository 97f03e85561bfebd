"""Pretrains a tiny backbone: `python -m runner.tools.train_tiny_backbones`.

Small-scale contrastive pretraining on synthetic people with sentences about their parts, from many
random "web-like" domains outside the benchmark. It replaces the web-scale pretraining that lifelong
methods start from and takes up to an hour on one core. An interrupted command continues where it
stopped. It writes the weights that ship with the package, and a JSON file that describes how they
were trained and how well they read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as WordTokenizer

from models.backbones import clip_weights, vit_bert_weights
from models.backbones.clip import ClipBackbone
from models.backbones.config import TINY, TINY_VIT_BERT
from models.backbones.weights import file_sha256
from models.vladr.prompts import PLACEHOLDER, TEMPLATE_START
from runner.tools.pretraining import Pretraining, PretrainingConfig
from runner.tools.reading import TinyBackbone, measure_reading
from tasks.loading.sampling import derive_seed
from tasks.synthetic import GENERATOR_VERSION
from tasks.synthetic.captions import PARTS, vocabulary
from tasks.synthetic.pool import Pool, draw_pool

HELD_OUT = (4, 50)
"""Number of domains, and identities per domain, for the evaluation."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    TINY: {"kinds": (*PARTS, "whole"), "num_steps": 5000},
    TINY_VIT_BERT: {"kinds": ("caption", "identity", "clothing"), "num_steps": 10_000, "lr": 2e-3},
}
"""Settings of the shipped weights that differ from the defaults of `PretrainingConfig`."""

WARM_FILES = {TINY: clip_weights.WARM_FILE, TINY_VIT_BERT: vit_bert_weights.WARM_FILE}


def recipe(name: str, num_steps: int | None = None, seed: int = 0) -> PretrainingConfig:
    """Returns the recipe of the shipped weights of a backbone, optionally with another length."""
    settings: dict[str, Any] = {"backbone": name, **RECIPES[name], "seed": seed}
    if num_steps is not None:
        settings["num_steps"] = num_steps
    return PretrainingConfig(**settings)


def make_tokenizer() -> WordTokenizer:
    """Builds the tokenizer of tiny-vit-bert: words of synthetic captions and of prompts."""
    prompt = f"{TEMPLATE_START} {PLACEHOLDER} person"
    return vit_bert_weights.word_tokenizer([*vocabulary(), *prompt.split()])


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


def make_pool(
    config: PretrainingConfig, num_domains: int, num_identities: int, purpose: str
) -> Pool:
    """Generates the people of `purpose` ("training" or "held out")."""
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
    pool = make_pool(config, config.num_domains, config.num_identities, "training")
    state_file = path.with_name(f"{path.name}.state")
    backbone = Pretraining(config, pool).run(state_file)
    scores = measure_reading(backbone, make_pool(config, *HELD_OUT, "held out"), config.kinds)
    _print_scores(scores)
    option = "" if name == TINY else f" --backbone {name}"
    facts = {
        "command": f"python -m runner.tools.train_tiny_backbones{option} "
        f"--steps {config.num_steps} --seed {config.seed}",
        "generator_version": GENERATOR_VERSION,
        "recipe": config.model_dump(mode="json"),
        "held_out": scores,
    }
    save(backbone, path, facts)
    state_file.unlink(missing_ok=True)
    print(f"wrote {path}")


def _print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in scores.values() for name in row))
    print("mAP in percent on held-out people")
    print("".join([f"{'query':<10}", *(f"{name:>16}" for name in columns)]))
    for kind, row in scores.items():
        cells = (f"{row[name]:16.1f}" if name in row else f"{'-':>16}" for name in columns)
        print(f"{kind:<10}" + "".join(cells))


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
