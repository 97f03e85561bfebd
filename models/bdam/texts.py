"""Texts of a domain's training images: captions, identity and clothing descriptions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbones.tower import TextTower
from tasks.schema import Domain


class BatchTexts(NamedTuple):
    """Text features of B images in the joint space of dimension D, not normalised.

    Attributes:
        entries: [B, 3] text indices of caption, identity and clothing description; equal indices
            mean equal texts.
        sentences: [B, 3, D] features of these texts.
        tokens: [B, L, D] token features of the identity description.
        mask: [B, L] bool, False at padding, which is at the end.
    """

    entries: Tensor
    sentences: Tensor
    tokens: Tensor
    mask: Tensor


class BatchTokens(NamedTuple):
    """Texts of B images before encoding.

    Attributes:
        entries: [B, 3] text indices of caption, identity and clothing description.
        inverse: [B, 3] rows of `tokens`.
        tokens: [T, L] of the distinct texts, without common padding.
        longest_identity: length of the longest identity description, in tokens.
    """

    entries: Tensor
    inverse: Tensor
    tokens: Tensor
    longest_identity: int


class DomainTexts(nn.Module):
    """Tokenised texts of the current domain; images refer to them by index.

    Buffers: `tokens` [E, L] of the E distinct texts; `captions` [N, C] indices of an image's
    captions, padded with the first caption if it has fewer than C; `num_captions` [N]; `dual`
    [N, 2], indices of its identity and clothing description; `person_ids` [N]; `step`, number of
    batches since the start of the domain.

    The caption that a batch uses rotates with `step`, starting at an offset given by the image
    index. It is independent of the number of workers and uses no random numbers.
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
        """Tokenize the texts of a domain's training records, each of which has all kinds."""
        device = self.tokens.device
        indices: dict[str, int] = {}

        def index(words: str) -> int:
            return indices.setdefault(words, len(indices))

        captions = [[index(caption) for caption in record.captions] for record in domain.train]
        dual = [[index(record.identity), index(record.clothing)] for record in domain.train]
        num_columns = max(len(row) for row in captions)
        rows = [row + row[:1] * (num_columns - len(row)) for row in captions]
        self.captions = torch.tensor(rows, device=device)
        self.num_captions = torch.tensor([len(row) for row in captions], device=device)
        self.dual = torch.tensor(dual, device=device)
        self.person_ids = torch.from_numpy(domain.person_ids).to(device)
        self.tokens = text.tokenize(list(indices)).to(device)
        self.step = torch.zeros_like(self.step)

    def entries(self, indices: Tensor) -> Tensor:
        """Return text indices [B, 3] of this step's caption and both descriptions."""
        column = (self.step + indices) % self.num_captions[indices]
        captions = self.captions[indices].gather(1, column[:, None])
        return torch.cat([captions, self.dual[indices]], dim=1)

    def batch_tokens(self, indices: Tensor, text: TextTower) -> BatchTokens:
        """Look up the texts of B images; equal texts are listed once.

        The host waits for the number and length of the texts, so call it before the towers.
        """
        entries = self.entries(indices)
        distinct, inverse = torch.unique(entries, return_inverse=True)
        tokens = self.tokens[distinct]
        lengths = text.end_positions(tokens) + 1
        longest, longest_identity = torch.stack(
            [lengths.max(), lengths[inverse[:, 1]].max()]
        ).tolist()
        return BatchTokens(entries, inverse, tokens[:, :longest], longest_identity)


def encode_batch(batch: BatchTokens, text: TextTower) -> BatchTexts:
    """Encode the texts of a batch with gradient."""
    features = text.features(batch.tokens)
    identity = batch.inverse[:, 1]
    # Cut the padding of longer captions to save computation.
    length = batch.longest_identity
    return BatchTexts(
        batch.entries,
        features.sentence[batch.inverse],
        features.tokens[identity, :length],
        features.mask[identity, :length],
    )


def check_training_texts(domain: Domain) -> None:
    """Check that every training image has a caption and both descriptions.

    Raises:
        ValueError: a text is missing; the message names the image and the expected file.
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
                f"domain {domain.name}: learner bdam expected captions, identity and clothing "
                f"descriptions for every image, got no {missing[0]} for {record.image_path}. "
                "Captions are part of a text-to-image data set; create descriptions with "
                f"`describe --prompt dual` and save them as {domain.name}_dual.json in the data set"
            )


def check_gallery_descriptions(domain: Domain) -> None:
    """Check that all test and validation images have an identity description.

    Raises:
        ValueError: a description is missing; the message names the image.
    """
    for split in (domain.test, domain.validation):
        images = split.gallery
        if split.query_by == "image":
            images = (*split.query, *split.gallery)
        for record in images:
            if not record.identity:
                raise ValueError(
                    f"domain {domain.name}: learner.fusion expected an identity description for "
                    f"every gallery image, got none for {record.image_path}; create them with "
                    f"`describe --prompt dual` as {domain.name}_dual.json in the data set, "
                    "or set learner.fusion.mixer=none or learner.gallery_descriptions=false"
                )
