"""Domains x stages x epochs, for one worker: the lifelong protocol itself.

Nothing here knows Ray: images come from a DomainStream, other workers are a WorkerGroup, and a run
in one plain process is the same code. Every random draw derives from (seed, domain, stage, epoch),
so the loop can begin again at any epoch boundary and repeat exactly what it would have done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.learner import Encode, Learner, LearnerState, Stage, StepResult
from runner.config.run_config import RunConfig
from runner.streaming.image_stream import DomainStream, OpenedDomain
from runner.streaming.prefetch import ahead
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
from runner.training.evaluation import Embedder, EvaluationRow, evaluate_domains, evaluating
from runner.training.model_selection import chosen_epoch
from runner.training.optim import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
    set_trainable,
)
from runner.training.precision import autocast
from runner.training.prototype_store import MemoryStore
from runner.training.run_state import Progress
from runner.training.step_logger import StepLog
from tasks.loading.sampling import derive_seed, num_iterations, underfilled_persons
from tasks.loading.transforms import normalise
from tasks.schema import Benchmark


@dataclass
class WorkerContext:
    """What one worker is given: its part of the cluster, and the run's storage.

    `spool` is None on every worker but rank 0.
    """

    stream: DomainStream
    memory: MemoryStore
    group: WorkerGroup
    checkpoints: CheckpointStore
    spool: EventLog | None
    device: torch.device


class LifelongLoop:
    """Walks one learner through the benchmark's domains, from wherever the storage says."""

    def __init__(
        self, config: RunConfig, benchmark: Benchmark, learner: Learner, context: WorkerContext
    ) -> None:
        self.config = config
        self.benchmark = benchmark
        self.context = context
        self.device = context.device
        self.learner = learner.to(self.device)
        self.progress = Progress.begin(benchmark)
        self._replay: Replay | None = None

    def run(self) -> Progress:
        """Trains and evaluates until every domain is learned; the same on every worker."""
        self._check_stages()
        checkpoint = self.context.checkpoints.latest()
        if checkpoint is None:
            position = Position()
            self._emit_plan()
            # Where nothing is learned, what was before is also what comes out in the end.
            self._evaluate(0, *(() if self.benchmark.steps else (self.progress.test.num_steps,)))
            if not self.benchmark.steps:
                self._keep(-1, "nothing")
            self._save(position, None)
        else:
            position = self._restore(checkpoint)
            self._emit_plan()
        self.context.group.barrier()
        optimizer_state = checkpoint.optimizer if checkpoint else None
        for index in range(position.domain, len(self.benchmark.steps)):
            start = position if index == position.domain else Position(domain=index)
            self._learn_domain(start, optimizer_state)
            optimizer_state = None
        return self.progress

    def _check_stages(self) -> None:
        """Refuses, before any work is done, what no worker could do.

        That is a pattern that matches no parameter, or exemplars that cannot be shared out.
        """
        if self.learner.replay_shape is not None:
            check_replay_shape(self.learner.replay_shape, self.context.group.world_size)
        for stage in self.learner.stages():
            set_trainable(self.learner, stage.trainable)
            build_optimizer(self.learner, stage.optimizer)

    # One domain -----------------------------------------------------------------------------

    def _learn_domain(self, start: Position, optimizer_state: dict[str, Any] | None) -> None:
        index = start.domain
        before = dict(self.progress.seconds)
        with self.progress.timed("waiting"):
            opened = self.context.stream.open(index)
        self._log_domain(opened)
        if (start.stage, start.epoch) == (0, 0):
            self._seed("begin", opened.domain.name)
            with self.progress.timed("probing"):
                self.learner.begin_domain(opened.domain, self._probe(opened))
        with self.progress.timed("waiting"):
            self._open_replay()
        stages = self.learner.stages()
        for number in range(start.stage, len(stages)):
            first_epoch = start.epoch if number == start.stage else 0
            self._train_stage(opened, index, number, stages[number], first_epoch, optimizer_state)
            optimizer_state = None
        self._seed("end", opened.domain.name)
        with self.progress.timed("probing"):
            self.learner.end_domain(self._probe(opened))
        self._publish_memory()
        self._replay = None
        self.context.stream.release(index)
        last = index + 1 == len(self.benchmark.steps)
        row = self._evaluate(self.progress.test.num_steps if last else index + 1)
        self._consider(stages[-1].epochs, row)
        self._keep(index, opened.domain.name)
        self._save(Position(domain=index + 1), None)
        self._emit(
            "domain_finished",
            domain=opened.domain.name,
            domain_index=index,
            timings={
                name: seconds - before.get(name, 0.0)
                for name, seconds in self.progress.seconds.items()
            },
        )

    def _open_replay(self) -> None:
        """Fetches the exemplars that the batches of the domain begun last carry, if any."""
        records, shape = self.learner.replay_records(), self.learner.replay_shape
        if not records:
            return
        assert shape is not None, "a learner with exemplars says how many a batch carries"
        world_size = self.context.group.world_size
        self._replay = open_replay(records, shape, self.context.stream, world_size)
        shape = self._replay.shape
        self._log(
            f"each batch carries {shape.num_persons} persons x {shape.images_per_person} images "
            f"drawn from {len(records)} exemplars of earlier domains",
            level="info",
        )

    def _keep(self, index: int, domain: str) -> None:
        """Keeps the learner as it is after the domain at `index`, if the run keeps any."""
        if self.context.group.rank == 0 and self.config.checkpoints.keep_domains:
            state = self.learner.save_state()
            self.context.checkpoints.save_domain(index, domain, state.tensors, state.facts)

    def _log_domain(self, opened: OpenedDomain) -> None:
        self.progress.unreadable_images[opened.domain.name] = opened.num_bad
        thin = underfilled_persons(opened.domain.person_ids, self.config.data.images_per_person)
        name = opened.domain.name
        if thin:
            self._log(
                f"{name}: {thin} of {opened.domain.num_persons} identities have fewer than "
                f"{self.config.data.images_per_person} images; they are drawn with replacement"
            )
        if opened.num_bad:
            self._log(f"{name}: {opened.num_bad} unreadable training images, see quarantine.jsonl")

    def _publish_memory(self) -> None:
        """Rank 0 publishes the prototypes; every worker then reads the published version."""
        state = self.learner.memory_state()
        if not state:
            return
        group, memory = self.context.group, self.context.memory
        if group.rank == 0:
            self.progress.memory_version = memory.publish(state, self.progress.memory_version)
        self.progress.memory_version = group.broadcast(self.progress.memory_version)
        _, tensors = memory.latest()
        self.learner.load_memory_state(
            {name: tensor.to(self.device, copy=True) for name, tensor in tensors.items()}
        )

    # One stage ------------------------------------------------------------------------------

    def _train_stage(
        self,
        opened: OpenedDomain,
        index: int,
        number: int,
        stage: Stage,
        first_epoch: int,
        optimizer_state: dict[str, Any] | None,
    ) -> None:
        set_trainable(self.learner, stage.trainable)
        optimizer = build_optimizer(self.learner, stage.optimizer)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        module = self._distributed()
        self._emit(
            "stage",
            domain=opened.domain.name,
            domain_index=index,
            stage=stage.name,
            epochs=stage.epochs,
            iterations_per_epoch=self._iterations(opened.domain.person_ids),
            first_iteration=self.progress.iteration,
        )
        for epoch in range(first_epoch, stage.epochs):
            self._seed(opened.domain.name, stage.name, epoch)
            with self.progress.timed("training"):
                self._train_epoch(opened, index, stage, epoch, optimizer, module)
            last = epoch + 1 == stage.epochs
            if not last and number + 1 == len(self.learner.stages()):
                self._consider(epoch + 1)
            if last or (epoch + 1) % self.config.checkpoints.every_epochs == 0:
                self._save(Position(index, number, epoch + 1), optimizer)
        self._seed(opened.domain.name, stage.name, "end")
        with self.progress.timed("probing"):
            self.learner.end_stage(stage.name, self._probe(opened))

    def _train_epoch(
        self,
        opened: OpenedDomain,
        index: int,
        stage: Stage,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        module: nn.Module,
    ) -> None:
        iterations = self._iterations(opened.domain.person_ids)
        where = {
            "domain": opened.domain.name,
            "domain_index": index,
            "stage": stage.name,
            "epoch": epoch,
        }
        log = StepLog(self.context.spool, where, self.config.global_batch)
        batches = training_batches(
            self.config, self.context.group, opened, stage, epoch, self._replay
        )
        self.learner.train()
        for number, batch in enumerate(ahead(batches, depth=2)):
            factor = learning_rate_factor(
                stage.optimizer.schedule,
                epoch * iterations + number,
                iterations,
                stage.epochs * iterations,
            )
            set_learning_rate(optimizer, stage.optimizer.lr * factor)
            with autocast(self.config.precision, self.device):
                result: StepResult = module(to_device(batch, self.device), stage.name)
            optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            optimizer.step()
            log.add(self.progress.iteration, result, stage.optimizer.lr * factor)
            self.progress.iteration += 1
            self.progress.count("trained_images", self.config.global_batch)
        log.flush()

    def _distributed(self) -> nn.Module:
        if self.context.group.world_size == 1:
            return self.learner
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.learner, device_ids=ids, broadcast_buffers=False)

    # A pass over the training images ----------------------------------------------------------

    def _probe(self, opened: OpenedDomain) -> Any:
        """The learner's `Probe` for a domain: this worker's share, then everybody's rows."""

        def probe(encode: Encode) -> dict[str, Tensor]:
            group, size = self.context.group, self.config.data.evaluation_batch_size
            precision = self.config.precision
            share = np.array_split(np.arange(len(opened.domain.train)), group.world_size)[
                group.rank
            ]
            chunks: list[dict[str, Tensor]] = []
            with torch.no_grad(), evaluating(self.learner), autocast(precision, self.device):
                for start in range(0, len(share), size):
                    pixels = opened.images.fetch(share[start : start + size])
                    images = normalise(pixels, self.config.data.transform).to(self.device)
                    encoded = encode(images)
                    chunks.append({name: value.float() for name, value in encoded.items()})
            return {
                name: group.gather_rows(torch.cat([chunk[name] for chunk in chunks]))
                for name in chunks[0]
            }

        return probe

    # Evaluation, checkpoints, events ----------------------------------------------------------

    def _rank(self, benchmark: Benchmark) -> EvaluationRow:
        with self.progress.timed("evaluation"):
            config, context = self.config, self.context
            stream, group = context.stream, context.group
            embedder = Embedder(
                self.learner, stream, group, self.device, config.data, config.precision
            )
            row = evaluate_domains(embedder, benchmark, self.config.evaluation)
        self.progress.count("evaluated_images", row.num_images)
        return row

    def _consider(self, epoch: int, row: EvaluationRow | None = None) -> None:
        """Makes the network as it is after `epoch` epochs a candidate, if epochs are chosen among.

        The last one is ranked already, in `row`, and need not fall on an epoch that is due.
        """
        every = self.config.evaluation.every_epochs
        if not every or (row is None and epoch % every):
            return
        (domain,) = self.benchmark.seen
        scores = (row or self._rank(replace(self.benchmark, unseen=()))).scores
        validation, test = (scores[split][domain.name] for split in ("validation", "test"))
        candidates = self.progress.candidates
        candidates.append({"epoch": epoch, "validation": validation, "test": test})
        if self.context.group.rank == 0 and chosen_epoch(candidates) == epoch:
            state = self.learner.save_state()
            self.context.checkpoints.save_chosen(epoch, state.tensors, state.facts)

    def _evaluate(self, *steps: int) -> EvaluationRow:
        """Embeds and ranks once; the scores are recorded at each of these steps."""
        row = self._rank(self.benchmark)
        if row.num_unreadable != self.progress.unreadable_test_images:
            self.progress.unreadable_test_images = row.num_unreadable
            self._log(
                f"unreadable test images: {row.num_unreadable}; scores are of the others alone and "
                "not comparable with published ones, see quarantine.jsonl"
            )
        matrices = {"test": self.progress.test, "validation": self.progress.validation}
        for step, (split, matrix) in product(steps, matrices.items()):
            scores = row.scores[split]
            for domain, found in scores.items():
                matrix.record(step, domain, found)
            self._emit("evaluation", step=step, split=split, scores=scores, seconds=row.seconds)
        return row

    def _save(self, position: Position, optimizer: torch.optim.Optimizer | None) -> None:
        if self.context.group.rank != 0:
            return
        with self.progress.timed("checkpoints"):
            state = self.learner.save_state()
            self.context.checkpoints.save(
                Checkpoint(
                    position=position,
                    tensors=state.tensors,
                    facts=state.facts,
                    optimizer=optimizer.state_dict() if optimizer else None,
                    progress=self.progress.to_json(),
                )
            )
            self.context.checkpoints.drop_chosen(but=chosen_epoch(self.progress.candidates))

    def _restore(self, checkpoint: Checkpoint) -> Position:
        self.learner.load_state(LearnerState(checkpoint.tensors, checkpoint.facts))
        self.learner.to(self.device)
        self.progress = Progress.from_json(self.benchmark, checkpoint.progress)
        position = checkpoint.position
        if self.context.group.rank == 0:
            self.context.memory.reset(self.progress.memory_version, self.learner.memory_state())
            # Killed between a checkpoint and this, at the very end nobody would do it later.
            self.context.checkpoints.drop_chosen(but=chosen_epoch(self.progress.candidates))
        self._log(
            f"resumed at domain {position.domain + 1}, stage {position.stage + 1}, "
            f"epoch {position.epoch + 1}",
            level="info",
        )
        return position

    def _emit_plan(self) -> None:
        per_domain = [
            self.learner.planned_epochs(index) * self._iterations(domain.person_ids)
            for index, domain in enumerate(self.benchmark.steps)
        ]
        self._emit(
            "plan", total_iterations=sum(per_domain), first_iteration=self.progress.iteration
        )

    def _emit(self, event: str, **fields: Any) -> None:
        if self.context.spool is not None:
            self.context.spool.emit(event, **fields)

    def _log(self, message: str, level: str = "warning") -> None:
        self._emit("log", level=level, message=message)

    def _iterations(self, person_ids: np.ndarray) -> int:
        data = self.config.data
        return num_iterations(person_ids, data.persons_per_batch, data.images_per_person)

    def _seed(self, *keys: int | str) -> None:
        """Seeds torch for what follows, so that a resumed run draws what this one draws."""
        torch.manual_seed(derive_seed(self.config.seed, *keys))
