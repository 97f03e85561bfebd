"""Masking, style clustering and templates of captions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

import tasks.text.caption_styles
from tasks.synthetic.captions import write_captions
from tasks.synthetic.domains import training_domains
from tasks.synthetic.studio import person_of
from tasks.text.caption_styles import Styles, TfidfEncoder, find_styles
from tasks.text.masking import SLOT, mask
from tasks.text.paraphrase import CLOTHING, DEFAULT_TEMPLATE, IDENTITY, best_template, fill_template
from tasks.text.style_clustering import StyleOptions, style_methods

FACTS = {
    "person": "woman", "he": "she", "hair": "long red hair", "skin": "pale skin",
    "build": "short height and slim build", "upper": "a green coat", "lower": "black jeans",
    "shoes": "brown boots",
}  # fmt: skip
MORE = FACTS | {"headwear": "a red cap", "eyewear": "glasses", "bag": "a blue backpack"}
OPTIONS = StyleOptions(eps=0.25)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """640 synthetic captions by the annotators of one domain."""
    domain, rng = training_domains()[0], np.random.default_rng(0)
    people = [person_of(0, domain, number) for number in range(1, 41)]
    return [each for person in people * 8 for each in write_captions(person, rng).captions]


def annotator(caption: str) -> str:
    """The first word ("A", "Dressed" or "This") identifies the synthetic annotator."""
    return caption.split()[0]


# ---- masks


@pytest.mark.parametrize(
    ("caption", "masked"),
    [
        (
            "A man with short black hair, wearing a striped t-shirt and jeans.",
            "A [person] with [hair], wearing [upper] and [lower].",
        ),
        (
            "The woman wears a pair of dark blue jeans; her dress shoes are black-and-white.",
            "The [person] wears [lower]; [shoes] are [colour].",
        ),
        ("An old man in a suit jacket over white", "A [person] in [upper] over [colour]"),
        ("She is young, bald and slim.", "[he] is [age], [hair] and [build]."),
        ("She wears blue shirt black pants white shoes", "[he] wears [upper] [lower] [shoes]"),
        ("Shirt [upper] {x} <b>", "[upper] upper x b"),
        ("男人穿红衣", "男人穿红衣"),
        ("... ,", ""),
        ("", ""),
    ],
)
def test_facts_are_masked_and_other_words_kept(caption: str, masked: str) -> None:
    assert mask(caption) == masked


def test_all_facts_of_synthetic_captions_are_masked(captions: list[str]) -> None:
    kept = {word for caption in captions for word in SLOT.sub("", mask(caption)).split()}
    assert {word.strip(",.").lower() for word in kept} - {""} == {
        *("a", "and", "carrying", "dressed", "has", "in", "is", "over", "this", "wearing", "with")
    }


@given(st.text(max_size=200))
def test_mask_accepts_any_text(text: str) -> None:
    assert mask(text) == mask(text).strip()


# ---- styles


@pytest.mark.parametrize(("method", "least"), [("dbscan", 0.8), ("kmeans", 0.4), ("gmm", 0.4)])
def test_styles_of_the_annotators_are_recovered(
    captions: list[str], method: str, least: float
) -> None:
    result = find_styles(captions, method, OPTIONS)
    truth = [annotator(each) for each in result.captions]
    assert adjusted_rand_score(truth, result.labels) > least
    random = find_styles(captions, "random", OPTIONS)
    assert abs(adjusted_rand_score(truth, random.labels)) < 0.05


def test_kmeans_with_the_true_number_of_styles_is_exact(captions: list[str]) -> None:
    result = find_styles(captions, "kmeans", StyleOptions(num_styles=3))
    assert adjusted_rand_score([annotator(each) for each in captions], result.labels) == 1
    annotators = [{annotator(each) for each in style.exemplars} for style in result.styles]
    assert [len(each) for each in annotators] == [1, 1, 1]


@pytest.mark.parametrize("method", style_methods())
def test_styles_and_their_exemplars(captions: list[str], method: str) -> None:
    result = find_styles(captions, method, OPTIONS)
    masked = {mask(each): label for each, label in zip(captions, result.labels, strict=True)}
    assert sum(each.size for each in result.styles) == len(captions)
    assert min(each.size for each in result.styles) >= len(captions) // 50
    for number, style in enumerate(result.styles):
        assert 1 <= len(style.exemplars) == len(set(style.exemplars)) <= 4
        assert style.template in masked
        if method not in ("random",):
            assert {masked[each] for each in (*style.exemplars, style.template)} == {number}
    again = find_styles(captions, method, OPTIONS)
    assert again.digest == result.digest
    other = find_styles(captions[:-100], method, OPTIONS)
    assert other.digest != result.digest


def test_exemplars_are_nearest_to_the_centre(captions: list[str]) -> None:
    result = find_styles(captions, "dbscan", OPTIONS)
    texts = [mask(each) for each in captions]
    rows = TfidfEncoder().embed(texts)
    for number, style in enumerate(result.styles):
        members = [index for index, label in enumerate(result.labels) if label == number]
        centre = rows[members].mean(axis=0)
        similarity = {texts[index]: float(rows[index] @ centre) for index in members}
        best = sorted(similarity.values(), reverse=True)[: len(style.exemplars)]
        assert [similarity[each] for each in style.exemplars] == pytest.approx(best)


def test_styles_are_sampled_in_proportion_to_their_size(captions: list[str]) -> None:
    result = find_styles(captions, "dbscan", OPTIONS)
    drawn = [result.sample(f"image {number}") for number in range(3000)]
    assert drawn == [result.sample(f"image {number}") for number in range(3000)]
    shares = np.bincount(drawn, minlength=len(result.styles)) / 3000
    sizes = np.array([each.size for each in result.styles]) / len(captions)
    assert np.abs(shares - sizes).max() < 0.04
    other = Styles(result.method, result.styles, result.labels, result.captions, seed=1)
    assert [other.sample(f"image {number}") for number in range(3000)] != drawn


def test_many_captions_are_subsampled(captions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.text.caption_styles, "MAX_CAPTIONS", 200)
    result = find_styles(captions, "dbscan", OPTIONS)
    assert len(result.captions) == len(result.labels) == 200
    assert find_styles(captions[::-1], "dbscan", OPTIONS).digest == result.digest


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"captions: .*none with a word"):
        find_styles(["", " ", "..."], "dbscan", OPTIONS)
    with pytest.raises(ValueError, match=r"num_styles: expected at most .* 2; got 8"):
        find_styles(["A man.", "He walks."], "kmeans", OPTIONS)
    with pytest.raises(ValueError, match=r"style method: .*got 'dbscam'; did you mean dbscan"):
        find_styles(["A man.", "He walks."], "dbscam", OPTIONS)


def test_unusual_captions_are_accepted() -> None:
    odd = ["", "x" * 10_000, "a man " * 2500, "男人穿红衣", "A man in jeans."] * 4
    result = find_styles(odd, "dbscan", OPTIONS)
    assert len(result.captions) == 16


# ---- templates


@pytest.mark.parametrize(
    ("template", "identity", "clothing"),
    [
        (
            "A [person] with [hair], [headwear] and [skin], wearing [upper] over [colour], [lower] "
            "and [shoes] and carrying [bag].",
            "A woman with long red hair and pale skin, short height and slim build.",
            "A person with a red cap, wearing a green coat, black jeans and brown boots and "
            "carrying a blue backpack, with glasses.",
        ),
        (
            "Dressed in [upper], [lower] and [shoes], this [person] has [hair] and [eyewear].",
            "This woman has long red hair, pale skin and short height and slim build.",
            "Dressed in a green coat, black jeans and brown boots, this person has glasses, with "
            "a red cap and a blue backpack.",
        ),
        (
            "The [person] has [hair]. [he] wears [upper] and [lower].",
            "The woman has long red hair, pale skin and short height and slim build.",
            "The person wears a green coat and black jeans, with brown boots, a red cap, glasses "
            "and a blue backpack.",
        ),
        (
            "[he] is in [upper] and [lower], and [hair] is [colour].",
            "She has long red hair, pale skin and short height and slim build.",
            "The person is in a green coat and black jeans, with brown boots, a red cap, glasses "
            "and a blue backpack.",
        ),
    ],
)
def test_fill_template_states_facts_in_the_template_wording(
    template: str, identity: str, clothing: str
) -> None:
    assert best_template([template]) == template
    assert fill_template(template, MORE) == (identity, clothing)


def test_every_fact_is_stated_once_in_any_style(captions: list[str]) -> None:
    result = find_styles(captions, "hdbscan", OPTIONS)
    for template in {DEFAULT_TEMPLATE, *(each.template for each in result.styles)}:
        for facts in (FACTS, MORE):
            texts = dict(zip((IDENTITY, CLOTHING), fill_template(template, facts), strict=True))
            for kinds, text in texts.items():
                for kind in (*IDENTITY, *CLOTHING):
                    count = text.lower().count(facts.get(kind, "no such fact"))
                    assert count == (kind in kinds and kind in facts), (template, text)
                assert text[0].isupper()
                assert text.endswith(".")
                assert not SLOT.search(text)


def test_captions_with_other_facts_are_not_templates() -> None:
    for masked in (
        "A [person] in [upper].",  # no lower garment
        "A [person] in [upper] and [lower] near trees.",
        "[upper] and [lower].",  # no person
        "The [person] is here. [he] walks. [he] wears [upper] and [lower].",
    ):
        assert best_template([masked]) == ""
    short, long = "[he] wears [upper] and [lower].", "[he] has [hair], [upper] and [lower]."
    assert best_template([short, long, short]) == long
