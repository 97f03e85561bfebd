"""BDAM: its terms against naive loops, what each of them reaches, and who reads what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from models.bdam.network import positive_mask
from models.bdam.texts import DomainTexts
from models.components.prototypes import PrototypeMemory
from models.learners.bdam import Config, Method
from tasks.schema import Split

TERMS = ("info", "fused", "triplet", "adversarial", "clothing", "decouple", "gate")
PLAIN = {"fusion": {"mixer": "none"}}


def only(*names):
    """Weights with which these terms alone are on."""
    return {name: {"weight": float(name in names)} for name in TERMS}


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


def linear_hsic(first, second):
    size = len(first)
    matrices = []
    for rows in (first, second):
        kernel = torch.tensor([[cosine(a, b) for b in rows] for a in rows])
        matrices.append(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())
    return float(torch.trace(matrices[0] @ matrices[1])) / (size - 1) ** 2


def test_total_loss_equals_naive_loops(course):
    weights = {name: {"weight": 0.5 + number} for number, name in enumerate(TERMS)}
    weights["triplet"]["margin"] = 5.0
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
        hidden = network.to_adversary(seen.clothing)
    people = batch.person_ids.tolist()
    wanted = {
        "info": (info_nce(v, captions, people, 0.07) + info_nce(v, identities, people, 0.07)) / 2,
        "fused": info_nce(fused, captions, people, 0.07),
        "triplet": squared_triplet(seen.gated_identity, people, 5.0),
        "adversarial": adversary(hidden, clothes, 0.07),
        "clothing": info_nce(rows, clothes, people, 0.07),
        "decouple": linear_hsic(seen.gated_identity, seen.gated_clothing),
        "gate": float((seen.gate - 0.5).square().mean()),
    }
    assert result.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(result.terms[name]) == pytest.approx(value, rel=1e-4, abs=1e-7), name
    total = sum((0.5 + number) * wanted[name] for number, name in enumerate(TERMS))
    assert float(result.loss) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("off", TERMS)
def test_a_term_without_weight_is_not_there_and_nothing_of_it_is_built(course, off):
    losses = {off: {"weight": 0}}
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
@pytest.mark.parametrize("names", [("info",), ("fused",), ("info", "clothing")])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_what_trains_is_what_some_term_reads(course, mixer, names, cross, gate):
    decoupling = {"cross_attention": cross, "gate": gate}
    settings = {"decoupling": decoupling, "losses": only(*names), "fusion": {"mixer": mixer}}
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
    trainer, stage, batch = started(course, decoupling={"cross_attention": False})
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


def test_positive_mask():
    people, texts = torch.tensor([0, 0, 1]), torch.tensor([5, 6, 5])
    identity = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    both = [[1, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert positive_mask("identity", people, texts).int().tolist() == identity
    assert positive_mask("identity_or_text", people, texts).int().tolist() == both
    assert positive_mask("diagonal", people, texts).int().tolist() == torch.eye(3).int().tolist()


# Texts --------------------------------------------------------------------------------------------


def test_captions_take_turns_and_features_are_those_of_the_words(course, domain, backbone):
    plaza = domain("plaza", num_persons=3)
    train = list(plaza.train)
    train[4] = replace(train[4], captions=("a single one that is longer than all the others are",))
    train[5] = replace(train[5], captions=("one", "two", "three"))
    plaza = replace(plaza, train=tuple(train))
    texts = DomainTexts()
    texts.begin_domain(plaza, backbone.text)
    indices = torch.tensor([5, 4, 5, 0])
    seen = []
    with torch.no_grad():
        for _ in range(3):
            encoded = texts.encode(indices, backbone.text)
            numbers = dict(
                zip(encoded.entries[:, 0].tolist(), encoded.sentences[:, 0], strict=True)
            )
            assert len(numbers) == 3
            turn = (int(texts.step) + 5) % 3
            words = [train[5].captions[turn], *train[4].captions, train[5].captions[turn]]
            words += [train[0].captions[int(texts.step) % 2]]
            seen.append(words[0])
            wanted = backbone.text.encode_texts(words)
            assert torch.allclose(encoded.sentences[:, 0], wanted, atol=1e-5)
            for kind in (1, 2):
                field = ("identity", "clothing")[kind - 1]
                own = [getattr(train[index], field) for index in indices.tolist()]
                expected = backbone.text.encode_texts(own)
                assert torch.allclose(encoded.sentences[:, kind], expected, atol=1e-5)
            texts.step += 1
    assert sorted(seen) == ["one", "three", "two"]
    ends = encoded.mask.sum(1) - 1
    tokens = encoded.tokens[torch.arange(4), ends]
    assert torch.allclose(tokens, encoded.sentences[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": ()}, "got no caption"),
        ({"captions": ("one", "")}, "got no caption"),
        ({"identity": ""}, "got no identity description"),
        ({"clothing": ""}, "got no clothing description"),
    ],
)
def test_domain_without_texts_is_rejected(domain, change, message):
    plaza = domain("plaza")
    Method.check_domain(Config(), plaza)
    train = (*plaza.train[:3], replace(plaza.train[3], **change), *plaza.train[4:])
    with pytest.raises(ValueError, match=message):
        Method.check_domain(Config(), replace(plaza, train=train))


def test_a_gallery_without_descriptions_needs_another_setting(domain):
    plaza = domain("plaza")
    bare = tuple(replace(record, identity="") for record in plaza.train)
    plaza = replace(plaza, test=Split(plaza.train, bare, "text"))
    with pytest.raises(ValueError, match=r"set learner\.fusion\.mixer=none or learner\.gallery"):
        Method.check_gallery(Config(), plaza)
    Method.check_gallery(Config(fusion={"mixer": "none"}), plaza)
    Method.check_gallery(Config(gallery_descriptions=False), plaza)
    Method.check_gallery(Config(losses={"fused": {"weight": 0}}), plaza)


# What is searched, and by what --------------------------------------------------------------------


@torch.no_grad()
def test_queries_use_captions_and_gallery_images_their_description(course):
    trainer = course("bdam")
    learner = trainer.learner.eval()
    images, words = trainer.images, ["a man", "a tall woman", "a man", "someone in red"]
    queries = learner.embed_texts(words)
    assert torch.equal(queries[0], queries[2])
    assert torch.allclose(queries.norm(dim=1), torch.ones(4), atol=1e-5)
    gallery = learner.embed_gallery(images, words)
    swapped = learner.embed_gallery(images, [*words[1::-1], *words[2:]])
    assert torch.allclose(gallery[2:], swapped[2:], atol=1e-6)
    assert not torch.allclose(gallery[:2], swapped[:2], atol=1e-3)
    assert torch.equal(learner.embed_texts(words), queries)
    one = learner.embed_gallery(images[1:2], words[1:2])
    assert torch.allclose(one, gallery[1:2], atol=1e-5)
    with pytest.raises(ValueError, match=r"identity description .* got an empty one"):
        learner.embed_gallery(images, ["a man", "", "", ""])
    v = learner.network.to_text(learner.network.decouple(images).gated_identity)
    assert torch.allclose(learner.embed_images(images), functional.normalize(v, dim=1))


@pytest.mark.parametrize(
    "settings", [PLAIN, {"gallery_descriptions": False}, {"losses": {"fused": {"weight": 0}}}]
)
@torch.no_grad()
def test_an_image_alone_needs_no_description(course, settings):
    trainer = course("bdam", **settings)
    learner = trainer.learner.eval()
    first, second = (learner.embed_gallery(trainer.images, [word] * 4) for word in ("", "a man"))
    assert torch.equal(first, second)
    assert torch.equal(first, learner.embed_images(trainer.images))


def test_untrained_embedding_is_rejected(course):
    trainer = course("bdam", losses=only("fused"))
    with pytest.raises(ValueError, match="no trained embedding"):
        trainer.learner.embed_images(trainer.images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": only("triplet")}, "set info.weight or fused.weight > 0"),
        ({"decoupling": {"gate": False}}, r"losses\.gate\.weight: expected 0"),
        ({"decoupling": {"enabled": False}}, r"losses\.gate\.weight: expected 0"),
        ({"gallery_descriptions": False, "losses": only("fused")}, r"which only losses\.info"),
        ({"gradnorm": {"enabled": True}, "losses": only("info")}, "at least two distinct"),
        ({"losses": {"info": {"texts": []}}}, "each once"),
    ],
)
def test_inconsistent_settings_are_rejected(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(settings)


# Several domains ----------------------------------------------------------------------------------


def test_prototypes_of_both_subspaces_are_kept_and_read(course):
    forms = ("prototype_relation", "centroid_relation", "identity_prototype", "affinity")
    trainer = course("bdam", alignment=forms, num_centroids=3)
    learner = trainer.learner
    trainer.learn("plaza")
    network = learner.network
    parts = trainer.probe(lambda images: {"p": network.parts(network.decouple(images))})["p"]
    means = functional.normalize(parts.mean(0), dim=1)
    assert torch.allclose(learner.memory.attribute_prototypes()[0], means, atol=1e-5)
    assert learner.memory.identity_prototypes().shape == (8, 2, 16)
    own = functional.normalize(parts[8:12].mean(0), dim=1)
    assert torch.allclose(learner.memory.identity_prototypes()[2], own, atol=1e-5)
    assert learner.memory.centroids().shape == (3, 2, 16)
    assert learner.stored_bytes_per_domain() == (1 + 8 + 3) * 2 * 16 * 4
    published = {path: tensor.clone() for path, tensor in learner.memory_state().items()}
    learner.memory = PrototypeMemory(2, 16)
    learner.load_memory_state(published)
    assert torch.equal(learner.memory.attribute_prototypes()[0], published["memory.vectors"][:2])
    trainer.begin("station")
    (stage,) = learner.stages()
    assert trainer.terms("bdam").keys() == {*TERMS, *forms}
    assert trainer.terms("bdam")["affinity"] == pytest.approx(0, abs=1e-6)
    trainer.train(stage)
    assert trainer.terms("bdam")["affinity"] > 1e-6
    learner.end_domain(trainer.probe)
    assert learner.memory.num_domains == 2


def test_without_a_form_nothing_is_kept(course):
    trainer = course("bdam", alignment=("affinity",))
    trainer.learn("plaza", "station")
    assert trainer.learner.stored_bytes_per_domain() == 0
    assert trainer.learner.old is None


@pytest.mark.parametrize("name", ["bdam", "vladr"])
def test_gradnorm_weighs_the_terms_of_a_domain_and_no_other(course, name):
    gradnorm = {"enabled": True, "warm_iterations": 1, "lr": 0.3}
    trainer = course(name, gradnorm=gradnorm, alignment=("affinity",))
    trainer.learn("plaza")
    trainer.begin("station")
    for stage in trainer.learner.stages()[:-1]:
        trainer.train(stage, range(1))
        trainer.learner.end_stage(stage.name, trainer.probe)
    last = trainer.train(trainer.learner.stages()[-1], range(3))[-1]
    balanced = trainer.learner.balance.names
    learned = [last.weights[term] for term in balanced]
    assert sum(learned) == pytest.approx(len(balanced), rel=1e-4)
    assert max(learned) > 1.05 > 0.95 > min(learned)
    assert last.weights["affinity"] == 1
    assert bool((trainer.learner.balance.num_updates > 0).all())
