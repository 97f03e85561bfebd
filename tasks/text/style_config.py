"""Settings of the clustering of caption styles."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.schema import FrozenConfig
from tasks.text.style_clustering import StyleOptions

StyleMethod = Literal["none", "random", "kmeans", "gmm", "agglomerative", "hdbscan", "dbscan"]

SYNTHETIC_ENCODER, CAPTION_ENCODER = "tiny-clip", "ViT-B-32:openai"
"""Default encoders: of captions of the synthetic benchmark, which need no download, and of human
captions. The paper (BDAM) names ViT-L/14 in one place and ViT-B/32 in another."""


class StyleConfig(FrozenConfig):
    """Options of style clustering; each method uses a subset."""

    encoder: str | None = Field(
        default=None,
        min_length=1,
        description="embedding of the masked captions: ARCHITECTURE:WEIGHTS of open_clip (weights: "
        "a tag, which is downloaded, or a local file; the paper names ViT-L/14 in one place, "
        "ViT-L-14:openai, and ViT-B/32 in another, ViT-B-32:openai), a folder in open_clip format, "
        "tiny-clip (included), or tfidf (no text tower); null: tiny-clip for the synthetic "
        "benchmark, ViT-B-32:openai for data sets",
    )
    num_styles: int = Field(
        default=8,
        ge=1,
        description="random, kmeans, gmm, agglomerative: number of clusters before merging",
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        le=2,
        description="dbscan: maximum cosine distance of two neighbouring captions; null: 0.25 for "
        "tfidf, otherwise a quarter of the median distance of two captions",
    )
    min_samples: int = Field(
        default=5,
        ge=1,
        description="dbscan, hdbscan: minimum number of neighbours of a core caption; raised to "
        "1/200 of all captions",
    )
    min_size: int = Field(
        default=5,
        ge=1,
        description="minimum number of captions of a style, raised to 1/50 of all captions; "
        "smaller styles are merged into the nearest",
    )
    seed: int = Field(
        default=0, ge=0, description="seed of the clustering and of each image's style"
    )

    @property
    def options(self) -> StyleOptions:
        """The options as `tasks.text.style_clustering.StyleOptions`."""
        return StyleOptions(
            self.num_styles, self.eps, self.min_samples, self.min_size, seed=self.seed
        )
