"""Describe images in words, and check the quality of description files.

Descriptions come from a chat model, from BLIP-2, or from the known attributes
of synthetic people. Interrupted jobs resume where they stopped.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands._arguments import benchmark_settings
from runner.commands._describe_arguments import BACKENDS, add_describe_arguments
from runner.commands._output import Output
from tasks.suggestion import suggestion

if TYPE_CHECKING:
    from rich.console import Console

    from runner.config.run_config import RunConfig
    from runner.descriptions.chat_client import ChatClient
    from runner.descriptions.images import ImageSet
    from runner.descriptions.job import Backend, JobResult
    from runner.descriptions.prompts import Prompt
    from runner.descriptions.style_prompts import StyleSettings
    from tasks.benchmarks import BenchmarkConfig

HELP = "describe images in words, and check description files"
EXAMPLE = "--dataset plaza --backend attributes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `describe`."""
    add_describe_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Describes images or checks a file; returns 0 if every image has a description, else 1."""
    if options.check is not None:
        return _check(options, output)
    images, prompt, source, ask = _prepare(options, output)
    from runner.descriptions.job import run_job

    folder = _output_folder(options, images)
    export_to = options.export or _styled_export(options, folder)
    with _progress(images, output.status) as (on_start, on_row):
        result = run_job(
            images,
            prompt,
            source,
            ask,
            folder,
            export_to=export_to,
            retry_failed=options.retry_failed,
            on_start=on_start,
            on_row=lambda _: on_row(),
        )
    if prompt.styling is not None:
        prompt.styling.save(folder)
    _show(result, output)
    return 0 if result.num_described == result.num_images else 1


def _check(options: argparse.Namespace, output: Output) -> int:
    from runner.descriptions.quality import check_file
    from runner.descriptions.view import show_quality

    if options.dataset or options.data or options.backend:
        raise ValueError("--check: expected no --dataset, --data or --backend; leave them out")
    quality = check_file(options.check)
    output.write_json(quality.to_json())
    show_quality(output.results, quality)
    return 0


def _prepare(options: argparse.Namespace, output: Output) -> tuple[ImageSet, Prompt, str, Backend]:
    """Validates all options before the first image is described.

    Returns:
        Images, prompt, key of the rows in the store, function that describes the missing images.
    """

    from runner.config.run_config import load_config
    from runner.descriptions.images import find_images
    from runner.descriptions.prompts import load_prompt

    if not (options.dataset or options.data) or not options.backend:
        raise ValueError("expected --backend and --dataset or --data; or --check FILE")
    if options.backend not in BACKENDS:
        raise ValueError(
            f"--backend: expected one of {', '.join(BACKENDS)}; got {options.backend!r}"
            + suggestion(options.backend, BACKENDS)
        )
    prompt = load_prompt(options.prompt)
    styles = _style_settings(options)
    config = load_config(options.preset, options.overrides)
    settings = benchmark_settings(config, options.data if options.dataset else None)
    options.derived = settings.derived
    # Cheap checks first: reading a synthetic domain may generate it, and clustering takes time.
    client = _client(options) if options.backend == "openai" else None
    if options.backend == "blip2":
        _check_blip2(options)
    if styles is not None:
        prompt = _with_styles(prompt, styles, options, settings, output)
    images = find_images(options.dataset, options.data, options.split, settings)
    if client is not None:
        return images, prompt, *_openai(options, prompt, client)
    if options.backend == "blip2":
        return images, prompt, *_blip2(options, prompt, config)
    return images, prompt, *_attributes(images, prompt)


def _style_settings(options: argparse.Namespace) -> StyleSettings | None:
    from runner.descriptions.style_prompts import StyleSettings, check_style

    if options.style is None:
        if options.captions is not None:
            raise ValueError("--captions: expected --style METHOD as well, got none")
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
    if options.captions is None and options.dataset is None:
        raise ValueError(
            "--style: expected --captions NAME|FILE, because --data is a folder of images, which "
            "has no captions"
        )
    return settings


def _with_styles(
    prompt: Prompt,
    styles: StyleSettings,
    options: argparse.Namespace,
    settings: BenchmarkConfig,
    output: Output,
) -> Prompt:
    """Adds the styles of human captions to the prompt."""
    from dataclasses import replace

    from runner.descriptions.style_prompts import find_styling

    styling = find_styling(styles, options.dataset or "", settings)
    output.status.print(styling.summary, soft_wrap=True)
    return replace(prompt, styling=styling)


def _attributes(images: ImageSet, prompt: Prompt) -> tuple[str, Backend]:
    from runner.descriptions.ground_truth import describe_by_attributes, read_attributes

    people = read_attributes(images)
    source = f"{prompt.version}/attributes"

    def ask(missing, store, on_row) -> str:
        for row in describe_by_attributes(missing, prompt, people, source):
            store.add(row)
            on_row(row)
        return ""

    return source, ask


def _check_blip2(options: argparse.Namespace) -> None:
    from runner.descriptions.blip2 import check_model

    if not options.model:
        raise ValueError("--backend blip2: expected --model, a folder or a Hugging Face name")
    check_model(options.model)


def _blip2(options: argparse.Namespace, prompt: Prompt, config: RunConfig) -> tuple[str, Backend]:
    from contextlib import nullcontext

    from runner.descriptions.blip2 import Blip2Settings, describe_batches

    is_folder = Path(options.model).is_dir()
    name = Path(options.model).resolve().name if is_folder else options.model
    settings = Blip2Settings(
        model=str(Path(options.model).absolute()) if is_folder else options.model,
        source=f"{prompt.version}/blip2/{name}",
        prompt=prompt.name,
        batch_size=options.batch_size,
        max_tries=options.max_tries,
        use_gpu=config.cluster.use_gpu,
    )

    def ask(missing, store, on_row) -> str:
        if config.cluster.num_workers == 0:
            connection = nullcontext()
        else:
            from runner.on_ray.cluster import connected

            connection = connected(config)
        with connection:
            for row in describe_batches(missing, settings, config.cluster):
                store.add(row)
                on_row(row)
        return ""

    return settings.source, ask


def _client(options: argparse.Namespace) -> ChatClient:
    """Creates a client and checks that its endpoint answers."""
    from runner.descriptions.chat_client import ChatClient, ChatSettings
    from runner.descriptions.endpoint_key import check_url, key_for

    if not options.model:
        raise ValueError("--backend openai: expected --model, the model's name at the endpoint")
    check_url(options.url)
    key = key_for(options.url, options.key_variable)
    settings = ChatSettings(
        url=options.url,
        model=options.model,
        timeout_s=options.timeout_s,
        max_retries=options.max_retries,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
    )
    client = ChatClient(settings, key, options.max_requests)
    client.check()
    return client


def _openai(options: argparse.Namespace, prompt: Prompt, client: ChatClient) -> tuple[str, Backend]:
    from runner.descriptions.chat_job import ChatJobSettings, ask_all

    settings = ChatJobSettings(
        f"{prompt.version}/openai/{options.model}", options.max_tries, options.concurrency
    )

    def ask(missing, store, on_row) -> str:
        return ask_all(missing, prompt, client, settings, store, on_row)

    return settings.source, ask


def _output_folder(options: argparse.Namespace, images: ImageSet) -> Path:
    if options.output is not None:
        return options.output.expanduser()
    return Path(options.derived) / "descriptions" / images.name


def _styled_export(options: argparse.Namespace, folder: Path) -> Path | None:
    """File that `benchmark.style` reads; None if the styles are not of the data set itself."""
    from tasks.reading import dataset_names

    styles = _style_settings(options)
    if styles is None or options.dataset not in dataset_names():
        return None
    if styles.captions not in (None, options.dataset):
        return None
    return folder / styles.export_name(options.dataset)


@contextmanager
def _progress(
    images: ImageSet, console: Console
) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Shows a progress bar, or a line per tenth of the job if the console is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    lock = threading.Lock()
    with Progress(
        TextColumn("describing"), BarColumn(24), MofNCompleteColumn(), Remaining(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=None)
        total = done = 0

        def on_start(count: int) -> None:
            nonlocal total
            total = count
            progress.update(task, total=count)
            if not console.is_terminal:
                console.print(
                    f"{images.name}: asking for {count:,} of {len(images.paths):,} images",
                    soft_wrap=True,
                )

        def on_row() -> None:
            nonlocal done
            with lock:
                done += 1
                progress.update(task, advance=1)
                if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                    console.print(f"{done:,} of {total:,}")

        yield on_start, on_row


def _show(result: JobResult, output: Output) -> None:
    from runner.descriptions.view import show_failures

    output.write_json(
        {
            "num_images": result.num_images,
            "num_described": result.num_described,
            "num_asked": result.num_asked,
            "num_failed": result.num_failed,
            "num_left": result.num_left,
            "stopped": result.stopped or None,
            "descriptions": str(result.exported),
        }
    )
    output.results.print(
        f"{result.num_described:,} of {result.num_images:,} images are described "
        f"({result.num_asked:,} requested in this job), {result.num_failed:,} failed, "
        f"{result.num_left:,} remaining",
        soft_wrap=True,
    )
    show_failures(output.results, result.rows.values())
    if result.stopped:
        output.results.print(
            f"Stopped: {result.stopped}; run the same command again to resume", soft_wrap=True
        )
    output.note(f"Descriptions  {result.exported}")
