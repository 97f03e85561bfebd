"""Styles of captions: which are written alike, how each style sounds, and who writes in which.

As in BDAM: captions with their facts masked are embedded and clustered; a style is a cluster. A
text in a style of its own is asked for with a few captions of that style, or made by filling one of
them with other facts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.text.masking import mask
from tasks.text.paraphrase import best_template
from tasks.text.style_clustering import Floats, Labels, StyleOptions, cluster

Embed = Callable[[Sequence[str]], Floats]
"""Masked captions -> their embeddings [N, D]."""

NUM_EXEMPLARS = 4
MAX_CAPTIONS = 5000
"""At most as many are clustered: the methods compare every caption with every other."""
_LEAST_STYLE, _LEAST_CORE = 50, 200
"""A style has at least this part of all captions, and so many make a caption a core one: of many
captions the odd ones, too, have a few neighbours, and would chain all styles into one."""


@dataclass(frozen=True, slots=True)
class Style:
    """One way to write.

    Attributes:
        size: captions that are written so.
        exemplars: different masked captions, those nearest to the style's centre first.
        template: a masked caption of the style that can be filled with other facts, or "".
    """

    size: int
    exemplars: tuple[str, ...]
    template: str


@dataclass(frozen=True, slots=True)
class Styles:
    """What was found.

    Attributes:
        method: how.
        styles: in an order that depends on the captions alone.
        labels: [N] the style of every clustered caption.
        captions: the N captions that were clustered.
        seed: of the draw of a style.
    """

    method: str
    styles: tuple[Style, ...]
    labels: Labels
    captions: tuple[str, ...]
    seed: int

    @property
    def digest(self) -> str:
        """Eight hex digits over all that a text in one of these styles depends on."""
        told = [[each.size, each.exemplars, each.template] for each in self.styles]
        content = json.dumps([self.method, told, self.seed]).encode()
        return hashlib.sha256(content).hexdigest()[:8]

    def sample(self, key: str) -> int:
        """A style for an image, as often as captions are written in it.

        The draw depends on the key and the seed alone, not on what else is asked for.
        """
        drawn = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()[:8]
        share = int.from_bytes(drawn) / 2**64
        sizes = np.cumsum([each.size for each in self.styles])
        return int(np.searchsorted(sizes, share * sizes[-1], side="right"))


def find_styles(
    captions: Sequence[str], method: str, options: StyleOptions, embed: Embed | None = None
) -> Styles:
    """The styles that captions are written in.

    Captions without a word are left out. Of more than `MAX_CAPTIONS` as many are drawn with the
    seed. `options.min_cluster_size` is raised to a fiftieth of all captions, and
    `options.min_samples` to a 200th.

    Args:
        captions: of whom may be learned from.
        method: one of `tasks.text.style_clustering.style_methods()`.
        options: of the method.
        embed: None: `tfidf`.

    Raises:
        ValueError: an unknown method, no caption, or fewer than a method makes clusters.
    """
    told = _drawn([text for caption in captions if (text := " ".join(caption.split()))], options)
    masked = {caption: mask(caption) for caption in dict.fromkeys(told)}
    told = [caption for caption in told if masked[caption]]
    if not told:
        raise ValueError("expected captions to find styles in; there is none with a word in it")
    texts = [masked[caption] for caption in told]
    rows = (embed or tfidf)(texts)
    scaled = replace(
        options,
        min_samples=max(options.min_samples, len(texts) // _LEAST_CORE),
        min_cluster_size=max(options.min_cluster_size, len(texts) // _LEAST_STYLE),
    )
    labels = cluster(rows, method, scaled)
    found = [_style(texts, rows, labels == number) for number in range(int(labels.max()) + 1)]
    return Styles(method, tuple(found), labels, tuple(told), options.seed)


def tfidf(masked: Sequence[str]) -> Floats:
    """[N, D] weights of words, signs and slots, and of two and three in a row."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second to load

    vectorizer = TfidfVectorizer(
        token_pattern=r"\w+|[.,;:!?]", ngram_range=(1, 3), sublinear_tf=True, max_features=4000
    )
    return vectorizer.fit_transform(masked).toarray()


def _drawn(captions: list[str], options: StyleOptions) -> list[str]:
    if len(captions) <= MAX_CAPTIONS:
        return captions
    # Captions in an order of their own: which file lists them first does not matter.
    ordered = sorted(captions)
    chosen = np.random.default_rng(options.seed).choice(len(ordered), MAX_CAPTIONS, replace=False)
    return [ordered[index] for index in sorted(chosen)]


def _style(texts: Sequence[str], rows: Floats, is_member: np.ndarray) -> Style:
    members = np.flatnonzero(is_member)
    own = rows[members] / np.linalg.norm(rows[members], axis=1, keepdims=True)
    nearness = (own @ own.mean(axis=0)).round(9)  # equal captions shall be equally near
    ranked = sorted({(-nearness[at], texts[int(index)]) for at, index in enumerate(members)})
    ordered = tuple(dict.fromkeys(text for _, text in ranked))
    return Style(len(members), ordered[:NUM_EXEMPLARS], best_template(ordered))
