"""Prompts: questions about an image, and texts made from the answers.

`parts` asks eleven short questions, as VLADR does, and fills the answers into four sentences (head,
upper body, lower body, feet). `dual` asks for two texts: permanent attributes of a person, and the
clothing. The wording of both differs from that of the papers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.descriptions.validation import (
    answer_problem,
    clothing_problem,
    identity_problem,
    is_nothing,
    part_problem,
    text_problem,
    tidy,
)
from tasks.text.words import GARMENTS, PARTS, names_colour, with_article, words_of

if TYPE_CHECKING:
    from runner.descriptions.style_prompts import Styling

TEMPLATES_VERSION = 1
"""Part of the prompt version: increase it with every change of a template below."""

Answers = Mapping[str, str]
Texts = dict[str, str]


class BadAnswerError(ValueError):
    """Invalid answer; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image.

    Attributes:
        name: key of the answer.
        text: the question.
        hint: expected answers.
        max_words: maximum number of words of an answer.
    """

    name: str
    text: str
    hint: str
    max_words: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Questions, and functions that turn the answers into texts.

    Attributes:
        name: "parts" or "dual".
        fields: names of the texts.
        questions: asked one by one (visual question answering) or all at once (chat).
        fill: converts valid answers to texts by field; raises BadAnswerError.
        check: returns the problem of the texts, or None.
        styling: writing styles of the texts, or None.
    """

    name: str
    fields: tuple[str, ...]
    questions: tuple[Question, ...]
    fill: Callable[[Answers], Texts]
    check: Callable[[Texts], str | None]
    styling: Styling | None = None

    @property
    def version(self) -> str:
        """Name and hash of the wording and the styles.

        Descriptions of another version are not reused. The style of an image depends only on the
        image and the styles.
        """
        wording = [[each.name, each.text, each.hint] for each in self.questions]
        content = json.dumps([TEMPLATES_VERSION, wording]).encode()
        style = f"-{self.styling.version}" if self.styling else ""
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}{style}"

    def instruction_for(self, sha256: str) -> str:
        """Combines all questions into one message that asks for a JSON object."""
        lines = [f'- "{each.name}": {each.text} ({each.hint})' for each in self.questions]
        return (
            "Look at the person in the middle of the picture. Describe only what can be seen. "
            "Answer with one JSON object and nothing else, with these keys and short English texts "
            "as values:\n" + "\n".join(lines)
        ) + (self.styling.instruction_for(sha256) if self.styling else "")

    def describe(self, answers: Answers, sha256: str) -> Texts:
        """Converts answers to checked texts.

        Args:
            answers: answers by question name.
            sha256: hash of the image, which selects the style.

        Returns:
            Texts by field; with styling also the number of the style, as "style".

        Raises:
            BadAnswerError: An answer is missing or invalid, or the texts are incomplete.
        """
        tidied = {name: tidy(text) for name, text in answers.items()}
        for question in self.questions:
            if question.name not in tidied:
                raise BadAnswerError(f"{question.name}: expected an answer, got none")
            if problem := answer_problem_of(question, tidied[question.name]):
                raise BadAnswerError(f"{question.name}: {problem}")
        texts = self.fill(tidied)
        if problem := self.check(texts):
            raise BadAnswerError(problem)
        return texts | ({"style": str(self.styling.style_of(sha256))} if self.styling else {})


def answer_problem_of(question: Question, answer: str) -> str | None:
    """Problem of a short answer, or None; long answers are checked as texts."""
    return None if question.max_words > _SHORT else answer_problem(answer, question.max_words)


_SHORT = 12


def prompt_names() -> list[str]:
    """Names of all prompts."""
    return ["parts", "dual"]


def load_prompt(name: str) -> Prompt:
    """Creates a prompt by name.

    Raises:
        ValueError: The name is unknown.
    """
    match name:
        case "parts":
            return Prompt("parts", PARTS, _part_questions(), _fill_parts, _check_parts)
        case "dual":
            return Prompt(
                "dual", ("identity", "clothing"), _dual_questions(), _fill_dual, _check_dual
            )
    raise ValueError(f"--prompt: expected one of {', '.join(prompt_names())}; got {name!r}")


def parse_answers(content: str) -> dict[str, str]:
    """Extracts the last JSON object of a chat answer.

    Thoughts in <think>, text and code fences around the object are ignored. Typographic quotation
    marks are accepted; a list of texts is joined, and null becomes "none".

    Raises:
        BadAnswerError: There is no valid JSON object, or a value is not a text.
    """
    content = re.sub(r".*</think(?:ing)?>", "", content, flags=re.DOTALL)
    if not content.strip():
        raise BadAnswerError("the answer is empty")
    answers = _last_object(content) or _last_object(content.translate(_QUOTES))
    if answers is None:
        if re.search(r"\{.*\}", content, flags=re.DOTALL):
            raise BadAnswerError(f"the answer is not valid JSON: {content[:60]!r}")
        raise BadAnswerError(f"expected a JSON object in the answer, got {content[:60]!r}")
    texts: dict[str, str] = {}
    for name, value in answers.items():
        text = _as_text(value)
        if not isinstance(text, str):
            raise BadAnswerError(f"{name}: expected a text, got {text!r:.60}")
        texts[name] = text
    return texts


_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"'})


def _last_object(content: str) -> dict[str, Any] | None:
    """Last valid JSON object of a text; None if there is none."""
    decoder, last, start = json.JSONDecoder(), None, content.find("{")
    while start >= 0:
        try:
            last, start = decoder.raw_decode(content, start)
        except (ValueError, RecursionError):
            start += 1
        start = content.find("{", start)
    return last


