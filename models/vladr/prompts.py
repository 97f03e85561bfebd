"""Prompts and the text features they give: one per person, and VLADR's one per attribute (MTAD).

Identity prompts need no descriptions. For attribute prompts each image has K attribute texts.
Equal texts of one attribute are one *entry*, encoded once; an image knows its entries by number,
so equal numbers are equal texts. While the attribute prompts train, entries are encoded with
gradient; once frozen, all entries are encoded once a domain and looked up from then on.

Two controls deal these texts to the wrong people: what they score is what a method has without
the texts' meaning.
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
from models.components.reid_network import TermConfig
from models.heads.bnneck import GrowingClassifier
from models.heads.prompts import AttributePrompts, IdentityPrompts, prepend, splice
from tasks.schema import Domain, Record

Descriptions = Literal["parts", "whole", "random"]
Control = Literal["none", "permuted_identities", "permuted_captions"]
"""What of a domain's texts is dealt to other people than it belongs to."""

ENCODE_ROWS = 256
PLACEHOLDER = "X"
TEMPLATE_START = "A photo of a"


class MatchTermConfig(TermConfig):
    """SupCon between cached image features and texts, both directions."""

    temperature: float = Field(default=0.07, gt=0, description="tau of the softmax over the batch")


class TextualIdentities(nn.Module):
    """Identity prompts and cached features of the domain in hand.

    A person's prompt is "A photo of a X X X X person." with free vectors instead of the X.

    Buffers of the domain: `image_features` [N, D] as the tower gives them (while the prompts
    train) and `identity_features` [C, D], L2-normalised (once they are frozen).

    Args:
        num_identity_tokens: free vectors X of a prompt.
        text: the frozen text tower.
        generator: CPU generator of the initial values.

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
        """New prompts for the people of a domain.

        Args:
            num_persons: identities C of the domain.
            image_features: [N, D] features f of the training images, by the frozen image tower.
            generator: CPU generator of the new prompts.
        """
        width = self.identities.vectors.shape[2]
        prompts = IdentityPrompts(num_persons, self.num_identity_tokens, width, generator)
        self.identities = prompts.to(self.identity_features.device)
        self.image_features = image_features

    def encode_identities(
        self, person_ids: Tensor, text: TextTower, normalise: bool = True
    ) -> Tensor:
        """[B] -> text features t_g of these identities' prompts [B, D], L2-normalised if asked."""
        distinct, where = torch.unique(person_ids, return_inverse=True)
        tokens = text.tokenize([self._template()]).to(person_ids.device)
        position = 1 + len(TEMPLATE_START.split())
        template = text.embed_tokens(tokens)[0]
        prompts = splice(template, self.identities.vectors[distinct], position)
        ends = text.end_positions(tokens).expand(len(distinct))
        features = text(prompts, ends)
        return (functional.normalize(features, dim=1) if normalise else features)[where]

    @torch.no_grad()
    def freeze_identities(self, text: TextTower) -> None:
        """Caches the L2-normalised text feature of every identity of the domain."""
        device = self.identity_features.device
        everybody = torch.arange(len(self.identities.vectors), device=device)
        chunks = [self.encode_identities(chunk, text) for chunk in everybody.split(ENCODE_ROWS)]
        self.identity_features = torch.cat(chunks).float()

    def drop_image_features(self) -> None:
        """Frees what only the prompts' training needed."""
        self.image_features = self.image_features[:0]

    def _template(self) -> str:
        return f"{TEMPLATE_START} {' '.join([PLACEHOLDER] * self.num_identity_tokens)} person."


