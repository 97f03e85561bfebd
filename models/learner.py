"""The face between the mathematics of a method and whatever runs it.

A learner is plain torch. It never sees a rank or a world size: where it needs the whole batch it
calls `collective.gather`, which is the identity in one process, and the loss it returns is always
the loss of the global batch. The loop decides where and when; the learner decides what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tasks.schema import Batch, Course, Domain, FrozenConfig, Record


class ScheduleConfig(FrozenConfig):
    """Learning rate over the iterations of one stage; every length carries its unit."""

    kind: Literal["constant", "cosine", "multistep"] = Field(
        default="constant", description="shape after the warm-up"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear warm-up, in epochs")
    warmup_iterations: int = Field(default=0, ge=0, description="linear warm-up, in iterations")
    warmup_factor: float = Field(
        default=0.01, gt=0, le=1, description="share of lr at the first iteration"
    )
    milestone_epochs: tuple[float, ...] = Field(
        default=(), description="multistep: lr drops, in epochs"
    )
    milestone_iterations: tuple[int, ...] = Field(
        default=(), description="multistep: lr drops, in iterations"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="multistep: factor of each drop")
    final_factor: float = Field(
        default=0.0, ge=0, le=1, description="cosine: share of lr at the end"
    )

    @model_validator(mode="after")
    def _one_unit(self) -> ScheduleConfig:
        if self.warmup_epochs and self.warmup_iterations:
            raise ValueError("give warmup_epochs or warmup_iterations, not both")
        if self.milestone_epochs and self.milestone_iterations:
            raise ValueError("give milestone_epochs or milestone_iterations, not both")
        return self


class OptimizerConfig(FrozenConfig):
    """An optimiser and its schedule for one stage."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="torch.optim class")
    lr: float = Field(gt=0, description="base learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: momentum")
    bias_lr_factor: float = Field(default=1.0, gt=0, description="lr multiple of bias parameters")
    lr_factors: dict[str, float] = Field(
        default_factory=dict, description="lr multiple by parameter-path pattern (fnmatch)"
    )
    no_decay: tuple[str, ...] = Field(
        default=(), description="parameter-path patterns (fnmatch) without weight decay"
    )
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="learning rate over the stage"
    )


class LearnerConfig(FrozenConfig):
    """Base of every learner's `Config`; `name` is the file in models/learners."""

    name: str = Field(description="the learner: a file in models/learners")


@dataclass(frozen=True)
class Stage:
    """A phase inside a domain.

    Attributes:
        name: unique inside the domain; seeds the stage's batches and augmentation.
        epochs: length, in passes of the identity-balanced sampler.
        views: which augmented views a batch carries ("weak", "strong"); empty if none is needed.
        trainable: parameter-path patterns (fnmatch); one that matches nothing is an error.
        optimizer: optimiser and schedule.
    """

    name: str
    epochs: int
    views: tuple[str, ...]
    trainable: tuple[str, ...]
    optimizer: OptimizerConfig


@dataclass(frozen=True)
class StepResult:
    """One training step: `loss == sum(weights[t] * terms[t])`, all of the global batch.

    Attributes:
        loss: scalar with gradient.
        terms: raw scalar loss terms by name.
        weights: weight of every term.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    weights: Mapping[str, float]

    @staticmethod
    def of(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> StepResult:
        """Builds the result, and with it the loss, from terms and their weights."""
        assert terms, "a step needs at least one loss term"
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepResult(loss, dict(terms), {name: float(weights[name]) for name in terms})


class Collective(Protocol):
    """What a learner may know of other workers."""

    def gather(self, local: Tensor) -> Tensor:
        """[B, ...] of this worker -> [W*B, ...] of all, in rank order.

        Gradients flow: the gradient of the local rows is summed over the workers' losses.
        """
        ...


class LocalCollective:
    """One process: everything is the identity."""

    def gather(self, local: Tensor) -> Tensor:
        """The tensor itself."""
        return local


Encode = Callable[[Tensor], Mapping[str, Tensor]]
"""Images [B, 3, H, W] -> named features [B, ...]."""

Probe = Callable[[Encode], dict[str, Tensor]]
"""One pass over the domain's training images under the test transform, shared out over workers.

Every worker receives the features of all N images in the order of the training list.
Runs without gradients and in eval mode.
"""


class ReplayShape(NamedTuple):
    """The shape of a global batch of exemplars."""

    num_persons: int
    images_per_person: int


@dataclass
class LearnerState:
    """What a learner must remember to go on: tensors by path, and JSON-able facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


