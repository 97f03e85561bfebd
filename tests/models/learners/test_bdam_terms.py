"""BDAM: its terms against naive loops, and the parts that each of them trains."""

from __future__ import annotations

import math

import pytest
import torch

from models.bdam.network import positive_mask
from tests.models.learner_cases import BDAM_TERMS as TERMS
from tests.models.learner_cases import only


def started(course, **settings):
    trainer = course("bdam", **settings)
    trainer.begin("plaza")
    trainer.learner.train()
    (stage,) = trainer.learner.stages()
    return trainer, stage, trainer.batch(stage, 0)


# Terms against loops ------------------------------------------------------------------------------


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def info_nce(rows, texts, people, tau):
    logits = [[cosine(row, text) / tau for text in texts] for row in rows]
    size, total = len(rows), 0.0
    for table in (logits, [list(column) for column in zip(*logits, strict=True)]):
        for i in range(size):
            log_sum = math.log(sum(math.exp(value) for value in table[i]))
            own = [table[i][j] - log_sum for j in range(size) if people[j] == people[i]]
            total -= sum(own) / len(own) / size / 2
    return total


def squared_triplet(rows, people, margin):
    total, size = 0.0, len(rows)
    for i in range(size):
        far = max(float((rows[i] - rows[j]).square().sum()) for j in range(size)
                  if j != i and people[j] == people[i])  # fmt: skip
        near = min(float((rows[i] - rows[j]).square().sum()) for j in range(size)
                   if people[j] != people[i])  # fmt: skip
        total += max(0.0, far - near + margin) / size
    return total


def adversary(rows, texts, tau):
    total, size = 0.0, len(rows)
    for i in range(size):
        weights = [math.exp(cosine(rows[i], text) / tau) for text in texts]
        total -= math.log(1 - weights[i] / sum(weights)) / size
    return total


def linear_hsic(first, second, normalise):
    size = len(first)
    matrices = []
    for rows in (first, second):
        product = cosine if normalise else torch.dot
        kernel = torch.tensor([[float(product(a, b)) for b in rows] for a in rows])
        matrices.append(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())
    return float(torch.trace(matrices[0] @ matrices[1])) / (size - 1) ** 2


@pytest.mark.parametrize(("projection", "normalise"), [("shared", False), ("own", True)])
def test_total_loss_equals_naive_loops(course, projection, normalise):
    weights = {name: {"weight": 0.5 + number} for number, name in enumerate(TERMS)}
    weights["triplet"]["margin"] = 5.0
    weights["adversarial"]["projection"] = projection
    weights["decouple"]["normalise"] = normalise
    trainer, stage, batch = started(course, losses=weights)
    learner = trainer.learner
    learner.texts.step += 1
    with torch.no_grad():
        result = learner(batch, stage.name)
        records = [trainer.domain.train[index] for index in batch.indices.tolist()]
        kinds = [
            [r.captions[(1 + i) % 2] for r, i in zip(records, batch.indices.tolist(), strict=True)],
            [r.identity for r in records],
            [r.clothing for r in records],
        ]
        captions, identities, clothes = (learner._tower.encode_texts(texts) for texts in kinds)
        network = learner.network
        seen = network.decouple(batch.views["weak"])
        image = network.fusion.align_image(seen.gated_identity)
        encoded = network.fusion.align_text(identities)
        gate = network.fusion.gate(torch.cat([image, encoded], 1)).softmax(1)
        mixed = network.fusion.mixer.mlp(gate[:, :1] * image + gate[:, 1:] * encoded)
        fused = network.fusion.projection(mixed)
        v = network.to_text(seen.gated_identity)
        rows = network.to_clothing(seen.gated_clothing)
        shared = projection == "shared"
        hidden = (network.to_clothing if shared else network.to_adversary)(seen.clothing)
    people = batch.person_ids.tolist()
    wanted = {
        "info": (info_nce(v, captions, people, 0.07) + info_nce(v, identities, people, 0.07)) / 2,
        "fused": info_nce(fused, captions, people, 0.07),
        "triplet": squared_triplet(seen.gated_identity, people, 5.0),
        "adversarial": adversary(hidden, clothes, 0.07),
        "clothing": info_nce(rows, clothes, people, 0.07),
        "decouple": linear_hsic(seen.gated_identity, seen.gated_clothing, normalise),
        "gate": float((seen.gate - 0.5).square().mean()),
    }
    assert result.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(result.terms[name]) == pytest.approx(value, rel=1e-4, abs=1e-7), name
    total = sum((0.5 + number) * wanted[name] for number, name in enumerate(TERMS))
    assert float(result.loss) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("off", TERMS)
