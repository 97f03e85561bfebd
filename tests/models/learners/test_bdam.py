"""BDAM: texts, queries and gallery, refused settings, and several domains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from models.bdam.texts import DomainTexts, encode_batch
from models.components.prototypes import PrototypeMemory
from models.learners.bdam import Config, Method
from tasks.schema import Split
from tests.models.learner_cases import BDAM_TERMS as TERMS
from tests.models.learner_cases import only

PLAIN = {"fusion": {"mixer": "none"}}


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
            encoded = encode_batch(texts.batch_tokens(indices, backbone.text), backbone.text)
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


@torch.no_grad()
def test_without_caption_contrast_images_are_embedded_by_the_clothing_feature(course):
    losses = only("triplet", "clothing") | {"caption_contrast": "optional"}
    trainer = course("bdam", losses=losses, gallery_descriptions=False)
    learner = trainer.learner.eval()
    seen = learner.network.decouple(trainer.images)
    rows = functional.normalize(learner.network.to_clothing(seen.gated_clothing), dim=1)
    gallery = learner.embed_gallery(trainer.images, [""] * 4)
    assert torch.allclose(gallery, rows)
    assert gallery.shape[1] == learner.embed_texts(["a man"]).shape[1]


def test_untrained_embedding_is_rejected(course):
    trainer = course("bdam", losses=only("fused"))
    with pytest.raises(ValueError, match="no trained embedding"):
        trainer.learner.embed_images(trainer.images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": only("triplet", "clothing")}, "set info.weight or fused.weight > 0"),
        (
            {"losses": only("triplet") | {"caption_contrast": "optional"}},
            r"relates images to texts: .* expected clothing\.weight > 0",
        ),
        (
            {"losses": only("info", "adversarial")},
            r"projection=shared: expected clothing\.weight > 0.*set adversarial\.projection=own",
        ),
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
