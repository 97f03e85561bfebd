"""Masks, styles and templates: how captions are written, apart from what they say."""

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
from tasks.text.caption_styles import Styles, find_styles, tfidf
from tasks.text.masking import SLOT, mask
from tasks.text.paraphrase import CLOTHING, IDENTITY, PLAIN, best_template, retell
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
    """640 drawn captions, of one domain's annotators."""
    domain, rng = training_domains()[0], np.random.default_rng(0)
    people = [person_of(0, domain, number) for number in range(1, 41)]
    return [each for person in people * 8 for each in write_captions(person, rng).captions]


def annotator(caption: str) -> str:
    """The drawn annotators begin their captions with "A", "Dressed" or "This"."""
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
def test_facts_are_masked_and_the_rest_stays(caption: str, masked: str) -> None:
    assert mask(caption) == masked


def test_no_fact_of_a_drawn_caption_survives(captions: list[str]) -> None:
    left = {word for caption in captions for word in SLOT.sub("", mask(caption)).split()}
    assert {word.strip(",.").lower() for word in left} - {""} == {
        *("a", "and", "carrying", "dressed", "has", "in", "is", "over", "this", "wearing", "with")
    }


@given(st.text(max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    assert mask(text) == mask(text).strip()


# ---- styles


@pytest.mark.parametrize(("method", "least"), [("dbscan", 0.8), ("kmeans", 0.4), ("gmm", 0.4)])
def test_the_annotators_styles_are_recovered(
    captions: list[str], method: str, least: float
) -> None:
    found = find_styles(captions, method, OPTIONS)
    truth = [annotator(each) for each in found.captions]
    assert adjusted_rand_score(truth, found.labels) > least
    dealt = find_styles(captions, "random", OPTIONS)
    assert abs(adjusted_rand_score(truth, dealt.labels)) < 0.05


def test_as_many_styles_as_there_are_find_them_exactly(captions: list[str]) -> None:
    found = find_styles(captions, "kmeans", StyleOptions(num_styles=3))
    assert adjusted_rand_score([annotator(each) for each in captions], found.labels) == 1
    assert sorted(len({annotator(each) for each in style.exemplars}) for style in found.styles) == [
        1, 1, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("method", style_methods())
def test_styles_and_their_exemplars(captions: list[str], method: str) -> None:
    found = find_styles(captions, method, OPTIONS)
    masked = {mask(each): label for each, label in zip(captions, found.labels, strict=True)}
    assert sum(each.size for each in found.styles) == len(captions)
    assert min(each.size for each in found.styles) >= len(captions) // 50
    for number, style in enumerate(found.styles):
        assert 1 <= len(style.exemplars) == len(set(style.exemplars)) <= 4
        assert style.template in masked
        if method not in ("random",):
            assert {masked[each] for each in (*style.exemplars, style.template)} == {number}
    again = find_styles(captions, method, OPTIONS)
    assert again.digest == found.digest
    other = find_styles(captions[:-100], method, OPTIONS)
    assert other.digest != found.digest


def test_the_exemplars_are_nearest_to_the_centre(captions: list[str]) -> None:
    found = find_styles(captions, "dbscan", OPTIONS)
    texts = [mask(each) for each in captions]
    rows = tfidf(texts)
    for number, style in enumerate(found.styles):
        own = [at for at, label in enumerate(found.labels) if label == number]
        centre = rows[own].mean(axis=0)
        near = {texts[at]: float(rows[at] @ centre) for at in own}
        best = sorted(near.values(), reverse=True)[: len(style.exemplars)]
        assert [near[each] for each in style.exemplars] == pytest.approx(best)


def test_a_style_is_drawn_as_often_as_it_is_written_in(captions: list[str]) -> None:
    found = find_styles(captions, "dbscan", OPTIONS)
    drawn = [found.sample(f"image {number}") for number in range(3000)]
    assert drawn == [found.sample(f"image {number}") for number in range(3000)]
    shares = np.bincount(drawn, minlength=len(found.styles)) / 3000
    sizes = np.array([each.size for each in found.styles]) / len(captions)
    assert np.abs(shares - sizes).max() < 0.04
    other = Styles(found.method, found.styles, found.labels, found.captions, seed=1)
    assert [other.sample(f"image {number}") for number in range(3000)] != drawn


def test_many_captions_are_drawn_from(captions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.text.caption_styles, "MAX_CAPTIONS", 200)
    found = find_styles(captions, "dbscan", OPTIONS)
    assert len(found.captions) == len(found.labels) == 200
    assert find_styles(captions[::-1], "dbscan", OPTIONS).digest == found.digest


def test_what_no_style_can_be_found_in() -> None:
    with pytest.raises(ValueError, match="there is none with a word in it"):
        find_styles(["", " ", "..."], "dbscan", OPTIONS)
    with pytest.raises(ValueError, match=r"num_styles: expected at most .* 2; got 8"):
        find_styles(["A man.", "He walks."], "kmeans", OPTIONS)
    with pytest.raises(ValueError, match=r"style method: .*got 'dbscam'; did you mean dbscan"):
        find_styles(["A man.", "He walks."], "dbscam", OPTIONS)


def test_odd_captions_are_no_trouble() -> None:
    odd = ["", "x" * 10_000, "a man " * 2500, "男人穿红衣", "A man in jeans."] * 4
    found = find_styles(odd, "dbscan", OPTIONS)
    assert len(found.captions) == 16


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
def test_facts_are_told_in_the_words_of_a_template(
    template: str, identity: str, clothing: str
) -> None:
    assert best_template([template]) == template
    assert retell(template, MORE) == (identity, clothing)


def test_every_fact_is_told_once_in_any_style(captions: list[str]) -> None:
    found = find_styles(captions, "hdbscan", OPTIONS)
    for template in {PLAIN, *(each.template for each in found.styles)}:
        for facts in (FACTS, MORE):
            texts = dict(zip((IDENTITY, CLOTHING), retell(template, facts), strict=True))
            for kinds, text in texts.items():
                for kind in (*IDENTITY, *CLOTHING):
                    told = text.lower().count(facts.get(kind, "nothing of the kind"))
                    assert told == (kind in kinds and kind in facts), (template, text)
                assert text[0].isupper()
                assert text.endswith(".")
                assert not SLOT.search(text)


def test_what_says_more_about_its_own_person_is_no_template() -> None:
    for masked in (
        "A [person] in [upper].",  # nothing below
        "A [person] in [upper] and [lower] near trees.",
        "[upper] and [lower].",  # nobody
        "The [person] is here. [he] walks. [he] wears [upper] and [lower].",
    ):
        assert best_template([masked]) == ""
    short, long = "[he] wears [upper] and [lower].", "[he] has [hair], [upper] and [lower]."
    assert best_template([short, long, short]) == long
