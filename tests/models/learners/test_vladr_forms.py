"""VLADR's forms of L_IDA beyond the paper: centroids, kept features, test embeddings."""

import pytest
import torch
from torch.nn import functional

from models.components.prototypes import PrototypeMemory
from models.components.reid_network import Frozen
from models.learners.vladr import Config
from models.losses.alignment import affinity

IMAGE = "icar"


def until_images(trainer, domain):
    """A domain up to the beginning of its image stage."""
    trainer.begin(domain)
    for stage in trainer.learner.stages()[:-1]:
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)


def test_centroids_are_kept_beside_the_means(course):
    trainer = course("vladr", alignment=("centroid_relation",), num_centroids=3, granularity="both")
    trainer.learn("first")
    memory = trainer.learner.memory
    assert memory.centroids().shape == (3, 5, 96)
    assert memory.attribute_prototypes().shape == (1, 5, 96)
    assert trainer.learner.stored_bytes_per_domain() == (3 + 1) * 5 * 96 * 4
    assert memory.counts[memory.keys[:, 3] > 0].reshape(3, 5).sum(0).tolist() == [32] * 5


def test_centroids_of_separate_clusters_are_their_means():
    torch.manual_seed(0)
    bases = torch.eye(6)[:3]
    rows = functional.normalize(bases.repeat(5, 1)[:, None] + 0.05 * torch.randn(15, 2, 6), dim=-1)
    memory = PrototypeMemory(2, 6)
    memory.begin_domain(0)
    memory.add_centroids(0, rows, 3, seed=1)
    for attribute in range(2):
        order = memory.centroids()[:, attribute].argmax(1)
        assert sorted(order.tolist()) == [0, 1, 2]
        for centre, base in zip(memory.centroids()[:, attribute], order.tolist(), strict=True):
            wanted = functional.normalize(rows[base::3, attribute].mean(0), dim=0)
            assert torch.allclose(centre, wanted, atol=1e-5)
    memory.refresh(rows)
    memory.freeze()
    assert memory.attribute_prototypes().shape == (1, 2, 6)
    assert memory.num_domains == 1


def test_no_more_centroids_than_images():
    memory = PrototypeMemory(1, 4)
    memory.begin_domain(0)
    memory.add_centroids(0, torch.eye(4)[:, None], 16, seed=0)
    assert memory.centroids().shape == (4, 1, 4)


# Features that were kept instead of the model ------------------------------------------------


def test_kept_features_need_no_old_model(course):
    trainer = course("vladr", teacher="features", granularity="both", alignment=("affinity",))
    trainer.learn("first")
    assert trainer.learner.begun.shape == (0, 5, 96)
    trainer.begin("second")
    learner = trainer.learner
    assert learner.old is None
    assert not any(isinstance(module, Frozen) for module in learner.modules())
    found = trainer.probe(lambda images: {"v": learner.network.encode_parts(images)})["v"]
    assert torch.allclose(learner.begun, found, atol=1e-6)
    for stage in learner.stages()[:-1]:
        trainer.train(stage)
        learner.end_stage(stage.name, trainer.probe)
    last = learner.stages()[-1]
    assert last.views == ("weak", "strong", "test")
    terms = [each.terms["affinity"].item() for each in trainer.train(last)]
    assert terms[0] == pytest.approx(0, abs=1e-5), "nothing has moved yet"
    assert terms[1] > 1e-4
    learner.end_stage(last.name, trainer.probe)
    assert learner.begun.shape == (0, 5, 96)


def test_the_kept_features_are_those_of_the_views_own_images(course):
    trainer = course("vladr", teacher="features", alignment=("affinity",))
    trainer.learn("first")
    until_images(trainer, "second")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    trainer.train(stage)
    learner.train()
    batch = trainer.batch(stage, 7)
    with torch.no_grad():
        images = learner.network.image(batch.views["test"])
        new = learner.network.decoder(images.patches)
        wanted = affinity(new, learner.begun[batch.indices], 0.05, "mean")
        found = learner(batch, stage.name).terms["affinity"]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_embeddings_under_batch_statistics_cannot_be_kept():
    with pytest.raises(ValueError, match="teacher=model"):
        Config(teacher="features", alignment=("embedding_prototype",))


