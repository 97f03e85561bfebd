import pytest
import torch

from models.heads.prompts import AttributePrompts, IdentityPrompts, prepend, splice


def test_prompts_have_one_parameter_initialised_from_the_generator():
    identity = IdentityPrompts(5, 4, 8, torch.Generator().manual_seed(0))
    again = IdentityPrompts(5, 4, 8, torch.Generator().manual_seed(0))
    assert [name for name, _ in identity.named_parameters()] == ["vectors"]
    assert identity.vectors.shape == (5, 4, 8)
    assert torch.equal(identity.vectors, again.vectors)
    assert AttributePrompts(3, 0, 8, torch.Generator()).vectors.shape == (3, 0, 8)


def test_splice_replaces_the_placeholders_and_nothing_else():
    template, vectors = torch.randn(9, 4), torch.randn(2, 3, 4, requires_grad=True)
    out = splice(template, vectors, 5)
    assert out.shape == (2, 9, 4)
    for n in range(2):
        for place in range(9):
            wanted = vectors[n, place - 5] if 5 <= place < 8 else template[place]
            assert torch.equal(out[n, place], wanted)
    out.sum().backward()
    assert torch.equal(vectors.grad, torch.ones_like(vectors))


@pytest.mark.parametrize("position", [-1, 7])
def test_splice_outside_the_template(position):
    with pytest.raises(ValueError, match=r"a template of 9 tokens, got 3 at position -?\d"):
        splice(torch.randn(9, 4), torch.randn(2, 3, 4), position)


def naive_prepend(tokens, end, vectors, context_length):
    """Start, prompt, words, end; words that do not fit go; what follows the end is padding."""
    words = list(tokens[1:end])[: context_length - len(vectors) - 2]
    return [tokens[0], *vectors, *words, tokens[end]]


@pytest.mark.parametrize("context_length", [77, 12, 9, 5])
@pytest.mark.parametrize("num_tokens", [0, 3])
def test_prepend_each_prompt_to_each_description(context_length, num_tokens):
    embeddings, ends = torch.randn(4, 9, 6), torch.tensor([8, 1, 4, 7])
    vectors = torch.randn(2, num_tokens, 6)
    out, new_ends = prepend(embeddings[:, None], ends[:, None], vectors, context_length)
    assert out.shape == (4, 2, min(9 + num_tokens, context_length), 6)
    assert new_ends.shape == (4, 2)
    for n in range(4):
        for k in range(2):
            wanted = naive_prepend(embeddings[n], int(ends[n]), vectors[k], context_length)
            assert int(new_ends[n, k]) == len(wanted) - 1
            assert torch.equal(out[n, k, : len(wanted)], torch.stack(wanted))


def test_prepend_one_prompt_per_part_or_per_description():
    embeddings, ends = torch.randn(4, 2, 9, 6), torch.tensor([[8, 3], [1, 2], [4, 4], [7, 6]])
    vectors = torch.randn(2, 3, 6)
    out, new_ends = prepend(embeddings, ends, vectors, 77)
    assert out.shape == (4, 2, 12, 6)
    assert torch.equal(new_ends, ends + 3)
    which = torch.tensor([0, 1]).repeat(4)
    flat, flat_ends = prepend(embeddings.flatten(0, 1), ends.flatten(), vectors[which], 77)
    assert torch.equal(flat, out.flatten(0, 1))
    assert torch.equal(flat_ends, new_ends.flatten())


def test_gradients_reach_the_prompts_through_every_description():
    vectors = torch.randn(2, 3, 6, requires_grad=True)
    out, _ = prepend(torch.randn(4, 1, 9, 6), torch.full((4, 1), 5), vectors, 77)
    out.sum().backward()
    assert torch.equal(vectors.grad, torch.full_like(vectors, 4.0))


def test_prompt_longer_than_the_context():
    with pytest.raises(ValueError, match="at least 5 tokens for 3 prompt vectors, got 4"):
        prepend(torch.randn(1, 4, 6), torch.tensor([3]), torch.randn(1, 3, 6), 4)
