"""The lifelong training loop of one worker: domains x stages x epochs.

The loop is independent of Ray: images come from a `DomainStream` and other workers are reached
through a `WorkerGroup`, so a run in one process uses the same code. All random numbers are derived
from (seed, domain, stage, epoch), those that a training step draws (dropout) also from the rank. A
run resumed at an epoch boundary is therefore identical to an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.learner import Learner, LearnerState, Stage, StepResult
from runner.config.run_config import RunConfig
from runner.streaming.image_stream import DomainStream, OpenedDomain
from runner.streaming.prefetch import prefetch
from runner.tracking.event_log import EventLog
from runner.training.batching import (
    Replay,
    check_replay_shape,
    open_replay,
    to_device,
    training_batches,
)
from runner.training.checkpoints import Checkpoint, CheckpointStore, Position
from runner.training.collectives import WorkerGroup
from runner.training.evaluation import Embedder, truncated_texts
from runner.training.model_selection import selected_epoch
from runner.training.optim import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
    set_trainable,
    update,
)
from runner.training.precision import autocast
from runner.training.prototype_store import PrototypeStore
from runner.training.run_evaluator import RunEvaluator
from runner.training.run_state import RunState
from runner.training.step_logger import StepLogger
from runner.training.termination import StopRequest
from tasks.loading.sampling import derive_seed, num_iterations, num_underfilled_persons
from tasks.schema import Benchmark


@dataclass
class WorkerContext:
    """Resources of one worker.

    Attributes:
        stream: source of the images.
        prototypes: store that the learner's prototypes are published to.
        group: all workers of the run.
        checkpoints: checkpoints of the run.
        events: the event log; None on every worker but rank 0.
        device: where the learner is trained.
        stop: request to end the run after a checkpoint.
    """

    stream: DomainStream
    prototypes: PrototypeStore
    group: WorkerGroup
    checkpoints: CheckpointStore
    events: EventLog | None
    device: torch.device
    stop: StopRequest = field(default_factory=StopRequest)


class LifelongLoop:
    """Trains one learner on the domains of a benchmark, starting from the latest checkpoint."""

    def __init__(
        self, config: RunConfig, benchmark: Benchmark, learner: Learner, context: WorkerContext
    ) -> None:
        self.config = config
        self.benchmark = benchmark
        self.context = context
        self.device = context.device
        self.learner = learner.to(self.device)
        self.state = RunState.begin(benchmark)
        stream, group, checkpoints = context.stream, context.group, context.checkpoints
        self.embedder = Embedder(
            self.learner, stream, group, self.device, config.data, config.precision
        )
        self.evaluator = RunEvaluator(
            self.embedder, benchmark, config.evaluation, checkpoints, context.events, config.seed
        )
        self._replay: Replay | None = None

    def run(self) -> RunState:
        """Trains on all remaining domains; returns the same run state on every worker."""
        self._check_stages()
        checkpoint = self._latest_checkpoint()
        if checkpoint is None:
            position = Position()
            self._emit_plan()
            if self.benchmark.steps:
                self.evaluator.evaluate(self.state, 0)
            else:  # without training, the initial scores are also the final ones
                self.evaluator.evaluate(self.state, 0, self.state.test.num_steps)
                self._save_domain(-1, "nothing")
            self._save(position, None)
        else:
            position = self._restore(checkpoint)
            self._emit_plan()
        self.context.group.barrier()
        self.context.stop.check()
        optimizer_state = checkpoint.optimizer if checkpoint else None
        for index in range(position.domain, len(self.benchmark.steps)):
            start = position if index == position.domain else Position(domain=index)
            self._learn_domain(start, optimizer_state)
            optimizer_state = None
        return self.state

    def _latest_checkpoint(self) -> Checkpoint | None:
        """Loads the newest undamaged checkpoint and warns of damaged ones.

        Raises:
            RuntimeError: this worker cannot read the checkpoint that rank 0 reads.
        """
        checkpoints, group = self.context.checkpoints, self.context.group
        checkpoint = checkpoints.latest()
        position = checkpoint.position if checkpoint else None
        if (expected := group.broadcast(position)) != position:
            raise RuntimeError(
                f"worker {group.rank} read checkpoint {position}, but rank 0 read {expected}; "
                f"check that every node sees the same files in {checkpoints.folder}"
            )
        for damaged in checkpoints.damaged:
            self._log(
                f"checkpoint {damaged}; continuing from {position and position.name}: what was "
                "computed after it is computed again, with the same result"
            )
        return checkpoint

    def _check_stages(self) -> None:
        """Checks all stages before training starts.

        Raises:
            ValueError: a pattern matches no parameter, or a batch of exemplars cannot be divided
                among the workers.
        """
        if self.learner.replay_shape is not None:
            check_replay_shape(self.learner.replay_shape, self.context.group.world_size)
        for stage in self.learner.stages():
            set_trainable(self.learner, stage.trainable)
            build_optimizer(self.learner, stage.optimizer)

    # One domain -----------------------------------------------------------------------------

    def _learn_domain(self, start: Position, optimizer_state: dict[str, Any] | None) -> None:
        index = start.domain
        before = dict(self.state.seconds)
        with self.state.timed("waiting"):
            opened = self.context.stream.open(index)
        self._log_domain(opened)
        if start == Position(domain=index):
            self._seed("begin", opened.domain.name)
            with self.state.timed("probing"):
                self.learner.begin_domain(opened.domain, self.embedder.probe(opened))
            if message := truncated_texts(self.learner, opened.domain.name):
                self._log(message)
        with self.state.timed("waiting"):
            self._open_replay()
        stages = self.learner.stages()
        for number in range(start.stage, len(stages)):
            first = start if number == start.stage else Position(index, number)
            self._train_stage(opened, stages[number], first, optimizer_state)
            optimizer_state = None
        self._seed("end", opened.domain.name)
        with self.state.timed("probing"):
            self.learner.end_domain(self.embedder.probe(opened))
        self._publish_prototypes(opened.domain.name)
        self._replay = None
        self.context.stream.release(index)
        last = index + 1 == len(self.benchmark.steps)
        row = self.evaluator.evaluate(self.state, self.state.test.num_steps if last else index + 1)
        self.evaluator.add_candidate(self.state, stages[-1].epochs, row)
        self._save_domain(index, opened.domain.name)
        self._save(Position(domain=index + 1), None)
        self._emit(
            "domain_finished",
            domain=opened.domain.name,
            domain_index=index,
            timings={
                name: seconds - before.get(name, 0.0)
                for name, seconds in self.state.seconds.items()
            },
            memory_version=self.state.memory_versions.get(opened.domain.name),
            stored_bytes_per_domain=self.learner.stored_bytes_per_domain(),
        )
        if not last:
            self.context.stop.check()

    def _open_replay(self) -> None:
        """Decodes the learner's exemplars of earlier domains, if it has any."""
        records, shape = self.learner.replay_records(), self.learner.replay_shape
        if not records:
            return
        assert shape is not None, "a learner with exemplars must define replay_shape"
        world_size = self.context.group.world_size
        self._replay = open_replay(records, shape, self.context.stream, world_size)
        shape = self._replay.shape
        self._log(
            f"each batch includes {shape.num_persons} persons x {shape.images_per_person} images "
            f"sampled from {len(records)} exemplars of earlier domains",
            level="info",
        )

    def _save_domain(self, index: int, domain: str) -> None:
        """Saves the learner after the domain at `index` if `checkpoints.keep_domains` is set."""
        if self.context.group.rank == 0 and self.config.checkpoints.keep_domains:
            state = self.learner.save_state()
            self.context.checkpoints.save_domain(index, domain, state.tensors, state.facts)

    def _log_domain(self, opened: OpenedDomain) -> None:
        self.state.unreadable_images[opened.domain.name] = opened.num_unreadable
        images_per_person = self.config.data.images_per_person
        num_underfilled = num_underfilled_persons(opened.domain.person_ids, images_per_person)
        name = opened.domain.name
        if num_underfilled:
            self._log(
                f"{name}: {num_underfilled} of {opened.domain.num_persons} identities have fewer "
                f"than {images_per_person} images; these are sampled with replacement"
            )
        if opened.num_unreadable:
            self._log(
                f"{name}: {opened.num_unreadable} unreadable training images, see quarantine.jsonl"
            )

    def _publish_prototypes(self, domain: str) -> None:
        """Publishes the prototypes of rank 0 and loads the published version on every worker."""
        state = self.learner.memory_state()
        if not state:
            return
        group, store = self.context.group, self.context.prototypes
        if group.rank == 0:
            self.state.memory_version = store.publish(state, self.state.memory_version)
        self.state.memory_version = group.broadcast(self.state.memory_version)
        self.state.memory_versions[domain] = self.state.memory_version
        _, tensors = store.latest()
        self.learner.load_memory_state(
            {name: tensor.to(self.device, copy=True) for name, tensor in tensors.items()}
        )

    # One stage ------------------------------------------------------------------------------

    def _train_stage(
        self,
        opened: OpenedDomain,
        stage: Stage,
        start: Position,
        optimizer_state: dict[str, Any] | None,
    ) -> None:
        """Trains a stage from the epoch and iteration of `start`."""
        set_trainable(self.learner, stage.trainable)
        optimizer = build_optimizer(self.learner, stage.optimizer)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        module = self._distributed()
        self._emit(
            "stage",
            domain=opened.domain.name,
            domain_index=start.domain,
            stage=stage.name,
            epochs=stage.epochs,
            iterations_per_epoch=self._iterations(opened.domain.person_ids),
            first_iteration=self.state.iteration,
        )
        for epoch in range(start.epoch, stage.epochs):
            first = start if epoch == start.epoch else replace(start, epoch=epoch, iteration=0)
            with self.state.timed("training"):
                self._train_epoch(opened, stage, first, optimizer, module)
            last = epoch + 1 == stage.epochs
            if not last and start.stage + 1 == len(self.learner.stages()):
                self.evaluator.add_candidate(self.state, epoch + 1)
            stop = self.context.stop.is_set()
            if stop or last or (epoch + 1) % self.config.checkpoints.every_epochs == 0:
                self._save(replace(start, epoch=epoch + 1, iteration=0), optimizer)
            if stop:
                self.context.stop.finish()
        self._seed(opened.domain.name, stage.name, "end")
        with self.state.timed("probing"):
            self.learner.end_stage(stage.name, self.embedder.probe(opened))

    def _train_epoch(
        self,
        opened: OpenedDomain,
        stage: Stage,
        start: Position,
        optimizer: torch.optim.Optimizer,
        module: nn.Module,
    ) -> None:
        """Trains an epoch from the iteration of `start`."""
        epoch, first, rank = start.epoch, start.iteration, self.context.group.rank
        iterations = self._iterations(opened.domain.person_ids)
        position = {
            "domain": opened.domain.name,
            "domain_index": start.domain,
            "stage": stage.name,
            "epoch": epoch,
        }
        logger = StepLogger(self.context.events, position, self.config.global_batch)
        batches = training_batches(
            self.config, self.context.group, opened, stage, epoch, self._replay, self.device
        )
        self.learner.train()
        for number, batch in enumerate(prefetch(islice(batches, first, None), depth=2), first):
            factor = learning_rate_factor(
                stage.optimizer.schedule,
                epoch * iterations + number,
                iterations,
                stage.epochs * iterations,
            )
            set_learning_rate(optimizer, stage.optimizer.lr * factor)
            # Other dropout masks on every worker; rank 0 draws those of a run with one worker.
            self._seed(opened.domain.name, stage.name, epoch, number, *((rank,) if rank else ()))
            inputs = to_device(batch, self.device, self.config.data.transform)
            with autocast(self.config.precision, self.device):
                result: StepResult = module(inputs, stage.name)
            gradient_norm = update(optimizer, result.loss, self.config.training.clip_norm)
            learning_rate = stage.optimizer.lr * factor
            logger.add(self.state.iteration, result, learning_rate, gradient_norm)
            self.state.iteration += 1
            self.state.count("trained_images", self.config.global_batch)
            if number + 1 < iterations and self.context.stop.is_set():
                logger.flush()
                self._save(replace(start, iteration=number + 1), optimizer)
                self.context.stop.finish()
        logger.flush()

    def _distributed(self) -> nn.Module:
        if self.context.group.world_size == 1:
            return self.learner
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.learner, device_ids=ids, broadcast_buffers=False)

    # Checkpoints and events -----------------------------------------------------------------

    def _save(self, position: Position, optimizer: torch.optim.Optimizer | None) -> None:
        if self.context.group.rank != 0:
            return
        with self.state.timed("checkpoints"):
            state = self.learner.save_state()
            self.context.checkpoints.save(
                Checkpoint(
                    position=position,
                    tensors=state.tensors,
                    facts=state.facts,
                    optimizer=optimizer.state_dict() if optimizer else None,
                    run_state=self.state.to_json(),
                    selected_epoch=selected_epoch(self.state.candidates),
                )
            )
            self.context.checkpoints.drop_selected(keep_epoch=selected_epoch(self.state.candidates))

    def _restore(self, checkpoint: Checkpoint) -> Position:
        self.learner.load_state(LearnerState(checkpoint.tensors, checkpoint.facts))
        self.learner.to(self.device)
        self.state = RunState.from_json(self.benchmark, checkpoint.run_state)
        position = checkpoint.position
        if self.context.group.rank == 0:
            store = self.context.prototypes
            store.reset(self.state.memory_version, self.learner.memory_state())
            # The earlier start may have been killed after its last checkpoint, before this call.
            self.context.checkpoints.drop_selected(keep_epoch=selected_epoch(self.state.candidates))
        self._log(f"resumed at {position}", level="info")
        return position

    def _emit_plan(self) -> None:
        per_domain = [
            self.learner.planned_epochs(index) * self._iterations(domain.person_ids)
            for index, domain in enumerate(self.benchmark.steps)
        ]
        self._emit("plan", total_iterations=sum(per_domain), first_iteration=self.state.iteration)

    def _emit(self, event: str, **fields: Any) -> None:
        if self.context.events is not None:
            self.context.events.emit(event, **fields)

    def _log(self, message: str, level: str = "warning") -> None:
        self._emit("log", level=level, message=message)

    def _iterations(self, person_ids: np.ndarray) -> int:
        data = self.config.data
        return num_iterations(person_ids, data.persons_per_batch, data.images_per_person)

    def _seed(self, *keys: int | str) -> None:
        """Seeds torch from `keys`, so that a resumed run draws the same random numbers.

        All workers draw the same numbers: learners initialise new parameters from them.
        """
        torch.manual_seed(derive_seed(self.config.seed, *keys))
