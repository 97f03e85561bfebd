"""What is said of a domain's training images: captions, identity and clothing descriptions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbones.tower import TextTower
from tasks.schema import Domain


class Said(NamedTuple):
    """Features of the texts of B images, in the joint space of D numbers, not normalised.

    Attributes:
        entries: [B, 3] numbers of the caption, the identity and the clothing description; equal
            numbers are equal texts.
        sentences: [B, 3, D] of these texts.
        tokens: [B, L, D] of the identity description.
        kept: [B, L] bool, false at padding, which is at the end.
    """

    entries: Tensor
    sentences: Tensor
    tokens: Tensor
    kept: Tensor


class DomainTexts(nn.Module):
    """The texts of the domain in hand, tokenised; an image knows its own by their numbers.

    Buffers: `tokens` [E, L] of the E distinct texts; `captions` [N, C] numbers of an image's
    captions, the first repeated where it has fewer than C; `num_captions` [N]; `dual` [N, 2],
    numbers of its identity and clothing description; `person_ids` [N]; `step`, batches since the
    domain began.

    Which of an image's captions a batch takes goes round with `step`, the same for any number of
    workers, and from an offset of the image's own: nothing is drawn.
    """

    tokens: Tensor
    captions: Tensor
    num_captions: Tensor
    dual: Tensor
    person_ids: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (
            ("tokens", (0, 2)),
            ("captions", (0, 1)),
            ("num_captions", (0,)),
            ("dual", (0, 2)),
            ("person_ids", (0,)),
            ("step", ()),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.long))

    def begin_domain(self, domain: Domain, text: TextTower) -> None:
        """Takes over the texts of a domain's training records, each of which has all kinds."""
        device = self.tokens.device
        numbers: dict[str, int] = {}

        def number(words: str) -> int:
            return numbers.setdefault(words, len(numbers))

        captions = [[number(each) for each in record.captions] for record in domain.train]
        dual = [[number(record.identity), number(record.clothing)] for record in domain.train]
        most = max(len(own) for own in captions)
        rows = [own + own[:1] * (most - len(own)) for own in captions]
        self.captions = torch.tensor(rows, device=device)
        self.num_captions = torch.tensor([len(own) for own in captions], device=device)
        self.dual = torch.tensor(dual, device=device)
        self.person_ids = torch.from_numpy(domain.person_ids).to(device)
        self.tokens = text.tokenize(list(numbers)).to(device)
        self.step = torch.zeros_like(self.step)

    def entries(self, indices: Tensor) -> Tensor:
        """[B] images -> [B, 3] numbers of this step's caption, and of both descriptions."""
        turn = (self.step + indices) % self.num_captions[indices]
        captions = self.captions[indices].gather(1, turn[:, None])
        return torch.cat([captions, self.dual[indices]], dim=1)

    def encode(self, indices: Tensor, text: TextTower) -> Said:
        """The features of B images' texts, with gradient; equal texts are encoded once."""
        entries = self.entries(indices)
        distinct, where = torch.unique(entries, return_inverse=True)
        tokens = self.tokens[distinct]
        length = int(text.end_positions(tokens).max()) + 1
        found = text.features(tokens[:, :length])
        own = where[:, 1]
        # Padding up to a longer caption would only be computed on.
        kept = found.mask[own]
        longest = int(kept.sum(1).max())
        return Said(entries, found.sentence[where], found.tokens[own, :longest], kept[:, :longest])


def check_texts(domain: Domain) -> None:
    """Refuses a training domain in which an image lacks a caption or a description.

    Raises:
        ValueError: says which, and where it is looked for.
    """
    for record in domain.train:
        missing = [
            name
            for name, texts in (
                ("caption", record.captions),
                ("identity description", (record.identity,)),
                ("clothing description", (record.clothing,)),
            )
            if not texts or not all(texts)
        ]
        if missing:
            raise ValueError(
                f"domain {domain.name}: learner bdam reads captions, and identity and clothing "
                f"descriptions; {record.image_path} has no {missing[0]}. Captions come with a "
                "text-to-image data set; `describe --prompt dual` writes descriptions, to be put "
                f"beside it as {domain.name}_dual.json"
            )


def check_described(domain: Domain) -> None:
    """Refuses test or validation images without an identity description.

    Raises:
        ValueError: says which image, and what to do.
    """
    for split in (domain.test, domain.validation):
        images = split.gallery
        if split.query_by == "image":
            images = (*split.query, *split.gallery)
        for record in images:
            if not record.identity:
                raise ValueError(
                    f"domain {domain.name}: learner.fusion joins each searched image with its "
                    f"identity description, and {record.image_path} has none; write them by "
                    f"`describe --prompt dual` into {domain.name}_dual.json beside the data set, "
                    "or set learner.fusion.mixer=none or learner.gallery_descriptions=false"
                )
