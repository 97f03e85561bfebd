import pytest
import torch
from torch.nn.functional import normalize

from models.components.prototypes import PrototypeMemory, identity_centres
from models.learner import _assign


def draw(*shape, seed=0):
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return normalize(features, dim=-1)


def learn(memory, domain, seed):
    memory.begin_domain(domain)
    memory.update(draw(6, 2, 4, seed=seed), 0.9)
    memory.freeze()


def test_identity_centres_equal_the_naive_mean():
    features, ids = draw(7, 2, 4), torch.tensor([2, 0, 2, 2, 0, 3, 3])
    centres = identity_centres(features, ids, 4)
    for person in (0, 2, 3):
        mean = features[ids == person].mean(0)
        assert torch.allclose(centres[person], mean / mean.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.equal(centres[1], torch.zeros(2, 4))
    assert torch.allclose(identity_centres(features[:, 0], ids, 4), centres[:, 0])


def test_online_update_is_the_normalised_moving_average():
    memory = PrototypeMemory(2, 4)
    memory.begin_domain(0)
    wanted = None
    for seed in range(3):
        v = draw(5, 2, 4, seed=seed)
        mean = torch.stack([v[:, k].sum(0) / 5 for k in range(2)])
        wanted = normalize(mean if wanted is None else 0.9 * wanted + 0.1 * mean, dim=-1)
        memory.update(v, 0.9)
    assert torch.allclose(memory.current, wanted, atol=1e-6)
    assert memory.current_count == 15


def test_refresh_replaces_the_average_by_the_exact_mean():
    memory, features = PrototypeMemory(2, 4), draw(9, 2, 4)
    memory.begin_domain(0)
    memory.update(draw(5, 2, 4, seed=1), 0.9)
    memory.refresh(features)
    memory.freeze()
    assert torch.allclose(memory.attribute_prototypes()[0], normalize(features.mean(0), dim=-1))
    assert memory.counts.tolist() == [9, 9]


def test_each_domain_starts_empty_and_frozen_rows_are_kept():
    memory = PrototypeMemory(2, 4)
    assert memory.attribute_prototypes().shape == (0, 2, 4)
    learn(memory, 0, seed=0)
    first = memory.attribute_prototypes().clone()
    learn(memory, 1, seed=1)
    both = memory.attribute_prototypes()
    assert torch.equal(both[0], first[0])
    assert torch.allclose(both[1], normalize(draw(6, 2, 4, seed=1).mean(0), dim=-1))
    assert memory.num_domains == 2
    assert memory.stored_bytes == 2 * 2 * 4 * 4
    assert memory.keys.tolist() == [[0, 0, -1, 0], [0, 1, -1, 0], [1, 0, -1, 0], [1, 1, -1, 0]]


def test_identity_prototypes_are_stored_with_domain_prototypes():
    memory = PrototypeMemory(2, 4)
    wanted = []
    for domain in range(2):
        features, ids = draw(5, 2, 4, seed=domain), torch.tensor([4, 1, 1, 4, 1])
        learn(memory, domain, seed=domain)
        memory.add_identities(domain, features, ids)
        wanted += [normalize(features[ids == person].mean(0), dim=-1) for person in (1, 4)]
    assert torch.allclose(memory.identity_prototypes(), torch.stack(wanted), atol=1e-6)
    assert memory.attribute_prototypes().shape == (2, 2, 4)
    assert memory.keys[2:6].tolist() == [[0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 4, 0], [0, 1, 4, 0]]
    assert memory.counts[2:6].tolist() == [3, 3, 2, 2]


def test_state_survives_with_another_length_and_in_mid_domain():
    memory = PrototypeMemory(2, 4)
    learn(memory, 0, seed=0)
    memory.begin_domain(1)
    memory.update(draw(6, 2, 4, seed=1), 0.9)
    other = PrototypeMemory(2, 4)
    for path, tensor in memory.state_dict().items():
        _assign(other, path, tensor.clone())
    for each in (memory, other):
        each.update(draw(6, 2, 4, seed=2), 0.9)
        each.freeze()
    assert torch.equal(memory.attribute_prototypes(), other.attribute_prototypes())
    assert other.num_domains == 2


def test_the_memory_holds_no_graph():
    memory, v = PrototypeMemory(2, 4), draw(6, 2, 4).requires_grad_()
    memory.begin_domain(0)
    memory.update(v, 0.9)
    memory.freeze()
    memory.add_identities(0, v, torch.zeros(6, dtype=torch.long))
    assert not memory.vectors.requires_grad
    assert list(memory.parameters()) == []


def test_misuse():
    memory = PrototypeMemory(2, 4)
    with pytest.raises(ValueError, match="expected a domain with features"):
        memory.freeze()
    learn(memory, 0, seed=0)
    with pytest.raises(ValueError, match="expected a new domain index >= 0, got 0"):
        memory.begin_domain(0)
    with pytest.raises(ValueError, match=r"\[N >= 1, 2, 4\], got \[6, 3, 4\]"):
        memory.update(draw(6, 3, 4), 0.9)
