"""Masking of passwords in URIs and texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.redaction import is_masked, masked, masked_override, masked_uri

OPEN = (
    *("sqlite:////folder/a@b/study.db", "http://host:5000", "https://host/path?x=1", "databricks"),
    *("postgresql://user@host/name", "http://me:${oc.env:WORD}@host", "${oc.env:URI}"),
    *("https://${oc.env:TOKEN}@host", "mysql://${oc.env:A}:${oc.env:B}@host/x"),
)


@pytest.mark.parametrize("uri", OPEN)
def test_a_uri_without_secrets_is_unchanged(uri: str) -> None:
    assert masked_uri(uri) == uri
    assert not is_masked(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql+psycopg://me:word@host/x", "postgresql+psycopg://me:***@host/x"),
        ("http://me:wo/rd@x@host:80/path", "http://me:***@host:80/path"),
        ("https://token@host", "https://***@host"),
        ("mysql://host/x?password=word&charset=utf8", "mysql://host/x?password=***&charset=utf8"),
        ("mysql://me:word${oc.env:REST}@host", "mysql://me:***@host"),
    ],
)
def test_secrets_of_a_uri_are_masked(uri: str, expected: str) -> None:
    assert masked_uri(uri) == expected
    assert is_masked(expected)
    assert masked_uri(expected) == expected
    assert masked_override(f"tracking.uri={uri}") == f"tracking.uri={expected}"


@given(
    st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4).filter(
        lambda word: "${" not in word and "***" not in word
    ),
)
def test_no_password_survives(scheme: str, password: str) -> None:
    assert masked_uri(f"{scheme}://me:{password}@host/name") == f"{scheme}://me:***@host/name"


def test_texts_keep_everything_else() -> None:
    text = (
        "cannot open http://me:word@host/a: 'mysql://me:word@host' (see https://x.org:80/y) a@b.c"
    )
    assert masked(text) == (
        "cannot open http://me:***@host/a: 'mysql://me:***@host' (see https://x.org:80/y) a@b.c"
    )