class Learner(nn.Module, ABC):
    """A method. Its file in models/learners holds one `Config` and one final subclass, `Method`.

    The loop calls, for each domain: `begin_domain`, then for each of `stages()` its epochs of
    `forward` steps and `end_stage`, then `end_domain`. A resumed run restores the state saved at
    an epoch boundary, so all that a later call needs lives in parameters, buffers or `facts`.
    """

    unsaved: tuple[str, ...] = ()
    """Prefixes of tensors that never train and are rebuilt from the backbone's weights file."""

    course: Course = "sequential"
    """How the method meets the seen domains."""

    reads_texts: bool = False
    """Whether the method needs a backbone with a text tower."""

    needs_joint_space: bool = False
    """Whether the method compares images with texts before it has taught either tower to."""

    embeds_texts: bool = False
    """Whether `embed_texts` gives queries for text-to-image retrieval."""

    replay_shape: ReplayShape | None = None
    """Persons, and images of each, in `Batch.replay`; None for a method without exemplars."""

    def __init__(self, collective: Collective | None = None) -> None:
        super().__init__()
        self.collective: Collective = collective or LocalCollective()

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Refuses, before any work starts, a training domain that this method cannot learn.

        Raises:
            ValueError: says what is missing and what to do.
        """

    @staticmethod
    def check_gallery(config: LearnerConfig, domain: Domain) -> None:
        """Refuses, before any work starts, a domain whose test images this method cannot embed.

        Raises:
            ValueError: says what is missing and what to do.
        """

    @abstractmethod
    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Grows heads and prompts, freezes the teacher, caches what the stages need."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The phases of the domain begun last, in order."""

    def planned_epochs(self, domain_index: int) -> int:
        """Epochs of all stages of the domain at this place in the order (from 0).

        May be asked for any domain at any time: a run's length is said before it begins.
        """
        del domain_index
        return sum(stage.epochs for stage in self.stages())

    @abstractmethod
    def forward(self, batch: Batch, stage: str) -> StepResult:
        """One training step of the stage of this name; the loss is that of the global batch."""

    @abstractmethod
    def embed_images(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised images -> [B, D] L2-normalised test embeddings."""

    def embed_gallery(self, images: Tensor, descriptions: Sequence[str]) -> Tensor:
        """`embed_images` for images that come with their identity descriptions, "" for none.

        A description is a machine's, made from the image alone. Most methods do not look at it.

        Args:
            images: [B, 3, H, W], normalised.
            descriptions: B texts.
        """
        del descriptions
        return self.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """N descriptions -> [N, D] L2-normalised test embeddings, comparable with the images'.

        Raises:
            NotImplementedError: this method has no text queries (`embeds_texts` is False).
        """
        raise NotImplementedError(f"{type(self).__module__} embeds no texts")

    def end_stage(self, stage: str, probe: Probe) -> None:
        """Freezes what the stage learned and caches what the next one needs."""

    def end_domain(self, probe: Probe) -> None:
        """Interpolates weights, refreshes and freezes prototypes."""

    def replay_records(self) -> Sequence[Record]:
        """Images of earlier domains that this domain's batches carry as `Batch.replay` (none here).

        Asked for once `begin_domain` is done, and again when a run resumes in mid-domain: it must
        then give the same records in the same order. `person_id` counts over all learned domains.
        Every batch of every stage carries `replay_shape` of them (fewer persons where there are
        not as many), drawn from a seed of their own and augmented like the batch's other images.
        """
        return ()

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """The last layer that the loss terms of a stage have in common: where GradNorm measures."""
        return ()

    def memory_state(self) -> dict[str, Tensor]:
        """Tensors that other processes may read while training runs (prototypes); may be empty."""
        return {}

    def load_memory_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the published version of `memory_state`, the same on every worker."""

    def stored_bytes_per_domain(self) -> float:
        """Bytes kept of each learned domain beyond the network itself (0 where nothing is)."""
        return 0.0

    def save_state(self) -> LearnerState:
        """All that `load_state` needs, the never-trained parts left out."""
        tensors = {
            path: tensor.detach().cpu().clone()
            for path, tensor in self.state_dict().items()
            if not path.startswith(self.unsaved)
        }
        return LearnerState(tensors, self.facts())

    def facts(self) -> dict[str, Any]:
        """JSON-able facts from which `rebuild` restores the structure."""
        return {}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Creates the modules that exist only from some domain on (a teacher, say)."""

    def load_state(self, state: LearnerState) -> None:
        """Restores `save_state`; tensors that grew since construction take the saved shape.

        The state is copied: what the learner does next leaves it as it was.

        Raises:
            KeyError: a saved tensor has no place here, or a place here has no saved tensor.
        """
        self.rebuild(state.facts)
        expected = {path for path in self.state_dict() if not path.startswith(self.unsaved)}
        if missing := sorted(expected - state.tensors.keys()):
            raise KeyError(f"the checkpoint lacks {missing[0]} and {len(missing) - 1} more")
        for path, tensor in state.tensors.items():
            _assign(self, path, tensor)


def _assign(root: nn.Module, path: str, tensor: Tensor) -> None:
    owner_path, _, name = path.rpartition(".")
    try:
        owner = root.get_submodule(owner_path)
        current = getattr(owner, name)
    except AttributeError as error:
        raise KeyError(f"the checkpoint holds {path}, which this learner does not have") from error
    value = tensor.to(device=current.device, dtype=current.dtype, copy=True)
    if isinstance(current, nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=current.requires_grad))
    else:
        setattr(owner, name, value)
