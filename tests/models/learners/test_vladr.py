"""VLADR: what each of its switches does, and that its caches hold what they stand for."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch.nn import functional

from models.components.cross_domain_alignment import Alignment, needs_old_model
from models.learners.vladr import Config, Method
from models.vladr.prompts import attribute_texts, check_descriptions
from tasks.schema import Record

IDENTITY, ATTRIBUTE, IMAGE = "mtad-identity", "mtad-attribute", "icar"
FORMS = get_args(Alignment)
TEXTS = {"texts": "identity_attributes"}


def off(*terms):
    return {term: {"weight": 0} for term in terms}


def stage_names(trainer):
    return [stage.name for stage in trainer.learner.stages()]


def until_images(trainer, domain):
    """A domain up to the beginning of its image stage."""
    trainer.begin(domain)
    for stage in trainer.learner.stages()[:-1]:
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)


# Cross-domain alignment -----------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["attribute", "global", "both"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_yields_its_term_from_the_second_domain_on(course, form, granularity):
    trainer = course("vladr", alignment=(form,), granularity=granularity)
    trainer.begin("first")
    for stage in trainer.learner.stages():
        assert form not in trainer.train(stage)[0].terms
        trainer.learner.end_stage(stage.name, trainer.probe)
    trainer.learner.end_domain(trainer.probe)
    until_images(trainer, "second")
    assert (trainer.learner.old is not None) == (form != "prototype")
    terms = [
        set(result.terms) & set(FORMS) for result in trainer.train(trainer.learner.stages()[-1])
    ]
    assert terms == [{form}, {form}]
    value = trainer.terms(IMAGE)[form]
    assert value > 0 or (granularity == "global" and form == "prototype_relation"), (
        "a student that moved differs from the past, unless the past is a single anchor"
    )


def test_forms_add_up(course):
    trainer = course("vladr", alignment=FORMS)
    trainer.learn("first")
    until_images(trainer, "second")
    assert set(trainer.terms(IMAGE)) == {"identity", "triplet", "image_text", "cma", *FORMS}


@pytest.mark.parametrize("values", [{"alignment": ()}, {"losses": off("prototype_relation")}])
def test_without_alignment_no_past_is_held(course, values):
    trainer = course("vladr", **values)
    trainer.learn("first")
    until_images(trainer, "second")
    assert trainer.learner.old is None
    assert not set(trainer.terms(IMAGE)) & set(FORMS)


def test_only_the_pull_to_prototypes_needs_no_old_model():
    assert not needs_old_model(())
    assert not needs_old_model(("prototype",))
    assert needs_old_model(("prototype", "affinity"))


def test_the_old_model_sees_the_students_view(course):
    """At the first step the student is its teacher: they relate the same views the same way."""
    trainer = course("vladr", alignment=("affinity",))
    trainer.learn("first")
    until_images(trainer, "second")
    assert trainer.terms(IMAGE)["affinity"] == pytest.approx(0, abs=1e-6)


# Weights and stages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({}, [IDENTITY, ATTRIBUTE, IMAGE]),
        ({"losses": off("image_text")}, [ATTRIBUTE, IMAGE]),
        ({"losses": off("match_global")}, [ATTRIBUTE, IMAGE]),
        ({"losses": off("cma")}, [IDENTITY, IMAGE]),
        ({"num_attribute_tokens": 0}, [IDENTITY, IMAGE]),
        ({"losses": off("match_local", "orthogonality", "text_identity")}, [IDENTITY, IMAGE]),
        ({"losses": off("image_text", "cma")}, [IMAGE]),
        ({"losses": {"image_text": TEXTS, **off("cma")}}, [IDENTITY, ATTRIBUTE, IMAGE]),
        ({"losses": {"image_text": TEXTS, **off("cma", "match_global")}}, [ATTRIBUTE, IMAGE]),
        ({"losses": {"image_text": TEXTS | {"weight": 0}, **off("cma")}}, [IMAGE]),
    ],
)
def test_a_stage_that_nothing_reads_or_trains_is_left_out(course, values, stages):
    trainer = course("vladr", **values)
    trainer.begin("first")
    assert stage_names(trainer) == stages
    trainer.finish()
    until_images(trainer, "second")
    losses = Config(**values).losses
    read = {
        term
        for term in ("identity", "triplet", "image_text", "cma")
        if getattr(losses, term).weight
    }
    assert set(trainer.terms(IMAGE)) == read | {"prototype_relation"}


@pytest.mark.parametrize("term", ["match_local", "orthogonality", "text_identity"])
def test_weight_zero_switches_a_term_of_the_prompts_off(course, term):
    trainer = course("vladr", losses=off(term))
    trainer.begin("first")
    (stage,) = [stage for stage in trainer.learner.stages() if stage.name == ATTRIBUTE]
    assert ("textual.pool_head.*" in stage.trainable) == (term != "text_identity")
    assert set(trainer.terms(ATTRIBUTE)) == {"match_local", "orthogonality", "text_identity"} - {
        term
    }


@pytest.mark.parametrize("term", ["identity", "triplet", "image_text", "cma"])
def test_weight_zero_leaves_gradients_for_all_that_trains(course, term):
    """In both domains: a parameter that trains without a gradient stops several workers."""
    trainer = course("vladr", losses=off(term))
    for domain in ("first", "second"):
        until_images(trainer, domain)
        stage = trainer.learner.stages()[-1]
        result = trainer.train(stage)[0]
        assert term not in result.terms
        parameters = trainer.learner.named_parameters()
        assert not [p for p, value in parameters if value.requires_grad and value.grad is None]
        trainer.learner.end_stage(stage.name, trainer.probe)
        trainer.learner.end_domain(trainer.probe)


def test_a_weight_scales_its_term_and_nothing_else(course):
    losses = {}
    for weight in (1.0, 3.0):
        trainer = course("vladr", losses={"cma": {"weight": weight}})
        until_images(trainer, "first")
        stage = trainer.learner.stages()[-1]
        losses[weight] = trainer.learner(trainer.batch(stage, 0), stage.name)
    first, second = losses.values()
    assert torch.equal(first.terms["cma"], second.terms["cma"])
    assert torch.allclose(second.loss - first.loss, 2 * first.terms["cma"], atol=1e-5)


# Descriptions ---------------------------------------------------------------------------------

CAPTION = "a person in a red coat with blue trousers and white shoes"
RECORD = Record("a/b/0001.jpg", 0, 0, (CAPTION,), ("head", "upper", "lower", "foot"))


def test_parts_and_whole_are_the_records_own_words():
    assert attribute_texts(RECORD, 4, "parts") == ("head", "upper", "lower", "foot")
    assert attribute_texts(RECORD, 3, "whole") == [CAPTION] * 3


def test_random_deals_every_word_once_and_the_same_every_time():
    dealt = attribute_texts(RECORD, 4, "random")
    assert dealt == attribute_texts(RECORD, 4, "random")
    assert sorted(" ".join(dealt).split()) == sorted(CAPTION.split())
    for text in dealt:
        words = iter(CAPTION.split())
        assert all(word in words for word in text.split()), "in the order of the description"
    moved = dataclasses.replace(RECORD, image_path="elsewhere/0001.jpg")
    assert attribute_texts(moved, 4, "random") == dealt, "a data set may move"
    other = dataclasses.replace(RECORD, image_path="a/b/0002.jpg")
    assert attribute_texts(other, 4, "random") != dealt
    assert (
        attribute_texts(dataclasses.replace(RECORD, captions=("one",)), 4, "random").count("") == 3
    )


@pytest.mark.parametrize(
    ("values", "num_attributes"),
    [("parts", 4), ("whole", 2), ("random", 3)],
)
def test_every_kind_of_description_is_learned(course, values, num_attributes):
    trainer = course("vladr", descriptions=values, num_attributes=num_attributes)
    trainer.learn("first")
    assert trainer.learner.textual.entry_ids.shape == (32, num_attributes)
    assert trainer.learner.memory.attribute_prototypes().shape == (1, num_attributes, 96)


def test_wrong_number_of_parts_is_rejected(domain):
    message = (
        r"learner\.num_attributes: .*plaza has 4 parts; got 3\. Set learner\.descriptions=whole"
    )
    with pytest.raises(ValueError, match=message):
        Method.check_domain(Config(num_attributes=3), domain("plaza"))
    check_descriptions(domain("plaza"), 3, "whole")
    check_descriptions(domain("plaza"), 4, "parts")


def test_an_image_without_a_description_is_named(domain):
    plaza = domain("plaza")
    train = list(plaza.train)
    train[5] = dataclasses.replace(train[5], captions=(), parts=())
    message = r"plaza: learner vladr .* got none for plaza/0005\.jpg; put plaza_description\.txt"
    message += r".*`describe --dataset plaza`"
    with pytest.raises(ValueError, match=message):
        Method.check_domain(Config(), dataclasses.replace(plaza, train=tuple(train)))


# Text features --------------------------------------------------------------------------------


def test_equal_texts_of_one_attribute_share_an_entry(course):
    trainer = course("vladr")
    trainer.begin("first")
    textual = trainer.learner.textual
    texts = [record.parts for record in trainer.domain.train]
    for i in range(32):
        for j in range(32):
            for k in range(4):
                equal = texts[i][k] == texts[j][k]
                assert (textual.entry_ids[i, k] == textual.entry_ids[j, k]) == equal
    assert len(textual.entry_tokens) == 4 + 1 + 8 + 3
    assert torch.equal(textual.entry_attributes[textual.entry_ids], torch.arange(4).expand(32, 4))


def test_one_text_is_an_entry_for_each_attribute(course):
    trainer = course("vladr", descriptions="whole", num_attributes=2)
    trainer.begin("first")
    textual = trainer.learner.textual
    captions = {record.caption for record in trainer.domain.train}
    assert len(textual.entry_tokens) == 2 * len(captions)
    assert not (textual.entry_ids[:, 0] == textual.entry_ids[:, 1]).any()


def naive_attribute_feature(trainer, text, k):
    """One description alone through the text tower, its prompt after the start token."""
    tower, prompt = trainer.learner.text, trainer.learner.textual.attributes.vectors[k]
    tokens = tower.tokenize([text])
    embedded = tower.embed_tokens(tokens)[0]
    sequence = torch.cat([embedded[:1], prompt, embedded[1:]])[None]
    ends = tower.end_positions(tokens) + len(prompt)
    return functional.normalize(tower(sequence, ends), dim=1)[0]


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_cached_attribute_features_are_those_of_the_frozen_prompts(course, num_tokens):
    trainer = course("vladr", num_attribute_tokens=num_tokens)
    until_images(trainer, "first")
    textual, indices = trainer.learner.textual, torch.tensor([31, 0, 7, 7])
    cached = textual.attribute_features(indices)
    with torch.no_grad():
        fresh = textual.encode_attributes(indices, trainer.learner.text)
        for row, index in enumerate(indices.tolist()):
            for k, text in enumerate(trainer.domain.train[index].parts):
                naive = naive_attribute_feature(trainer, text, k)
                assert torch.allclose(cached[row, k], naive, atol=1e-5)
    assert torch.allclose(cached, fresh, atol=1e-5)
    assert not cached.requires_grad


def test_cached_identity_features_are_those_of_the_frozen_prompts(course):
    trainer = course("vladr")
    until_images(trainer, "first")
    textual, tower = trainer.learner.textual, trainer.learner.text
    cached = textual.identity_features
    assert cached.shape == (8, 96)
    with torch.no_grad():
        persons = torch.tensor([5, 0, 5])
        fresh = textual.encode_identities(persons, tower)
        assert torch.allclose(cached[persons], fresh, atol=1e-5)
        tokens = tower.tokenize(["A photo of a X X X X person."])
        embedded = tower.embed_tokens(tokens)[0]
        for person in range(8):
            sequence = torch.cat([embedded[:5], textual.identities.vectors[person], embedded[9:]])
            feature = tower(sequence[None], tower.end_positions(tokens))[0]
            assert torch.allclose(cached[person], functional.normalize(feature, dim=0), atol=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_the_template_has_a_place_for_every_token(course, num_tokens):
    trainer = course("vladr", num_identity_tokens=num_tokens)
    tower = trainer.learner.text
    filled = tower.tokenize([f"A photo of a {'X ' * num_tokens}person."])[0].tolist()
    placeholder = tower.tokenize(["X"])[0, 1].item()
    assert [i for i, token in enumerate(filled) if token == placeholder] == list(
        range(5, 5 + num_tokens)
    )


def test_identity_prompts_are_new_for_each_domain_and_attribute_prompts_go_on(course):
    trainer = course("vladr")
    trainer.begin("first")
    textual = trainer.learner.textual
    drawn = textual.attributes.vectors.detach().clone()
    trainer.finish()
    learned, people = textual.attributes.vectors.detach().clone(), textual.identities.vectors
    assert not torch.equal(learned, drawn)
    assert people.shape == (8, 4, 96)
    trainer.begin("second")
    assert torch.equal(textual.attributes.vectors, learned)
    assert not torch.equal(textual.identities.vectors, people)
    assert textual.identities.vectors.std() < 0.03, "drawn anew, N(0, 0.02^2)"


def test_image_features_are_freed_once_the_prompts_are_learned(course):
    trainer = course("vladr")
    until_images(trainer, "first")
    assert trainer.learner.textual.image_features.shape == (32, 96)
    trainer.finish()
    assert trainer.learner.textual.image_features.shape == (0, 96)


# Views and candidates -------------------------------------------------------------------------


def of_views(trainer, names):
    """Terms of a step whose weak and strong views are those named."""
    stage = trainer.learner.stages()[-1]
    batch = trainer.batch(stage, 0)
    views = dict(zip(("weak", "strong"), (batch.views[name] for name in names), strict=True))
    with torch.no_grad():
        trainer.learner.train()
        result = trainer.learner(dataclasses.replace(batch, views=views), stage.name)
    return {name: float(value) for name, value in result.terms.items()}


def test_both_views_are_the_mean_of_either_and_weak_is_the_first(course):
    terms = {}
    for views in ("weak", "both"):
        trainer = course("vladr", views=views, alignment=("affinity", "prototype"))
        trainer.learn("first")
        until_images(trainer, "second")
        # Whatever the first domain taught, both look from the same weights.
        if views == "weak":
            state = trainer.learner.save_state()
        trainer.learner.load_state(state)
        pairs = (("weak", "strong"), ("strong", "weak"), ("weak", "weak"))
        terms[views] = [of_views(trainer, pair) for pair in pairs]
    for name in ("image_text", "cma", "prototype"):
        weak, strong, twice = (found[name] for found in terms["weak"])
        assert weak != pytest.approx(strong, abs=1e-6)
        assert weak == pytest.approx(twice, abs=1e-5), "the strong view has no part in it"
        for found in terms["both"][:2]:
            assert found[name] == pytest.approx((weak + strong) / 2, abs=1e-5)
    for name in ("identity", "triplet"):
        weak, strong, twice = (found[name] for found in terms["weak"])
        assert weak == pytest.approx(strong, abs=1e-4), "both views, whatever the setting"
        assert weak != pytest.approx(twice, abs=1e-6)


def test_candidates_are_the_people_of_the_batch_or_of_the_domain(course):
    found = {}
    for candidates in ("batch", "domain"):
        trainer = course("vladr", losses={"image_text": {"candidates": candidates}})
        until_images(trainer, "first")
        found[candidates] = trainer.terms(IMAGE)["image_text"]
        text = trainer.learner.textual.identity_features
        stage = trainer.learner.stages()[-1]
        batch = trainer.batch(stage, 0)
        with torch.no_grad():
            images = torch.cat([batch.views["weak"], batch.views["strong"]])
            projected = functional.normalize(trainer.learner.network.image(images).projected)[:12]
        people = sorted(set(batch.person_ids.tolist())) if candidates == "batch" else range(8)
        total = 0.0
        for row, person in zip(projected, batch.person_ids.tolist(), strict=True):
            logits = torch.stack([row @ text[other] for other in people]) / 0.07
            total -= logits.log_softmax(0)[list(people).index(person)]
        assert found[candidates] == pytest.approx(float(total / 12), abs=1e-4)
    assert found["batch"] < found["domain"]


# Prototypes -----------------------------------------------------------------------------------


def decoded(trainer):
    network = trainer.learner.network
    return trainer.probe(lambda images: {"v": network.decoder(network.image(images).patches)})["v"]


@pytest.mark.parametrize("mode", ["none", "fixed"])
def test_refreshed_prototypes_are_means_of_the_weights_that_stay(course, mode):
    trainer = course("vladr", interpolation={"mode": mode})
    trainer.learn("first", "second")
    prototypes = trainer.learner.memory.attribute_prototypes()
    assert prototypes.shape == (2, 4, 96)
    wanted = functional.normalize(decoded(trainer).mean(0), dim=-1)
    assert torch.allclose(prototypes[1], wanted, atol=1e-5)
    assert not torch.allclose(prototypes[0], wanted, atol=1e-3)


def test_online_prototypes_are_the_average_of_the_batches(course):
    trainer = course("vladr", prototypes="online", prototype_momentum=0.8)
    until_images(trainer, "first")
    stage, network = trainer.learner.stages()[-1], trainer.learner.network
    wanted = None
    for number in range(3):
        with torch.no_grad():
            features = network.image(trainer.batch(stage, number).views["weak"])
            mean = network.decoder(features.patches).mean(0)
        blended = mean if wanted is None else 0.8 * wanted + 0.2 * mean
        wanted = functional.normalize(blended, dim=-1)
        trainer.train(stage, range(number, number + 1))
    trainer.learner.end_domain(trainer.probe)
    assert torch.allclose(trainer.learner.memory.attribute_prototypes()[0], wanted, atol=1e-5)
    assert trainer.learner.memory.counts.tolist() == [36] * 4


def test_global_granularity_holds_one_prototype_of_f(course):
    trainer = course("vladr", granularity="global")
    trainer.learn("first")
    memory, network = trainer.learner.memory, trainer.learner.network
    features = trainer.probe(lambda images: {"f": network.image(images).projected})["f"]
    wanted = functional.normalize(functional.normalize(features, dim=1).mean(0), dim=0)
    assert memory.attribute_prototypes().shape == (1, 1, 96)
    assert torch.allclose(memory.attribute_prototypes()[0, 0], wanted, atol=1e-5)
    assert trainer.learner.stored_bytes_per_domain() == 96 * 4


def test_both_granularities_compare_attributes_and_the_global_feature(course):
    trainer = course("vladr", granularity="both")
    trainer.learn("first")
    memory, network = trainer.learner.memory, trainer.learner.network

    def encode(images):
        features = network.image(images)
        return {"f": features.projected, "v": network.decoder(features.patches)}

    found = trainer.probe(encode)
    whole = functional.normalize(found["f"], dim=1)[:, None]
    wanted = functional.normalize(torch.cat([found["v"], whole], dim=1).mean(0), dim=-1)
    assert memory.attribute_prototypes().shape == (1, 5, 96)
    assert torch.allclose(memory.attribute_prototypes()[0], wanted, atol=1e-5)
    assert trainer.learner.stored_bytes_per_domain() == 5 * 96 * 4
    assert "network.decoder.*" in trainer.learner.stages()[-1].trainable


def test_affinity_of_both_is_the_mean_over_attributes_and_the_global_feature(course):
    found = {}
    for granularity in ("attribute", "global", "both"):
        # The first domain learns the same: nothing is aligned to anything there.
        trainer = course("vladr", granularity=granularity, alignment=("affinity",))
        trainer.learn("first")
        until_images(trainer, "second")
        network = trainer.learner.network
        with torch.no_grad():
            for parameter in (network.image.visual.proj, network.decoder.linear.weight):
                draw = torch.Generator().manual_seed(parameter.numel())
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
        found[granularity] = trainer.terms(IMAGE)["affinity"]
    wanted = (4 * found["attribute"] + found["global"]) / 5
    assert found["both"] == pytest.approx(wanted, rel=1e-4)


def test_global_without_cma_needs_no_decoder(course):
    trainer = course("vladr", granularity="global", losses=off("cma"), alignment=("affinity",))
    trainer.learn("first")
    until_images(trainer, "second")
    assert "network.decoder.*" not in trainer.learner.stages()[-1].trainable
    assert "affinity" in trainer.terms(IMAGE)


def test_identity_prototypes_are_the_centres_of_people(course):
    trainer = course("vladr", alignment=("identity_prototype",))
    trainer.learn("first")
    memory, features = trainer.learner.memory, decoded(trainer)
    assert memory.identity_prototypes().shape == (8, 4, 96)
    wanted = functional.normalize(features[12:16].mean(0), dim=-1)
    assert torch.allclose(memory.identity_prototypes()[3], wanted, atol=1e-5)
    assert memory.num_domains == 1
    assert trainer.learner.stored_bytes_per_domain() == (8 + 1) * 4 * 96 * 4


def test_published_prototypes_take_the_place_of_its_own(course):
    trainer = course("vladr")
    trainer.learn("first")
    published = {name: tensor.clone() for name, tensor in trainer.learner.memory_state().items()}
    published["memory.vectors"] = -published["memory.vectors"]
    trainer.learner.load_memory_state(published)
    assert torch.equal(
        trainer.learner.memory.attribute_prototypes().flatten(0, 1), published["memory.vectors"]
    )
    assert trainer.learner.save_state().tensors.keys() >= {"memory.vectors", "memory.keys"}


def test_text_towers_are_not_saved(course):
    trainer = course("vladr")
    assert any(path.startswith("text.") for path in trainer.learner.state_dict())
    assert not any(path.startswith("text.") for path in trainer.learner.save_state().tensors)
    assert "textual.attributes.vectors" in trainer.learner.save_state().tensors


@pytest.mark.parametrize("positives", ["caption", "diagonal"])
def test_equal_descriptions_are_positives_of_cma_or_not(course, positives):
    trainer = course("vladr", losses={"cma": {"positives": positives}})
    until_images(trainer, "first")
    stage = trainer.learner.stages()[-1]
    batch = trainer.batch(stage, 0)
    found = trainer.terms(IMAGE)["cma"]
    network, textual = trainer.learner.network, trainer.learner.textual
    with torch.no_grad():
        v = network.decoder(network.image(batch.views["weak"]).patches)
        t = textual.attribute_features(batch.indices)
    ids, total = textual.entry_ids[batch.indices], 0.0
    for k in range(4):
        logits = v[:, k] @ t[:, k].T / 0.07
        for i in range(12):
            same = [j for j in range(12) if ids[i, k] == ids[j, k]]
            kept = same if positives == "caption" else [i]
            for row in (logits[i], logits[:, i]):
                total -= row.log_softmax(0)[kept].mean() / (2 * 12 * 4)
    assert found == pytest.approx(float(total), abs=1e-4)
