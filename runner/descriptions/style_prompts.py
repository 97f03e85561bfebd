"""In which style a description is asked for: found in people's captions, drawn for each image.

The styles of a job are found before it begins, from training captions alone. What is asked of an
image then depends on nothing but the image, the styles and a seed, so that a killed job goes on
with the same questions.
"""

from __future__ import annotations

import difflib
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
from tasks.text.caption_styles import Embed, Styles, find_styles, tfidf
from tasks.text.masking import SLOT
from tasks.text.paraphrase import DEFAULT_TEMPLATE
from tasks.text.style_clustering import Floats, StyleOptions, style_methods
from tasks.text.text_files import utf8_lines

TFIDF = "tfidf"
_EPS, _EPS_OF_A_TOWER = 0.25, 0.15


@dataclass(frozen=True, slots=True)
class StyleSettings:
    """How styles are found.

    Attributes:
        method: one of `tasks.text.style_clustering.style_methods()`.
        captions: a data set, a drawn domain or a file; None: the data set that is described.
        encoder: "tfidf", an open_clip architecture, or a folder that open_clip reads.
        weights: of an architecture: an open_clip tag or a file.
        num_styles, eps, min_samples, min_size, seed: as `tasks.text.style_clustering.StyleOptions`
            has them; eps
            None: what suits the encoder.
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
        """For the clustering."""
        usual = _EPS if self.encoder == TFIDF else _EPS_OF_A_TOWER
        eps = usual if self.eps is None else self.eps
        return StyleOptions(self.num_styles, eps, self.min_samples, self.min_size, self.seed)


@dataclass(frozen=True, slots=True)
class Styling:
    """The styles of a job."""

    styles: Styles

    @property
    def version(self) -> str:
        """Part of what descriptions are kept under."""
        return f"{self.styles.method}-{self.styles.digest}"

    def style_of(self, sha256: str) -> int:
        """The style in which an image is described."""
        return self.styles.sample(sha256)

    def template_of(self, sha256: str) -> str:
        """A masked caption of that style, to be filled with facts (`tasks.text.paraphrase`)."""
        return self.styles.styles[self.style_of(sha256)].template or DEFAULT_TEMPLATE

    def manner_of(self, sha256: str) -> str:
        """What a question adds to be answered in that style."""
        exemplars = self.styles.styles[self.style_of(sha256)].exemplars
        return (
            "\nWrite both texts as these captions of other people are written, whose facts are "
            "masked: in their order, phrasing and tone, as far as a text's own facts allow. Take "
            "no facts from them, and leave no brackets.\n"
        ) + "\n".join(f'- "{each}"' for each in exemplars)

    @property
    def summary(self) -> str:
        """What was found, in a line."""
        sizes = [f"{each.size:,}" for each in self.styles.styles]
        shown = ", ".join([*sizes[:12], *(["..."] if sizes[12:] else [])])
        return (
            f"{len(sizes)} style{'s' if sizes[1:] else ''} found by {self.styles.method} in "
            f"{len(self.styles.captions):,} captions ({shown})"
        )

    def save(self, folder: Path) -> None:
        """Writes the styles beside the descriptions, for people to read."""
        found = [
            {"style": str(number), "captions": each.size, "exemplars": each.exemplars}
            for number, each in enumerate(self.styles.styles)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / f"styles-{self.version}.json",
            json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        )


def check_style(settings: StyleSettings, prompt: str, backend: str) -> None:
    """Finds what can be wrong without reading anything.

    Raises:
        ValueError: says which option, and what would do.
    """
    methods = style_methods()
    if settings.method not in methods:
        near = difflib.get_close_matches(settings.method, methods, n=1)
        raise ValueError(
            f"--style: expected one of {', '.join(methods)}; got {settings.method!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if prompt != "dual":
        raise ValueError(
            f"--style: only --prompt dual asks for texts in a style; --prompt {prompt} fills "
            "answers into sentences of its own"
        )
    if backend == "blip2":
        raise ValueError(
            "--style: blip2 answers one short question at a time and follows no examples; use "
            "--backend openai or attributes, or leave --style out"
        )
    try:
        settings.options  # noqa: B018  # refuses numbers out of range
    except ValueError as error:
        raise ValueError(f"--style: {error}") from error


def find_styling(settings: StyleSettings, dataset: str, benchmark: BenchmarkConfig) -> Styling:
    """The styles of a job, from captions of training people.

    Raises:
        ValueError, FileNotFoundError: no captions, too few, or a text tower that is not there.
    """
    captions = read_captions(settings.captions or dataset, benchmark)
    embed: Embed = tfidf if settings.encoder == TFIDF else _tower(settings)
    try:
        return Styling(find_styles(captions, settings.method, settings.options, embed))
    except ValueError as error:
        raise ValueError(f"--style {settings.method}: {error}") from error


def read_captions(source: str, benchmark: BenchmarkConfig) -> list[str]:
    """Captions by people: of a data set's or drawn domain's training people, or of a file.

    A file is JSON as CUHK-PEDES has it, entries with `captions` (what has a `split` other than
    "train" is left out), or a text with one caption a line.

    Raises:
        ValueError, FileNotFoundError: neither, or without captions.
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
        found = "a folder of images, which has no captions" if is_folder else "neither"
        raise ValueError(
            f"--captions: expected a data set or a file of captions; {source!r} is {found}"
        )
    if not any(each.strip() for each in captions):
        raise ValueError(
            f"--captions: {source} has no captions of training people; name a data set that has "
            "(cuhk_pedes, icfg_pedes, rstpreid, a drawn domain) or a file"
        )
    return captions


def _training_captions(raw: RawDomain) -> list[str]:
    """Of test people nothing may be learned, not even how they are written about."""
    return [caption for record in raw.train for caption in record.captions]


def _captions_in(file: Path) -> list[str]:
    lines = utf8_lines(file)
    if file.suffix != ".json":
        return lines
    try:
        entries = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise ValueError(f"--captions: {file}: expected JSON; {error}") from error
    if not isinstance(entries, list):
        raise ValueError(
            f"--captions: {file}: expected a list of entries, got {type(entries).__name__}"
        )
    captions: list[str] = []
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        own = fields.get("captions")
        texts: Sequence[Any] = [own] if isinstance(own, str) else own or []
        if own is None or not all(isinstance(each, str) for each in texts):
            raise ValueError(
                f"--captions: {file}, entry {number}: expected captions, a list of texts; got "
                f"{entry!r:.80}"
            )
        if fields.get("split", "train") == "train":
            captions += texts
    return captions


def _tower(settings: StyleSettings) -> Embed:
    """The text tower of a CLIP, which reads masked captions without their brackets.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: it cannot be had.
    """
    from models.backbones.clip import TextEncoder
    from models.backbones.clip_weights import create_clip

    try:
        if Path(settings.encoder).expanduser().is_dir():
            clip = _clip_in(Path(settings.encoder).expanduser())
        else:
            clip = create_clip(settings.encoder, settings.weights, seed=0)
    except (ValueError, FileNotFoundError) as error:
        said = str(error).replace("backbone.name", "architecture")
        raise ValueError(f"--style-encoder {settings.encoder}: {said}") from error
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
