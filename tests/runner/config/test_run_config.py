"""Run configuration: presets, overrides, validation, hash, names."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.hashed_fields import in_hash
from runner.config.run_config import (
    PRESETS,
    ConfigError,
    base_folder,
    flatten,
    learner_names,
    load_config,
    preset_names,
    schema_fields,
    schema_keys,
    to_yaml,
    validate,
)

ROOT = Path(__file__).resolve().parents[3]


def refused(*overrides, preset="demo"):
    with pytest.raises(ConfigError) as caught:
        load_config(preset, overrides)
    return str(caught.value)


# Presets --------------------------------------------------------------------------------------


def test_shared_parts_are_not_presets():
    files = {path.stem for path in PRESETS.glob("*.yaml")}
    assert set(preset_names()) == {name for name in files if not name.startswith("_")}
    assert {"demo", "demo-finetune", "vladr"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_and_round_trips_through_yaml(name, tmp_path):
    config = load_config(name)
    assert config.preset == name
    file = tmp_path / "other-name.yaml"
    file.write_text(to_yaml(config))
    again = load_config(str(file))
    assert again == config
    assert again.hash == config.hash
    assert again.run_name == config.run_name


def test_demo_is_vladr_and_the_default():
    assert load_config() == load_config("demo")
    assert load_config().learner.name == "vladr"
    assert load_config().learner.interpolation.mode == "none"


def test_later_bases_and_the_file_itself_take_precedence(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nlearner: {name: finetune, epochs: 3}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\ncluster: {num_workers: 0}\n")
    file = tmp_path / "c.yaml"
    file.write_text(f"base: [{tmp_path}/a.yaml, {tmp_path}/b.yaml]\nlearner: {{epochs: 5}}\n")
    config = load_config(str(file))
    assert (config.preset, config.seed, config.cluster.num_workers) == ("c", 2, 0)
    assert (config.learner.name, config.learner.epochs) == ("finetune", 5)


def test_unknown_preset():
    message = refused(preset="demo-finetun")
    assert "--preset: expected a file or one of " in message
    assert " demo, " in message
    assert "did you mean demo-finetune?" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n- 2\n", "expected a mapping"), ("seed: [1\n", "expected YAML; while parsing")],
)
def test_file_that_is_not_a_configuration(tmp_path, text, message):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    assert f"{file}: {message}" in refused(preset=str(file))


# Overrides ------------------------------------------------------------------------------------


def test_overrides_of_all_kinds_of_fields():
    config = load_config(
        "demo",
        [
            "seed=3",
            "learner.alignment=[affinity, prototype]",
            "learner.losses.cma.weight=0.5",
            "tracking.uri=null",
            "run.name=my-run",
            "benchmark.order=[station,plaza]",
            "learner.icar.optimizer.lr=1e-3",
            "cluster.num_workers=0",
            "cluster.num_workers=2",
        ],
    )
    assert config.seed == 3
    assert config.learner.alignment == ("affinity", "prototype")
    assert config.learner.losses.cma.weight == 0.5
    assert config.learner.losses.cma.temperature == 0.07
    assert config.tracking.uri is None
    assert config.run_name == "my-run"
    assert config.benchmark.order == ("station", "plaza")
    assert config.learner.icar.optimizer.lr == 1e-3
    assert config.cluster.num_workers == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed': expected key=value, like seed=1"),
        ("=1", "override '=1': expected key=value"),
        ("seed=[1", "override 'seed=[1': while parsing"),
        ("learner.alignment.0=prototype", "override 'learner.alignment.0=prototype': "),
        ("backbone.weights=${nothing}", "Interpolation key 'nothing' not found"),
    ],
)
def test_invalid_override(override, message):
    assert message in refused(override)


# Validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learner.num_atributes=4",
            "learner.num_atributes: unknown key; did you mean learner.num_attributes?",
        ),
        (
            "learner.losses.tripplet.weight=1",
            "learner.losses.tripplet: unknown key; did you mean learner.losses.triplet?",
        ),
        (
            "data.person_per_batch=8",
            "data.person_per_batch: unknown key; did you mean data.persons_per_batch?",
        ),
        ("dataa.persons_per_batch=8", "dataa: unknown key; did you mean data?"),
        ("learner.seed=3", "learner.seed: unknown key; did you mean seed?"),
        ("num_workers=2", "num_workers: unknown key; did you mean cluster.num_workers?"),
        ("storage.name=x", "storage.name: unknown key; did you mean run.name?"),
        ("qqqqqqqq=2", "qqqqqqqq: unknown key"),
        ("learner.num_attributes=0", "learner.num_attributes: Input should be greater"),
        ("learner.num_attributes=0", "(got 0)"),
        ("learner.losses.cma.weight=-1", "learner.losses.cma.weight: "),
        ("data.images_per_person=four", "data.images_per_person: "),
        ("data.images_per_person=four", "(got 'four')"),
        ("learner.alignment=[afinity]", "learner.alignment.0: "),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("learner.name=vlad", "learner.name: expected one of "),
        ("learner.name=vlad", ", finetune, "),
        ("learner.name=vlad", "got 'vlad'; did you mean vladr?"),
        ("learner=finetune", "learner: "),
        ("run.name=a/b", "run.name: "),
        ("run.name=..", "run.name: "),
        ("backbone.name=ViT-B-16", "set backbone.weights to an open_clip tag"),
        (
            "learner.icar.optimizer.schedule.warmup_epochs=1",
            "learner.icar.optimizer.schedule: give warmup_epochs or warmup_iterations, not both",
        ),
        ("tracking.uri=runs", "tracking.uri: expected http(s)://host:port"),
    ],
)
def test_invalid_values_are_reported_with_their_path(override, message):
    error = refused(override)
    assert message in error
    assert "Value error" not in error
    assert "{" not in error, "the message does not dump a section"


def test_field_of_another_learner():
    message = refused("learner.num_attributes=4", preset="demo-finetune")
    assert "learner.num_attributes: unknown key of learner finetune; " in message
    assert "it belongs to learner vladr" in message
    assert len(refused("learner.name=finetune").splitlines()) > 1, "one line for each key"


def test_missing_learner(tmp_path):
    file = tmp_path / "none.yaml"
    file.write_text("seed: 1\n")
    assert "learner: expected a value, got none" in refused(preset=str(file))


def test_learner_without_loss():
    off = [f"learner.losses.{name}.weight=0" for name in ("identity", "triplet")]
    assert "learner.losses: the image tower has no loss" in refused(*off, preset="demo-finetune")
    off += [f"learner.losses.{name}.weight=0" for name in ("image_text", "cma")]
    assert "learner.losses: stage icar has no loss: give one of identity" in refused(*off)


def test_batch_size_is_divisible_by_workers():
    message = refused("cluster.num_workers=3")
    assert "cluster.num_workers: " in message
    assert "64 images cannot be split over 3 workers" in message
    config = load_config("demo", ["cluster.num_workers=3", "data.persons_per_batch=6"])
    assert config.global_batch == 24
    assert load_config("demo", ["cluster.num_workers=0"]).cluster.num_workers == 0


# Hash and names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "run.name=x",
        "preset=x",
        "storage.root=elsewhere",
        "tracking.uri=null",
        "tracking.experiment=x",
        "checkpoints.every_epochs=7",
        "cluster.num_workers=2",
        "cluster.use_gpu=true",
    ],
)
def test_hash_ignores_settings_that_change_no_result(override):
    assert load_config("demo", [override]).hash == load_config("demo").hash


DEMO = load_config("demo")
NUMBERS = {
    key: value
    for key, value in flatten(DEMO).items()
    if isinstance(value, (int, float))
    and not isinstance(value, bool)
    and in_hash(key)
    # Disabled sections.
    and not key.startswith(("learner.gradnorm.", "benchmark.style_options."))
}


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(NUMBERS)))
def test_every_other_number_changes_the_hash(key):
    changed = DEMO.model_dump(mode="json")
    section, names = changed, _path_in(changed, key)
    for name in names[:-1]:
        section = section[name]
    section[names[-1]] = NUMBERS[key] / 2 if isinstance(NUMBERS[key], float) else NUMBERS[key] + 8
    if section[names[-1]] == NUMBERS[key]:
        section[names[-1]] = 0.25
    try:
        config = validate(changed)
    except ConfigError:
        return
    assert config.hash != DEMO.hash


def _path_in(values, key):
    """Splits a dotted path into keys, some of which contain dots."""
    names, rest = [], key
    while rest:
        (name,) = [name for name in values if rest == name or rest.startswith(f"{name}.")][:1]
        names, rest, values = [*names, name], rest[len(name) + 1 :], values[name]
    return names


@pytest.mark.parametrize(
    "override",
    ["seed=1", "learner.alignment=[]", "benchmark.order=[plaza]", "backbone.weights=random"],
)
def test_other_settings_change_the_hash(override):
    assert load_config("demo", [override]).hash != load_config("demo").hash


def test_equal_values_have_equal_hashes():
    first = load_config("demo", ["learner.losses.cma.weight=1"])
    assert first.hash == load_config("demo", ["learner.losses.cma.weight=1.0"]).hash
    assert len(first.hash) == 8
    int(first.hash, 16)


def test_run_name():
    config = load_config("demo", ["seed=4"])
    assert config.run_name == f"demo-vladr-seed4-{config.hash}"
    config = load_config("demo-finetune")
    assert config.run_name == f"demo-finetune-seed0-{config.hash}"
    assert load_config("demo", ["run.name=mine"]).run_name == "mine"


def test_flatten():
    flat = flatten(load_config("demo"))
    assert flat["learner.losses.cma.temperature"] == 0.07
    assert flat["learner.alignment"] == ["prototype_relation"]
    assert json.loads(json.dumps(flat)) == flat
    missing = set(schema_keys("vladr")) - flat.keys()
    assert all(key.endswith("lr_factors") for key in missing), "a mapping's keys are leaves"


# Base of relative paths ----------------------------------------------------------------------


def test_base_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path / "x" / ".."))
    assert base_folder() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LIFELONG_REID_HOME", "~/here")
    assert base_folder() == tmp_path / "here"


def test_default_base_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LIFELONG_REID_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert base_folder() == Path.cwd()
    job = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert base_folder() == tmp_path / "lifelong-reid"


def test_hash_ignores_disabled_sections():
    balanced = "learner.gradnorm.enabled=true"
    lrs = ["learner.gradnorm.lr=0.5", "learner.gradnorm.lr=0.1"]
    assert {load_config("demo", [lr]).hash for lr in lrs} == {DEMO.hash}
    assert len({load_config("demo", [balanced, lr]).hash for lr in lrs} | {DEMO.hash}) == 3
    assert load_config("demo", ["evaluation.every_epochs=0"]).hash == DEMO.hash
    assert load_config("demo", ["evaluation.every_epochs=2"]).hash != DEMO.hash
    assert load_config("demo", ["evaluation.protocol=standard"]).hash == DEMO.hash
    assert load_config("demo", ["evaluation.protocol=single_gallery_shot"]).hash != DEMO.hash


def test_single_gallery_shot_with_reranking_is_refused():
    overrides = ["evaluation.protocol=single_gallery_shot", "evaluation.reranking.enabled=true"]
    with pytest.raises(ConfigError, match=r"evaluation: .*single_gallery_shot.*whole gallery"):
        load_config("demo", overrides)


def test_hash_includes_enabled_styles():
    drawn, eps = load_config("demo-bdam"), "benchmark.style_options.eps=0.2"
    assert load_config("demo-bdam", [eps]).hash == drawn.hash
    styles = [
        load_config("demo-bdam", [f"benchmark.style={each}", *more]).hash
        for each, more in (("none", []), ("dbscan", []), ("dbscan", [eps]))
    ]
    assert len({drawn.hash, *styles}) == 4


# Every field is used -----------------------------------------------------------------------------


def _reads(node):
    """Names of attributes that are read outside validators."""
    decorators = getattr(node, "decorator_list", [])
    if any("validator" in ast.unparse(decorator) for decorator in decorators):
        return
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from _reads(child)


def test_every_field_is_used_and_described():
    files = [
        file for package in ("runner", "models", "tasks") for file in (ROOT / package).rglob("*.py")
    ]
    read = {name for file in files for name in _reads(ast.parse(file.read_text()))}
    unused, undocumented = set(), set()
    for learner in learner_names():
        for path, section, name in schema_fields(learner):
            if name not in read:
                unused.add(path)
            if not section.model_fields[name].description:
                undocumented.add(path)
    assert not unused, f"no code reads {sorted(unused)}"
    assert not undocumented, f"no description: {sorted(undocumented)}"


def test_override_keeps_the_defaults_of_its_section():
    """The presets do not set these sections, so the defaults of the learners apply."""
    dask = load_config("demo-dask", ["learner.interpolation.alpha=0.3"]).learner
    assert (dask.interpolation.alpha, dask.interpolation.mode) == (0.3, "fixed")
    assert not dask.interpolation.keep_diagonal
    before = flatten(load_config("bdam"))
    after = flatten(load_config("bdam", ["learner.optimizer.lr=0.5", "learner.fusion.dim=64"]))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"learner.optimizer.lr", "learner.fusion.dim"}


@pytest.mark.parametrize("name", ["demo-krkc", "dask", "lstkc"])
def test_override_with_the_default_value_changes_nothing(name):
    before = flatten(load_config(name))
    for key, value in before.items():
        typed = key.startswith("learner.") and "lr_factors" not in key
        if typed and key != "learner.name" and value is not None:
            assert flatten(load_config(name, [f"{key}={json.dumps(value)}"])) == before, key
