"""Content of a report that needs a trained model and images, without either.

`runner.analysis.report_content` computes it. Images are JPEG files as `data:` URIs.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.html_report.scores import HeatMap


@dataclass(frozen=True)
class Thumbnail:
    """One image of a ranked list.

    Attributes:
        image: `data:` URI; "" if the image cannot be read.
        kind: "query", "match" or "other" (another person, a distractor).
        caption: text below the image.
        text: caption of a text query, shown in place of an image.
    """

    image: str
    kind: str
    caption: str
    text: str = ""


@dataclass(frozen=True)
class RankedList:
    """A query and the first images of its ranking.

    Attributes:
        title: "best", "median" or "worst", with the average precision.
        query: the query.
        results: gallery images, best first.
    """

    title: str
    query: Thumbnail
    results: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class DomainRankings:
    """Ranked lists of one domain; `note` says what was left out, or is empty."""

    domain: str
    lists: tuple[RankedList, ...]
    note: str = ""


@dataclass(frozen=True)
class BrokenQuery:
    """A query that a later domain made worse: its ranking after its own domain and at the end."""

    domain: str
    before: RankedList
    after: RankedList


@dataclass(frozen=True)
class AttentionRow:
    """Attention of K attribute queries to the patches of one image.

    Attributes:
        domain: domain of the image.
        image: `data:` URI of the image.
        maps: name of the attribute and `data:` URI of its map.
    """

    domain: str
    image: str
    maps: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Histogram:
    """Distribution of values in [0, 1] over equal bins.

    Attributes:
        name: name of the domain.
        shares: percentage of the values in each bin.
        mean: mean of all values.
    """

    name: str
    shares: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class ModelContent:
    """Content about the trained model of one run.

    Attributes:
        notes: why a section is missing, one sentence each.
        checkpoint: name of the checkpoint file; "" without one.
        rankings: ranked lists by domain.
        broken: queries with the largest loss of average precision.
        attention: attention maps of the attribute decoder.
        gates: histograms of the gate by domain.
        prototypes: similarity of the prototypes of domains, or None.
    """

    notes: tuple[str, ...] = ()
    checkpoint: str = ""
    rankings: tuple[DomainRankings, ...] = ()
    broken: tuple[BrokenQuery, ...] = ()
    attention: tuple[AttentionRow, ...] = ()
    gates: tuple[Histogram, ...] = ()
    prototypes: HeatMap | None = None
