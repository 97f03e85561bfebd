"""Machine-written identity and clothing texts of synthetic people.

The machine makes its own mistakes, independent of those of the annotators whose captions are the
queries, so the text of a gallery image reveals nothing about its captions. By default, its texts
are worded as the annotators' texts. With styles, it imitates what BDAM does with a language model:
styles are clustered from the training captions of the first seen domain, and both texts of an image
are written in a style sampled for it. An ablation of clustering methods changes only the wording.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from tasks.schema import RawDomain
from tasks.synthetic.captions import perceive, write_machine_texts
from tasks.synthetic.domains import SyntheticDomain, training_domains, unseen_domains
from tasks.synthetic.facts import facts_of
from tasks.synthetic.people import Person
from tasks.synthetic.studio import person_of
from tasks.text.caption_styles import STYLES_VERSION, CaptionEncoder, find_styles
from tasks.text.paraphrase import DEFAULT_TEMPLATE, fill_template
from tasks.text.style_config import StyleConfig, StyleMethod
from tasks.text.styled_files import style_facts

TEXTS_VERSION = 1
"""Part of the file names. Increment it if the writing of texts changes; for style clustering, see
`tasks.text.caption_styles.STYLES_VERSION`."""

_READING = 101
"""Random stream of the machine's mistakes, distinct from those of `tasks.synthetic.studio`."""

_FILE_NAME = re.compile(r"(\d+)_c(\d+)s\d+_\d+_(\d+)\.jpg$")
_FACTS = tuple(field.name for field in fields(Person))


def with_machine_texts(raws: Mapping[str, RawDomain], people_seed: int) -> dict[str, RawDomain]:
    """Adds machine texts in the wording of the annotators to synthetic domains.

    Args:
        raws: domains by name, under the text-to-image protocol.
        people_seed: seed of the synthetic people.

    Raises:
        OSError: the folder of the synthetic data cannot be written.
    """

    def write(person: Person, rng: np.random.Generator, image: str) -> dict[str, str]:
        del image
        identity, clothing = write_machine_texts(person, rng)
        return {"identity": identity, "clothing": clothing}

    files = {
        name: raw.folder / f"{name}_dual-read{TEXTS_VERSION}.json" for name, raw in raws.items()
    }
    return _with_texts(raws, people_seed, files, lambda: write)


def with_styled_texts(
    raws: Mapping[str, RawDomain],
    people_seed: int,
    learned_first: str,
    method: StyleMethod,
    config: StyleConfig,
    encoder: CaptionEncoder,
) -> dict[str, RawDomain]:
    """Adds machine texts in clustered styles to synthetic domains.

    Styles are never learned from captions of test people or of domains that are learned later or
    not at all.

    Args:
        raws: domains by name, under the text-to-image protocol.
        people_seed: seed of the synthetic people.
        learned_first: name of the domain whose training captions are clustered.
        method: clustering method.
        config: options of the method.
        encoder: embedding of the captions.

    Raises:
        ValueError: fewer captions than clusters.
        OSError: the folder of the synthetic data cannot be written.
    """
    captions = [each for record in raws[learned_first].train for each in record.captions]
    content = [
        *(TEXTS_VERSION, STYLES_VERSION, method, config.model_dump(), people_seed, captions),
        *(encoder.name, encoder.weights_sha256),
    ]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    files = {name: raw.folder / f"{name}_dual-{method}-{key}.json" for name, raw in raws.items()}

    def make_writer() -> TextWriter:
        styles = find_styles(captions, method, config.options, encoder)

        def write(person: Person, rng: np.random.Generator, image: str) -> dict[str, str]:
            perceived = perceive(person, rng)
            style = styles.sample(image)
            facts = facts_of({name: getattr(perceived, name) for name in _FACTS})
            identity, clothing = fill_template(
                styles.styles[style].template or DEFAULT_TEMPLATE, facts
            )
            return {"identity": identity, "clothing": clothing, "style": str(style)}

        return write

    facts = style_facts(method, encoder.name, encoder.weights_sha256)
    return {
        name: replace(raw, facts={**raw.facts, **facts})
        for name, raw in _with_texts(raws, people_seed, files, make_writer).items()
    }


TextWriter = Callable[[Person, np.random.Generator, str], dict[str, str]]
"""Function from a person, a random generator and an image (domain/file) to its texts by key."""


def _with_texts(
    raws: Mapping[str, RawDomain],
    people_seed: int,
    files: Mapping[str, Path],
    make_writer: Callable[[], TextWriter],
) -> dict[str, RawDomain]:
    """Adds text files to domains, writing the files that do not exist."""
    domains = {each.name: each for each in (*training_domains(), *unseen_domains())}
    missing = [domains[name] for name in raws if not files[name].is_file()]
    if missing:
        write = make_writer()
        for domain in missing:
            entries = list(_entries(raws[domain.name], domain, people_seed, write))
            _write_atomically(files[domain.name], json.dumps(entries, indent=1) + "\n")
    return {name: replace(raw, dual_file=files[name]) for name, raw in raws.items()}


def _entries(
    raw: RawDomain, domain: SyntheticDomain, people_seed: int, write: TextWriter
) -> Iterator[dict[str, str]]:
    images = (*raw.train, *raw.test.query, *raw.test.gallery)
    people: dict[int, Person] = {}
    for path in dict.fromkeys(record.image_path for record in images):
        match = _FILE_NAME.search(path)
        assert match is not None, f"{path}: expected a file name of a synthetic image"
        key = [int(each) for each in match.groups()]
        if key[0] not in people:
            people[key[0]] = person_of(people_seed, domain, key[0])
        rng = np.random.default_rng([people_seed, _READING, domain.index, *key])
        file = Path(path).relative_to(raw.folder).as_posix()
        yield {"file_path": file, **write(people[key[0]], rng, f"{domain.name}/{file}")}


def _write_atomically(path: Path, content: str) -> None:
    """Writes a file by a rename; several processes may write the same file."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(
            f"cannot write the texts of benchmark.style to {path.parent} ({error.strerror}). "
            "Set benchmark.root to a writable folder."
        ) from error
