"""`describe`: writes descriptions of images, by a model or from the truth, and judges them."""

from __future__ import annotations

import argparse
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from runner.commands.run import add_config_arguments

if TYPE_CHECKING:
    from runner.config.run_config import RunConfig
    from runner.descriptions.chat_client import ChatClient
    from runner.descriptions.images import ImageSet
    from runner.descriptions.job import Ask, JobResult
    from runner.descriptions.prompts import Prompt
    from runner.descriptions.style_prompts import StyleSettings
    from tasks.benchmarks import BenchmarkConfig

HELP = "describe images in words, and judge description files"
BACKENDS = ("attributes", "openai", "blip2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, backend and prompt; where to; how to ask; or a file to check."""
    parser.add_argument(
        "--dataset", metavar="NAME|FOLDER", help="a data set, a drawn domain, or a folder of images"
    )
    parser.add_argument("--backend", metavar="NAME", help=f"who describes: {', '.join(BACKENDS)}")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a description file")
    parser.add_argument("--json", action="store_true", help="with --check: print JSON alone")
    parser.add_argument(
        "--prompt", default="parts", metavar="parts|dual",
        help="four part sentences (the default), or an identity and a clothing text",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("all", "train"), default="all", help="which images (default: all)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where descriptions are kept")
    parser.add_argument("--export", type=Path, metavar="FILE", help="default: in --output")
    parser.add_argument(
        "--retry-failed", action="store_true", help="ask again where an answer did not pass"
    )
    _add_style_arguments(parser)
    _add_model_arguments(parser)
    add_config_arguments(parser)


def _add_style_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("styles of --prompt dual")
    group.add_argument(
        "--style", metavar="METHOD",
        help="write as people write, in styles found by none, random, kmeans, gmm, agglomerative, "
        "hdbscan or dbscan",
    )  # fmt: skip
    group.add_argument(
        "--captions", metavar="NAME|FILE",
        help="captions to find them in: of a data set's training people, or a file (default: "
        "--dataset)",
    )  # fmt: skip
    group.add_argument(
        "--style-encoder", default="tfidf", metavar="NAME|FOLDER",
        help="of masked captions: tfidf (default), or the text tower of an open_clip model",
    )  # fmt: skip
    group.add_argument(
        "--style-weights", default="openai", metavar="TAG|FILE", help="of an encoder by name"
    )
    group.add_argument("--num-styles", type=_positive, default=8, help="of those that are told")
    group.add_argument(
        "--style-eps", type=float, help="dbscan: cosine distance (tfidf: 0.25, otherwise 0.15)"
    )
    group.add_argument("--style-min-samples", type=_positive, default=5, help="dbscan, hdbscan")
    group.add_argument("--style-min-size", type=_positive, default=5, help="captions of a style")
    group.add_argument(
        "--style-seed", type=_not_negative, default=0, help="of clusters, and of images' styles"
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("backends openai and blip2")
    group.add_argument(
        "--model", metavar="NAME", help="its name at the endpoint; a BLIP-2's folder or hub name"
    )
    group.add_argument(
        "--max-tries", type=_positive, default=3, help="answers to look at per image"
    )
    group.add_argument("--batch-size", type=_positive, default=32, help="of blip2")
    group = parser.add_argument_group("backend openai")
    group.add_argument("--url", default="https://api.openai.com/v1", help="base of the endpoint")
    group.add_argument(
        "--key-variable", default="OPENAI_API_KEY", metavar="NAME",
        help="environment variable that holds the key; none: no key is sent",
    )  # fmt: skip
    group.add_argument("--concurrency", type=_positive, default=8, help="requests at a time")
    group.add_argument(
        "--max-requests", type=_positive, help="budget of this job, retries included"
    )
    group.add_argument(
        "--max-retries", type=_not_negative, default=5, help="of a request that got no answer"
    )
    group.add_argument("--timeout-s", type=_positive, default=60, help="of a request")
    group.add_argument("--temperature", type=float, default=0.2, help="of sampling")
    group.add_argument("--max-tokens", type=_positive, default=400, help="of an answer")


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def main(options: argparse.Namespace) -> int:
    """Describes or checks; 0 if every image has a description, else 1."""
    console = Console()
    if options.check is not None:
        return _check(console, options)
    images, prompt, asked, ask = _prepared(options)
    from runner.descriptions.job import run_job

    with _progress(images) as (on_start, on_row):
        result = run_job(
            images,
            prompt,
            asked,
            ask,
            _output(options, images),
            export_to=options.export,
            retry_failed=options.retry_failed,
            on_start=on_start,
            on_row=lambda _: on_row(),
        )
    if prompt.styling is not None:
        prompt.styling.save(_output(options, images))
    _show(console, result)
    return 0 if result.num_described == result.num_images else 1


def _check(console: Console, options: argparse.Namespace) -> int:
    from runner.descriptions.quality import check_file
    from runner.descriptions.view import show_quality

    if options.dataset or options.backend:
        raise ValueError("--check judges a file; leave --dataset and --backend out")
    quality = check_file(options.check)
    if options.json:
        print(json.dumps(quality.to_json(), indent=1))
    else:
        show_quality(console, quality)
    return 0


def _prepared(options: argparse.Namespace) -> tuple[ImageSet, Prompt, str, Ask]:
    """Everything that can be wrong is found here, before an image is asked for."""
    import difflib

    from runner.config.run_config import load_config
    from runner.descriptions.images import find_images
    from runner.descriptions.prompts import load_prompt
    from runner.experiment import resolve_folders

    if not options.dataset or not options.backend:
        raise ValueError("expected --dataset and --backend, or --check FILE")
    if options.backend not in BACKENDS:
        near = difflib.get_close_matches(options.backend, BACKENDS, n=1)
        raise ValueError(
            f"--backend: expected one of {', '.join(BACKENDS)}; got {options.backend!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    prompt = load_prompt(options.prompt)
    styles = _style_settings(options)
    config = load_config(options.preset, options.overrides)
    settings = resolve_folders(config.benchmark)
    options.derived = settings.derived
    # First what is quickly seen to be wrong: a drawn domain may have to be drawn, and styles found.
    client = _client(options) if options.backend == "openai" else None
    if options.backend == "blip2":
        _check_blip2(options)
    if styles is not None:
        prompt = _styled(prompt, styles, options.dataset, settings)
    images = find_images(options.dataset, options.split, settings)
    if client is not None:
        return images, prompt, *_openai(options, prompt, client)
    if options.backend == "blip2":
        return images, prompt, *_blip2(options, prompt, config)
    return images, prompt, *_attributes(images, prompt)


def _style_settings(options: argparse.Namespace) -> StyleSettings | None:
    from runner.descriptions.style_prompts import StyleSettings, check_style

    if options.style is None:
        if options.captions is not None:
            raise ValueError("--captions: expected --style METHOD beside it; got none")
        return None
    settings = StyleSettings(
        method=options.style,
        captions=options.captions,
        encoder=options.style_encoder,
        weights=options.style_weights,
        num_styles=options.num_styles,
        eps=options.style_eps,
        min_samples=options.style_min_samples,
        min_size=options.style_min_size,
        seed=options.style_seed,
    )
    check_style(settings, options.prompt, options.backend)
    return settings


def _styled(
    prompt: Prompt, settings: StyleSettings, dataset: str, benchmark: BenchmarkConfig
) -> Prompt:
    """The prompt with the styles that people's captions have."""
    from dataclasses import replace

    from runner.descriptions.style_prompts import find_styling

    styling = find_styling(settings, dataset, benchmark)
    Console(stderr=True).print(styling.summary, markup=False, soft_wrap=True)
    return replace(prompt, styling=styling)


def _attributes(images: ImageSet, prompt: Prompt) -> tuple[str, Ask]:
    from runner.descriptions.ground_truth import describe_known, read_truth

    truth = read_truth(images)
    asked = f"{prompt.version}/attributes"

    def ask(missing, store, on_row) -> str:
        for row in describe_known(missing, prompt, truth, asked):
            store.add(row)
            on_row(row)
        return ""

    return asked, ask


def _check_blip2(options: argparse.Namespace) -> None:
    from runner.descriptions.blip2 import check_model

    if not options.model:
        raise ValueError("--backend blip2: expected --model, a folder or a name on the hub")
    check_model(options.model)


def _blip2(options: argparse.Namespace, prompt: Prompt, config: RunConfig) -> tuple[str, Ask]:
    from contextlib import nullcontext

    from runner.descriptions.blip2 import Blip2Settings, describe_batches

    is_folder = Path(options.model).is_dir()
    name = Path(options.model).resolve().name if is_folder else options.model
    settings = Blip2Settings(
        model=str(Path(options.model).absolute()) if is_folder else options.model,
        asked=f"{prompt.version}/blip2/{name}",
        prompt=prompt.name,
        batch_size=options.batch_size,
        max_tries=options.max_tries,
        use_gpu=config.cluster.use_gpu,
    )

    def ask(missing, store, on_row) -> str:
        if config.cluster.num_workers == 0:
            ray_up = nullcontext()
        else:
            from runner.on_ray.cluster import connected

            ray_up = connected(config)
        with ray_up:
            for row in describe_batches(missing, settings, config.cluster):
                store.add(row)
                on_row(row)
        return ""

    return settings.asked, ask


def _client(options: argparse.Namespace) -> ChatClient:
    """A client of an endpoint that answers."""
    from runner.descriptions.chat_client import ChatClient, ChatSettings

    if not options.model:
        raise ValueError("--backend openai: expected --model, the model's name at the endpoint")
    if not re.match(r"https?://.", options.url):
        raise ValueError(f"--url: expected http://... or https://..., got {options.url!r}")
    settings = ChatSettings(
        url=options.url,
        model=options.model,
        timeout_s=options.timeout_s,
        max_retries=options.max_retries,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
    )
    client = ChatClient(settings, _key(options.key_variable), options.max_requests)
    client.check()
    return client


def _openai(options: argparse.Namespace, prompt: Prompt, client: ChatClient) -> tuple[str, Ask]:
    from runner.descriptions.chat_job import Asking, ask_all

    asking = Asking(
        f"{prompt.version}/openai/{options.model}", options.max_tries, options.concurrency
    )

    def ask(missing, store, on_row) -> str:
        return ask_all(missing, prompt, client, asking, store, on_row)

    return asking.asked, ask


def _key(variable: str) -> str | None:
    if variable == "none":
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"--key-variable: the environment variable {variable} is not set; put the endpoint's "
            "key there, or say --key-variable none for an endpoint without one"
        )
    return key


def _output(options: argparse.Namespace, images: ImageSet) -> Path:
    if options.output is not None:
        return options.output.expanduser()
    return Path(options.derived) / "descriptions" / images.name


@contextmanager
def _progress(images: ImageSet) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """A bar on stderr; where that is no terminal, a line at the start and one for every tenth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    lock = threading.Lock()
    with Progress(
        TextColumn("describing"), BarColumn(24), MofNCompleteColumn(), Remaining(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=None)
        total = done = 0

        def on_start(number: int) -> None:
            nonlocal total
            total = number
            progress.update(task, total=number)
            if not console.is_terminal:
                console.print(
                    f"{images.name}: asking for {number:,} of {len(images.paths):,} images"
                )

        def on_row() -> None:
            nonlocal done
            with lock:
                done += 1
                progress.update(task, advance=1)
                if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                    console.print(f"{done:,} of {total:,}")

        yield on_start, on_row


def _show(console: Console, result: JobResult) -> None:
    from runner.descriptions.view import show_failures

    console.print(
        f"{result.num_described:,} of {result.num_images:,} images are described "
        f"({result.num_asked:,} asked for now), {result.num_failed:,} failed, "
        f"{result.num_left:,} are left",
        soft_wrap=True,
    )
    show_failures(console, result.rows.values())
    if result.stopped:
        console.print(
            f"Stopped: {result.stopped}; the same command goes on", markup=False, soft_wrap=True
        )
    console.print(f"Descriptions  {result.exported}", markup=False, soft_wrap=True)
