"""Evaluation of the learner during a run, and the candidates for model selection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from runner.config.sections import EvaluationConfig
from runner.tracking.event_log import EventLog
from runner.training.checkpoints import CheckpointStore
from runner.training.evaluation import Embedder, EvaluationRow, evaluate_domains
from runner.training.model_selection import selected_epoch
from runner.training.run_state import RunState
from tasks.schema import Benchmark


@dataclass(frozen=True)
class RunEvaluator:
    """Evaluates the learner and records the scores in the run state.

    Attributes:
        embedder: embeds images and texts with the learner.
        benchmark: the domains of the run.
        config: the section `evaluation`.
        checkpoints: where rank 0 saves the selected learner.
        events: the event log; None on every worker but rank 0.
        seed: the run's seed, for the random galleries of the single-gallery-shot protocol.
    """

    embedder: Embedder
    benchmark: Benchmark
    config: EvaluationConfig
    checkpoints: CheckpointStore
    events: EventLog | None
    seed: int

    def evaluate(self, state: RunState, *steps: int) -> EvaluationRow:
        """Evaluates all domains once and records the scores as the rows of `steps`."""
        row = self._evaluate_domains(state, self.benchmark)
        if row.num_unreadable != state.unreadable_test_images:
            state.unreadable_test_images = row.num_unreadable
            if self.events is not None:
                message = (
                    f"unreadable test images: {row.num_unreadable}; the scores exclude them and "
                    "are not comparable with published ones, see quarantine.jsonl"
                )
                self.events.emit("log", level="warning", message=message)
        if self.events is not None:
            for message in row.truncated:
                self.events.emit("log", level="warning", message=message)
        matrices = {"test": state.test, "validation": state.validation}
        for step, (split, matrix) in product(steps, matrices.items()):
            scores = row.scores[split]
            for domain, domain_scores in scores.items():
                matrix.record(step, domain, domain_scores)
            if self.events is not None:
                self.events.emit(
                    "evaluation", step=step, split=split, scores=scores, seconds=row.seconds
                )
        return row

    def add_candidate(
        self, state: RunState, epoch: int, last_row: EvaluationRow | None = None
    ) -> None:
        """Adds the learner after `epoch` epochs to the candidates, if one is due.

        Emits an event, and rank 0 saves the learner if it is the best candidate so far.

        Args:
            state: the run state.
            epoch: epochs of the last stage that are done.
            last_row: scores after the last epoch, which is always a candidate; None evaluates the
                seen domains if `epoch` is a multiple of `evaluation.every_epochs`.
        """
        every = self.config.every_epochs
        if not every or (last_row is None and epoch % every):
            return
        (domain,) = self.benchmark.seen
        seen_only = replace(self.benchmark, unseen=())
        scores = (last_row or self._evaluate_domains(state, seen_only)).scores
        validation, test = (scores[split][domain.name] for split in ("validation", "test"))
        state.candidates.append({"epoch": epoch, "validation": validation, "test": test})
        if self.events is not None:
            self.events.emit(
                "candidate", domain=domain.name, epoch=epoch, validation=validation, test=test
            )
        if self.embedder.group.rank == 0 and selected_epoch(state.candidates) == epoch:
            learner_state = self.embedder.learner.save_state()
            self.checkpoints.save_selected(epoch, learner_state.tensors, learner_state.facts)

    def _evaluate_domains(self, state: RunState, benchmark: Benchmark) -> EvaluationRow:
        with state.timed("evaluation"):
            row = evaluate_domains(self.embedder, benchmark, self.config, seed=self.seed)
        state.count("evaluated_images", row.num_images)
        return row
