"""Interface between a continual-learning method and the training loop.

A learner is plain torch. It does not know its rank or the world size. Where it needs the global
batch it calls `collective.gather`, which is the identity in a single process. The loss it returns
is always that of the global batch. The loop decides where and when to compute; the learner decides
what.
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
    """Learning-rate schedule of one stage; field names carry the unit of each length."""

    kind: Literal["constant", "cosine", "multistep"] = Field(
        default="constant", description="schedule after the warm-up"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear warm-up, in epochs")
    warmup_iterations: int = Field(default=0, ge=0, description="linear warm-up, in iterations")
    warmup_factor: float = Field(
        default=0.01, gt=0, le=1, description="fraction of lr at the first iteration"
    )
    milestone_epochs: tuple[float, ...] = Field(
        default=(), description="multistep: milestones, in epochs"
    )
    milestone_iterations: tuple[int, ...] = Field(
        default=(), description="multistep: milestones, in iterations"
    )
    gamma: float = Field(
        default=0.1, gt=0, le=1, description="multistep: factor applied at each milestone"
    )
    final_factor: float = Field(
        default=0.0, ge=0, le=1, description="cosine: fraction of lr at the end"
    )

    @model_validator(mode="after")
    def _check_units(self) -> ScheduleConfig:
        if self.warmup_epochs and self.warmup_iterations:
            raise ValueError("give warmup_epochs or warmup_iterations, not both")
        if self.milestone_epochs and self.milestone_iterations:
            raise ValueError("give milestone_epochs or milestone_iterations, not both")
        return self


class OptimizerConfig(FrozenConfig):
    """Optimiser and learning-rate schedule of one stage."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="torch.optim class")
    lr: float = Field(gt=0, description="base learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: momentum")
    bias_lr_factor: float = Field(default=1.0, gt=0, description="factor of lr for bias parameters")
    lr_factors: dict[str, float] = Field(
        default_factory=dict, description="factor of lr by parameter-path pattern (fnmatch)"
    )
    no_decay: tuple[str, ...] = Field(
        default=(), description="parameter-path patterns (fnmatch) without weight decay"
    )
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="learning-rate schedule of the stage"
    )


class LearnerConfig(FrozenConfig):
    """Base class of every learner's `Config`; `name` is its module in models/learners."""

    name: str = Field(description="learner: name of a module in models/learners")


@dataclass(frozen=True)
class Stage:
    """A training phase inside a domain.

    Attributes:
        name: unique within the domain; part of the seed of batches and augmentation.
        epochs: number of passes of the identity-balanced sampler.
        views: augmented views that a batch contains ("weak", "strong", "test"); may be empty.
        trainable: parameter-path patterns (fnmatch); a pattern without a match is an error.
        optimizer: optimiser and schedule.
    """

    name: str
    epochs: int
    views: tuple[str, ...]
    trainable: tuple[str, ...]
    optimizer: OptimizerConfig


@dataclass(frozen=True)
class StepResult:
    """Result of one training step on the global batch: `loss == sum(weights[t] * terms[t])`.

    Attributes:
        loss: scalar with gradient.
        terms: unweighted scalar loss terms by name.
        weights: weight of each term by name; scalar tensors if they are learned.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    weights: Mapping[str, float | Tensor]

    @staticmethod
    def of(terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> StepResult:
        """Compute the weighted sum of the terms and build the result."""
        assert terms, "expected at least one loss term, got none"
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepResult(loss, dict(terms), {name: weights[name] for name in terms})


class Collective(Protocol):
    """Communication between workers, as far as a learner needs it."""

    def gather(self, local: Tensor) -> Tensor:
        """Concatenate a tensor of all workers in rank order, [B, ...] -> [W*B, ...].

        Differentiable: the gradient of the local rows is summed over the losses of all workers.
        """
        ...


class LocalCollective:
    """Collective of a single process."""

    def gather(self, local: Tensor) -> Tensor:
        """Return the tensor unchanged."""
        return local


Encode = Callable[[Tensor], Mapping[str, Tensor]]
"""Images [B, 3, H, W] -> named features [B, ...]."""

Probe = Callable[[Encode], dict[str, Tensor]]
"""Extract features of the domain's training images under the test transform.

The images are distributed over the workers. Every worker receives the features of all N images in
the order of the training list. Runs in eval mode without gradients.
"""


class ReplayShape(NamedTuple):
    """Shape of the exemplar part of a global batch."""

    num_persons: int
    images_per_person: int


@dataclass
class LearnerState:
    """State that a learner needs to resume: tensors by path and JSON-serialisable `facts`."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


