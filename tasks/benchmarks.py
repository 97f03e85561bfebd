"""Benchmarks: domains in order, who trains and who validates, and the lock that pins it all.

A data set needs nothing here: every reader under tasks/datasets is a benchmark of its own name,
and `custom` puts any of them in a row. To name another order, add it to `ORDERS`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, field_validator, model_validator

from tasks.datasets import synthetic
from tasks.datasets.synthetic import SyntheticConfig
from tasks.protocol.identities import (
    IdentityRule,
    choose_identities,
    listed_identities,
    people_with_queries,
    rule_name,
    split_validation,
)
from tasks.protocol.lock import protocol_lock
from tasks.reading import (
    Place,
    ReadOptions,
    check_allowed,
    dataset_names,
    find_dataset,
    read_place,
)
from tasks.schema import Benchmark, Domain, RawDomain
from tasks.synthetic.styled_texts import (
    StyleConfig,
    StyleMethod,
    with_machine_texts,
    with_styled_texts,
)
from tasks.text.descriptions import attach, read_descriptions, with_dual_texts

_UNSEEN = ("cuhk01", "cuhk02", "viper", "prid2011", "ilids", "grid", "sensereid")

ORDERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "lreid-1": (("market1501", "cuhk_sysu", "lpw", "msmt17", "cuhk03"), _UNSEEN),
        "lreid-2": (("lpw", "msmt17", "market1501", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "lreid-1-duke": (("market1501", "cuhk_sysu", "dukemtmc", "msmt17", "cuhk03"), _UNSEEN),
        "lreid-2-duke": (("dukemtmc", "msmt17", "market1501", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "lreid-51": (("msmt17", "cuhk_sysu", "lpw", "market1501", "cuhk03"), _UNSEEN),
        "lreid-52": (("lpw", "market1501", "cuhk03", "msmt17", "cuhk_sysu"), _UNSEEN),
        "lreid-53": (("cuhk_sysu", "lpw", "cuhk03", "msmt17", "market1501"), _UNSEEN),
        "lreid-54": (("cuhk03", "msmt17", "lpw", "market1501", "cuhk_sysu"), _UNSEEN),
        "lreid-55": (("market1501", "msmt17", "lpw", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "t2i-1": (("cuhk_pedes", "icfg_pedes", "rstpreid"), ()),
    }
)
"""Seen domains in lifelong order, and unseen ones, of the benchmarks of the literature."""

_DRAWN, _DRAWN_BY_TEXT, _CUSTOM = "synthetic", "synthetic-t2i", "custom"


class BenchmarkConfig(ReadOptions):
    """Which data are learned, in which order, and who is held out."""

    name: str = Field(
        default=_DRAWN,
        description="synthetic (draws its own people), synthetic-t2i (the same, searched by their "
        "captions), an order of the literature (lreid-1, lreid-2, lreid-1-duke, lreid-2-duke, "
        "lreid-51 to lreid-55, t2i-1), one data set, or custom (order and unseen say it all)",
    )
    root: str = Field(default="data", description="folder of the data sets")
    identities: IdentityRule = Field(
        default="all",
        description="training identities of each domain: all, the n smallest ids, or a file with "
        "one id per line (for several domains: a folder of such files named <domain>.txt)",
    )
    num_validation_identities: int = Field(
        default=16,
        ge=0,
        description="identities of the training folder held out to choose settings on, where the "
        "data set has no validation people of its own",
    )
    order: tuple[str, ...] = Field(
        default=(),
        description="seen domains to learn, in this order; empty: the benchmark's own order",
    )
    unseen: tuple[str, ...] | None = Field(
        default=None,
        description="domains that are only tested; null: the benchmark's own",
    )
    synthetic: SyntheticConfig = Field(
        default_factory=SyntheticConfig, description="sizes of the synthetic benchmark"
    )
    style: StyleMethod | None = Field(
        default=None,
        description="synthetic-t2i: the machine writes identity and clothing texts in styles that "
        "this clustering finds in the training captions of the first seen domain; null: it words "
        "them as drawn annotators do",
    )
    style_options: StyleConfig = Field(
        default_factory=lambda: StyleConfig(), description="how styles are found"
    )

    @property
    def is_drawn(self) -> bool:
        """Whether its people are drawn by this project, and not read."""
        return self.name in (_DRAWN, _DRAWN_BY_TEXT)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        known = benchmark_names()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"expected one of {', '.join(known)}; got {name!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
        return name

    @model_validator(mode="after")
    def _style_of_drawn_texts(self) -> BenchmarkConfig:
        if self.style is not None and self.name != _DRAWN_BY_TEXT:
            raise ValueError(
                f"style={self.style} words the texts of {_DRAWN_BY_TEXT} anew, and name is "
                f"{self.name}; set name={_DRAWN_BY_TEXT}, leave style out, or have the texts of a "
                "data set written by `describe --prompt dual --style`"
            )
        return self

    @model_validator(mode="after")
    def _known_domains(self) -> BenchmarkConfig:
        if self.name == _CUSTOM and not self.order:
            raise ValueError(
                "benchmark.name=custom needs the data sets to learn, such as "
                "benchmark.order=[market1501,viper]"
            )
        known_seen, known_unseen = known_domains(self)
        for field, given, known in (
            ("order", self.order, known_seen),
            ("unseen", self.unseen or (), known_unseen),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(
                    f"{field} names {unknown[0]!r}, which {self.name!r} does not have: "
                    f"{', '.join(known)}"
                )
        seen, unseen = seen_and_unseen(self)
        if repeated := [name for name in set(seen + unseen) if (seen + unseen).count(name) > 1]:
            raise ValueError(f"{sorted(repeated)[0]} is named twice in order and unseen")
        return self


def benchmark_names() -> list[str]:
    """Every value that benchmark.name may have."""
    return [_DRAWN, _DRAWN_BY_TEXT, *ORDERS, *dataset_names(), _CUSTOM]


def known_domains(config: BenchmarkConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that `order` and `unseen` may use."""
    if config.is_drawn:
        return config.synthetic.domain_names
    everything = tuple(dataset_names())
    return ORDERS[config.name][0] if config.name in ORDERS else everything, everything


