"""CLIP-ReID: its two stages, what each trains and reads, and its losses against plain loops."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from models.learners.clip_reid import Config, Method
from models.vladr.prompts import TextualAttributes, TextualIdentities

PROMPTS, IMAGE = "prompts", "clip-reid"


def off(*terms):
    return {term: {"weight": 0} for term in terms}


def stage_of(trainer, name):
    (stage,) = [stage for stage in trainer.learner.stages() if stage.name == name]
    return stage


def learn_prompts(trainer, num_iterations=2):
    stage = stage_of(trainer, PROMPTS)
    results = trainer.train(stage, range(num_iterations))
    trainer.learner.end_stage(PROMPTS, trainer.probe)
    return results


def snapshot(module):
    return {path: tensor.clone() for path, tensor in module.state_dict().items()}


def changed(before, module):
    after = module.state_dict()
    return {path for path, tensor in before.items() if not torch.equal(tensor, after[path])}


# The two stages -------------------------------------------------------------------------------


def test_prompts_come_first_and_need_no_pixels(course):
    stages = course("clip_reid").learner.stages()
    assert [(stage.name, stage.views) for stage in stages] == [(PROMPTS, ()), (IMAGE, ("weak",))]
    assert stages[0].trainable == ("textual.identities.*",)
    assert not any("text" in pattern for pattern in stages[1].trainable)


def test_each_stage_moves_its_own_part_alone(course):
    trainer = course("clip_reid")
    for domain in ("first", "second"):
        trainer.begin(domain)
        before = snapshot(trainer.learner)
        trainer.train(stage_of(trainer, PROMPTS))
        assert changed(before, trainer.learner) == {"textual.identities.vectors"}
        trainer.learner.end_stage(PROMPTS, trainer.probe)
        before = snapshot(trainer.learner)
        trainer.train(stage_of(trainer, IMAGE))
        moved = changed(before, trainer.learner)
        assert moved >= {"network.head_class.weight", "network.image.visual.proj"}
        assert all(path.startswith("network.") for path in moved)
        trainer.learner.end_domain(trainer.probe)


@pytest.mark.parametrize(
    ("losses", "stages", "terms"),
    [
        ({}, [PROMPTS, IMAGE], {"identity", "triplet", "image_text"}),
        (off("image_text"), [IMAGE], {"identity", "triplet"}),
        (off("match_global"), [IMAGE], {"identity", "triplet", "image_text"}),
        (off("identity"), [PROMPTS, IMAGE], {"triplet", "image_text"}),
        (off("identity", "triplet"), [PROMPTS, IMAGE], {"image_text"}),
    ],
)
def test_weight_zero_switches_a_term_and_what_only_it_needs_off(course, losses, stages, terms):
    trainer = course("clip_reid", losses=losses)
    for domain in ("first", "second"):
        trainer.begin(domain)
        assert [stage.name for stage in trainer.learner.stages()] == stages
        features = trainer.learner.textual.image_features
        assert len(features) == (32 if PROMPTS in stages else 0)
        if PROMPTS in stages:
            learn_prompts(trainer)
        assert set(trainer.train(stage_of(trainer, IMAGE))[0].terms) == terms
        parameters = trainer.learner.named_parameters()
        assert not [p for p, value in parameters if value.requires_grad and value.grad is None]
        trainer.learner.end_domain(trainer.probe)


def test_no_loss_on_the_image_tower_is_refused():
    with pytest.raises(ValueError, match=r"the image tower has no loss: give one of .*image_text"):
        Config.model_validate({"losses": off("identity", "triplet", "image_text")})


def test_prompts_that_nothing_trains_are_encoded_as_they_are(course):
    trainer = course("clip_reid", losses=off("match_global"))
    trainer.begin("first")
    textual = trainer.learner.textual
    with torch.no_grad():
        fresh = textual.encode_identities(torch.arange(8), trainer.learner.text)
    assert torch.allclose(textual.identity_features, fresh, atol=1e-6)


def test_a_domain_needs_no_descriptions_and_one_pass_to_begin(course, domain):
    plain = domain("plain")
    bare = tuple(dataclasses.replace(record, captions=(), parts=()) for record in plain.train)
    trainer = course("clip_reid")
    probe, passes = trainer.probe, []
    trainer.probe = lambda encode: passes.append(encode) or probe(encode)
    plain = dataclasses.replace(plain, train=bare)
    Method.check_domain(Config(), plain)
    trainer.begin(plain)
    assert len(passes) == 1
    trainer.finish()
    assert len(passes) == 1


# Prompts --------------------------------------------------------------------------------------


def test_prompts_match_by_identity_in_both_directions(course):
    trainer = course("clip_reid", losses={"match_global": {"temperature": 0.3}})
    trainer.begin("first")
    batch = trainer.batch(stage_of(trainer, PROMPTS), 0)
    people = batch.person_ids.tolist()
    with torch.no_grad():
        image = functional.normalize(trainer.learner.network.image(trainer.images).projected)
        image = image[batch.indices]
        text = trainer.learner.textual.encode_identities(batch.person_ids, trainer.learner.text)
    total = 0.0
    for rows, columns in ((image, text), (text, image)):
        for i, row in enumerate(rows):
            shares = torch.stack([row @ column for column in columns]).div(0.3).log_softmax(0)
            own = [float(shares[j]) for j in range(12) if people[j] == people[i]]
            assert len(own) == 3
            total -= sum(own) / len(own) / 12
    # Half the authors' sum of both directions.
    assert trainer.terms(PROMPTS)["match_global"] == pytest.approx(total / 2, rel=1e-4)


def test_prompts_learn_to_name_the_people(course):
    trainer = course("clip_reid")
    trainer.begin("first")
    first, *_, last = learn_prompts(trainer, 12)
    assert last.terms["match_global"] < first.terms["match_global"]


def test_prompts_are_new_in_each_domain(course):
    trainer = course("clip_reid", prompts={"num_identity_tokens": 3})
    trainer.learn("first")
    learned = trainer.learner.textual.identities.vectors
    trainer.begin("second")
    vectors = trainer.learner.textual.identities.vectors
    assert vectors.shape == learned.shape == (8, 3, 96)
    assert not torch.equal(vectors, learned)
    assert vectors.std() < 0.03, "drawn anew, N(0, 0.02^2)"
    assert len(trainer.learner.textual.image_features) == 32


def test_text_features_are_those_of_the_learned_prompts_and_images_are_let_go(course):
    trainer = course("clip_reid")
    trainer.begin("first")
    learn_prompts(trainer)
    textual, tower = trainer.learner.textual, trainer.learner.text
    assert len(textual.image_features) == 0
    tokens = tower.tokenize(["A photo of a X X X X person."])
    embedded = tower.embed_tokens(tokens)[0]
    with torch.no_grad():
        for person in range(8):
            sequence = torch.cat([embedded[:5], textual.identities.vectors[person], embedded[9:]])
            feature = tower(sequence[None], tower.end_positions(tokens))[0]
            wanted = functional.normalize(feature, dim=0)
            assert torch.allclose(textual.identity_features[person], wanted, atol=1e-5)


def test_identity_prompts_are_those_of_vladr(backbone):
    """The one is the other's base: the same seed draws and encodes the same."""
    text = backbone.text
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    alone = TextualIdentities(4, text, draws[0])
    among = TextualAttributes(2, 4, 0, text, draws[1])
    for prompts, draw in zip((alone, among), draws, strict=True):
        prompts.begin_identities(5, torch.ones(7, text.embed_dim), draw)
        prompts.freeze_identities(text)
    assert torch.equal(alone.identity_features, among.identity_features)
    assert alone.identity_features.shape == (5, text.embed_dim)
    assert set(alone.state_dict()) < set(among.state_dict())


