"""VLADR's attributes outside L_CMA: in the texts of L_global and in the test embedding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from models.learners.vladr import Config
from models.vladr.network import join_attributes

IMAGE = "icar"
TEXTS = {"texts": "identity_attributes"}
NO_CMA = {"cma": {"weight": 0}}


def until_images(trainer, domain):
    """A domain up to the beginning of its image stage."""
    trainer.begin(domain)
    for stage in trainer.learner.stages()[:-1]:
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)


# Texts of L_global ----------------------------------------------------------------------------


def naive_texts(textual, identity_features, train):
    """N(t_g + N(sum over the person's images of N(mean_k t_k))), one person after another."""
    rows = []
    for person, feature in enumerate(identity_features):
        total = torch.zeros_like(feature)
        for index, record in enumerate(train):
            if record.person_id == person:
                texts = [textual.entry_features[entry] for entry in textual.entry_ids[index]]
                mean = sum(texts) / len(texts)
                total += mean / mean.norm()
        rows.append(functional.normalize(feature + total / total.norm(), dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("tokens", [0, 2])
@pytest.mark.parametrize("match", [0, 1])
@pytest.mark.parametrize("control", ["none", "permuted_identities", "permuted_captions"])
def test_texts_of_identities_and_attributes(course, match, tokens, control):
    """Whichever prompts are trained: both are frozen before they are added, once."""
    trainers = {
        texts: course(
            "vladr",
            control=control if control != "permuted_captions" or texts != "identity" else "none",
            num_attribute_tokens=tokens,
            losses={"image_text": {"texts": texts}, "match_global": {"weight": match}, **NO_CMA},
        )
        for texts in ("identity", "identity_attributes")
    }
    for trainer in trainers.values():
        until_images(trainer, "first")
    alone, found = (trainer.learner.textual for trainer in trainers.values())
    assert not len(alone.entry_features), "no term reads them"
    train = trainers["identity"].domain.train
    wanted = naive_texts(found, alone.identity_features, train)
    assert torch.allclose(found.identity_features, wanted, atol=1e-5)
    assert not torch.allclose(found.identity_features, alone.identity_features, atol=1e-2)


@pytest.mark.parametrize("candidates", ["batch", "domain"])
def test_l_global_compares_with_both_texts(course, candidates):
    settings = TEXTS | {"candidates": candidates}
    trainer = course("vladr", losses={"image_text": settings, **NO_CMA}, alignment=())
    until_images(trainer, "first")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    assert "network.decoder.*" not in stage.trainable, "no decoder is needed"
    batch, text = trainer.batch(stage, 0), learner.textual.identity_features
    people = sorted(set(batch.person_ids.tolist())) if candidates == "batch" else list(range(8))
    with torch.no_grad():
        learner.train()
        images = torch.cat([batch.views["weak"], batch.views["strong"]])
        projected = functional.normalize(learner.network.image(images).projected)[:12]
    total = 0.0
    for row, person in zip(projected, batch.person_ids.tolist(), strict=True):
        logits = torch.stack([row @ text[other] for other in people]) / 0.07
        total -= float(logits.log_softmax(0)[people.index(person)]) / 12
    assert trainer.terms(IMAGE)["image_text"] == pytest.approx(total, abs=1e-4)


def test_attribute_prompts_learn_without_the_decoder(course):
    """The row + MTAD: the prompts move, the decoder does not, and no prototype is stored."""
    trainer = course("vladr", losses={"image_text": TEXTS, **NO_CMA}, alignment=())
    learner = trainer.learner
    prompts = learner.textual.attributes.vectors.detach().clone()
    decoder = learner.network.decoder.linear.weight.detach().clone()
    trainer.learn("first", "second")
    assert not torch.equal(learner.textual.attributes.vectors, prompts)
    assert torch.equal(learner.network.decoder.linear.weight, decoder)
    assert learner.stored_bytes_per_domain() == 0


def test_permuted_captions_need_a_term_that_reads_them():
    losses = {"image_text": TEXTS, **NO_CMA}
    assert Config(control="permuted_captions", losses=losses).trains_attribute_prompts
    with pytest.raises(ValueError, match=r"cma\.weight > 0 or losses\.image_text\.texts="):
        Config(control="permuted_captions", losses={**losses, "image_text": {}})
    with pytest.raises(ValueError, match="got neither"):
        Config(control="permuted_captions", losses={"image_text": TEXTS | {"weight": 0}, **NO_CMA})


def test_gradnorm_balances_the_same_terms(course):
    trainer = course(
        "vladr",
        losses={"image_text": TEXTS, **NO_CMA},
        gradnorm={"enabled": True, "warm_iterations": 1},
    )
    until_images(trainer, "first")
    assert set(trainer.learner.balance.names) == {"identity", "triplet", "image_text"}
    (result, _) = trainer.train(trainer.learner.stages()[-1])
    assert set(result.terms) == {"identity", "triplet", "image_text"}


# Test embedding -------------------------------------------------------------------------------


@given(
    st.integers(1, 5), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32)
)  # fmt: skip
def test_cosines_of_joined_embeddings_are_weighted_means(num_attributes, dim, share, seed):
    draw = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return functional.normalize(
            torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1
        )

    embedding, attributes = unit(2, 7), unit(2, num_attributes, dim)
    first, second = join_attributes(embedding, attributes, share)
    of_attributes = [float(v @ w) for v, w in zip(*attributes, strict=True)]
    wanted = (1 - share) * float(embedding[0] @ embedding[1])
    wanted += share * sum(of_attributes) / num_attributes
    assert float(first @ second) == pytest.approx(wanted, abs=1e-9)
    assert float(first.norm()) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_embedding_contains_the_attributes(course, share):
    trainer = course("vladr", embedding="necks_attributes", attribute_share=share)
    plain = course("vladr")
    for each in (trainer, plain):
        each.learn("first")
    learner = trainer.learner
    found, necks = (
        each.probe(lambda images, each=each: {"e": each.learner.embed_images(images)})["e"]
        for each in (trainer, plain)
    )
    attributes = trainer.probe(
        lambda images: {"v": learner.network.decoder(learner.network.image(images).patches)}
    )["v"]
    size = necks.shape[1]
    assert found.shape == (32, size + 4 * 96)
    for row in range(32):
        naive = [(1 - share) ** 0.5 * necks[row]]
        naive += [(share / 4) ** 0.5 * attributes[row, k] for k in range(4)]
        assert torch.allclose(found[row], torch.cat(naive), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(32), atol=1e-5)


def test_adaptive_interpolation_compares_what_is_tested(course):
    """With attributes alone in the embedding, the necks have no influence on the share a."""
    trainer = course(
        "vladr",
        embedding="necks_attributes",
        attribute_share=1.0,
        interpolation={"mode": "adaptive"},
    )
    trainer.learn("first", "second")
    rows = trainer.probe(lambda images: {"e": trainer.learner.embed_images(images)})["e"]
    trainer.learner.network.neck_projected.weight.data.mul_(3)
    moved = trainer.probe(lambda images: {"e": trainer.learner.embed_images(images)})["e"]
    assert torch.equal(rows, moved)


def test_attributes_of_an_untrained_decoder_are_not_embedded():
    with pytest.raises(ValueError, match=r"embedding=necks_attributes: expected losses\.cma"):
        Config(embedding="necks_attributes", losses=NO_CMA)
