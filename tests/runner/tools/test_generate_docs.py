from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from runner.config.run_config import learner_names, load_config, preset_names, schema_keys
from runner.tools import generate_docs


def test_the_pages_in_the_repository_are_up_to_date():
    assert generate_docs.main(["--check"]) == 0, "a page of docs/ is stale: run `make docs`"


@pytest.mark.parametrize("name", ["configuration.md", "datasets.md"])
def test_check_reports_an_outdated_page_and_writes_nothing(name, tmp_path, capsys):
    for page in ("configuration.md", "datasets.md"):
        (tmp_path / page).write_text((generate_docs.DOCS / page).read_text())
    assert generate_docs.main(["--folder", str(tmp_path)]) == 0
    assert generate_docs.main(["--check", "--folder", str(tmp_path)]) == 0
    right = (tmp_path / name).read_text()
    last_row = right.rindex("| `")
    wrong = right[:last_row] + "| `edited` by hand |\n" + right[last_row:]
    (tmp_path / name).write_text(wrong)
    assert generate_docs.main(["--check", "--folder", str(tmp_path)]) == 1
    assert (tmp_path / name).read_text() == wrong
    message = capsys.readouterr().err
    assert f"{name}: out of date; run `make docs`" in message
    assert generate_docs.main(["--folder", str(tmp_path)]) == 0
    assert (tmp_path / name).read_text() == right


def test_a_missing_page_is_not_created(tmp_path):
    with pytest.raises(ValueError, match=r"datasets\.md: expected the tables .*got none"):
        generate_docs.main(["--folder", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_every_key_has_one_row_with_a_description():
    rows = generate_docs.entries() + [
        row for name in learner_names() for row in generate_docs.entries(name)
    ]
    expected = list(schema_keys())
    for name in learner_names():
        expected += [key for key in schema_keys(name) if key.startswith("learner.")]
    assert [row.key for row in rows] == expected
    assert [row.key for row in rows if not row.meaning] == []
    page = generate_docs.render()
    for row in rows:
        assert f"| `{row.key}` |" in page


def test_defaults_are_those_of_the_field_not_of_its_class():
    rows = {row.key: row for row in generate_docs.entries("vladr")}
    assert rows["learner.icar.optimizer.lr"].default == "5e-06"
    assert rows["learner.mtad_identity.optimizer.lr"].default == "0.00035"


def test_every_preset_and_stable_key_is_listed_and_exists():
    page = generate_docs.render()
    for name in preset_names():
        assert f"| `{name}` |" in page
    known = set(schema_keys("vladr"))
    for key in generate_docs.STABLE_KEYS:
        assert key.replace("<term>", "cma") in known


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("learner.alignment=[affinity,prototype_relation]", "alignment", None),
        ('learner.icar.optimizer.lr_factors={"network.head_*": 3}', "lr_factors", 3.0),
    ],
)
def test_the_documented_overrides_work(override, key, value):
    learner = load_config("demo", [override]).learner.model_dump()
    if key == "alignment":
        assert learner["alignment"] == ("affinity", "prototype_relation")
    else:
        assert learner["icar"]["optimizer"]["lr_factors"]["network.head_*"] == value


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "integer"),
        (bool, "true or false"),
        (float | None, "number or `null`"),
        (Literal["a", "b"], "`a` or `b`"),
        (tuple[float, ...], "list of numbers"),
        (tuple[float, float], "list of 2 numbers"),
        (tuple[Literal["x", "y"], ...], "list of `x` or `y`"),
        (dict[str, float], "mapping from text to numbers"),
        (
            Literal["all"] | Annotated[int, Field(ge=1)] | Path,
            "`all` or integer at least 1 or path",
        ),
    ],
)
def test_descriptions_of_types(annotation, words):
    assert generate_docs.describe_type(annotation) == words


def test_an_unsupported_type_is_an_error():
    with pytest.raises(TypeError, match="add it to describe_type"):
        generate_docs.describe_type(set[int])


class _Ranges(BaseModel):
    share: float = Field(0.5, ge=0, lt=1)
    name: str = Field("x", pattern="^x$", min_length=1)
    free: int = 3


def test_descriptions_of_bounds():
    bounds = {
        name: generate_docs.describe_bounds(field.metadata)
        for name, field in _Ranges.model_fields.items()
    }
    assert bounds == {
        "share": "at least 0, below 1",
        "name": "1 or more characters, matches `^x$`",
        "free": "",
    }
