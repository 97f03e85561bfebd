import pytest
import torch

from models.heads.bnneck import BNNeck, GrowingClassifier


def test_the_neck_standardises_the_batch_and_keeps_its_shift_out_of_training():
    neck = BNNeck(3)
    features = 5 + 2 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    out = neck(features)
    assert out.mean(0).abs().max() < 1e-5
    assert [name for name, _ in neck.named_parameters()] == ["weight"]
    assert set(neck.state_dict()) >= {"weight", "bias", "running_mean", "running_var"}
    assert [name for name, _ in BNNeck(3, bias=True).named_parameters()] == ["weight", "bias"]


def test_both_necks_load_each_other():
    learned, fixed = BNNeck(3, bias=True), BNNeck(3)
    learned.load_state_dict(fixed.state_dict())
    fixed.load_state_dict(learned.state_dict())


def test_classifier_grows_and_keeps_its_old_rows():
    classifier = GrowingClassifier(4)
    assert classifier(torch.randn(2, 4)).shape == (2, 0)
    first, second = torch.randn(3, 4), torch.randn(2, 4)
    classifier.grow(first)
    classifier.grow(second)
    assert classifier.num_classes == 5
    assert torch.equal(classifier.weight, torch.cat([first, second]))
    features = torch.randn(6, 4)
    assert torch.allclose(classifier(features), features @ torch.cat([first, second]).T)
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    assert classifier.weight.requires_grad


def test_a_frozen_classifier_stays_frozen():
    classifier = GrowingClassifier(4)
    classifier.requires_grad_(False)
    classifier.grow(torch.randn(3, 4))
    assert not classifier.weight.requires_grad


def test_rows_of_another_size_are_rejected():
    with pytest.raises(ValueError, match=r"expected shape \[C, 4\], got \[3, 5\]"):
        GrowingClassifier(4).grow(torch.randn(3, 5))
