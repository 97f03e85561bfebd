"""Files of identity and clothing texts in clustered styles, written by `describe --style`.

A file is named after the data set, the method and a hash of its options, so a run finds the file of
its own settings. Every entry states method, encoder and writer; a file of other ones is refused.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from tasks.text.caption_styles import STYLES_VERSION
from tasks.text.style_config import CAPTION_ENCODER, StyleConfig, StyleMethod
from tasks.text.text_files import utf8_lines

_OPTIONS = {
    "encoder": "--style-encoder",
    "num_styles": "--num-styles",
    "eps": "--style-eps",
    "min_samples": "--style-min-samples",
    "min_size": "--style-min-size",
    "seed": "--style-seed",
}
"""Options of `describe` by field of `StyleConfig`."""


def styled_file_name(dataset: str, method: str, config: StyleConfig) -> str:
    """Name of the file of texts in styles that were clustered from the same data set's captions."""
    options = config.model_dump() | {"encoder": config.encoder or CAPTION_ENCODER}
    content = json.dumps([STYLES_VERSION, method, options], sort_keys=True)
    return f"{dataset}_dual-{method}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.json"


def describe_command(
    dataset: str, method: str, config: StyleConfig, overrides: Mapping[str, str]
) -> str:
    """Command that writes the file; URL and model of the endpoint are placeholders.

    Args:
        dataset: name of the data set.
        method: clustering method.
        config: its options.
        overrides: configuration overrides by path, such as `benchmark.root`.
    """
    given = config.model_dump(exclude_defaults=True)
    words = ["python", "runner/lifelong.py", "describe", "--dataset", dataset, "--prompt", "dual"]
    words += ["--style", method]
    for field, option in _OPTIONS.items():
        if field in given:
            words += [option, str(given[field])]
    words += ["--backend", "openai", "--url", "URL", "--model", "NAME"]
    words += [f"{key}={value}" for key, value in overrides.items()]
    return shlex.join(words)


def style_facts(method: str, encoder: str, weights_sha256: str, writer: str = "") -> dict[str, str]:
    """Facts about styled texts for the protocol lock; the same keys as in the entries of a file."""
    facts = {
        "style_method": method,
        "style_encoder": encoder,
        "style_weights": weights_sha256,
        "text_writer": writer,
    }
    return {key: value for key, value in facts.items() if value}


def read_style_facts(file: Path, method: StyleMethod) -> dict[str, str]:
    """Reads the facts that all entries of a file share.

    Raises:
        ValueError: the file has no entries, entries of different styles or writers, or of another
            method.
    """
    try:
        entries = json.loads("\n".join(utf8_lines(file)))
        found = {
            tuple(str(entry.get(key, "")) for key in ("style_method", "style_encoder",
                                                      "style_weights", "text_writer"))
            for entry in entries
        }  # fmt: skip
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: expected a JSON list of entries ({error})") from error
    if len(found) != 1:
        raise ValueError(
            f"{file}: expected entries of one style clustering and one writer, got {len(found)}; "
            "write the file again with `describe --style`"
        )
    facts = style_facts(*found.pop())
    if facts.get("style_method") != method:
        raise ValueError(
            f"{file}: expected texts in styles of {method}, got {facts.get('style_method')}; write "
            "the file again with `describe --style`"
        )
    return facts