def test_a_term_without_weight_is_not_there_and_nothing_of_it_is_built(course, off):
    losses = {"adversarial": {"projection": "own"}}
    losses[off] = losses.get(off, {}) | {"weight": 0}
    trainer, stage, batch = started(course, losses=losses)
    result = trainer.learner(batch, stage.name)
    assert set(result.terms) == set(TERMS) - {off}
    owners = {
        "info": "to_text",
        "fused": "fusion",
        "adversarial": "to_adversary",
        "clothing": "to_clothing",
    }
    for term, part in owners.items():
        assert (getattr(trainer.learner.network, part) is None) == (term == off)


@pytest.mark.parametrize("mixer", ["none", "transformer"])
@pytest.mark.parametrize(
    "names",
    [
        ("info",),
        ("fused",),
        ("info", "clothing"),
        ("clothing",),
        ("clothing", "adversarial"),
        ("clothing", "triplet"),
    ],
)
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_what_trains_is_what_some_term_reads(course, mixer, names, cross, gate):
    decoupling = {"cross_attention": cross, "gate": gate}
    losses = only(*names) | {"caption_contrast": "optional"}
    settings = {"decoupling": decoupling, "losses": losses, "fusion": {"mixer": mixer}}
    trainer, stage, batch = started(course, **settings)
    trainer.learner(batch, stage.name).loss.backward()
    touched = {p for p, v in trainer.learner.named_parameters() if v.grad is not None}
    text = {path for path in touched if path.startswith("text.")}
    assert touched - text == set(stage.trainable)
    assert not text


def reached(trainer, term):
    parameters = dict(trainer.learner.network.named_parameters())
    found = torch.autograd.grad(
        term, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    pairs = zip(parameters, found, strict=True)
    return {path for path, gradient in pairs if gradient is not None and bool(gradient.any())}


def test_each_term_reaches_its_own_parts(course):
    losses = {"adversarial": {"projection": "own"}}
    trainer, stage, batch = started(course, decoupling={"cross_attention": False}, losses=losses)
    for parameter in trainer.learner.network.parameters():
        parameter.requires_grad_(True)
    terms = trainer.learner(batch, stage.name).terms
    parts = {name: reached(trainer, term) for name, term in terms.items()}

    def reads(name, prefix):
        return any(path.startswith(prefix) for path in parts[name])

    assert {name for name in TERMS if reads(name, "image.")} == set(TERMS)
    # The adversary works on the clothing feature before the gate; all others read the gate.
    assert {name for name in TERMS if not reads(name, "head.gate.")} == {"adversarial"}
    assert not reads("adversarial", "head.identity.")
    for part, name in (
        ("to_text.", "info"),
        ("fusion.", "fused"),
        ("to_adversary.", "adversarial"),
        ("to_clothing.", "clothing"),
    ):
        assert {term for term in TERMS if reads(term, part)} == {name}


def test_with_the_shared_projection_the_adversarial_term_trains_the_clothing_branch_only(course):
    settings = {"decoupling": {"cross_attention": False}, "text_tower": "trained"}
    trainer, stage, batch = started(course, **settings)
    network = trainer.learner.network
    assert network.to_adversary is None
    assert not [path for path in trainer.learner.save_state().tensors if "adversary" in path]
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    terms = trainer.learner(batch, stage.name).terms
    assert {".".join(path.split(".")[:2]) for path in reached(trainer, terms["clothing"])} > {
        "text.transformer",
        "to_clothing.weight",
    }
    touched = reached(trainer, terms["adversarial"])
    assert {path.split(".")[0] for path in touched} == {"image", "head"}
    assert {path.split(".")[1] for path in touched if path.startswith("head.")} == {"clothing"}


@pytest.mark.parametrize("own", [False, True])
def test_initial_values_do_not_depend_on_the_projection_of_the_adversary(course, own):
    losses = {"adversarial": {"projection": "own" if own else "shared"}}
    network = course("bdam", losses=losses).learner.network
    without = course("bdam", losses={"adversarial": {"weight": 0}}).learner.network
    for path, value in without.state_dict().items():
        assert torch.equal(value, network.state_dict()[path]), path
    assert (network.to_adversary is not None) == own


def test_positive_mask():
    people, texts = torch.tensor([0, 0, 1]), torch.tensor([5, 6, 5])
    identity = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    both = [[1, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert positive_mask("identity", people, texts).int().tolist() == identity
    assert positive_mask("identity_or_text", people, texts).int().tolist() == both
    assert positive_mask("diagonal", people, texts).int().tolist() == torch.eye(3).int().tolist()
