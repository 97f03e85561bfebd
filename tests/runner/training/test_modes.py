"""Train and eval mode in a whole run: every learner comes out of a pass as it went in."""

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

MakeConfig = Callable[..., RunConfig]
Modes = dict[str, bool]


def modes_of(module: nn.Module) -> Modes:
    return {path: part.training for path, part in module.named_modules()}


def test_every_part_gets_its_own_mode_back() -> None:
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


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("learner", learner_names())
def test_passes_leave_every_mode_as_it_was(
    learner: str, tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of evaluations and of passes over the training images; inside, all is in eval mode."""
    inside: list[Modes] = []
    around: list[tuple[str, Modes, Modes]] = []
    evaluate, probe = loop.LifelongLoop._evaluate, loop.LifelongLoop._probe

    def watched_evaluate(self: loop.LifelongLoop, *steps: int) -> None:
        self.learner.train()  # as after training, also where there was none
        before = modes_of(self.learner)
        evaluate(self, *steps)
        around.append(("evaluation", before, modes_of(self.learner)))

    def watched_probe(self: loop.LifelongLoop, opened: Any) -> Any:
        passing = probe(self, opened)

        def watched(encode: Any) -> Any:
            def encode_and_look(images: Any) -> Any:
                inside.append(modes_of(self.learner))
                return encode(images)

            before = modes_of(self.learner)
            found = passing(encode_and_look)
            around.append(("pass", before, modes_of(self.learner)))
            return found

        return watched

    class Watched(loop.Embedder):
        def images(self, records: Any) -> Any:
            embed = self.learner.embed_gallery

            def embed_and_look(images: Any, descriptions: Any) -> Any:
                inside.append(modes_of(self.learner))
                return embed(images, descriptions)

            monkeypatch.setattr(self.learner, "embed_gallery", embed_and_look)
            try:
                return super().images(records)
            finally:
                monkeypatch.delattr(self.learner, "embed_gallery")

    monkeypatch.setattr(loop.LifelongLoop, "_evaluate", watched_evaluate)
    monkeypatch.setattr(loop.LifelongLoop, "_probe", watched_probe)
    monkeypatch.setattr(loop, "Embedder", Watched)
    run_experiment(tiny_config(tmp_path, learner))
    assert all(not any(modes.values()) for modes in inside)
    assert len(inside) >= len(around) > 0
    for kind, before, after in around:
        assert before == after, kind
    assert any(any(before.values()) for _, before, _ in around)
