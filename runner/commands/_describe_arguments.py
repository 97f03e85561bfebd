"""Arguments of `describe`."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands._arguments import (
    add_config_arguments,
    add_output_arguments,
    non_negative,
    positive,
)

BACKENDS = ("attributes", "openai", "blip2")


def add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all arguments of `describe`."""
    parser.add_argument("--dataset", metavar="NAME", help="data set, or domain of synthetic data")
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of images to describe; with --dataset, folder of the data sets (default: "
        "benchmark.root)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", metavar="NAME", help=f"source of the descriptions: {', '.join(BACKENDS)}"
    )
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="measure the quality of a description file"
    )
    parser.add_argument(
        "--prompt", default="parts", metavar="parts|dual",
        help="parts: four sentences about body parts (default); dual: an identity text and a "
        "clothing text",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("all", "train"), default="all", help="images to describe (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder in which descriptions are kept"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="exported file (default: in --output)"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="ask again for images whose answers failed"
    )
    _add_style_arguments(parser)
    _add_model_arguments(parser)
    add_config_arguments(parser)
    add_output_arguments(parser)


def _add_style_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("styles of --prompt dual")
    group.add_argument(
        "--style", metavar="METHOD",
        help="write in the styles of human captions, clustered by none, random, kmeans, gmm, "
        "agglomerative, hdbscan or dbscan",
    )  # fmt: skip
    group.add_argument(
        "--captions", metavar="NAME|FILE",
        help="captions to cluster: training captions of a data set, or a file (default: --dataset)",
    )  # fmt: skip
    group.add_argument(
        "--style-encoder", metavar="NAME",
        help="encoder of masked captions: tiny-clip, an open_clip model with weights such as "
        "ViT-L-14:openai, a folder in open_clip format, or tfidf (default: tiny-clip for synthetic "
        "captions, otherwise ViT-B-32:openai)",
    )  # fmt: skip
    group.add_argument(
        "--style-weights", metavar="TAG|FILE",
        help="weights of an open_clip encoder whose name does not state them (default: openai)",
    )  # fmt: skip
    group.add_argument(
        "--num-styles", type=positive, default=8, metavar="N",
        help="number of clusters, for methods that need it (default: 8)",
    )  # fmt: skip
    group.add_argument(
        "--style-eps", type=float, metavar="X",
        help="dbscan: cosine distance (default: 0.25 for tfidf, otherwise a quarter of the median)",
    )  # fmt: skip
    group.add_argument(
        "--style-min-samples", type=positive, default=5, metavar="N",
        help="dbscan and hdbscan: neighbours of a core point (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--style-min-size", type=positive, default=5, metavar="N",
        help="minimum number of captions per style (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--style-seed", type=non_negative, default=0, metavar="N",
        help="seed of the clustering and of the style of each image (default: 0)",
    )  # fmt: skip


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("backends openai and blip2")
    group.add_argument(
        "--model", metavar="NAME",
        help="openai: model name at the endpoint; blip2: folder or Hugging Face name",
    )  # fmt: skip
    group.add_argument(
        "--max-tries", type=positive, default=3, metavar="N",
        help="answers to validate per image (default: 3)",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=positive, default=32, metavar="N",
        help="images per batch of blip2 (default: 32)",
    )  # fmt: skip
    group = parser.add_argument_group("backend openai")
    group.add_argument(
        "--url", default="https://api.openai.com/v1",
        help="base URL of the endpoint (default: https://api.openai.com/v1)",
    )  # fmt: skip
    group.add_argument(
        "--key-variable", metavar="NAME",
        help="environment variable of the API key that is sent to --url; none: send no key "
        "(default: OPENAI_API_KEY for api.openai.com, otherwise none)",
    )  # fmt: skip
    group.add_argument(
        "--concurrency", type=positive, default=8, metavar="N",
        help="concurrent requests (default: 8)",
    )  # fmt: skip
    group.add_argument(
        "--max-requests", type=positive, metavar="N",
        help="request budget of this job, including retries (default: unlimited)",
    )  # fmt: skip
    group.add_argument(
        "--max-retries", type=non_negative, default=5, metavar="N",
        help="retries of a request without an answer (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--timeout-s", type=positive, default=60, metavar="N",
        help="timeout of a request in seconds (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--temperature", type=float, default=0.2, metavar="X",
        help="sampling temperature (default: 0.2)",
    )  # fmt: skip
    group.add_argument(
        "--max-tokens", type=positive, default=400, metavar="N",
        help="maximum length of an answer in tokens (default: 400)",
    )  # fmt: skip
