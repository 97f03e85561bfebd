"""Prompts and their text features: one per identity, and VLADR's one per attribute (MTAD).

Identity prompts need no descriptions. For attribute prompts, each image has K attribute texts.
Equal texts of the same attribute form one *entry*, which is encoded once. An image refers to its
entries by index, so equal indices mean equal texts. While attribute prompts are trained, entries
are encoded with gradient. Afterwards all entries are encoded once per domain and cached.

Two negative controls permute these texts between identities. They measure the performance without
the information in the texts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.backbones.tower import TextTower
from models.components.prototypes import identity_centres
from models.components.reid_network import TermConfig
from models.heads.bnneck import GrowingClassifier
from models.heads.prompts import AttributePrompts, IdentityPrompts, prepend, splice
from tasks.schema import Domain, Record

Descriptions = Literal["parts", "whole", "random"]
Control = Literal["none", "permuted_identities", "permuted_captions"]
"""Texts of a domain that are permuted between identities."""

ENCODE_ROWS = 256
PLACEHOLDER = "X"
TEMPLATE_START = "A photo of a"


class MatchTermConfig(TermConfig):
    """Supervised contrastive loss between cached image features and texts, both directions."""

    temperature: float = Field(default=0.07, gt=0, description="tau of the softmax over the batch")


class TextualIdentities(nn.Module):
    """Identity prompts and cached features of the current domain.

    The prompt of an identity is "A photo of a X X X X person." with free vectors in place of X.

    Buffers of the domain: `image_features` [N, D], unnormalised (while the prompts train), and
    `identity_features` [C, D], L2-normalised (after the prompts are frozen).

    Args:
        num_identity_tokens: number X of free vectors of a prompt.
        text: the frozen text tower.
        generator: CPU generator for the initial values.

    Source: CLIP-ReID, first stage.
    """

    image_features: Tensor
    identity_features: Tensor

    def __init__(self, num_identity_tokens: int, text: TextTower, generator: Generator) -> None:
        super().__init__()
        self.num_identity_tokens = num_identity_tokens
        self.identities = IdentityPrompts(0, num_identity_tokens, text.width, generator)
        for name in ("image_features", "identity_features"):
            self.register_buffer(name, torch.zeros(0, text.embed_dim))

    def begin_identities(
        self, num_persons: int, image_features: Tensor, generator: Generator
    ) -> None:
        """Create prompts for the identities of a domain.

        Args:
            num_persons: number C of identities.
            image_features: [N, D] features f of the training images from the frozen image tower.
            generator: CPU generator for the new prompts.
        """
        width = self.identities.vectors.shape[2]
        prompts = IdentityPrompts(num_persons, self.num_identity_tokens, width, generator)
        self.identities = prompts.to(self.identity_features.device)
        self.image_features = image_features

    def encode_identities(
        self, person_ids: Tensor, text: TextTower, normalise: bool = True
    ) -> Tensor:
        """Encode the prompts of identities [B] as text features t_g [B, D].

        The result is L2-normalised if `normalise` is True.
        """
        distinct, inverse = torch.unique(person_ids, return_inverse=True)
        tokens = text.tokenize([self._template()]).to(person_ids.device)
        position = 1 + len(TEMPLATE_START.split())
        template = text.embed_tokens(tokens)[0]
        prompts = splice(template, self.identities.vectors[distinct], position)
        ends = text.end_positions(tokens).expand(len(distinct))
        features = text(prompts, ends)
        return (functional.normalize(features, dim=1) if normalise else features)[inverse]

    @torch.no_grad()
    def freeze_identities(self, text: TextTower) -> None:
        """Cache the L2-normalised text feature of every identity."""
        device = self.identity_features.device
        identities = torch.arange(len(self.identities.vectors), device=device)
        chunks = [self.encode_identities(chunk, text) for chunk in identities.split(ENCODE_ROWS)]
        self.identity_features = torch.cat(chunks).float()

    def drop_image_features(self) -> None:
        """Free the image features, which only prompt training needs."""
        self.image_features = self.image_features[:0]

    def _template(self) -> str:
        return f"{TEMPLATE_START} {' '.join([PLACEHOLDER] * self.num_identity_tokens)} person."


class TextualAttributes(TextualIdentities):
    """Identity and attribute prompts and cached text features of the current domain.

    Buffers of the domain in addition to those of `TextualIdentities`: `person_ids` [N],
    `entry_tokens` [E, L], `entry_attributes` [E], `entry_ids` [N, K], and `entry_features` [E, D]
    (after the attribute prompts are frozen).

    Args:
        num_attributes: K.
        num_identity_tokens: number of free vectors of an identity prompt.
        num_attribute_tokens: number of free vectors of an attribute prompt.
        text: the frozen text tower.
        generator: CPU generator for the initial values.
        control: texts to permute between identities. The permutation depends on torch's seed at the
            start of a domain (captions) or when its identity prompts are frozen (identities); the
            loop derives this seed from the run's seed and the domain.
    """

    person_ids: Tensor
    entry_tokens: Tensor
    entry_attributes: Tensor
    entry_ids: Tensor
    entry_features: Tensor

    def __init__(
        self,
        num_attributes: int,
        num_identity_tokens: int,
        num_attribute_tokens: int,
        text: TextTower,
        generator: Generator,
        control: Control = "none",
    ) -> None:
        super().__init__(num_identity_tokens, text, generator)
        self.control = control
        self.attributes = AttributePrompts(
            num_attributes, num_attribute_tokens, text.width, generator
        )
        self.pool_head = GrowingClassifier(text.embed_dim)
        for name, shape, dtype in (
            ("person_ids", (0,), torch.long),
            ("entry_tokens", (0, 2), torch.long),
            ("entry_attributes", (0,), torch.long),
            ("entry_ids", (0, num_attributes), torch.long),
            ("entry_features", (0, text.embed_dim), torch.float32),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def begin_domain(
        self,
        domain: Domain,
        descriptions: Descriptions,
        image_features: Tensor,
        text: TextTower,
        generator: Generator,
    ) -> None:
        """Create identity prompts and the entries of a domain's descriptions.

        Args:
            domain: the domain with descriptions in its training records.
            descriptions: choice of the K texts of an image.
            image_features: [N, D] features f of the training images from the frozen image tower.
            text: the frozen text tower.
            generator: CPU generator for the new prompts.
        """
        device = self.entry_ids.device
        num_attributes = len(self.attributes.vectors)
        self.begin_identities(domain.num_persons, image_features, generator)
        described: Sequence[Record] = domain.train
        if self.control == "permuted_captions":
            sources = derangement(domain.num_persons, _seeded_generator())
            described = permute_descriptions(described, sources)
        numbers: dict[tuple[int, str], int] = {}
        ids = [
            [
                numbers.setdefault((k, words), len(numbers))
                for k, words in enumerate(attribute_texts(record, num_attributes, descriptions))
            ]
            for record in described
        ]
        self.person_ids = torch.tensor([r.person_id for r in domain.train], device=device)
        self.entry_ids = torch.tensor(ids, device=device)
        self.entry_attributes = torch.tensor([k for k, _ in numbers], device=device)
        self.entry_tokens = text.tokenize([words for _, words in numbers]).to(device)
        self.pool_head = GrowingClassifier(text.embed_dim).to(device)
        centres = torch.randn(domain.num_persons, text.embed_dim, generator=generator)
        self.pool_head.grow(functional.normalize(centres, dim=1).to(device))

    @torch.no_grad()
    def freeze_identities(self, text: TextTower) -> None:
        """Cache the text feature of every identity, permuted if the control requires it."""
        super().freeze_identities(text)
        if self.control == "permuted_identities":
            sources = derangement(len(self.identity_features), _seeded_generator())
            self.identity_features = self.identity_features[sources.to(self.entry_ids.device)]

    def encode_attributes(self, indices: Tensor, text: TextTower) -> Tensor:
        """Encode the descriptions of images [B] as L2-normalised text features t_k [B, K, D]."""
        distinct, inverse = torch.unique(self.entry_ids[indices], return_inverse=True)
        return self._encode_entries(distinct, text)[inverse]

    @torch.no_grad()
    def freeze_attributes(self, text: TextTower) -> None:
        """Cache the text feature of every entry of the domain."""
        entries = torch.arange(len(self.entry_tokens), device=self.entry_ids.device)
        chunks = [self._encode_entries(chunk, text) for chunk in entries.split(ENCODE_ROWS)]
        self.entry_features = torch.cat(chunks).float()

    @torch.no_grad()
    def add_attribute_texts(self) -> None:
        """Replace every cached t_g(y) by N(t_g(y) + the identity's mean attribute text).

        The mean attribute text is N(sum over all training images x of y of N(mean_k t_k(x))). Both
        kinds of prompts must be frozen. Call it once per domain.
        """
        images = torch.arange(len(self.entry_ids), device=self.entry_ids.device)
        pooled = torch.cat(
            [self.attribute_features(chunk).mean(1) for chunk in images.split(ENCODE_ROWS)]
        )
        centres = identity_centres(
            functional.normalize(pooled, dim=1), self.person_ids, len(self.identity_features)
        )
        self.identity_features = functional.normalize(self.identity_features + centres, dim=1)

    def attribute_features(self, indices: Tensor) -> Tensor:
        """Look up the cached t_k [B, K, D] of images [B]."""
        return self.entry_features[self.entry_ids[indices]]

    def encode_texts(self, texts: Sequence[str], attribute: int, text: TextTower) -> Tensor:
        """Encode N texts with the prompt of one attribute as L2-normalised t_k [N, D]."""
        device = self.entry_ids.device
        attributes = torch.full((len(texts),), attribute, device=device)
        return self._encode(text.tokenize(texts).to(device), attributes, text)

    def _encode_entries(self, entries: Tensor, text: TextTower) -> Tensor:
        return self._encode(self.entry_tokens[entries], self.entry_attributes[entries], text)

    def _encode(self, tokens: Tensor, attributes: Tensor, text: TextTower) -> Tensor:
        ends = text.end_positions(tokens)
        tokens = tokens[:, : int(ends.max()) + 1]
        vectors = self.attributes.vectors[attributes]
        embeddings, ends = prepend(text.embed_tokens(tokens), ends, vectors, text.context_length)
        return functional.normalize(text(embeddings, ends), dim=1)


def derangement(num: int, generator: Generator) -> Tensor:
    """Sample a permutation [num] without fixed points, uniformly.

    Raises:
        ValueError: `num` is less than 2.
    """
    if num < 2:
        raise ValueError(f"control: expected at least two identities to permute, got {num}")
    while True:  # about 1 / e of all permutations have no fixed point
        permutation = torch.randperm(num, generator=generator)
        if not bool((permutation == torch.arange(num)).any()):
            return permutation


def permute_descriptions(records: Sequence[Record], sources: Tensor) -> list[Record]:
    """Replace the descriptions of records by those of images of other persons.

    The j-th image of person c takes the description of the j-th image of person `sources[c]`,
    modulo the number of that person's images.

    Args:
        records: training records with person ids from 0 to C - 1.
        sources: [C], the person whose descriptions each person takes.
    """
    images: list[list[Record]] = [[] for _ in range(len(sources))]
    numbers: list[int] = []
    for record in records:
        numbers.append(len(images[record.person_id]))
        images[record.person_id].append(record)
    permuted: list[Record] = []
    for record, number in zip(records, numbers, strict=True):
        others = images[int(sources[record.person_id])]
        source = others[number % len(others)]
        permuted.append(replace(record, captions=source.captions, parts=source.parts))
    return permuted


def _seeded_generator() -> Generator:
    """Return a separate generator, so that a control does not change other random numbers."""
    return torch.Generator().manual_seed(torch.initial_seed())


def attribute_texts(
    record: Record, num_attributes: int, descriptions: Descriptions
) -> Sequence[str]:
    """Return the K texts of an image.

    parts: its part descriptions. whole: the whole description K times. random: the words of the
    whole description randomly assigned to the K attributes, seeded by the description and the image
    name (control for the value of a meaningful partition).
    """
    match descriptions:
        case "parts":
            return record.parts
        case "whole":
            return [record.caption] * num_attributes
        case "random":
            rng = random.Random(record.image_path.rpartition("/")[2] + record.caption)
            assigned: list[list[str]] = [[] for _ in range(num_attributes)]
            for word in record.caption.split():
                assigned[rng.randrange(num_attributes)].append(word)
            return [" ".join(words) for words in assigned]


def check_descriptions(domain: Domain, num_attributes: int, descriptions: Descriptions) -> None:
    """Check that the training records have the descriptions that the learner needs.

    Raises:
        ValueError: descriptions are missing, or the numbers of parts and attributes differ.
    """
    for record in domain.train:
        if not record.caption:
            raise ValueError(
                f"domain {domain.name}: learner vladr expected a description for every image, got "
                f"none for {record.image_path}; put {domain.name}_description.txt beside the data "
                f"set, write it with `describe --dataset {domain.name}` and its --export, or use a "
                "learner without text (learner.name=finetune)"
            )
        if descriptions == "parts" and len(record.parts) != num_attributes:
            raise ValueError(
                "learner.num_attributes: expected the number of parts for "
                f"learner.descriptions=parts, {domain.name} has {len(record.parts)} parts; got "
                f"{num_attributes}. Set learner.descriptions=whole to use another number"
            )
