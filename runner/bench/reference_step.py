"""Straightforward version of VLADR's image step, for comparison of run times.

It computes the same losses with the same weights as `models.learners.vladr`, but in the order of
the authors' code: one forward pass per view, a third pass of the weak view for L_global, encoding
of the captions of each image and of the prompts of the identities in the batch with the full text
context in each step, and one optimiser group per parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.components.reid_network import mean_terms, term_weights
from models.heads.prompts import splice
from models.learner import OptimizerConfig, StepResult
from models.learners.vladr import Config, Method
from models.losses.alignment import affinity, attribute_alignment
from models.losses.contrastive import batch_candidates, image_text_cross_entropy
from models.vladr.network import AttributeNetwork
from models.vladr.prompts import TEMPLATE_START
from tasks.schema import Batch, Domain

TERMS = ("identity", "triplet", "image_text", "cma", "affinity")


class ReferenceStep:
    """Image step of a VLADR learner in a domain after the first.

    Args:
        learner: its networks are used and trained; its cached text features are not used. Its
            configuration must use raw captions, only the alignment `affinity` and only the weak
            view.
        domain: the domain being learned.
    """

    def __init__(self, learner: Method, domain: Domain) -> None:
        assert learner.old is not None
        assert isinstance(learner.old.module, AttributeNetwork)
        self._config: Config = learner.config
        self._network = learner.network
        self._old = learner.old.module
        self._text = learner.text
        self._textual = learner.textual
        self._domain = domain
        self._first_class = learner.network.num_identities - domain.num_persons

    def forward(self, batch: Batch) -> StepResult:
        """Computes the loss and its terms on one batch."""
        losses, network = self._config.losses, self._network
        weak, strong = batch.views["weak"], batch.views["strong"]
        targets = batch.person_ids + self._first_class
        passes = [self._encode(network, view) for view in (weak, strong)]
        terms = mean_terms(
            [
                network.identity_terms(
                    {"class_token": g, "projected": f}, targets, losses.identity, losses.triplet
                )
                for g, f, _ in passes
            ]
        )
        _, projected, _ = self._encode(network, weak)
        identities, rows = batch_candidates(batch.person_ids)
        prompts = self._encode_prompts(identities)
        temperature = losses.image_text.temperature
        terms["image_text"] = image_text_cross_entropy(projected, prompts, rows, temperature)
        v = passes[0][2]
        terms["cma"] = attribute_alignment(
            v,
            self._encode_captions(batch.indices),
            None,
            losses.cma.distance,
            losses.cma.temperature,
            losses.cma.reduction,
        )
        with torch.no_grad():
            _, _, v_old = self._encode(self._old, weak)
        settings = losses.affinity
        terms["affinity"] = affinity(
            v,
            v_old,
            settings.temperature,
            settings.reduction,
            settings.keep_diagonal,
            settings.probability_floor,
        )
        return StepResult.of(terms, term_weights(terms, losses))

    def _encode(self, network: AttributeNetwork, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes g [B, W], f [B, D] and v [B, K, D], even if not all of them are used."""
        features = network.image(images)
        return features.class_token, features.projected, network.decoder(features.patches)

    @torch.no_grad()
    def _encode_captions(self, indices: Tensor) -> Tensor:
        """[B] images -> t_k [B, K, D], encoded one image at a time."""
        rows = list[Tensor]()
        for index in indices.tolist():
            tokens = self._full_context(list(self._domain.train[index].parts))
            ends = self._text.end_positions(tokens)
            rows.append(self._text(self._text.embed_tokens(tokens), ends))
        return functional.normalize(torch.stack(rows), dim=-1)

    @torch.no_grad()
    def _encode_prompts(self, identities: Tensor) -> Tensor:
        """[C] identities -> t_g [C, D]."""
        vectors = self._textual.identities.vectors[identities]
        words = " ".join(["X"] * vectors.shape[1])
        tokens = self._full_context([f"{TEMPLATE_START} {words} person."])
        template = self._text.embed_tokens(tokens)[0]
        prompts = splice(template, vectors, 1 + len(TEMPLATE_START.split()))
        ends = self._text.end_positions(tokens).expand(len(identities))
        return functional.normalize(self._text(prompts, ends), dim=1)

    def _full_context(self, texts: list[str]) -> Tensor:
        tokens = self._text.tokenize(texts)
        return functional.pad(tokens, (0, self._text.context_length - tokens.shape[1]))


def build_reference_optimizer(learner: Method, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Builds Adam with one group per trainable parameter."""
    groups = [
        {
            "params": [parameter],
            "lr": config.lr * (config.bias_lr_factor if path.endswith("bias") else 1.0),
            "weight_decay": 0.0 if path.startswith("network.decoder.") else config.weight_decay,
        }
        for path, parameter in learner.named_parameters()
        if parameter.requires_grad
    ]
    return torch.optim.Adam(groups, lr=config.lr)