def test_text_towers_are_not_saved(course):
    trainer = course("clip_reid")
    assert any(path.startswith("text.") for path in trainer.learner.state_dict())
    saved = trainer.learner.save_state().tensors
    assert not any(path.startswith("text.") for path in saved)
    assert "textual.identities.vectors" in saved


# The image tower ------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_image_text_tells_all_people_of_the_domain_apart(course, smoothing):
    losses = {"image_text": {"label_smoothing": smoothing, "temperature": 0.2}}
    trainer = course("clip_reid", losses=losses)
    trainer.learn("first")
    trainer.begin("second")
    learn_prompts(trainer)
    batch = trainer.batch(stage_of(trainer, IMAGE), 0)
    text = trainer.learner.textual.identity_features
    assert len(batch.person_ids.unique()) < len(text) == 8
    with torch.no_grad():
        projected = trainer.learner.network.image(batch.views["weak"]).projected
    total = 0.0
    for row, person in zip(functional.normalize(projected), batch.person_ids.tolist(), strict=True):
        shares = torch.stack([row @ other / 0.2 for other in text]).log_softmax(0)
        for other in range(8):
            wanted = smoothing / 8 + (1 - smoothing) * (other == person)
            total -= wanted * float(shares[other]) / 12
    assert trainer.terms(IMAGE)["image_text"] == pytest.approx(total, rel=1e-4)


def test_permuted_prompts_match_worse(course):
    """The control that must fail: learned prompts, dealt to other people."""
    trainer = course("clip_reid")
    trainer.begin("first")
    learn_prompts(trainer, 20)
    right = trainer.terms(IMAGE)["image_text"]
    textual = trainer.learner.textual
    textual.identity_features = textual.identity_features.roll(1, dims=0)
    assert trainer.terms(IMAGE)["image_text"] > right + 0.01


def test_without_text_it_is_fine_tuning_to_the_last_bit(course):
    states = {}
    losses = {"identity": {"weight": 0.25}, "triplet": {"margin": 0.3}}
    for name, values in (("clip_reid", off("image_text")), ("finetune", losses)):
        trainer = course(name, losses=values)
        draw = trainer.batch
        trainer.batch = lambda stage, number, draw=draw: draw(
            dataclasses.replace(stage, name="any"), number
        )
        trainer.learn("first", "second")
        states[name] = trainer.learner.network.state_dict()
    for path, tensor in states["finetune"].items():
        assert torch.equal(tensor, states["clip_reid"][path]), path


# Settings -------------------------------------------------------------------------------------


def test_the_authors_weights_survive_an_override_beside_them():
    config = Config.model_validate(
        {"losses": {"identity": {"label_smoothing": 0}, "triplet": {"normalise": True}}}
    )
    losses = config.losses
    assert (losses.identity.weight, losses.identity.label_smoothing) == (0.25, 0)
    assert (losses.triplet.weight, losses.triplet.margin) == (1, 0.3)
    assert losses.image_text.weight == 1