# Embeddings ----------------------------------------------------------------------------------


def test_embedding_prototypes_are_centres_of_test_embeddings(course):
    trainer = course("vladr", alignment=("embedding_prototype",))
    trainer.learn("first")
    learner = trainer.learner
    rows = trainer.probe(lambda images: {"e": learner.embed_images(images)})["e"]
    size = rows.shape[1]
    assert learner.embeddings.identity_prototypes().shape == (8, 1, size)
    wanted = functional.normalize(rows[12:16].mean(0), dim=-1)
    assert torch.allclose(learner.embeddings.identity_prototypes()[3, 0], wanted, atol=1e-5)
    assert learner.stored_bytes_per_domain() == (4 * 96 + 8 * size) * 4
    trainer.learn("second")
    assert learner.embeddings.identity_prototypes().shape == (16, 1, size)


def test_embedding_affinity_relates_the_images_of_the_batch(course):
    trainer = course("vladr", alignment=("embedding_affinity",))
    trainer.learn("first")
    assert not len(trainer.learner.embeddings.vectors), "nothing is kept for it"
    until_images(trainer, "second")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    trainer.train(stage)
    learner.train()
    batch = trainer.batch(stage, 5)
    with torch.no_grad():
        old, new = (
            network.embedding_without_update(network.image.features(batch.views["weak"]))
            for network in (learner.old.module, learner.network)
        )
        target = (old @ old.T / 0.1).softmax(1)
        wanted = (target * (target / (new @ new.T / 0.1).softmax(1)).log()).sum(1).mean()
        found = learner(batch, stage.name).terms["embedding_affinity"]
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert found > 1e-4


def test_embedding_relation_against_a_naive_loop(course):
    trainer = course("vladr", alignment=("embedding_prototype",))
    trainer.learn("first")
    until_images(trainer, "second")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    assert trainer.terms(IMAGE)["embedding_prototype"] == pytest.approx(0, abs=1e-5)
    trainer.train(stage)
    learner.train()
    batch = trainer.batch(stage, 5)

    def answers(network):
        features = network.image(batch.views["weak"])
        rows = []
        for name, values in (("class", features.class_token), ("projected", features.projected)):
            neck = network.get_submodule(f"neck_{name}")
            centred = (values - values.mean(0)) / (values.var(0, correction=0) + neck.eps).sqrt()
            rows.append(centred * neck.weight + neck.bias)
        embedding = torch.cat(rows, dim=1)
        found = []
        for row in embedding:
            cosines = [
                torch.dot(row, anchor) / row.norm() / anchor.norm()
                for anchor in learner.embeddings.identity_prototypes()[:, 0]
            ]
            found.append((torch.stack(cosines) / 0.1).softmax(0))
        return torch.stack(found)

    with torch.no_grad():
        old, new = answers(learner.old.module), answers(learner.network)
        wanted = (old * (old / new).log()).sum(1).mean()
        found = learner(batch, stage.name).terms["embedding_prototype"]
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert found > 1e-4


def test_embedding_centroids_store_no_identities(course):
    trainer = course(
        "vladr",
        alignment=("embedding_prototype",),
        num_centroids=3,
        losses={"embedding_prototype": {"anchors": "centroids"}},
    )
    trainer.learn("first")
    learner = trainer.learner
    size = learner.embeddings.dim
    assert learner.embeddings.centroids().shape == (3, 1, size)
    assert not len(learner.embeddings.identity_prototypes())
    assert learner.stored_bytes_per_domain() == (4 * 96 + 3 * size) * 4
    rows = trainer.probe(lambda images: {"e": learner.embed_images(images)})["e"]
    centroids = learner.embeddings.centroids()[:, 0]
    nearest = torch.cdist(rows, functional.normalize(centroids, dim=1)).argmin(1)
    assert nearest.unique().numel() == 3
    trainer.learn("second")
    assert learner.embeddings.centroids().shape == (6, 1, size)


