"""The command line as a user sees it: help, options, output, errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner import __version__, program_name
from runner.commands import search
from runner.commands._arguments import split_overrides
from runner.commands._output import Output, make_console
from runner.config.run_config import learner_names, schema_keys
from runner.lifelong import commands, main, make_parser

ROOT = Path(__file__).parents[2]
LIFELONG = ROOT / "runner" / "lifelong.py"
every_command = pytest.mark.parametrize("command", commands())

RENAMED = [
    (["attributes", "r"], "--storage", "--runs"),
    (["compare", "r"], "--storage", "--runs"),
    (["disentangle", "r"], "--storage", "--runs"),
    (["evaluate", "r"], "--storage", "--runs"),
    (["index", "r"], "--storage", "--runs"),
    (["interpolate", "r"], "--storage", "--runs"),
    (["search", "r"], "--storage", "--runs"),
    (["index", "r"], "--images", "--data"),
    (["doctor"], "--root", "--data"),
    (["sweep", "smoke"], "--storage", "--study"),
    (["sweep", "smoke"], "--root", "--sweeps"),
]


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


# ---- help


@every_command
def test_help_fits_80_columns_and_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, command)
    assert max(map(len, text.splitlines())) <= 80
    assert f"example:\n  python runner/lifelong.py {command}" in text
    for option in ("--json", "--quiet"):
        assert option in text


@every_command
def test_the_example_of_a_command_can_be_parsed(command: str, capsys, monkeypatch) -> None:
    import shlex

    text = help_of(capsys, command)
    (example,) = re.findall(r"example:\n  python runner/lifelong\.py (.+)", text)
    options, rest = make_parser().parse_known_args(shlex.split(example))
    assert options.command == command
    assert all("=" in word and not word.startswith("-") for word in rest)


def test_options_have_one_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {command: help_of(capsys, command) for command in commands()}
    with_runs = {command for command, text in texts.items() if "--runs DIR" in text}
    by_name = {"attributes", "compare", "disentangle", "evaluate", "index", "interpolate", "report"}
    assert with_runs == by_name | {"export", "list", "search", "sync"}
    assert {command for command, text in texts.items() if "--data DIR" in text} == {
        *("describe", "doctor", "index", "write-table"),
    }
    assert {command for command, text in texts.items() if "--study URL" in text} == {"sweep"}
    for text in texts.values():
        assert not re.search(r"--(storage|root|images)\b", text)


def test_help_names_only_keys_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = {key for learner in learner_names() for key in schema_keys(learner)}
    for command in commands():
        text = re.sub(r"\s+", "", help_of(capsys, command))  # keys may be broken into two lines
        for key in re.findall(r"((?:learner|benchmark|storage|tracking)\.[\w.]+)=", text):
            assert key in known, f"{command} --help names {key}"


@pytest.mark.parametrize(("words", "old", "new"), RENAMED)
def test_an_old_option_is_an_error_that_names_the_new_one(
    words: list[str], old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ([old, "x"], [f"{old}=x"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, *given])
        assert ended.value.code == 2
        assert f"{old} is now {new}" in capsys.readouterr().err


def test_shared_modules_are_not_commands() -> None:
    assert not any(name.startswith(("_", "-")) for name in commands())


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--nonsense"])
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_overrides_may_follow_names() -> None:
    words = ["market1501", "seed=1", "/data/a=b", "learner.lr=1e-4"]
    assert split_overrides(words) == (["market1501", "/data/a=b"], ["seed=1", "learner.lr=1e-4"])


# ---- version and program name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"lifelong-reid {__version__}\n"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/usr/bin/lifelong-reid", "lifelong-reid"),
        ("runner/lifelong.py", "python runner/lifelong.py"),
        ("/my files/runner/lifelong.py", "python '/my files/runner/lifelong.py'"),
        ("/usr/bin/pytest", "python runner/lifelong.py"),
    ],
)
def test_program_name(program: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert program_name() == expected
    assert expected in help_of(capsys, "run").splitlines()[0]


def test_completion_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    parsers = []
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", SimpleNamespace(autocomplete=parsers.append))
    assert main(["show-config", "--quiet"]) == 0
    assert len(parsers) == 1
    monkeypatch.setitem(sys.modules, "argcomplete", None)  # not installed
    assert main(["show-config", "--quiet"]) == 0


# ---- output


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["show-config", "seed=3"], "run_name"),
        (["ablate", "vladr-ablation", "--dry-run"], "missing"),
    ],
)
def test_json_is_the_only_output(
    words: list[str], key: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path))
    assert main([*words, "--json"]) == 0
    assert key in json.loads(capsys.readouterr().out)


def test_what_libraries_print_does_not_break_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(options, output: Output) -> int:
        print("a library reports")
        output.results.print("a table")
        output.note("a hint")
        output.write_json({"mAP": float("nan"), "R1": [1 / 3, float("inf")]})
        return 0

    monkeypatch.setattr("runner.commands.show_config.main", noisy)
    assert main(["show-config", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"mAP": None, "R1": [1 / 3, None]}
    assert captured.err == "a library reports\n"
    assert main(["show-config", "--quiet"]) == 0
    assert capsys.readouterr().out == "a library reports\na table\n"


def test_text_is_printed_literally(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]coat[/red] [/] :smile: [bold"
    make_console().print(text, soft_wrap=True)
    assert capsys.readouterr().out == f"{text}\n"


def test_only_one_place_creates_consoles() -> None:
    """Other consoles would read `[red]` in file names and queries as markup."""
    files = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "runner").rglob("*.py")
        if re.search(r"\bConsole\(", file.read_text(encoding="utf-8"))
    ]
    leaves = ("runner/bench/", "runner/tools/")  # not part of the program
    assert [file for file in files if not file.startswith(leaves)] == ["runner/commands/_output.py"]


@pytest.mark.parametrize("name", ["a[/].jpg", "[red]b.jpg", ":smile:.jpg"])
def test_file_names_with_brackets_in_messages(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["search", "r", "--image", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


def test_search_prints_brackets_of_queries_and_file_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rich markup in a query or a file name ended `search` with a MarkupError."""
    text, file = "a [red]coat[/] :smile:", "/gallery/[/]0001.jpg"
    hit = SimpleNamespace(kind="match", similarity=0.5, entry=SimpleNamespace(image_path=file))
    found = [SimpleNamespace(query=SimpleNamespace(name=text), hits=(hit,))]
    run = SimpleNamespace(storage=SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr(search, "load_trained_run", lambda options: run)
    monkeypatch.setattr("runner.analysis.gallery_search.open_index", lambda run, folder: None)
    monkeypatch.setattr("runner.analysis.gallery_search.search", lambda *_: found)
    monkeypatch.setattr("runner.analysis.gallery_search.sheet_rows", lambda found: [])
    monkeypatch.setattr("runner.plotting.contact_sheet.draw_sheet", lambda rows, path: None)
    assert main(["search", "r", "--text", text]) == 0
    out = capsys.readouterr().out
    assert text in out
    assert f"0.5000  match  {file}" in out
    assert main(["search", "r", "--text", text, "--json"]) == 0
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert query == {
        "query": text,
        "hits": [{"image": file, "similarity": 0.5, "kind": "match"}],
    }


def test_run_and_evaluate_print_json_and_results_only(
    tiny_arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = tiny_arguments(runs, "zero_shot", "benchmark.order=[plaza]")
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    folder = Path(document["folder"])
    assert document["results"] == json.loads((folder / "results.json").read_text())
    assert not document["was_finished"]
    assert "finished in" in captured.err, "progress is on stderr"
    assert main([*arguments, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "plaza" in captured.out
    assert "results.json" not in captured.out
    assert captured.err == ""
    assert main(["evaluate", folder.name, "--runs", str(runs), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["results"]["scores"]["plaza"]["mAP"] > 0


# ---- as a process


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(LIFELONG), *words],
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_piped_output_in_a_plain_terminal() -> None:
    """ASCII output, 80 columns, no terminal: nothing fails and no escape sequence is written."""
    plain = {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "TERM": "dumb"}
    listed = process("ablate", **plain)
    assert listed.returncode == 0
    assert b"\x1b" not in listed.stdout
    missing = process("search", "r", "--image", "caf\u00e9 [/].jpg", **plain)
    assert missing.returncode == 2
    assert b"caf\\xe9 [/].jpg does not exist" in missing.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} {LIFELONG} show-config | head -n 1"
    shown = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    assert shown.stdout.startswith("# run name")
    assert "Traceback" not in shown.stderr


def test_a_mistyped_command_suggests_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["comapre", "run"])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "'comapre' is neither a command nor an override key=value" in message
    assert "did you mean compare?" in message


def test_optional_overrides_are_not_named_as_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep"])
    assert "required: SPACE" in capsys.readouterr().err


def test_a_missing_run_lists_the_runs_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    assert main(["compare", "nothing", "--runs", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a, b, c, d, e and 2 more" in capsys.readouterr().err


def test_values_of_a_file_are_laid_over_the_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("learner.icar.epochs: 6\ndata:\n  persons_per_batch: 4\n")
    second.write_text("learner.control: none\nseed: 5\n")
    words = ["show-config", "--preset", "demo-vladr", "--with", str(first), "--with", str(second)]
    assert main([*words, "seed=7", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["learner"]["icar"]["epochs"] == 6
    assert config["data"]["persons_per_batch"] == 4
    assert config["seed"] == 7, "an override wins"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), ("- 1", "got list"), ("a: [", "expected YAML"), ("x.y: 1", "x")],
)
def test_a_wrong_file_of_values_is_explained(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "values.yaml"
    if content is not None:
        file.write_text(content)
    assert main(["show-config", "--with", str(file)]) == 2
    assert message in capsys.readouterr().err
