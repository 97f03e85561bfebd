"""Identity and clothing texts of drawn people, by a machine that reads every picture.

The machine makes mistakes of its own, other ones than the people whose captions are the queries: a
text beside a searched image knows nothing of its captions. By default it words its texts as drawn
annotators do. In styles, it does what BDAM does with a language model, on people whose truth is
known: the styles of the captions of the first seen domain's training people are found, and both
texts of a picture are written in a style that is drawn for it. All that a table of clusterings
changes is how the texts are worded.
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
from typing import Literal

import numpy as np
from pydantic import Field

from tasks.schema import FrozenConfig, RawDomain
from tasks.synthetic.captions import perceive, write_machine_texts
from tasks.synthetic.domains import SyntheticDomain, training_domains, unseen_domains
from tasks.synthetic.facts import facts_of
from tasks.synthetic.people import Person
from tasks.synthetic.studio import person_of
from tasks.text.caption_styles import find_styles
from tasks.text.paraphrase import DEFAULT_TEMPLATE, fill_template
from tasks.text.style_clustering import StyleOptions

StyleMethod = Literal["none", "random", "kmeans", "gmm", "agglomerative", "hdbscan", "dbscan"]

TEXTS_VERSION = 1
"""Part of the files' names: raise it with any change of how styles are found or texts written."""

_READING = 101
"""Stream of the machine's mistakes, apart from all that `tasks.synthetic.studio` draws."""

_FILE_NAME = re.compile(r"(\d+)_c(\d+)s\d+_\d+_(\d+)\.jpg$")
_FACTS = tuple(field.name for field in fields(Person))


class StyleConfig(FrozenConfig):
    """How styles are found; each clustering reads only its own."""

    num_styles: int = Field(
        default=8, ge=1, description="random, kmeans, gmm, agglomerative: clusters before merging"
    )
    eps: float = Field(
        default=0.25,
        gt=0,
        le=2,
        description="dbscan: cosine distance at which two captions are neighbours",
    )
    min_samples: int = Field(
        default=5,
        ge=1,
        description="dbscan, hdbscan: neighbours that make a core caption; at least a 200th of "
        "all captions",
    )
    min_size: int = Field(
        default=5,
        ge=1,
        description="captions of the smallest style, at least a fiftieth of all captions; smaller "
        "ones are merged into the nearest",
    )
    seed: int = Field(default=0, ge=0, description="of the clustering and of each image's style")

    @property
    def options(self) -> StyleOptions:
        """The same for `tasks.text.style_clustering`."""
        return StyleOptions(
            self.num_styles, self.eps, self.min_samples, self.min_size, seed=self.seed
        )


def read_by_machine(raws: Mapping[str, RawDomain], people_seed: int) -> dict[str, RawDomain]:
    """Drawn domains with the texts of a machine that words them as drawn annotators do.

    Args:
        raws: by name, under the text-to-image protocol.
        people_seed: of the drawing.

    Raises:
        OSError: the folder of the drawn people cannot be written.
    """

    def tell(person: Person, rng: np.random.Generator, image: str) -> dict[str, str]:
        del image
        identity, clothing = write_machine_texts(person, rng)
        return {"identity": identity, "clothing": clothing}

    files = {
        name: raw.folder / f"{name}_dual-read{TEXTS_VERSION}.json" for name, raw in raws.items()
    }
    return _told(raws, people_seed, files, lambda: tell)


def written_in_styles(
    raws: Mapping[str, RawDomain],
    people_seed: int,
    learned_first: str,
    method: StyleMethod,
    config: StyleConfig,
) -> dict[str, RawDomain]:
    """Drawn domains with the texts of a machine that writes in styles.

    The captions of test people are never read for it, nor those of a domain that is learned later
    or not at all.

    Args:
        raws: by name, under the text-to-image protocol.
        people_seed: of the drawing.
        learned_first: the domain whose training captions the styles are found in.
        method: how they are found.
        config: numbers of the methods.

    Raises:
        ValueError: fewer captions than clusters.
        OSError: the folder of the drawn people cannot be written.
    """
    captions = [each for record in raws[learned_first].train for each in record.captions]
    content = [TEXTS_VERSION, method, config.model_dump(), people_seed, captions]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    files = {name: raw.folder / f"{name}_dual-{method}-{key}.json" for name, raw in raws.items()}

    def teller() -> Tell:
        styles = find_styles(captions, method, config.options)

        def tell(person: Person, rng: np.random.Generator, image: str) -> dict[str, str]:
            read = perceive(person, rng)
            style = styles.sample(image)
            facts = facts_of({name: getattr(read, name) for name in _FACTS})
            identity, clothing = fill_template(
                styles.styles[style].template or DEFAULT_TEMPLATE, facts
            )
            return {"identity": identity, "clothing": clothing, "style": str(style)}

        return tell

    return {
        name: replace(raw, facts={**raw.facts, "style_method": method})
        for name, raw in _told(raws, people_seed, files, teller).items()
    }


Tell = Callable[[Person, np.random.Generator, str], dict[str, str]]
"""What is said of a person in a picture, which is named by its domain and file."""


def _told(
    raws: Mapping[str, RawDomain],
    people_seed: int,
    files: Mapping[str, Path],
    teller: Callable[[], Tell],
) -> dict[str, RawDomain]:
    """The domains with these files of texts; those that are missing are written."""
    places = {each.name: each for each in (*training_domains(), *unseen_domains())}
    missing = [places[name] for name in raws if not files[name].is_file()]
    if missing:
        tell = teller()
        for domain in missing:
            entries = list(_entries(raws[domain.name], domain, people_seed, tell))
            _write(files[domain.name], json.dumps(entries, indent=1) + "\n")
    return {name: replace(raw, dual_file=files[name]) for name, raw in raws.items()}


def _entries(
    raw: RawDomain, domain: SyntheticDomain, people_seed: int, tell: Tell
) -> Iterator[dict[str, str]]:
    images = (*raw.train, *raw.test.query, *raw.test.gallery)
    people: dict[int, Person] = {}
    for path in dict.fromkeys(record.image_path for record in images):
        match = _FILE_NAME.search(path)
        assert match is not None, f"{path} is no drawn picture"
        key = [int(each) for each in match.groups()]
        if key[0] not in people:
            people[key[0]] = person_of(people_seed, domain, key[0])
        rng = np.random.default_rng([people_seed, _READING, domain.index, *key])
        file = Path(path).relative_to(raw.folder).as_posix()
        yield {"file_path": file, **tell(people[key[0]], rng, f"{domain.name}/{file}")}


def _write(path: Path, content: str) -> None:
    """Whole or not at all; several processes may write the same."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(
            f"cannot write the texts of benchmark.style into {path.parent} ({error.strerror}). "
            "Set benchmark.root to a folder that can be written."
        ) from error
