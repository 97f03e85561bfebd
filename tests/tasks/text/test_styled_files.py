"""Files of texts in clustered styles: names, commands and facts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tasks.text.style_config import CAPTION_ENCODER, StyleConfig
from tasks.text.styled_files import (
    describe_command,
    read_style_facts,
    style_facts,
    styled_file_name,
)

OTHER: dict[str, Any] = {
    "encoder": "tfidf", "num_styles": 3, "eps": 0.3, "min_samples": 7, "min_size": 9, "seed": 1,
}  # fmt: skip


def test_every_setting_changes_the_name() -> None:
    assert OTHER.keys() == StyleConfig.model_fields.keys()
    names = [
        styled_file_name("cuhk_pedes", method, StyleConfig(**options))
        for method, options in (
            ("dbscan", {}),
            ("gmm", {}),
            *(("dbscan", {key: value}) for key, value in OTHER.items()),
        )
    ]
    assert len(set(names)) == len(names)
    assert all(
        name.startswith(("cuhk_pedes_dual-dbscan-", "cuhk_pedes_dual-gmm-")) for name in names
    )


def test_the_default_encoder_has_the_name_of_its_explicit_setting() -> None:
    explicit = StyleConfig(encoder=CAPTION_ENCODER)
    assert styled_file_name("a", "gmm", explicit) == styled_file_name("a", "gmm", StyleConfig())


def test_the_command_states_every_setting() -> None:
    given = {"benchmark.root": "/data/my sets"}
    command = shlex.split(describe_command("rstpreid", "dbscan", StyleConfig(**OTHER), given))
    assert command[:4] == ["python", "runner/lifelong.py", "describe", "--dataset"]
    for value in OTHER.values():
        assert str(value) in command
    assert command[-1] == "benchmark.root=/data/my sets"
    plain = describe_command("rstpreid", "dbscan", StyleConfig(), {})
    assert "--style-" not in plain


def entry(**facts: str) -> dict[str, str]:
    return {"file_path": "a.jpg", "identity": "A man.", "clothing": "A coat.", **facts}


def write(folder: Path, *entries: Any) -> Path:
    (folder / "texts.json").write_text(json.dumps(entries))
    return folder / "texts.json"


def test_facts_of_the_entries_are_read(tmp_path: Path) -> None:
    facts = style_facts("dbscan", "ViT-B-32:openai", "ab12", "openai/model")
    assert set(facts) == {"style_method", "style_encoder", "style_weights", "text_writer"}
    file = write(tmp_path, entry(**facts), entry(**facts, style="2"))
    assert read_style_facts(file, "dbscan") == facts


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "got 0"),
        ([entry()], "expected texts in styles of dbscan, got None"),
        ([entry(style_method="gmm")], "expected texts in styles of dbscan, got gmm"),
        ([entry(style_method="dbscan", style_encoder=each) for each in "ab"], "got 2"),
        ([entry(style_method="dbscan", text_writer=each) for each in "ab"], "one writer, got 2"),
        ([7], "expected a JSON list of entries"),
    ],
)
def test_files_of_other_styles_are_refused(
    tmp_path: Path, entries: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_style_facts(write(tmp_path, *entries), "dbscan")
