"""Writing styles of descriptions: clusters of human captions, one sampled for each image.

The styles of a job are clustered before it starts, from training captions only. The request for an
image then depends only on the image, the styles and a seed, so a resumed job sends the same
requests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from runner.results.run_folder import write_atomically
from tasks.benchmarks import BenchmarkConfig
from tasks.datasets import synthetic
from tasks.reading import dataset_names, read_dataset
from tasks.schema import RawDomain
from tasks.suggestion import suggestion
from tasks.text.caption_styles import Embed, Styles, find_styles, tfidf
from tasks.text.masking import SLOT
from tasks.text.paraphrase import DEFAULT_TEMPLATE
from tasks.text.style_clustering import Floats, StyleOptions, style_methods
from tasks.text.text_files import read_json_file, utf8_lines

TFIDF = "tfidf"
_EPS, _TOWER_EPS = 0.25, 0.15


@dataclass(frozen=True, slots=True)
class StyleSettings:
    """Settings of the clustering.

    Attributes:
        method: one of `tasks.text.style_clustering.style_methods()`.
        captions: data set, synthetic domain or file; None = the data set that is described.
        encoder: "tfidf", an open_clip architecture, or a folder in open_clip format.
        weights: open_clip tag or file with the weights of an architecture.
        num_styles, eps, min_samples, min_size, seed: see
            `tasks.text.style_clustering.StyleOptions`; eps None = default of the encoder.
    """

    method: str
    captions: str | None = None
    encoder: str = TFIDF
    weights: str = "openai"
    num_styles: int = 8
    eps: float | None = None
    min_samples: int = 5
    min_size: int = 5
    seed: int = 0

    @property
    def options(self) -> StyleOptions:
        """Options of the clustering."""
        default = _EPS if self.encoder == TFIDF else _TOWER_EPS
        eps = default if self.eps is None else self.eps
        return StyleOptions(self.num_styles, eps, self.min_samples, self.min_size, self.seed)


@dataclass(frozen=True, slots=True)
class Styling:
    """Styles of a job, and their use in requests."""

    styles: Styles

    @property
    def version(self) -> str:
        """Part of the prompt version."""
        return f"{self.styles.method}-{self.styles.digest}"

    def style_of(self, sha256: str) -> int:
        """Number of the style of an image."""
        return self.styles.sample(sha256)

    def template_of(self, sha256: str) -> str:
        """Masked caption in the style of an image, for `tasks.text.paraphrase`."""
        return self.styles.styles[self.style_of(sha256)].template or DEFAULT_TEMPLATE

    def instruction_for(self, sha256: str) -> str:
        """Instruction to write in the style of an image, with examples."""
        exemplars = self.styles.styles[self.style_of(sha256)].exemplars
        return (
            "\nWrite both texts as these captions of other people are written, whose facts are "
            "masked: in their order, phrasing and tone, as far as a text's own facts allow. Take "
            "no facts from them, and leave no brackets.\n"
        ) + "\n".join(f'- "{each}"' for each in exemplars)

    @property
    def summary(self) -> str:
        """Number and sizes of the styles, in one line."""
        sizes = [f"{each.size:,}" for each in self.styles.styles]
        shown = ", ".join([*sizes[:12], *(["..."] if sizes[12:] else [])])
        return (
            f"{len(sizes)} style{'s' if sizes[1:] else ''} found by {self.styles.method} in "
            f"{len(self.styles.captions):,} captions ({shown})"
        )

    def save(self, folder: Path) -> None:
        """Writes the styles to a readable file in the folder of the descriptions."""
        entries = [
            {"style": str(number), "captions": each.size, "exemplars": each.exemplars}
            for number, each in enumerate(self.styles.styles)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / f"styles-{self.version}.json",
            json.dumps(entries, indent=1, ensure_ascii=False) + "\n",
        )


def check_style(settings: StyleSettings, prompt: str, backend: str) -> None:
    """Validates the settings without reading captions.

    Raises:
        ValueError: The message names the option and a remedy.
    """
    methods = style_methods()
    if settings.method not in methods:
        raise ValueError(
            f"--style: expected one of {', '.join(methods)}; got {settings.method!r}"
            + suggestion(settings.method, methods)
        )
    if prompt != "dual":
        raise ValueError(
            f"--style: only --prompt dual supports styles; --prompt {prompt} fills answers into "
            "fixed sentences"
        )
    if backend == "blip2":
        raise ValueError(
            "--style: blip2 answers one short question at a time and does not support styles; use "
            "--backend openai or attributes, or omit --style"
        )
    try:
        settings.options  # noqa: B018  # validates ranges
    except ValueError as error:
        raise ValueError(f"--style: {error}") from error


def find_styling(settings: StyleSettings, dataset: str, benchmark: BenchmarkConfig) -> Styling:
    """Clusters training captions into the styles of a job.

    Args:
        settings: settings of the clustering.
        dataset: source of the captions unless `settings.captions` is set.
        benchmark: folder and options of the data sets.

    Raises:
        ValueError, FileNotFoundError: No or too few captions, or an unknown text tower.
    """
    captions = read_captions(settings.captions or dataset, benchmark)
    embed: Embed = tfidf if settings.encoder == TFIDF else _tower(settings)
    try:
        return Styling(find_styles(captions, settings.method, settings.options, embed))
    except ValueError as error:
        raise ValueError(f"--style {settings.method}: {error}") from error


def read_captions(source: str, benchmark: BenchmarkConfig) -> list[str]:
    """Reads human captions from the training split of a data set or synthetic domain, or a file.

    A file is JSON in the format of CUHK-PEDES (entries with `captions`; entries with a `split`
    other than "train" are skipped), or text with one caption per line.

    Raises:
        ValueError, FileNotFoundError: Unknown source, or a source without captions.
    """
    seen, unseen = benchmark.synthetic.domain_names
    if source in dataset_names():
        raw = read_dataset(source, Path(benchmark.root), benchmark)
        captions = _training_captions(raw)
    elif source in seen + unseen:
        domains = synthetic.read(Path(benchmark.root), benchmark.synthetic)
        raw = next(raw for raws in domains for raw in raws if raw.name == source)
        captions = _training_captions(synthetic.as_text_to_image(raw))
    elif Path(source).expanduser().is_file():
        captions = _captions_in(Path(source).expanduser())
    else:
        is_folder = Path(source).expanduser().is_dir()
        what = ", a folder of images without captions" if is_folder else ""
        raise ValueError(
            f"--captions: expected a data set or a file of captions, got {source!r}{what}"
        )
    if not any(each.strip() for each in captions):
        raise ValueError(
            f"--captions: {source} has no training captions; use cuhk_pedes, icfg_pedes, rstpreid, "
            "a synthetic domain, or a file"
        )
    return captions


def _training_captions(raw: RawDomain) -> list[str]:
    """Captions of the training split; test captions must not influence the styles."""
    return [caption for record in raw.train for caption in record.captions]


def _captions_in(file: Path) -> list[str]:
    if file.suffix != ".json":
        return utf8_lines(file)
    entries = read_json_file(file)
    if not isinstance(entries, list):
        raise ValueError(
            f"--captions: {file}: expected a list of entries, got {type(entries).__name__}"
        )
    captions: list[str] = []
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        value = fields.get("captions")
        texts: Sequence[Any] = [value] if isinstance(value, str) else value or []
        if value is None or not all(isinstance(each, str) for each in texts):
            raise ValueError(
                f"--captions: {file}, entry {number}: expected captions, a list of texts; got "
                f"{entry!r:.80}"
            )
        if fields.get("split", "train") == "train":
            captions += texts
    return captions


def _tower(settings: StyleSettings) -> Embed:
    """Embedding by the text tower of a CLIP model, which gets masked captions without brackets.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: The model cannot be loaded.
    """
    from models.backbones.clip import TextEncoder
    from models.backbones.clip_weights import create_clip

    try:
        if Path(settings.encoder).expanduser().is_dir():
            clip = _clip_in(Path(settings.encoder).expanduser())
        else:
            clip = create_clip(settings.encoder, settings.weights, seed=0)
    except (ValueError, FileNotFoundError) as error:
        message = str(error).replace("backbone.name", "architecture")
        raise ValueError(f"--style-encoder {settings.encoder}: {message}") from error
    tower = TextEncoder(clip).eval()

    def embed(masked: Sequence[str]) -> Floats:
        plain = [SLOT.sub(r"\1", each) for each in masked]
        return tower.encode_texts(plain).cpu().numpy().astype(np.float64)

    return embed


def _clip_in(folder: Path) -> Any:
    import open_clip

    try:
        clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"open_clip cannot read it ({str(error)[:160]})") from error
    if not isinstance(clip, open_clip.CLIP):
        raise ValueError(f"expected a CLIP with its own text tower, got {type(clip).__name__}")
    return clip
