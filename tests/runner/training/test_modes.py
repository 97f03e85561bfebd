"""Train and eval modes are restored after evaluations and probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from models.components.reid_network import Frozen
from runner.config.run_config import RunConfig, learner_names
from runner.experiment import run_experiment
from runner.training import loop
from runner.training.evaluation import evaluating
from runner.training.run_evaluator import RunEvaluator

MakeConfig = Callable[..., RunConfig]
Modes = dict[str, bool]


def modes_of(module: nn.Module) -> Modes:
    return {path: part.training for path, part in module.named_modules()}


def test_evaluating_restores_the_mode_of_each_submodule() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), Frozen(nn.Dropout())))
    module[0].eval()
    before = modes_of(module)
    assert set(before.values()) == {True, False}
    with evaluating(module):
        assert not any(modes_of(module).values())
    assert modes_of(module) == before
    with pytest.raises(KeyError), evaluating(module):
        raise KeyError
    assert modes_of(module) == before


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("learner", learner_names())
def test_runs_restore_train_mode_after_evaluation(
    learner: str, tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations and probes compute in eval mode and restore the previous modes."""
    inside: list[Modes] = []
    around: list[tuple[str, Modes, Modes]] = []
    evaluate = RunEvaluator.evaluate

    def watched_evaluate(self: RunEvaluator, state: Any, *steps: int) -> Any:
        learner = self.embedder.learner
        learner.train()  # as after training, also where there was none
        before = modes_of(learner)
        row = evaluate(self, state, *steps)
        around.append(("evaluation", before, modes_of(learner)))
        return row

    class WatchedEmbedder(loop.Embedder):
        def probe(self, opened: Any) -> Any:
            probe = super().probe(opened)

            def watched(encode: Any) -> Any:
                def watched_encode(images: Any) -> Any:
                    inside.append(modes_of(self.learner))
                    return encode(images)

                before = modes_of(self.learner)
                rows = probe(watched_encode)
                around.append(("probe", before, modes_of(self.learner)))
                return rows

            return watched

        def images(self, records: Any) -> Any:
            embed = self.learner.embed_gallery

            def watched_embed(images: Any, descriptions: Any) -> Any:
                inside.append(modes_of(self.learner))
                return embed(images, descriptions)

            monkeypatch.setattr(self.learner, "embed_gallery", watched_embed)
            try:
                return super().images(records)
            finally:
                monkeypatch.delattr(self.learner, "embed_gallery")

    monkeypatch.setattr(RunEvaluator, "evaluate", watched_evaluate)
    monkeypatch.setattr(loop, "Embedder", WatchedEmbedder)
    run_experiment(tiny_config(tmp_path, learner))
    assert all(not any(modes.values()) for modes in inside)
    assert len(inside) >= len(around) > 0
    for kind, before, after in around:
        assert before == after, kind
    assert any(any(before.values()) for _, before, _ in around)
