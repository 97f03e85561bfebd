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

from models.backbones.caption_encoder import load_caption_encoder
from runner.results.run_folder import write_atomically
from tasks.benchmarks import BenchmarkConfig
from tasks.datasets import synthetic
from tasks.reading import dataset_names, read_dataset
from tasks.schema import RawDomain
from tasks.suggestion import suggestion
from tasks.text.caption_styles import TFIDF, CaptionEncoder, Styles, TfidfEncoder, find_styles
from tasks.text.paraphrase import DEFAULT_TEMPLATE
from tasks.text.style_clustering import StyleOptions, style_methods
from tasks.text.style_config import CAPTION_ENCODER, SYNTHETIC_ENCODER, StyleConfig
from tasks.text.styled_files import style_facts, styled_file_name
from tasks.text.text_files import read_json_file, utf8_lines


@dataclass(frozen=True, slots=True)
class StyleSettings:
    """Settings of the clustering.

    Attributes:
        method: one of `tasks.text.style_clustering.style_methods()`.
        captions: data set, synthetic domain or file; None = the data set that is described.
        encoder, num_styles, eps, min_samples, min_size, seed: see
            `tasks.text.style_config.StyleConfig`.
        weights: open_clip tag or file, for an encoder without weights in its name; None = openai
            for an architecture.
    """

    method: str
    captions: str | None = None
    encoder: str | None = None
    weights: str | None = None
    num_styles: int = 8
    eps: float | None = None
    min_samples: int = 5
    min_size: int = 5
    seed: int = 0

    @property
    def options(self) -> StyleOptions:
        """Options of the clustering."""
        return StyleOptions(self.num_styles, self.eps, self.min_samples, self.min_size, self.seed)

    @property
    def full_encoder(self) -> str | None:
        """Name of the encoder with its weights; None = default of the captions."""
        name = self.encoder
        if name is None or self.weights is not None:
            return name and f"{name}:{self.weights}"
        is_complete = name in (TFIDF, SYNTHETIC_ENCODER) or ":" in name
        return name if is_complete or Path(name).expanduser().is_dir() else f"{name}:openai"

    def export_name(self, dataset: str) -> str:
        """Name of the file that runs with these settings of `benchmark.style` look for."""
        config = StyleConfig(
            encoder=self.full_encoder,
            num_styles=self.num_styles,
            eps=self.eps,
            min_samples=self.min_samples,
            min_size=self.min_size,
            seed=self.seed,
        )
        return styled_file_name(dataset, self.method, config)


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
        styles = self.styles
        sizes = [f"{each.size:,}" for each in styles.styles]
        shown = ", ".join([*sizes[:12], *(["..."] if sizes[12:] else [])])
        quality = "" if styles.silhouette is None else f", silhouette {styles.silhouette:.2f}"
        return (
            f"{len(sizes)} style{'s' if sizes[1:] else ''} found by {styles.method} in "
            f"{len(styles.captions):,} captions ({shown}), embedded by {styles.encoder}{quality}"
        )

    def facts(self, writer: str) -> dict[str, str]:
        """Facts that every exported entry states.

        Args:
            writer: backend and model that wrote the texts.
        """
        styles = self.styles
        return style_facts(styles.method, styles.encoder, styles.weights_sha256, writer)

    def save(self, folder: Path) -> None:
        """Writes the styles to a readable file in the folder of the descriptions."""
        entries = [
            {
                "style": str(number),
                "captions": each.size,
                "exemplars": each.exemplars,
                "encoder": self.styles.encoder,
                "weights": self.styles.weights_sha256,
                "silhouette": self.styles.silhouette,
            }
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
    source = settings.captions or dataset
    captions = read_captions(source, benchmark)
    encoder = _encoder(settings, source in _synthetic_domains(benchmark))
    try:
        return Styling(find_styles(captions, settings.method, settings.options, encoder))
    except ValueError as error:
        raise ValueError(f"--style {settings.method}: {error}") from error


def read_captions(source: str, benchmark: BenchmarkConfig) -> list[str]:
    """Reads human captions from the training split of a data set or synthetic domain, or a file.

    A file is JSON in the format of CUHK-PEDES (entries with `captions`; entries with a `split`
    other than "train" are skipped), or text with one caption per line.

    Raises:
        ValueError, FileNotFoundError: Unknown source, or a source without captions.
    """
    if source in dataset_names():
        raw = read_dataset(source, Path(benchmark.root), benchmark)
        captions = _training_captions(raw)
    elif source in _synthetic_domains(benchmark):
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


def _synthetic_domains(benchmark: BenchmarkConfig) -> tuple[str, ...]:
    seen, unseen = benchmark.synthetic.domain_names
    return seen + unseen


def _encoder(settings: StyleSettings, is_synthetic: bool) -> CaptionEncoder:
    """Loads the encoder.

    Raises:
        ValueError, RuntimeError: it cannot be loaded.
    """
    name = settings.full_encoder or (SYNTHETIC_ENCODER if is_synthetic else CAPTION_ENCODER)
    if name == TFIDF:
        return TfidfEncoder()
    try:
        return load_caption_encoder(name)
    except ValueError as error:
        raise ValueError(f"--style-encoder {error}") from error
    except RuntimeError as error:
        raise RuntimeError(f"--style-encoder {error}") from error


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
