"""Settings and protocol of runs as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.hashed_fields import in_hash
from runner.config.run_config import ConfigError, flatten, load_config
from runner.results.finished_runs import FinishedRun
from runner.results.setting_differences import ABSENT
from runner.tracking.mlflow_client import public_uri
from tasks.protocol.lock_differences import lock_differences


@dataclass(frozen=True)
class SettingTable:
    """Differing settings.

    Attributes:
        caption: what is compared.
        columns: headings of the columns of values.
        rows: dotted path and values of each setting that may change the result.
        other_rows: the same for names, folders, tracking, checkpoints and hardware.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    other_rows: tuple[tuple[str, tuple[str, ...]], ...]


def setting_table(runs: Sequence[tuple[str, FinishedRun]]) -> SettingTable:
    """Differences between the runs, or between a single run and its preset."""
    if len(runs) > 1:
        values = {label: flatten(run.config) for label, run in runs}
        return _table("Settings that differ between the runs.", values)
    config = runs[0][1].config
    try:
        preset = flatten(load_config(config.preset))
    except ConfigError:
        caption = f"The preset {config.preset!r} is not available, so no differences are listed."
        return SettingTable(caption, (), (), ())
    values = {f"preset {config.preset}": preset, "this run": flatten(config)}
    return _table(f"Settings that differ from the preset {config.preset}.", values)


def _table(caption: str, values: Mapping[str, Mapping[str, Any]]) -> SettingTable:
    keys = dict.fromkeys(key for each in values.values() for key in each)
    rows = [(key, tuple(_plain(each.get(key, ABSENT)) for each in values.values())) for key in keys]
    differing = [row for row in rows if len(set(row[1])) > 1]
    return SettingTable(
        caption,
        tuple(values),
        tuple(row for row in differing if in_hash(row[0])),
        tuple(row for row in differing if not in_hash(row[0])),
    )


def _plain(value: Any) -> str:
    # A report is passed on: leave out the user name and password of a tracking server.
    return public_uri(value) if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class ProtocolDomain:
    """Protocol of one domain: what was trained on and what is ranked."""

    domain: str
    role: str
    queries: str
    variant: str
    counts: tuple[tuple[str, int], ...]


def protocol_sentences(lock: Mapping[str, Any]) -> list[str]:
    """Protocol of all domains in words."""
    height, width = lock.get("image_size") or (0, 0)
    reranking = lock.get("reranking")
    sentences = [
        f"Benchmark {lock['benchmark']}; learned domains in order: {_listed(lock['order'])}.",
        f"Unseen domains: {_listed(lock['unseen']) or 'none'}.",
        f"Training identities: {lock.get('identity_rule')}.",
        f"Images are decoded to {height} x {width} pixels (height x width) with "
        f"{lock.get('image_decoder')}.",
        f"Camera rule of image queries: {lock.get('camera_rule')}.",
        f"Re-ranking: {'off' if reranking is None else json.dumps(reranking)}.",
    ]
    if protocol := lock.get("evaluation_protocol"):
        sentences.append(f"Ranking protocol: {protocol}.")
    if lock.get("synthetic") is not None:
        version = lock.get("generator_version")
        sentences.append(f"Synthetic images, version {version} of the generator.")
    return sentences


def protocol_domains(lock: Mapping[str, Any]) -> list[ProtocolDomain]:
    """Numbers of identities and images of every domain."""
    rows: list[ProtocolDomain] = []
    for role, names in (("seen", lock["order"]), ("unseen", lock["unseen"])):
        for name in names:
            domain = lock["domains"][name]
            people, images = domain.get("identities", {}), domain.get("num_images", {})
            without = domain.get("num_queries_without_match", {})
            counts = (
                ("training identities", people.get("train", {}).get("count", 0)),
                ("training images", images.get("train", 0)),
                ("validation identities", people.get("validation", {}).get("count", 0)),
                ("test identities", people.get("test", {}).get("count", 0)),
                ("test queries", images.get("test_query", 0)),
                ("test gallery", images.get("test_gallery", 0)),
                ("queries without match", without.get("test", 0)),
            )
            queries, variant = str(domain.get("query_by", "image")), str(domain.get("variant", ""))
            rows.append(ProtocolDomain(str(name), role, queries, variant, counts))
    return rows


def protocol_differences(runs: Sequence[tuple[str, FinishedRun]]) -> list[str]:
    """Differences between the protocol locks in words."""
    return [each.sentence for each in lock_differences({label: run.lock for label, run in runs})]


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names))
