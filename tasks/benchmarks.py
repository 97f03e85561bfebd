"""Benchmarks: ordered domains, training and validation identities, and the protocol lock.

Every reader under tasks/datasets is also a benchmark of the same name, and `custom` combines any
of them in any order. To add a named order, add it to `ORDERS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, field_validator, model_validator

from tasks.dataset_files import LocatedDataset, ReadOptions
from tasks.datasets import synthetic
from tasks.datasets.synthetic import SyntheticConfig
from tasks.orders import ORDERS
from tasks.protocol.contents import read_contents
from tasks.protocol.identities import (
    IdentityRule,
    choose_identities,
    identities_with_queries,
    listed_identities,
    rule_name,
    split_validation,
)
from tasks.protocol.lock import locked_images, protocol_lock
from tasks.protocol.split_checks import check_splits
from tasks.reading import (
    TABLE,
    check_allowed,
    dataset_names,
    file_beside,
    find_dataset,
    read_located,
    table_domains,
)
from tasks.schema import Benchmark, Domain, RawDomain
from tasks.suggestion import suggestion
from tasks.synthetic.styled_texts import with_machine_texts, with_styled_texts
from tasks.text.caption_styles import TFIDF, CaptionEncoder, LoadEncoder, TfidfEncoder
from tasks.text.descriptions import attach, read_descriptions, with_dual_texts, with_whole_caption
from tasks.text.style_config import SYNTHETIC_ENCODER, StyleConfig, StyleMethod
from tasks.text.styled_files import describe_command, read_style_facts, styled_file_name

_SYNTHETIC, _SYNTHETIC_TEXT, _CUSTOM = "synthetic", "synthetic-t2i", "custom"


class BenchmarkConfig(ReadOptions):
    """Domains, their order, and the identities held out for validation."""

    name: str = Field(
        default=_SYNTHETIC,
        description="synthetic (generated images), synthetic-t2i (the same images, text-to-image "
        "retrieval), an order of the literature (lreid-1, lreid-2, lreid-1-duke, lreid-2-duke, "
        "lreid-51 to lreid-55, t2i-1), one data set, table (all domains of a table), or custom "
        "(defined by order and unseen)",
    )
    root: str = Field(default="data", description="folder of the data sets")
    identities: IdentityRule = Field(
        default="all",
        description="training identities of each domain: all, a number n (the n smallest ids), or "
        "a file with one id per line (several domains: a folder with files <domain>.txt)",
    )
    num_validation_identities: int = Field(
        default=16,
        ge=0,
        description="training identities held out for validation in data sets without a "
        "validation split",
    )
    order: tuple[str, ...] = Field(
        default=(),
        description="seen domains in training order; empty: the order of the benchmark",
    )
    unseen: tuple[str, ...] | None = Field(
        default=None,
        description="domains that are only tested; null: those of the benchmark",
    )
    synthetic: SyntheticConfig = Field(
        default_factory=SyntheticConfig, description="sizes of the synthetic benchmark"
    )
    style: StyleMethod | None = Field(
        default=None,
        description="clustering method that finds caption styles in training captions; "
        "synthetic-t2i: in those of the first seen domain, and identity and clothing texts are "
        "generated in these styles; data sets: in those of each data set, and the file that "
        "`describe --style` with the same settings wrote is used; null: texts without styles",
    )
    style_options: StyleConfig = Field(
        default_factory=lambda: StyleConfig(), description="settings of the style clustering"
    )

    @property
    def is_synthetic(self) -> bool:
        """Whether the images are generated instead of read from a data set."""
        return self.name in (_SYNTHETIC, _SYNTHETIC_TEXT)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        known = benchmark_names()
        if name not in known:
            raise ValueError(
                f"expected one of {', '.join(known)}; got {name!r}" + suggestion(name, known)
            )
        return name

    @model_validator(mode="after")
    def _check_style(self) -> BenchmarkConfig:
        if self.style is not None and self.name == _SYNTHETIC:
            raise ValueError(
                f"style={self.style} requires captions, got name={self.name}; set "
                f"name={_SYNTHETIC_TEXT} or a data set with captions, or remove style"
            )
        return self

    @model_validator(mode="after")
    def _check_domains(self) -> BenchmarkConfig:
        if self.name == _CUSTOM and not self.order:
            raise ValueError(
                "benchmark.name=custom requires the seen data sets, such as "
                "benchmark.order=[market1501,viper]"
            )
        known_seen, known_unseen = known_domains(self)
        for field, given, known in (
            ("order", self.order, known_seen),
            ("unseen", self.unseen or (), known_unseen),
        ):
            if unknown := [name for name in given if not self._may_have(name, known)]:
                raise ValueError(
                    f"{field}: expected domains of {self.name!r} ({', '.join(known)}), got "
                    f"{unknown[0]!r}"
                )
        # The domains of a table are not known before its file is read.
        is_table = self.name == TABLE
        seen, unseen = (self.order, self.unseen or ()) if is_table else seen_and_unseen(self)
        has_table = is_table or any(name.partition(":")[0] == TABLE for name in seen + unseen)
        if self.style and has_table:
            raise ValueError(
                f"style={self.style} requires files of `describe --style`, which tables do not "
                "have; remove style, and put identity and clothing texts into the table"
            )
        if repeated := [name for name in set(seen + unseen) if (seen + unseen).count(name) > 1]:
            raise ValueError(f"{sorted(repeated)[0]} appears twice in order and unseen; remove one")
        return self

    def _may_have(self, name: str, known: Sequence[str]) -> bool:
        is_in_table = TABLE in known and name.startswith(f"{TABLE}:")
        return self.name == TABLE or name in known or is_in_table


def benchmark_names() -> list[str]:
    """Return all valid values of benchmark.name."""
    return [_SYNTHETIC, _SYNTHETIC_TEXT, *ORDERS, *dataset_names(), _CUSTOM]


def known_domains(config: BenchmarkConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the valid domain names of `order` and of `unseen`."""
    if config.is_synthetic:
        return config.synthetic.domain_names
    everything = tuple(dataset_names())
    return ORDERS[config.name][0] if config.name in ORDERS else everything, everything


