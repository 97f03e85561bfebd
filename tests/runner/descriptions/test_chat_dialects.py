"""`describe --backend openai` against endpoints with other parameters and forms of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.descriptions.chat_client import adapted_parameters
from runner.descriptions.endpoint_key import check_url, key_for
from runner.descriptions.prompts import BadAnswerError, parse_answers
from tests.runner.descriptions.endpoint import DUAL_ANSWERS, PART_ANSWERS, Endpoint, Handler

Describe = Callable[..., int]
GOOD = json.dumps(DUAL_ANSWERS)


@pytest.mark.parametrize(
    "content",
    [
        f'<think>The form is {{"identity": ...}}; so</think>\n```json\n{GOOD}\n```',
        f"so it is</think>{GOOD}",
        f'The form is {{"identity": "..."}}. Now: {GOOD} Done.',
        f"{GOOD}\n{GOOD}",
        GOOD.replace('"', "\u201c"),
        json.dumps({**DUAL_ANSWERS, "identity": [DUAL_ANSWERS["identity"]]}),
    ],
    ids=["thoughts", "end of thoughts", "draft", "twice", "quotes", "list"],
)
def test_answers_in_other_forms_are_read(content: str) -> None:
    assert parse_answers(content) == DUAL_ANSWERS


def test_values_of_other_types_are_converted() -> None:
    answers = {"bag": None, "colour": ["black", "red"], "texts": ["He runs.", "Fast."]}
    assert parse_answers(json.dumps(answers)) == {
        "bag": "none", "colour": "black, red", "texts": "He runs. Fast.",
    }  # fmt: skip
    for value in (30, True, [], [1], {"a": "b"}):
        with pytest.raises(BadAnswerError, match="age: expected a text"):
            parse_answers(json.dumps({"age": value}))


def test_unsupported_parameters_are_replaced(
    describe: Describe, endpoint: Endpoint, tmp_path: Path
) -> None:
    def fault(handler: Handler, image: str, attempt: int) -> bool:
        body = endpoint.body
        if "max_tokens" in body:
            message = "Unsupported parameter: use 'max_completion_tokens' instead."
        elif body.get("temperature", 1) != 1:
            message = "Unsupported value: 'temperature' does not support 0.2 with this model."
        else:
            return False
        return handler.respond(400, json.dumps({"error": {"message": message}})) or True

    endpoint.fault = fault
    assert describe("--concurrency", "1", "--max-retries", "0") == 0
    assert sum(endpoint.asked.values()) == 12 + 2
    assert endpoint.body["max_completion_tokens"] == 400


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: 'messages' is not supported.",
        "Unsupported parameter: 'max_tokens' and 'max_completion_tokens' are not supported.",
        "This project has no quota.",
    ],
)
def test_what_concerns_every_image_ends_the_job(
    message: str, describe: Describe, endpoint: Endpoint, tmp_path: Path, capsys
) -> None:
    endpoint.fault = lambda handler, image, attempt: handler.respond(400, message) or True
    assert describe("--concurrency", "1") == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert sum(endpoint.asked.values()) <= 3
    endpoint.fault = lambda handler, image, attempt: False
    assert describe() == 0, "an image was marked as failed for good"


def test_rejections_of_images_are_kept_with_their_reason(
    describe: Describe, endpoint: Endpoint, capsys
) -> None:
    def fault(handler: Handler, image: str, attempt: int) -> bool:
        refused = {"message": {"content": None, "refusal": "I can't describe people."}}
        match int(image[:8], 16) % 3:
            case 0:
                handler.respond(400, '{"error": {"code": "content_filter"}}')
            case 1:
                handler.respond(200, json.dumps({"choices": [refused]}))
            case _:
                handler.respond(400, "maximum context length is 4096 tokens; requested 5210")
        return True

    endpoint.fault = fault
    assert describe("--concurrency", "1") == 1
    output = capsys.readouterr().out
    assert "12 failed, 0 remaining" in output
    assert "refused: I can't describe people" in output
    assert set(endpoint.asked.values()) == {1}
    assert describe() == 1
    assert set(endpoint.asked.values()) == {1}, "a refused image was asked for again"


def test_an_answer_that_is_cut_names_the_option(
    describe: Describe, endpoint: Endpoint, capsys
) -> None:
    cut = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    endpoint.fault = lambda handler, image, attempt: handler.respond(200, json.dumps(cut)) or True
    assert describe("--concurrency", "1") == 1
    assert "cut at 400 tokens; increase --max-tokens" in " ".join(capsys.readouterr().out.split())
    assert sum(endpoint.asked.values()) <= 4
    endpoint.fault = lambda handler, image, attempt: False
    assert describe() == 0


def test_an_error_with_status_200_is_asked_again_and_parts_are_joined(
    describe: Describe, endpoint: Endpoint
) -> None:
    text = json.dumps(PART_ANSWERS)
    parts = [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]
    answer = json.dumps({"choices": [{"message": {"content": parts}}]})

    def fault(handler: Handler, image: str, attempt: int) -> bool:
        handler.respond(200, '{"error": {"message": "timed out"}}' if attempt == 1 else answer)
        return True

    endpoint.fault = fault
    assert describe() == 0
    assert set(endpoint.asked.values()) == {2}


def test_other_parameters_stay() -> None:
    sent = {"temperature": 0.2, "max_tokens": 400}
    assert adapted_parameters(sent, "'top_p' is not supported") == sent


# ---- the key


OPENAI = "https://api.openai.com/v1"


def test_the_key_of_openai_is_sent_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    assert key_for(OPENAI, None) == "abc"
    for url in ("https://other.org/v1", "http://127.0.0.1:8000/v1"):
        assert key_for(url, None) is None
    assert key_for("https://other.org/v1", "OPENAI_API_KEY") == "abc"
    assert key_for("https://api.openai.com.evil.org/v1", None) is None
    assert key_for(OPENAI, "none") is None


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80", "127.8.9.1"])
def test_a_key_is_sent_unencrypted_on_this_machine(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMED", "abc")
    assert key_for(f"http://{host}/v1", "NAMED") == "abc"


@pytest.mark.parametrize(
    "url", ["http://api.openai.com/v1", "http://10.0.0.1/v1", "http://localhost.evil.org/v1"]
)
def test_a_key_is_not_sent_unencrypted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMED", "abc")
    with pytest.raises(ValueError, match=r"--url: expected https://.* or --key-variable none"):
        key_for(url, "NAMED")


@pytest.mark.parametrize(
    "url",
    [
        *("http://me:word-1@host/v1", "https://word-1@host/v1", "http://127.0.0.1\\@evil.org/v1"),
        *("localhost:80", "http://", "http://host:word-1", "http:// host", "ftp://me:word-1@host"),
    ],
)
def test_addresses_with_a_password_are_rejected_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="--url: expected") as error:
        check_url(url)
    assert "word-1@" not in str(error.value)


def test_proxies_do_not_receive_a_local_key(
    describe: Describe, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert describe() == 0
