"""RunConfig: preset + dotted overrides -> one frozen, validated object.

OmegaConf loads the YAML files, merges them and applies overrides; pydantic is the schema. Every
way into a run (command line, search space, ablation row) goes through `load_config`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator
from pydantic_core import ErrorDetails

import models.learners
from models.backbones.config import BackboneConfig
from models.learner import LearnerConfig
from runner.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    Precision,
    RunNameConfig,
    StorageConfig,
    TrackingConfig,
)
from tasks.benchmarks import BenchmarkConfig
from tasks.schema import FrozenConfig

PRESETS = Path(__file__).parents[1] / "presets"

NOT_IN_HASH = frozenset(
    {
        *("run", "preset", "storage", "tracking", "checkpoints", "cluster"),
        *("benchmark.root", "benchmark.roots", "benchmark.derived"),
    }
)
"""What says where and how often, and changes no result: the protocol lock pins the data."""

SWITCHED = (
    *("learner.gradnorm.enabled", "backbone.image_tower", "backbone.text_tower"),
    *("evaluation.every_epochs", "benchmark.style"),
)
"""While these are false, none or 0 they change no result; with what they enable, left out of it."""


class ConfigError(ValueError):
    """The configuration is wrong; the message says which field, what came and what would do."""


class RunConfig(FrozenConfig):
    """Everything that defines one run."""

    seed: int = Field(default=0, ge=0, description="every random draw of the run derives from it")
    preset: str = Field(
        default="custom", description="name of the preset the configuration began with"
    )
    precision: Precision = Field(
        default="float32",
        description="of forward passes: bfloat16 = autocast; what trains stays float32",
    )
    run: RunNameConfig = Field(default_factory=lambda: RunNameConfig())
    storage: StorageConfig = Field(default_factory=lambda: StorageConfig())
    tracking: TrackingConfig = Field(default_factory=lambda: TrackingConfig())
    benchmark: BenchmarkConfig = Field(default_factory=lambda: BenchmarkConfig())
    backbone: BackboneConfig = Field(default_factory=lambda: BackboneConfig())
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    learner: SerializeAsAny[LearnerConfig]
    evaluation: EvaluationConfig = Field(default_factory=lambda: EvaluationConfig())
    checkpoints: CheckpointConfig = Field(default_factory=lambda: CheckpointConfig())
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())

    @field_validator("learner", mode="before")
    @classmethod
    def _config_of_learner(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = _mapping(value)
        return learner_module(str(fields.get("name"))).Config.model_validate(fields)

    @property
    def global_batch(self) -> int:
        """Images of one training batch over all workers."""
        return self.data.persons_per_batch * self.data.images_per_person

    @property
    def hash(self) -> str:
        """Eight hex digits over everything that may change the result."""
        values = flatten(self)
        off = tuple(key.removesuffix("enabled") for key in SWITCHED if not values.get(key))
        used = (key for key in values if in_hash(key) and not key.startswith(off))
        kept = {key: values[key] for key in used}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def run_name(self) -> str:
        """`run.name`, or a name the same command finds again."""
        learner = self.learner.name
        stem = self.preset if self.preset.endswith(learner) else f"{self.preset}-{learner}"
        return self.run.name or f"{stem}-seed{self.seed}-{self.hash}"


def learner_names() -> list[str]:
    """Every module under models/learners: the name is the file."""
    return sorted(module.name for module in pkgutil.iter_modules(models.learners.__path__))


def learner_module(name: str) -> Any:
    """The module of a learner; it holds `Config` and `Method`.

    Raises:
        ConfigError: there is no such learner.
    """
    if name not in learner_names():
        raise ConfigError(
            f"learner.name: expected one of {', '.join(learner_names())}; got {name!r}"
            + _nearest(name, learner_names())
        )
    return importlib.import_module(f"models.learners.{name}")


def preset_names() -> list[str]:
    """The presets that ship with the project (those beginning with `_` are only shared parts)."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if not path.stem.startswith("_"))


