from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.descriptions.prompts import BadAnswerError, load_prompt, parse_answers
from runner.descriptions.validation import (
    clothing_problem,
    identity_problem,
    part_problem,
    text_problem,
    tidy,
)
from tasks.text.words import with_article
from tests.runner.descriptions.endpoint import DUAL_ANSWERS, PART_ANSWERS


def parts(**changed: str) -> tuple[str, ...]:
    return tuple(load_prompt("parts").describe(PART_ANSWERS | changed, "").values())


def test_eleven_questions_fill_four_templates() -> None:
    assert len(load_prompt("parts").questions) == 11
    texts = parts(
        sex="Woman.", age="adult", hair="a ponytail", headwear="red cap", eyewear="glasses",
        upper="orange shirt", upper_colour="orange", shoes="black boots", bag="No",
    )  # fmt: skip
    assert texts == (
        "The adult woman has a ponytail, a red cap and glasses.",
        "She wears an orange shirt.",
        "She wears blue jeans.",
        "She wears black boots and carries nothing.",
    )


def test_absent_items_are_omitted() -> None:
    assert parts(age="unknown", hair="not visible")[0] == "The man has no visible hair."


def test_a_dress_is_worn_on_two_parts() -> None:
    _, upper, lower, foot = parts(upper="summer dress", lower="none", lower_colour="none",
                                  shoes="barefoot")  # fmt: skip
    assert upper == lower.replace("lower", "upper") == "He wears a white summer dress."
    assert foot == "He is barefoot and carries a black backpack."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sex": "unclear"}, "sex: expected man or woman"),
        ({"upper": "none"}, "upper: nothing is named"),
        ({"upper_colour": "loud"}, "upper_colour: no colour"),
        ({"upper": "thing"}, "upper: it names nothing that is worn there"),
        ({"shoes": "leather boots"}, "shoes: no colour is named"),
        ({"hair": "hair that is short and black and wavy"}, "hair: it has 8 words"),
        ({"hair": "кудри"}, "hair: it has characters that are not expected"),
        ({"hair": "{hair}"}, "hair: it has characters"),
        ({"bag": "I cannot see it"}, "bag: it is a refusal"),
        ({"bag": "x" * 700}, "foot: it has 7.. characters"),
        ({"bag": "A bag. It is red"}, "bag: it is more than one sentence"),
    ],
)
def test_invalid_part_answers_are_rejected(changed: dict[str, str], message: str) -> None:
    with pytest.raises(BadAnswerError, match=message):
        parts(**changed)


def test_missing_answer() -> None:
    answers = {name: text for name, text in PART_ANSWERS.items() if name != "bag"}
    with pytest.raises(BadAnswerError, match="bag: expected an answer, got none"):
        load_prompt("parts").describe(answers, "")


def dual(**changed: str) -> dict[str, str]:
    return load_prompt("dual").describe(DUAL_ANSWERS | changed, "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"identity": ""}, "identity: it is empty"),
        ({"identity": "a young man of slim build."}, "identity: it is not a sentence"),
        ({"identity": "A young man of slim build"}, "identity: it is not a sentence"),
        ({"identity": "A person with short hair and slim build."}, "man or a woman"),
        ({"identity": "This is certainly only a man."}, "fewer than two of age"),
        ({"identity": "A man."}, "identity: it has 2 words"),
        ({"identity": "A young man is slim. " * 4}, "identity: it has 4 sentences"),
        ({"clothing": "He wears blue jeans and white sneakers."}, "worn on the upper body"),
        ({"clothing": "He wears a red shirt and sneakers today."}, "worn on the lower body"),
        ({"clothing": "He wears a shirt, jeans and sneakers."}, "clothing: it names no colour"),
        ({"clothing": "As an AI I would say a red shirt and jeans."}, "a refusal"),
        ({"clothing": "He wears " + "very " * 70 + "red shirt and jeans."}, "it has 7. words"),
    ],
)
def test_invalid_dual_texts_are_rejected(changed: dict[str, str], message: str) -> None:
    with pytest.raises(BadAnswerError, match=message):
        dual(**changed)


def test_whitespace_and_typography_are_normalised() -> None:
    assert dual(identity="A young\n man\tof slim build\u2014tall.")["identity"] == (
        "A young man of slim build-tall."
    )


@given(st.text(max_size=80))
def test_texts_contain_no_separators(text: str) -> None:
    assert not set(tidy(text)) & set("\t\n\r\x0b\x0c\u2028\u2029\x85")
    assert tidy(tidy(text)) == tidy(text)


def test_json_is_extracted_from_other_text() -> None:
    assert parse_answers('{"a": "1"}') == {"a": "1"}
    assert parse_answers('Sure!\n```json\n{"a": "1",\n "b": "2"}\n```\nBye') == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n", "the answer is empty"),
        ('{"a": ', "expected a JSON object"),
        ('{"a": "1", }', "is not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"a": 3}', "a: expected a text, got 3"),
    ],
)
def test_answers_without_json_are_rejected(content: str, message: str) -> None:
    with pytest.raises(BadAnswerError, match=message):
        parse_answers(content)


def test_articles() -> None:
    phrases = ["red cap", "orange dress", "blue jeans", "glasses"]
    assert [with_article(each) for each in phrases] == [
        "a red cap", "an orange dress", "blue jeans", "glasses",
    ]  # fmt: skip


def test_new_wording_changes_the_version() -> None:
    assert load_prompt("parts").version != load_prompt("dual").version
    assert load_prompt("parts").version == load_prompt("parts").version


def test_valid_sentences_pass() -> None:
    for part, text in (
        ("head", "She has long brown hair."),
        ("head", "He wears a cap."),
        ("upper", "She is in a dark coat."),
        ("lower", "He wears khaki shorts."),
        ("foot", "She is barefoot."),
    ):
        assert part_problem(part, text) is None
        assert text_problem(text, min_words=3, max_words=30, max_sentences=1) is None
    assert identity_problem("A tall, middle-aged woman.") is None
    assert clothing_problem("She wears a green dress.") is None