def seen_and_unseen(config: BenchmarkConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the seen domains in the order in which they are learned, and of the unseen ones."""
    if config.is_drawn:
        seen, unseen = config.synthetic.domain_names
    else:
        seen, unseen = ORDERS.get(config.name, ((config.name,), ()))
    return config.order or seen, unseen if config.unseen is None else config.unseen


def check_benchmark(config: BenchmarkConfig) -> None:
    """Finds what is missing on disk before any work is done; reads no image.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
    """
    if not config.is_drawn:
        _find(config)
    if isinstance(config.identities, Path):
        for name in seen_and_unseen(config)[0]:
            listed_identities(config.identities, name)


def _find(config: BenchmarkConfig) -> dict[str, Place]:
    """Every data set's place; what is missing is said at once, for all of them."""
    seen, unseen = seen_and_unseen(config)
    for name in (*seen, *unseen):
        check_allowed(name, config)
    places: dict[str, Place] = {}
    missing: list[str] = []
    for name in (*seen, *unseen):
        try:
            places[name] = find_dataset(name, Path(config.root), config)
        except FileNotFoundError as error:
            missing.append(str(error))
    if len(missing) > 1:
        missing.append(
            f"Of {len(seen + unseen)} data sets of {config.name}, {len(missing)} are missing; "
            "`python runner/lifelong.py doctor` lists them all. benchmark.order and "
            "benchmark.unseen choose among them."
        )
    if missing:
        raise FileNotFoundError("\n".join(missing))
    return places


def load_benchmark(
    config: BenchmarkConfig,
    *,
    image_height: int,
    image_width: int,
    pinned: Mapping[str, Any] = MappingProxyType({}),
    learn: bool = True,
) -> Benchmark:
    """Reads the domains, holds out the validation people and writes the protocol lock.

    Training ids become contiguous in the order of the data set's ids. Where a domain has a
    description file, its training records carry part sentences and caption; where it has a file
    of dual texts, all records carry theirs.

    Args:
        config: what to read.
        image_height: pixels; only enters the lock, as images are resized when they are decoded.
        image_width: pixels; likewise.
        pinned: what else two results must share (how images are decoded and rankings made).
        learn: False makes every domain an unseen one without validation people: a test of what
            was learned elsewhere.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
    """
    check_benchmark(config)
    seen_raw, unseen_raw = _read(config)
    if not learn:
        seen_raw, unseen_raw = [], seen_raw + unseen_raw
        config = config.model_copy(update={"num_validation_identities": 0})
    seen = tuple(_seen_domain(raw, config) for raw in seen_raw)
    unseen = tuple(_unseen_domain(raw, config) for raw in unseen_raw)
    lock = protocol_lock(
        benchmark=config.name,
        identity_rule=rule_name(config.identities),
        image_size=(image_height, image_width),
        pinned=pinned,
        seen=list(zip(seen_raw, seen, strict=True)),
        unseen=list(zip(unseen_raw, unseen, strict=True)),
        synthetic=config.synthetic.model_dump() if config.is_drawn else None,
    )
    return Benchmark(config.name, seen, unseen, lock)


def _read(config: BenchmarkConfig) -> tuple[list[RawDomain], list[RawDomain]]:
    seen, unseen = seen_and_unseen(config)
    if config.is_drawn:
        drawn = synthetic.read(Path(config.root), config.synthetic)
        by_name = {raw.name: raw for raws in drawn for raw in raws}
        if config.name == _DRAWN_BY_TEXT:
            by_name = {name: synthetic.searched_by_text(raw) for name, raw in by_name.items()}
            if config.style is None:
                by_name = with_machine_texts(by_name, config.synthetic.seed)
        if config.style is not None:
            by_name = with_styled_texts(
                by_name, config.synthetic.seed, seen[0], config.style, config.style_options
            )
    else:
        by_name = {
            name: read_place(place, Path(config.root), config)
            for name, place in _find(config).items()
        }
    by_name = {name: with_dual_texts(raw) for name, raw in by_name.items()}
    return [by_name[name] for name in seen], [by_name[name] for name in unseen]


def _seen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    train_ids, validation_ids = choose_identities(
        raw, config.identities, config.num_validation_identities
    )
    contiguous = {person_id: index for index, person_id in enumerate(train_ids)}
    train = tuple(record for record in raw.train if record.person_id in contiguous)
    if raw.description_file is not None:
        descriptions = read_descriptions(raw.description_file)
        if descriptions.num_duplicates:
            logging.getLogger(__name__).warning(
                "%d lines of %s repeat an image; the last line of each counts",
                descriptions.num_duplicates, descriptions.path,
            )  # fmt: skip
        train = attach(train, descriptions)
    own = raw.validation
    return Domain(
        name=raw.name,
        train=tuple(replace(each, person_id=contiguous[each.person_id]) for each in train),
        validation=own or split_validation(raw.train, validation_ids, raw.test.query_by),
        test=raw.test,
    )


def _unseen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    """Nothing trains on it, so validation takes what there is, up to the number asked for."""
    kind = raw.test.query_by
    largest = people_with_queries(raw.train, kind)[::-1] if raw.train else []
    validation_ids = largest[: config.num_validation_identities]
    own = raw.validation if config.num_validation_identities else None
    return Domain(raw.name, (), own or split_validation(raw.train, validation_ids, kind), raw.test)