class TextualAttributes(TextualIdentities):
    """Identity and attribute prompts, and cached text features, of the domain in hand.

    Buffers of the domain beside those of `TextualIdentities`: `person_ids` [N], `entry_tokens`
    [E, L], `entry_attributes` [E], `entry_ids` [N, K], and `entry_features` [E, D] (once the
    attribute prompts are frozen).

    Args:
        num_attributes: K.
        num_identity_tokens: free vectors of an identity prompt.
        num_attribute_tokens: free vectors of an attribute prompt.
        text: the frozen text tower.
        generator: CPU generator of the initial values.
        control: what other people are given than it belongs to. Who is given whose follows from
            torch's seed as a domain begins (captions) and as its identity prompts are frozen
            (identities), which the loop derives from the run's seed and the domain.
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
        """New identity prompts, and the entries of the domain's descriptions.

        Args:
            domain: the domain; its training records carry the descriptions.
            descriptions: what the K texts of an image are.
            image_features: [N, D] features f of the training images, by the frozen image tower.
            text: the frozen text tower.
            generator: CPU generator of the new prompts.
        """
        device = self.entry_ids.device
        num_attributes = len(self.attributes.vectors)
        self.begin_identities(domain.num_persons, image_features, generator)
        described: Sequence[Record] = domain.train
        if self.control == "permuted_captions":
            described = deal_descriptions(described, derangement(domain.num_persons, _seeded()))
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
        """Caches the text feature of every identity: its own, or another's as a control."""
        super().freeze_identities(text)
        if self.control == "permuted_identities":
            givers = derangement(len(self.identity_features), _seeded())
            self.identity_features = self.identity_features[givers.to(self.entry_ids.device)]

    def encode_attributes(self, indices: Tensor, text: TextTower) -> Tensor:
        """[B] images -> L2-normalised text features t_k of their descriptions [B, K, D]."""
        distinct, where = torch.unique(self.entry_ids[indices], return_inverse=True)
        return self._encode_entries(distinct, text)[where]

    @torch.no_grad()
    def freeze_attributes(self, text: TextTower) -> None:
        """Caches the text feature of every entry of the domain."""
        entries = torch.arange(len(self.entry_tokens), device=self.entry_ids.device)
        chunks = [self._encode_entries(chunk, text) for chunk in entries.split(ENCODE_ROWS)]
        self.entry_features = torch.cat(chunks).float()

    def attribute_features(self, indices: Tensor) -> Tensor:
        """[B] images -> cached t_k [B, K, D]."""
        return self.entry_features[self.entry_ids[indices]]

    def encode_texts(self, texts: Sequence[str], attribute: int, text: TextTower) -> Tensor:
        """L2-normalised features t_k [N, D] of N texts behind the prompt of one attribute."""
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
    """A permutation [num] that leaves nothing in its place, all such equally likely.

    Raises:
        ValueError: there is none of fewer than two.
    """
    if num < 2:
        raise ValueError(f"a control deals texts to other people: expected two or more, got {num}")
    while True:  # a share 1 / e of all permutations will do
        drawn = torch.randperm(num, generator=generator)
        if not bool((drawn == torch.arange(num)).any()):
            return drawn


def deal_descriptions(records: Sequence[Record], givers: Tensor) -> list[Record]:
    """The records with the descriptions of images of other people.

    The j-th image of person c takes what is said of the j-th image of person `givers[c]`, counted
    anew where that person has fewer images.

    Args:
        records: training records, person ids from 0 to C - 1.
        givers: [C] person whose descriptions each person takes.
    """
    images: list[list[Record]] = [[] for _ in range(len(givers))]
    numbers: list[int] = []
    for record in records:
        numbers.append(len(images[record.person_id]))
        images[record.person_id].append(record)
    dealt: list[Record] = []
    for record, number in zip(records, numbers, strict=True):
        others = images[int(givers[record.person_id])]
        said = others[number % len(others)]
        dealt.append(replace(record, captions=said.captions, parts=said.parts))
    return dealt


def _seeded() -> Generator:
    """A generator of its own, so that a control changes no other draw."""
    return torch.Generator().manual_seed(torch.initial_seed())


def attribute_texts(
    record: Record, num_attributes: int, descriptions: Descriptions
) -> Sequence[str]:
    """The K texts of an image.

    parts: its part descriptions; whole: the whole description K times; random: the words of the
    whole description dealt to the K attributes at random, seeded by the description and the
    image's name (the control that shows what a meaningful partition is worth).
    """
    match descriptions:
        case "parts":
            return record.parts
        case "whole":
            return [record.caption] * num_attributes
        case "random":
            draw = random.Random(record.image_path.rpartition("/")[2] + record.caption)
            dealt: list[list[str]] = [[] for _ in range(num_attributes)]
            for word in record.caption.split():
                dealt[draw.randrange(num_attributes)].append(word)
            return [" ".join(words) for words in dealt]


def check_descriptions(domain: Domain, num_attributes: int, descriptions: Descriptions) -> None:
    """Refuses a training domain whose records lack the descriptions the learner reads.

    Raises:
        ValueError: descriptions are missing, or there are not as many parts as attributes.
    """
    for record in domain.train:
        if not record.caption:
            raise ValueError(
                f"domain {domain.name}: learner vladr reads descriptions, and {record.image_path} "
                f"has none; put {domain.name}_description.txt beside the data set, or choose a "
                "learner without text (learner.name=finetune)"
            )
        if descriptions == "parts" and len(record.parts) != num_attributes:
            raise ValueError(
                "learner.num_attributes: learner.descriptions=parts needs one attribute per part, "
                f"and {domain.name} has {len(record.parts)} parts; got {num_attributes}. "
                "Set learner.descriptions=whole to choose another number"
            )