def load_config(preset: str = "demo", overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a preset (a name, or a YAML file) and applies `key=value` overrides to it.

    Raises:
        ConfigError: with the full path of the field, what came, and the nearest valid name.
    """
    merged = OmegaConf.merge({"preset": Path(preset).stem}, _read_preset(preset))
    return override_values(_container(merged), overrides)


def override_values(values: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """A RunConfig from nested plain values with `key=value` overrides applied to them.

    Raises:
        ConfigError: as `load_config`.
    """
    merged: Any = OmegaConf.create(dict(values))
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r}: expected key=value, like seed=1")
        try:
            merged = OmegaConf.merge(merged, _unwritten(key, merged))
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(f"override {override!r}: {error}") from error
    return validate(_container(merged))


def validate(values: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from nested plain values.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(each, values) for each in error.errors())) from error
    _check_batch(config)
    _check_texts(config)
    return _normalised_as_pretrained(config)


def flatten(config: BaseModel) -> dict[str, Any]:
    """Dotted path -> plain value, for logs and comparisons."""
    return dict(_flat(config.model_dump(mode="json"), ""))


def in_hash(key: str) -> bool:
    """Whether the field at a dotted path may change a run's result."""
    return not any(key == each or key.startswith(f"{each}.") for each in NOT_IN_HASH)


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML that `--preset FILE` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def base_folder() -> Path:
    """What relative paths in a configuration are relative to.

    $LIFELONG_REID_HOME, or the current folder; in a job of `ray job submit`, whose folder is
    temporary, ~/lifelong-reid.
    """
    if home := os.environ.get("LIFELONG_REID_HOME"):
        return Path(home).expanduser().resolve()
    here = Path.cwd()
    return Path.home() / "lifelong-reid" if "working_dir_files" in here.parts else here


def _unwritten(key: str, written: Any) -> dict[str, Any]:
    """The learner's section that a key lies in, as it is now, if nothing is written of it.

    A section has the defaults of its place: an override of one setting alone would begin with those
    of its class, and change the others without a word.
    """
    sections = key.split(".")[:-1]
    if sections[:1] != ["learner"]:
        return {}
    for depth in range(2, len(sections) + 1):
        path = ".".join(sections[:depth])
        if OmegaConf.select(written, path) is not None:
            continue
        try:
            now: Any = validate(_container(written)).model_dump(mode="json")
        except ConfigError:
            return {}  # what is wrong is said of the whole
        for section in sections[:depth]:
            now = _mapping(now).get(section) if isinstance(now, Mapping) else None
        return _nested(sections[:depth], now) if isinstance(now, Mapping) else {}
    return {}


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def _check_batch(config: RunConfig) -> None:
    workers = max(1, config.cluster.num_workers)
    if config.global_batch % workers:
        raise ConfigError(
            f"cluster.num_workers: the batch of data.persons_per_batch x data.images_per_person = "
            f"{config.global_batch} images cannot be split over {workers} workers; "
            "choose a number that divides it"
        )


def _check_texts(config: RunConfig) -> None:
    """Refuses a learner that reads texts on a backbone that cannot."""
    name, method = config.learner.name, learner_module(config.learner.name).Method
    if config.backbone.is_resnet and method.reads_texts:
        others = [each for each in learner_names() if not learner_module(each).Method.reads_texts]
        raise ConfigError(
            f"backbone.name: learner {name} reads texts, and {config.backbone.name} has no text "
            f"tower; choose a CLIP, or a learner of images alone: {', '.join(others)}"
        )
    if method.needs_joint_space and not config.backbone.is_joint:
        raise ConfigError(config.backbone.joint_space_error(name))


def _normalised_as_pretrained(config: RunConfig) -> RunConfig:
    """The configuration with images normalised as the backbone expects, unless it says how."""
    data, mean_std = config.data, config.backbone.mean_std
    if "mean_std" in data.transform.model_fields_set or data.transform.mean_std == mean_std:
        return config
    transform = data.transform.model_copy(update={"mean_std": mean_std})
    return config.model_copy(update={"data": data.model_copy(update={"transform": transform})})


def _read_preset(preset: str) -> DictConfig:
    path = PRESETS / f"{preset}.yaml"
    if not path.is_file():
        path = Path(preset)
    if not path.is_file():
        raise ConfigError(
            f"--preset: expected a file or one of {', '.join(preset_names())}; got {preset!r}"
            + _nearest(preset, preset_names())
        )
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML; {error}") from error
    if isinstance(loaded, ListConfig):
        raise ConfigError(f"{path}: expected a mapping of configuration keys, got a list")
    bases = [_read_preset(base) for base in loaded.pop("base", [])]
    merged = OmegaConf.merge(*bases, loaded)
    assert isinstance(merged, DictConfig)
    return merged


def _container(node: Any) -> dict[str, Any]:
    try:
        container = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {error}") from error
    return _mapping(container)


def _mapping(value: Any) -> dict[str, Any]:
    """A mapping with string keys, for values whose type only YAML knows."""
    return {str(key): inner for key, inner in value.items()}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in _mapping(value).items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _problem(item: ErrorDetails, values: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key" + _hint(path, values)
    if item["type"] == "missing":
        return f"{path}: expected a value, none came"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    if isinstance(cause, ValueError):
        return f"{path}: {cause}"
    return f"{path}: {item['msg']} (got {item['input']!r})"


def _hint(path: str, values: Mapping[str, Any]) -> str:
    """What the writer of an unknown key most likely wanted."""
    learner = values.get("learner")
    name = str(_mapping(learner).get("name")) if isinstance(learner, Mapping) else ""
    owners = [other for other in learner_names() if path in _keys_and_sections(other)]
    if owners:
        return f" of learner {name}; it belongs to learner {' and '.join(owners)}"
    known = _keys_and_sections(name if name in learner_names() else None)
    leaf = path.rpartition(".")[2]
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf]
    return (
        _nearest(path, same_leaf, 0.6) or _nearest(path, same_leaf[:1], 0) or _nearest(path, known)
    )


def _keys_and_sections(learner: str | None) -> list[str]:
    keys = list(schema_keys(learner))
    sections = {key[:end] for key in keys for end, sign in enumerate(key) if sign == "."}
    return [*keys, *sorted(sections)]


def _nearest(name: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]}?" if matches else ""


def schema_keys(learner: str | None = None) -> Iterator[str]:
    """Dotted path of every field, the learner's own included when its name is given."""
    for path, _, _ in schema_fields(learner):
        yield path


def schema_fields(learner: str | None = None) -> Iterator[tuple[str, type[BaseModel], str]]:
    """(dotted path, the section's class, the field's name) of every leaf of the schema."""
    for name, field in RunConfig.model_fields.items():
        if name == "learner":
            if learner:
                yield from _leaves(learner_module(learner).Config, "learner")
        elif section := _section(field.annotation):
            yield from _leaves(section, name)
        else:
            yield name, RunConfig, name


def _leaves(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    for name, field in section.model_fields.items():
        if inner := _section(field.annotation):
            yield from _leaves(inner, f"{path}.{name}")
        else:
            yield f"{path}.{name}", section, name


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