def _as_text(value: object) -> object:
    """Converts a value that stands for a text; other values are unchanged."""
    if value is None:
        return "none"
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return (" " if str(value[0]).endswith(".") else ", ").join(value)
    return value


# ---- parts


def _part_questions() -> tuple[Question, ...]:
    none = 'or "none"'
    return (
        Question("sex", "Is this a man or a woman?", "man or woman", 3),
        Question("age", "How old does the person look?", "child, young, adult or elderly", 3),
        Question("hair", "What is the hair like?", f"such as short black hair, no hair, {none}", 6),
        Question("headwear", "What is worn on the head?", f"such as red cap, {none}", 5),
        Question("eyewear", "What is worn before the eyes?", f"glasses, sunglasses {none}", 4),
        Question("upper", "What is worn on the upper body?", "such as shirt, striped coat", 5),
        Question("upper_colour", "Which colour has it?", "such as white, black and red", 4),
        Question("lower", "What is worn on the lower body?", "such as jeans, skirt", 5),
        Question("lower_colour", "Which colour has that?", "such as blue", 4),
        Question("shoes", "What is worn on the feet?", "with colour, such as white sneakers", 6),
        Question("bag", "What does the person carry?", f"such as black backpack, {none}", 6),
    )


def _fill_parts(answers: Answers) -> Texts:
    phrases = {name: _phrase(text) for name, text in answers.items()}
    sex = next((word for word in words_of(phrases["sex"]) if word in _PRONOUNS), None)
    if sex is None:
        raise BadAnswerError(f"sex: expected man or woman, got {answers['sex']!r:.40}")
    if not phrases["lower"] and set(words_of(phrases["upper"])) & _WORN_ON_TWO_PARTS:
        phrases |= {"lower": phrases["upper"], "lower_colour": phrases["upper_colour"]}
    for name in ("upper_colour", "lower_colour"):
        if not names_colour(phrases[name]):
            raise BadAnswerError(f"{name}: no colour is named in {answers[name]!r:.40}")
    for name in ("upper", "lower", "shoes"):
        if not phrases[name]:
            raise BadAnswerError(f"{name}: nothing is named")
    is_barefoot = "bare" in phrases["shoes"]
    if not is_barefoot and not names_colour(phrases["shoes"]):
        raise BadAnswerError(f"shoes: no colour is named in {answers['shoes']!r:.40}")
    he = _PRONOUNS[sex]
    head = [_hair(phrases["hair"])]
    head += [with_article(phrases[name]) for name in ("headwear", "eyewear") if phrases[name]]
    who = " ".join(word for word in (phrases["age"], "man" if he == "He" else "woman") if word)
    shoes = "is barefoot" if is_barefoot else f"wears {with_article(phrases['shoes'])}"
    bag = f"carries {with_article(phrases['bag'])}" if phrases["bag"] else "carries nothing"
    texts = (
        f"The {who} has {_enumerate(head)}.",
        f"{he} wears {_coloured(phrases['upper_colour'], phrases['upper'])}.",
        f"{he} wears {_coloured(phrases['lower_colour'], phrases['lower'])}.",
        f"{he} {shoes} and {bag}.",
    )
    return dict(zip(PARTS, texts, strict=True))


_PRONOUNS = {
    "man": "He", "male": "He", "boy": "He", "woman": "She", "female": "She", "girl": "She",
}  # fmt: skip


_WORN_ON_TWO_PARTS = frozenset(GARMENTS["upper"]) & frozenset(GARMENTS["lower"])


def _check_parts(texts: Texts) -> str | None:
    for part, text in texts.items():
        problem = text_problem(text, min_words=4, max_words=30, max_sentences=1)
        if problem := problem or part_problem(part, text):
            return f"{part}: {problem}"
    return None


def _phrase(answer: str) -> str:
    """Converts an answer to a phrase without article and full stop; "" for nothing."""
    if is_nothing(answer):
        return ""
    return re.sub(r"^(?:an?|the|some)\s+", "", answer.strip(" .").lower())


def _hair(answer: str) -> str:
    is_bare_noun = answer.endswith("hair") or answer.startswith("no ")
    return (answer if is_bare_noun else with_article(answer)) if answer else "no visible hair"


def _coloured(colour: str, garment: str) -> str:
    # Many answers to "What is worn ...?" include the colour, such as "black shirt".
    has_colour = set(words_of(garment)) >= set(words_of(colour))
    return with_article(garment if has_colour else f"{colour} {garment}")


def _enumerate(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# ---- dual


def _dual_questions() -> tuple[Question, ...]:
    return (
        Question(
            "identity",
            "One or two sentences about what the person keeps from day to day: man or woman, age, "
            "build, height, skin, hair. No word about clothes.",
            "8 to 40 words, beginning with a capital, ending with a full stop",
            40,
        ),
        Question(
            "clothing",
            "One or two sentences about what the person wears: for each garment its type, colour, "
            "pattern and material as far as they can be seen, then shoes and accessories.",
            "8 to 60 words, beginning with a capital, ending with a full stop",
            60,
        ),
    )


def _fill_dual(answers: Answers) -> Texts:
    return {name: answers[name] for name in ("identity", "clothing")}


def _check_dual(texts: Texts) -> str | None:
    limits = {each.name: each.max_words for each in _dual_questions()}
    content_problem = {"identity": identity_problem, "clothing": clothing_problem}
    for name, text in texts.items():
        problem = text_problem(text, min_words=5, max_words=limits[name], max_sentences=2)
        if problem := problem or content_problem[name](text):
            return f"{name}: {problem}"
    return None
