import math

import pytest
import torch

from models.losses import contrastive


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def naive_supervised(anchors, others, positives, temperature):
    losses = []
    for anchor, row in zip(anchors, positives.tolist(), strict=True):
        logits = [cosine(anchor, other) / temperature for other in others]
        log_norm = math.log(sum(math.exp(x) for x in logits))
        own = [log_norm - x for x, positive in zip(logits, row, strict=True) if positive]
        if own:
            losses.append(sum(own) / len(own))
    return sum(losses) / len(losses) if losses else 0.0


def test_masks():
    ids = torch.tensor([3, 1, 3])
    captions = torch.tensor([[5, 0], [5, 1], [6, 2]])
    same = contrastive.same_identity(ids)
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    either = contrastive.same_identity_or_caption(ids, captions)
    for i in range(3):
        for j in range(3):
            for k in range(2):
                wanted = ids[i] == ids[j] or captions[i, k] == captions[j, k]
                assert either[i, j, k] == wanted
    whole = contrastive.same_identity_or_caption(ids, captions[:, 0])
    assert torch.equal(whole, either[..., 0])


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_symmetric_equals_the_naive_loop(temperature):
    image, text = draw(6, 4), draw(6, 4, seed=1)
    positives = draw(6, 6, seed=2) > 0.3
    positives[2] = False
    loss = contrastive.symmetric_contrastive(image, text, positives, temperature)
    expected = naive_supervised(image, text, positives, temperature)
    expected += naive_supervised(text, image, positives.T, temperature)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-9)


def test_symmetric_is_infonce_on_the_diagonal():
    image, text = draw(5, 4), draw(5, 4, seed=1)
    positives = contrastive.same_identity(torch.tensor([0, 1, 0, 2, 1]))
    loss = contrastive.symmetric_contrastive(image, text, positives, 0.2)
    wanted = naive_supervised(image, text, positives, 0.2)
    wanted += naive_supervised(text, image, positives.T, 0.2)
    assert loss.item() == pytest.approx(wanted / 2, rel=1e-9)

    info_nce = contrastive.symmetric_contrastive(image, text, torch.eye(5).bool(), 0.2)
    logits = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=-1) / 0.2
    targets = torch.arange(5)
    both = torch.nn.functional.cross_entropy(logits, targets)
    both = both + torch.nn.functional.cross_entropy(logits.T, targets)
    assert info_nce.item() == pytest.approx(both.item() / 2, rel=1e-9)


@pytest.mark.parametrize("per_part", [False, True])
def test_parts_equal_part_after_part(per_part):
    image, text = draw(5, 3, 4), draw(5, 3, 4, seed=1)
    masks = draw(5, 5, 3, seed=2) > 0 if per_part else draw(5, 5, seed=2) > 0
    symmetric = contrastive.symmetric_contrastive_parts(image, text, masks, 0.1)
    for k in range(3):
        mask = masks[..., k] if per_part else masks
        one = contrastive.symmetric_contrastive(image[:, k], text[:, k], mask, 0.1)
        assert symmetric[k].item() == pytest.approx(one.item(), rel=1e-9)


def test_without_positives_the_loss_is_zero_with_a_gradient():
    image = draw(3, 4).requires_grad_()
    nobody = torch.zeros(3, 3, dtype=torch.bool)
    loss = contrastive.symmetric_contrastive(image, draw(3, 4, seed=1), nobody, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_one_image_costs_nothing():
    one = torch.ones(1, 1, dtype=torch.bool)
    assert contrastive.symmetric_contrastive(draw(1, 4), draw(1, 4, seed=1), one, 0.07).item() == 0


def test_image_text_cross_entropy_over_the_identities_of_the_batch():
    image, domain_text = draw(5, 4), draw(9, 4, seed=1)
    ids = torch.tensor([7, 2, 7, 0, 2])
    identities, targets = contrastive.batch_candidates(ids)
    assert identities.tolist() == [0, 2, 7]
    assert torch.equal(identities[targets], ids)
    loss = contrastive.image_text_cross_entropy(image, domain_text[identities], targets, 0.5)
    wanted = 0.0
    for i, person in enumerate(ids.tolist()):
        logits = {c: cosine(image[i], domain_text[c]) / 0.5 for c in (0, 2, 7)}
        wanted += math.log(sum(math.exp(x) for x in logits.values())) - logits[person]
    assert loss.item() == pytest.approx(wanted / 5, rel=1e-9)


def test_gradients():
    positives = contrastive.same_identity(torch.tensor([0, 1, 0]))
    image, text = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive.symmetric_contrastive(a, b, positives, 0.3), (image, text)
    )


def test_autocast_does_not_touch_the_similarities():
    image, text = draw(8, 32).float(), draw(8, 32, seed=1).float()
    eye = torch.eye(8, dtype=torch.bool)
    exact = contrastive.symmetric_contrastive(image, text, eye, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = contrastive.symmetric_contrastive(image, text, eye, 0.01)
    assert torch.equal(exact, under_autocast)
