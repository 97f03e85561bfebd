"""Run configuration: a preset and dotted overrides, validated and frozen.

OmegaConf loads the YAML files, merges them and applies overrides; pydantic is the schema. The
command line, search spaces and ablation rows all use `load_config`.
"""

from __future__ import annotations

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
from pydantic import BaseModel, Field, PrivateAttr, SerializeAsAny, ValidationError, field_validator
from pydantic_core import ErrorDetails

import models.learners
from models.backbones.config import BackboneConfig
from models.learner import LearnerConfig
from runner.config.hashed_fields import hashed_values
from runner.config.plain_values import (
    ConfigError,
    as_mapping,
    leaves,
    nested,
    plain_values,
    references_in,
    with_values,
)
from runner.config.redaction import masked
from runner.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    Precision,
    RunNameConfig,
    StorageConfig,
    TrackingConfig,
    TrainingConfig,
)
from tasks.benchmarks import BenchmarkConfig
from tasks.schema import FrozenConfig
from tasks.suggestion import suggestion

PRESETS = Path(__file__).parents[1] / "presets"


class RunConfig(FrozenConfig):
    """Configuration of one run."""

    seed: int = Field(default=0, ge=0, description="seed of every random generator of the run")
    preset: str = Field(
        default="custom", description="name of the preset that the configuration is based on"
    )
    precision: Precision = Field(
        default="float32",
        description="of the network: bfloat16 = autocast, float32 parameters; tf32 = TF32 on a GPU",
    )
    run: RunNameConfig = Field(default_factory=lambda: RunNameConfig())
    storage: StorageConfig = Field(default_factory=lambda: StorageConfig())
    tracking: TrackingConfig = Field(default_factory=lambda: TrackingConfig())
    benchmark: BenchmarkConfig = Field(default_factory=lambda: BenchmarkConfig())
    backbone: BackboneConfig = Field(default_factory=lambda: BackboneConfig())
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    learner: SerializeAsAny[LearnerConfig]
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    evaluation: EvaluationConfig = Field(default_factory=lambda: EvaluationConfig())
    checkpoints: CheckpointConfig = Field(default_factory=lambda: CheckpointConfig())
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())
    _references: dict[str, Any] = PrivateAttr(default_factory=dict[str, Any])

    @field_validator("learner", mode="before")
    @classmethod
    def _config_of_learner(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = as_mapping(value)
        return learner_module(str(fields.get("name"))).Config.model_validate(fields)

    @property
    def references(self) -> dict[str, Any]:
        """Environment references by dotted path, as given; see `public_values`."""
        return self._references

    def with_references(self, references: Mapping[str, Any]) -> RunConfig:
        """A copy with these environment references."""
        config = self.model_copy()
        object.__setattr__(config, "_references", dict(references))
        return config

    @property
    def global_batch(self) -> int:
        """Number of images in a training batch, over all workers."""
        return self.data.persons_per_batch * self.data.images_per_person

    @property
    def hash(self) -> str:
        """Hash (eight hexadecimal digits) of `effective_settings`."""
        text = json.dumps(self.effective_settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def effective_settings(self) -> dict[str, Any]:
        """All settings that may change the result, by dotted path."""
        return hashed_values(flatten(self))

    @property
    def run_name(self) -> str:
        """`run.name`, or a name derived from the settings so that a command finds its run again."""
        learner = self.learner.name
        stem = self.preset if self.preset.endswith(learner) else f"{self.preset}-{learner}"
        return self.run.name or f"{stem}-seed{self.seed}-{self.hash}"


def learner_names() -> list[str]:
    """Names of all learners: the modules of models/learners."""
    return sorted(module.name for module in pkgutil.iter_modules(models.learners.__path__))


def learner_module(name: str) -> Any:
    """Imports the module of a learner, which defines `Config` and `Method`.

    Raises:
        ConfigError: There is no such learner.
    """
    if name not in learner_names():
        raise ConfigError(
            f"learner.name: expected one of {', '.join(learner_names())}; got {name!r}"
            + suggestion(name, learner_names(), 0.5)
        )
    return importlib.import_module(f"models.learners.{name}")


def preset_names() -> list[str]:
    """Names of the included presets; files that begin with `_` are shared parts of presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if not path.stem.startswith("_"))


def load_config(preset: str = "demo", overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a preset and applies overrides.

    Args:
        preset: name of a preset, or path of a YAML file.
        overrides: `key=value` with dotted keys; later ones take precedence.

    Raises:
        ConfigError: The message has the path of the field, the value and the nearest valid name.
    """
    try:
        merged = OmegaConf.merge({"preset": Path(preset).stem}, _read_preset(preset))
        values = as_mapping(OmegaConf.to_container(merged))
    except (RecursionError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(f"--preset: {preset} or its bases cannot be read: {error}") from error
    return override_values(values, overrides)


def override_values(values: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Applies `key=value` overrides to nested plain values and validates the result.

    Raises:
        ConfigError: As for `load_config`.
    """
    merged: Any = OmegaConf.create(dict(values))
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {masked(override)!r}: expected key=value, like seed=1")
        try:
            merged = OmegaConf.merge(merged, _default_section(key, merged))
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([override]))
        except Exception as error:  # OmegaConf and YAML raise many types on malformed text
            shown = f"{key}=..." if key.startswith("tracking.") else masked(override)
            raise ConfigError(masked(f"override {shown!r}: {error}")) from error
    return validate(plain_values(merged)).with_references(references_in(merged))


def validate(values: Mapping[str, Any]) -> RunConfig:
    """Validates nested plain values.

    Raises:
        ConfigError: As for `load_config`.
    """
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(each, values) for each in error.errors())) from error
    _check_batch(config)
    _check_texts(config)
    return _normalised_as_pretrained(config)


def flatten(config: BaseModel) -> dict[str, Any]:
    """Maps the dotted path of every leaf to its plain value, for logs and comparisons."""
    return dict(leaves(config.model_dump(mode="json")))


def public_values(config: RunConfig) -> dict[str, Any]:
    """Nested plain values to write: environment references as given, passwords masked."""
    return with_values(config.model_dump(mode="json"), config.references)


def to_yaml(config: RunConfig) -> str:
    """Formats `public_values` as YAML, which `--preset FILE` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(public_values(config)))


def base_folder() -> Path:
    """Folder that relative paths of a configuration refer to.

    $LIFELONG_REID_HOME if it is set, otherwise the current folder. Jobs of `ray job submit` have a
    temporary current folder and use ~/lifelong-reid.
    """
    if home := os.environ.get("LIFELONG_REID_HOME"):
        return Path(home).expanduser().resolve()
    here = Path.cwd()
    return Path.home() / "lifelong-reid" if "working_dir_files" in here.parts else here


def _default_section(key: str, values: Any) -> dict[str, Any]:
    """Default values of the learner section that contains `key`, if `values` has no such section.

    A learner may define other defaults for a section than the section's class. An override of a
    single field would otherwise create the section with the defaults of its class and silently
    change the other fields.
    """
    sections = key.split(".")[:-1]
    if sections[:1] != ["learner"]:
        return {}
    for depth in range(2, len(sections) + 1):
        path = ".".join(sections[:depth])
        if OmegaConf.select(values, path) is not None:
            continue
        try:
            default: Any = validate(plain_values(values)).model_dump(mode="json")
        except ConfigError:
            return {}  # the final validation reports the error
        for section in sections[:depth]:
            default = as_mapping(default).get(section) if isinstance(default, Mapping) else None
        return nested(sections[:depth], default) if isinstance(default, Mapping) else {}
    return {}


def _check_batch(config: RunConfig) -> None:
    workers = max(1, config.cluster.num_workers)
    if config.global_batch % workers:
        raise ConfigError(
            f"cluster.num_workers: expected a divisor of the batch size; the batch of "
            f"data.persons_per_batch x data.images_per_person = {config.global_batch} images "
            f"cannot be split over {workers} workers"
        )
    if config.training.gradient_accumulation > 1 and config.backbone.is_resnet:
        raise ConfigError(
            f"training.gradient_accumulation: expected 1 for {config.backbone.name}, got "
            f"{config.training.gradient_accumulation}; its BN layers need the whole batch at once: "
            "use a ViT, a smaller batch or more workers"
        )


def _check_texts(config: RunConfig) -> None:
    """Checks that the backbone has the text tower or joint space that the learner needs."""
    name, method = config.learner.name, learner_module(config.learner.name).Method
    if config.backbone.is_resnet and method.reads_texts:
        others = [each for each in learner_names() if not learner_module(each).Method.reads_texts]
        raise ConfigError(
            f"backbone.name: learner {name} reads texts, but {config.backbone.name} has no text "
            f"tower; choose a CLIP model, or an image-only learner: {', '.join(others)}"
        )
    if method.needs_joint_space and not config.backbone.is_joint:
        raise ConfigError(config.backbone.joint_space_error(name))


def _normalised_as_pretrained(config: RunConfig) -> RunConfig:
    """Sets the backbone's image normalisation unless the configuration sets another one."""
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
            + suggestion(preset, preset_names(), 0.5)
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


def _problem(item: ErrorDetails, values: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key" + _hint(path, values)
    if item["type"] == "missing":
        return f"{path}: expected a value, got none"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    if isinstance(cause, ValueError):
        return f"{path}: {cause}"
    # Text that is no URI cannot be masked.
    got = type(item["input"]).__name__ if path == "tracking.uri" else repr(item["input"])
    return masked(f"{path}: {item['msg']} (got {got})")


def _hint(path: str, values: Mapping[str, Any]) -> str:
    """Suggests what an unknown key was meant to be."""
    learner = values.get("learner")
    name = str(as_mapping(learner).get("name")) if isinstance(learner, Mapping) else ""
    owners = [other for other in learner_names() if path in _keys_and_sections(other)]
    if owners:
        return f" of learner {name}; it belongs to learner {' and '.join(owners)}"
    known = _keys_and_sections(name if name in learner_names() else None)
    leaf = path.rpartition(".")[2]
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf]
    return (
        suggestion(path, same_leaf)
        or suggestion(path, same_leaf[:1], 0)
        or suggestion(path, known, 0.5)
    )


def _keys_and_sections(learner: str | None) -> list[str]:
    keys = list(schema_keys(learner))
    sections = {key[:end] for key in keys for end, char in enumerate(key) if char == "."}
    return [*keys, *sorted(sections)]


def schema_keys(learner: str | None = None) -> Iterator[str]:
    """Dotted path of every field, including those of the learner if its name is given."""
    for path, _, _ in schema_fields(learner):
        yield path


def schema_fields(learner: str | None = None) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Dotted path, section class and field name of every leaf of the schema."""
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
    types = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in types if issubclass(each, BaseModel)), None)
