"""Any override and any preset: a configuration, or a ConfigError."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config.run_config import ConfigError, load_config

KEYS = st.sampled_from(
    ["seed", "run.name", "benchmark.identities", "benchmark.order", "data.persons_per_batch",
     "learner.name", "learner", "storage.root", "backbone", "benchmark.roots.viper", "tracking.uri"]
) | st.text(max_size=8)  # fmt: skip
VALUES = st.sampled_from(
    ["", "null", "[", "{a: 1}", "${seed}", "${", "a: b: c", "007", "1e999", ".nan", "[1,2", "!!x 1",
     "%50?#[x]", "\ud800", "&a [*a]", "9" * 5000]
) | st.text(max_size=8)  # fmt: skip
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, VALUES) | st.text(max_size=6), max_size=2)


def check(overrides: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        load_config("demo-finetune", overrides)


@settings(max_examples=25, deadline=None)
@given(OVERRIDES)
def test_overrides_give_a_configuration_or_a_configuration_error(overrides: list[str]) -> None:
    check(overrides)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(OVERRIDES)
def test_very_many_overrides(overrides: list[str]) -> None:
    check(overrides)


@pytest.mark.parametrize(
    "content",
    ["base: 5", "base: [self.yaml]", "[" * 5000, "seed: 1\nseed: 2", "- a", "\x00", "seed: ${x"],
)
def test_odd_presets_are_configuration_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "self.yaml").write_text(content)
    with pytest.raises(ConfigError):
        load_config("self.yaml")


def test_byte_order_mark_of_a_preset_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfbase: [demo-finetune]\r\nseed: 7\r\n")
    assert load_config(str(tmp_path / "a.yaml")).seed == 7