class Learner(nn.Module, ABC):
    """Base class of a continual-learning method.

    Each module in models/learners defines one `Config` and one final subclass named `Method`.

    For each domain, the loop calls `begin_domain`; then, for each of `stages()`, `forward` for its
    epochs and `end_stage`; then `end_domain`. A resumed run restores the state saved at an epoch
    boundary, so everything a later call needs must be in parameters, buffers or `facts`.
    """

    unsaved: tuple[str, ...] = ()
    """State-dict prefixes that are never trained and are reloaded from the backbone's weights."""

    course: Course = "sequential"
    """How the method visits the seen domains."""

    reads_texts: bool = False
    """Whether the method requires a backbone with a text tower."""

    needs_joint_space: bool = False
    """Whether the method compares images with texts before training either tower."""

    embeds_texts: bool = False
    """Whether `embed_texts` produces queries for text-to-image retrieval."""

    replay_shape: ReplayShape | None = None
    """Persons and images per person in `Batch.replay`; None for methods without exemplars."""

    def __init__(self, collective: Collective | None = None) -> None:
        super().__init__()
        self.collective: Collective = collective or LocalCollective()

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Check, before training starts, that this method can learn a domain.

        Raises:
            ValueError: the domain lacks required data; the message says what to do.
        """

    @staticmethod
    def check_gallery(config: LearnerConfig, domain: Domain) -> None:
        """Check, before training starts, that this method can embed a domain's test images.

        Raises:
            ValueError: the domain lacks required data; the message says what to do.
        """

    @abstractmethod
    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Extend heads and prompts, freeze the teacher and cache what the stages need."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the stages of the current domain in order."""

    def planned_epochs(self, domain_index: int) -> int:
        """Return the number of epochs of all stages of a domain (index from 0).

        May be called for any domain at any time: the total length of a run is logged at its start.
        """
        del domain_index
        return sum(stage.epochs for stage in self.stages())

    @abstractmethod
    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute one training step of a stage; the loss is that of the global batch."""

    @abstractmethod
    def embed_images(self, images: Tensor) -> Tensor:
        """Embed normalised images [B, 3, H, W] as L2-normalised test embeddings [B, D]."""

    def embed_gallery(self, images: Tensor, descriptions: Sequence[str]) -> Tensor:
        """Embed gallery images together with their identity descriptions.

        Descriptions are generated by a model from the image alone. Most methods ignore them.

        Args:
            images: [B, 3, H, W], normalised.
            descriptions: B texts, "" where an image has none.

        Returns:
            [B, D] L2-normalised test embeddings.
        """
        del descriptions
        return self.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed N descriptions as L2-normalised [N, D], comparable with image embeddings.

        Raises:
            NotImplementedError: the method has no text queries (`embeds_texts` is False).
        """
        raise NotImplementedError(f"{type(self).__module__} does not embed texts")

    @property
    def query_tower(self) -> nn.Module | None:
        """The `TextTower` of `embed_texts`; None if the method has no text queries."""
        return None

    @property
    def reads_gallery_descriptions(self) -> bool:
        """Whether `embed_gallery` depends on the descriptions."""
        return False

    def embed_described(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Embed gallery images with tokenised descriptions, as `embed_gallery` does.

        Only methods with `reads_gallery_descriptions` depend on `tokens`.

        Args:
            images: [B, 3, H, W], normalised.
            tokens: [B, L] descriptions, tokenised by `query_tower`, on the device of the images.

        Returns:
            [B, D] L2-normalised test embeddings.
        """
        del tokens
        return self.embed_images(images)

    def embedding_facts(self) -> dict[str, Any]:
        """Return `facts` as far as `rebuild` needs them to compute test embeddings.

        Exported models contain them, so they name no training image.
        """
        return self.facts()

    def end_stage(self, stage: str, probe: Probe) -> None:
        """Freeze what the stage learned and cache what the next one needs."""

    def end_domain(self, probe: Probe) -> None:
        """Interpolate weights; refresh and freeze prototypes."""

    def replay_records(self) -> Sequence[Record]:
        """Return the exemplars that the current domain's batches contain as `Batch.replay`.

        Called after `begin_domain`, and again when a run resumes within a domain: it must then
        return the same records in the same order. `person_id` counts over all learned domains.
        Every batch of every stage contains `replay_shape` exemplars (fewer persons if fewer are
        available). They are sampled with a separate seed and augmented like the other images.
        The default is no exemplars.
        """
        return ()

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """Return the last layer shared by the loss terms, where GradNorm measures gradients."""
        return ()

    def memory_state(self) -> dict[str, Tensor]:
        """Return tensors that other processes may read during training (prototypes)."""
        return {}

    def load_memory_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the published version of `memory_state`, identical on every worker."""

    def stored_bytes_per_domain(self) -> float:
        """Return the bytes stored per learned domain in addition to the network."""
        return 0.0

    def save_state(self) -> LearnerState:
        """Return the state for `load_state`, without the tensors listed in `unsaved`."""
        tensors = {
            path: tensor.detach().cpu().clone()
            for path, tensor in self.state_dict().items()
            if not path.startswith(self.unsaved)
        }
        return LearnerState(tensors, self.facts())

    def facts(self) -> dict[str, Any]:
        """Return JSON-serialisable values from which `rebuild` restores the module structure."""
        return {}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create modules that exist only from a later domain on, such as a teacher."""

    def load_state(self, state: LearnerState) -> None:
        """Restore the result of `save_state`; tensors that grew take the saved shape.

        The tensors are copied: later training does not change `state`.

        Raises:
            KeyError: the learner and the checkpoint have different tensor paths.
        """
        self.rebuild(state.facts)
        expected = {path for path in self.state_dict() if not path.startswith(self.unsaved)}
        if missing := sorted(expected - state.tensors.keys()):
            raise KeyError(
                f"missing in the checkpoint: {missing[0]} and {len(missing) - 1} more tensors"
            )
        for path, tensor in state.tensors.items():
            _assign(self, path, tensor)


def _assign(root: nn.Module, path: str, tensor: Tensor) -> None:
    owner_path, _, name = path.rpartition(".")
    try:
        owner = root.get_submodule(owner_path)
        current = getattr(owner, name)
    except AttributeError as error:
        raise KeyError(f"unexpected tensor in the checkpoint: {path}") from error
    value = tensor.to(device=current.device, dtype=current.dtype, copy=True)
    if isinstance(current, nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=current.requires_grad))
    else:
        setattr(owner, name, value)