def seen_and_unseen(config: BenchmarkConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the seen domains in training order, and of the unseen domains.

    Raises:
        FileNotFoundError, TableError: the file of the benchmark `table` is missing or invalid.
    """
    if config.is_synthetic:
        seen, unseen = config.synthetic.domain_names
    elif config.name == TABLE:
        learned, tested = table_domains(Path(config.root), config)
        seen = tuple(name for name in learned if name not in (config.unseen or ()))
        unseen = tuple(name for name in tested if name not in config.order)
    else:
        seen, unseen = ORDERS.get(config.name, ((config.name,), ()))
    return config.order or seen, unseen if config.unseen is None else config.unseen


def check_benchmark(config: BenchmarkConfig) -> None:
    """Check that all files are on disk; read no image.

    Raises:
        FileNotFoundError: a data set, a file of styled texts or an identity list is missing.
        ValueError: a data set is withdrawn and not accepted, or an identity list is invalid.
    """
    if not config.is_synthetic:
        _find(config)
        if missing := missing_styled_texts(config):
            raise FileNotFoundError(
                f"benchmark.style={config.style}: {' and '.join(missing)} "
                f"{'has' if len(missing) == 1 else 'have'} no file of texts in these styles. "
                "Write it first:\n" + "\n".join(f"  {each}" for each in missing.values())
            )
    if isinstance(config.identities, Path):
        for name in seen_and_unseen(config)[0]:
            listed_identities(config.identities, name)


def _find(config: BenchmarkConfig) -> dict[str, LocatedDataset]:
    """Find all data sets; one error reports all that are missing."""
    seen, unseen = seen_and_unseen(config)
    prefix = f"{TABLE}:" if config.name == TABLE else ""
    for name in (*seen, *unseen):
        check_allowed(f"{prefix}{name}", config)
    datasets: dict[str, LocatedDataset] = {}
    missing: dict[str, list[str]] = {}
    for name in (*seen, *unseen):
        try:
            datasets[name] = find_dataset(f"{prefix}{name}", Path(config.root), config)
        except FileNotFoundError as error:
            title, _, problem = str(error).partition(": ")
            missing.setdefault(problem, []).append(title)
    lines = [f"{', '.join(titles)}: {problem}" for problem, titles in missing.items()]
    num_missing = sum(map(len, missing.values()))
    if num_missing > 1:
        lines.append(
            f"Of {len(seen + unseen)} data sets of {config.name}, {num_missing} are missing; "
            "`python runner/lifelong.py doctor` lists them. Set benchmark.order and "
            "benchmark.unseen to use a part of the benchmark."
        )
    if lines:
        raise FileNotFoundError("\n".join(lines))
    return datasets


def missing_styled_texts(config: BenchmarkConfig) -> dict[str, str]:
    """Find the data sets without a file of texts in the styles of `benchmark.style`.

    Returns:
        By data set, the command that writes its file; empty for synthetic data and without styles.

    Raises:
        FileNotFoundError, ValueError: a data set is missing, or withdrawn and not accepted.
    """
    if config.style is None or config.is_synthetic:
        return {}
    overrides = {"benchmark.root": config.root, "benchmark.derived": config.derived}
    overrides |= {f"benchmark.roots.{name}": folder for name, folder in config.roots.items()}
    return {
        name: describe_command(name, config.style, config.style_options, overrides)
        for name, dataset in _find(config).items()
        if _styled_file(dataset, config, config.style) is None
    }


def _styled_file(
    dataset: LocatedDataset, config: BenchmarkConfig, method: StyleMethod
) -> Path | None:
    name = styled_file_name(dataset.name, method, config.style_options)
    written_by_describe = Path(config.derived) / "descriptions" / dataset.name
    return file_beside(dataset, Path(config.root), name, written_by_describe)


def load_benchmark(
    config: BenchmarkConfig,
    *,
    image_height: int,
    image_width: int,
    pinned: Mapping[str, Any] = MappingProxyType({}),
    learn: bool = True,
    load_encoder: LoadEncoder | None = None,
) -> Benchmark:
    """Read the domains, hold out validation identities and create the protocol lock.

    Training ids become contiguous in the order of the original ids. Training records of a domain
    with a description file get part sentences and a caption. All records of a domain with a file
    of dual texts get identity and clothing texts.

    Args:
        config: benchmark to read.
        image_height: height in pixels; only enters the lock, images are resized when decoded.
        image_width: width in pixels; only enters the lock.
        pinned: further lock values that comparable results must share (image decoding, ranking).
        learn: False makes every domain an unseen one without validation identities, to test a
            model trained elsewhere.
        load_encoder: loads a text tower by name, for `style_options.encoder`; None: only tfidf.

    Raises:
        FileNotFoundError: a data set or an identity list is missing.
        ValueError: a file or setting is invalid, no query of a data set has a match, or a data set
            to learn has people in training and test images.
    """
    check_benchmark(config)
    seen_raw, unseen_raw = read_domains(config, load_encoder)
    if not learn:
        seen_raw, unseen_raw = [], seen_raw + unseen_raw
        config = config.model_copy(update={"num_validation_identities": 0})
    for raws in (seen_raw, unseen_raw):
        for raw in raws:
            check_splits(raw, is_learned=raws is seen_raw)
    seen = tuple(_seen_domain(raw, config) for raw in seen_raw)
    unseen = tuple(_unseen_domain(raw, config) for raw in unseen_raw)
    both = [*zip(seen_raw, seen, strict=True), *zip(unseen_raw, unseen, strict=True)]
    contents = {
        raw.name: read_contents(raw.folder, locked_images(raw, domain)) for raw, domain in both
    }
    lock = protocol_lock(
        benchmark=config.name,
        identity_rule=rule_name(config.identities),
        image_size=(image_height, image_width),
        pinned=pinned,
        seen=both[: len(seen)],
        unseen=both[len(seen) :],
        synthetic=config.synthetic.model_dump() if config.is_synthetic else None,
        contents=contents,
    )
    return Benchmark(config.name, seen, unseen, lock, contents=contents)


def read_domains(
    config: BenchmarkConfig, load_encoder: LoadEncoder | None = None
) -> tuple[list[RawDomain], list[RawDomain]]:
    """Read the seen and unseen domains with their original ids; see `load_benchmark`."""
    seen, unseen = seen_and_unseen(config)
    if config.is_synthetic:
        domains = synthetic.read(Path(config.root), config.synthetic)
        by_name = {raw.name: raw for raws in domains for raw in raws}
        if config.name == _SYNTHETIC_TEXT:
            by_name = {name: synthetic.as_text_to_image(raw) for name, raw in by_name.items()}
            if config.style is None:
                by_name = with_machine_texts(by_name, config.synthetic.seed)
        if config.style is not None:
            encoder = _encoder(config.style_options.encoder or SYNTHETIC_ENCODER, load_encoder)
            by_name = with_styled_texts(
                by_name, config.synthetic.seed, seen[0], config.style, config.style_options, encoder
            )
    else:
        by_name = {
            name: replace(_read_with_styles(dataset, config), name=name)
            for name, dataset in _find(config).items()
        }
    by_name = {name: with_dual_texts(raw) for name, raw in by_name.items()}
    return [by_name[name] for name in seen], [by_name[name] for name in unseen]


def _read_with_styles(dataset: LocatedDataset, config: BenchmarkConfig) -> RawDomain:
    """Read a data set; the file of dual texts is that of `benchmark.style`, if set."""
    raw = read_located(dataset, Path(config.root), config)
    if config.style is None:
        return raw
    file = _styled_file(dataset, config, config.style)
    assert file is not None, "checked by check_benchmark"
    facts = read_style_facts(file, config.style)
    return replace(raw, dual_file=file, facts={**raw.facts, **facts})


def _encoder(name: str, load_encoder: LoadEncoder | None) -> CaptionEncoder:
    if name == TFIDF:
        return TfidfEncoder()
    if load_encoder is None:
        raise ValueError(
            f"benchmark.style_options.encoder: expected tfidf where no text tower is available, "
            f"got {name}"
        )
    try:
        return load_encoder(name)
    except ValueError as error:
        raise ValueError(f"benchmark.style_options.encoder: {error}") from error


def _seen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    train_ids, validation_ids = choose_identities(
        raw, config.identities, config.num_validation_identities
    )
    contiguous = {person_id: index for index, person_id in enumerate(train_ids)}
    train = tuple(record for record in raw.train if record.person_id in contiguous)
    if raw.description_file is not None:
        descriptions = read_descriptions(raw.description_file)
        if descriptions.num_duplicates:
            message = "%d lines of %s repeat an image; the last line of each image is used"
            logger = logging.getLogger(__name__)
            logger.warning(message, descriptions.num_duplicates, descriptions.path)
        train = attach(train, descriptions)
    return Domain(
        name=raw.name,
        train=tuple(
            with_whole_caption(replace(each, person_id=contiguous[each.person_id]))
            for each in train
        ),
        validation=raw.validation or split_validation(raw.train, validation_ids, raw.test.query_by),
        test=raw.test,
    )


def _unseen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    """Hold out up to the configured number of identities; no training needs the others."""
    kind = raw.test.query_by
    largest = identities_with_queries(raw.train, kind)[::-1] if raw.train else []
    validation_ids = largest[: config.num_validation_identities]
    validation = raw.validation if config.num_validation_identities else None
    validation = validation or split_validation(raw.train, validation_ids, kind)
    return Domain(raw.name, (), validation, raw.test)