def test_one_embedding_prototype_per_domain_relates_from_two_domains_on(course):
    trainer = course(
        "vladr",
        alignment=("embedding_prototype",),
        losses={"embedding_prototype": {"anchors": "domains"}},
    )
    trainer.learn("first")
    learner = trainer.learner
    rows = trainer.probe(lambda images: {"e": learner.embed_images(images)})["e"]
    wanted = functional.normalize(rows.mean(0), dim=0)
    assert torch.allclose(learner.embeddings.attribute_prototypes()[0, 0], wanted, atol=1e-5)
    until_images(trainer, "second")
    values = [each.terms["embedding_prototype"] for each in trainer.train(learner.stages()[-1])]
    assert [float(value) for value in values] == [0, 0], "a softmax over one anchor is constant"
    learner.end_stage(IMAGE, trainer.probe)
    learner.end_domain(trainer.probe)
    until_images(trainer, "third")
    values = [each.terms["embedding_prototype"] for each in trainer.train(learner.stages()[-1])]
    assert float(values[1].detach()) > 1e-6
    assert learner.stored_bytes_per_domain() == (4 * 96 + learner.embeddings.dim) * 4


@pytest.mark.parametrize("anchors", ["centroids", "domains"])
def test_relations_to_embedding_anchors_against_a_naive_loop(course, anchors):
    trainer = course(
        "vladr",
        alignment=("embedding_prototype",),
        num_centroids=3,
        losses={"embedding_prototype": {"anchors": anchors}},
    )
    trainer.learn("first", "second")
    until_images(trainer, "third")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    trainer.train(stage)
    learner.train()
    batch = trainer.batch(stage, 5)
    stored = learner.embeddings.vectors
    assert len(stored) == {"centroids": 6, "domains": 2}[anchors]
    with torch.no_grad():
        found = learner(batch, stage.name).terms["embedding_prototype"]
        old, new = (
            network.embedding_without_update(network.image.features(batch.views["weak"]))
            for network in (learner.old.module, learner.network)
        )
        total = 0.0
        for before, after in zip(old, new, strict=True):
            target, answer = (
                torch.stack([row @ anchor / anchor.norm() / 0.1 for anchor in stored]).softmax(0)
                for row in (before, after)
            )
            total += float((target * (target / answer).log()).sum()) / len(old)
    assert float(found) == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert total > 1e-5


def test_embedding_forms_compare_the_necks_without_attributes(course):
    trainer = course("vladr", alignment=("embedding_prototype",), embedding="necks_attributes")
    trainer.learn("first")
    learner = trainer.learner
    rows = trainer.probe(
        lambda images: {"e": learner.network.neck_embedding(learner.network.image.features(images))}
    )["e"]
    wanted = functional.normalize(rows[12:16].mean(0), dim=-1)
    assert torch.allclose(learner.embeddings.identity_prototypes()[3, 0], wanted, atol=1e-5)
    until_images(trainer, "second")
    assert trainer.terms(IMAGE)["embedding_prototype"] == pytest.approx(0, abs=1e-5)


def test_prototype_relation_to_kept_features_against_a_naive_loop(course):
    trainer = course("vladr", teacher="features")
    trainer.learn("first")
    until_images(trainer, "second")
    learner, stage = trainer.learner, trainer.learner.stages()[-1]
    assert learner.old is None
    with torch.no_grad():
        weight = learner.network.decoder.linear.weight
        draw = torch.Generator().manual_seed(0)
        weight += 0.1 * torch.randn(weight.shape, generator=draw)
    learner.train()
    batch, anchors = trainer.batch(stage, 7), learner.memory.vectors
    assert anchors.shape == (4, 96)
    with torch.no_grad():
        found = learner(batch, stage.name).terms["prototype_relation"]
        new = learner.network.encode_parts(batch.views["test"])
        total = 0.0
        for image, index in enumerate(batch.indices.tolist()):
            for k in range(4):
                target, answer = (
                    (anchors @ row / 0.05).softmax(0)
                    for row in (learner.begun[index, k], new[image, k])
                )
                total += float((target * (target / answer).log()).sum()) / (len(batch.indices) * 4)
    assert float(found) == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert total > 1e-5
