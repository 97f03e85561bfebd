"""What the benches share: a scratch folder, how large everything is, and runs that several read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.bench.timed_runs import Trace, run_command
from runner.config.run_config import RunConfig, load_config
from runner.profiling.interleave import interleaved
from tasks.synthetic.domains import training_domains


@dataclass(frozen=True)
class Sizes:
    """How much work a repeat of each bench is.

    Attributes:
        num_train_identities: people of a training domain of the runs.
        num_test_identities: test people of each of their domains.
        num_finetune_epochs: epochs of fine-tuning, in one domain.
        num_icar_epochs: epochs of VLADR's image stage, in each of two domains.
        num_decoded_images: images of the domain that is decoded.
        num_evaluated_copies: times that the test images of the runs are evaluated in one pass.
        step_backbone: open_clip's name of the network of the step.
        step_image_height: its input in pixels; the width is half of it.
        ranking_divisor: of the real data sets' sizes, for the splits that are ranked.
        num_indexed_vectors: of the gallery index.
        num_doctored_images: that the doctor opens.
        num_trials: of a sweep of the small runs.
    """

    num_train_identities: int = 56
    num_test_identities: int = 16
    num_finetune_epochs: int = 8
    num_icar_epochs: int = 5
    num_decoded_images: int = 4096
    num_evaluated_copies: int = 12
    step_backbone: str = "ViT-B-16-quickgelu"
    step_image_height: int = 256
    ranking_divisor: int = 1
    num_indexed_vectors: int = 1_000_000
    num_doctored_images: int = 50_000
    num_trials: int = 4

    @staticmethod
    def quick() -> Sizes:
        """Just enough to see that every bench works; its numbers say nothing."""
        return Sizes(24, 4, 2, 2, 48, 1, "tiny-clip", 64, 50, 12_000, 240, 2)


class Workbench:
    """Where benches run.

    Args:
        folder: an empty scratch folder; data, runs and all else go there.
        repeats: how often everything is measured, at least once.
        sizes: how much work a repeat is.
    """

    def __init__(self, folder: Path, repeats: int, sizes: Sizes) -> None:
        self.folder = folder
        self.repeats = repeats
        self.sizes = sizes
        self._pairs: dict[str, dict[str, list[Trace]]] = {}
        self._num_runs = 0

    def overrides(self, learner: str) -> list[str]:
        """What the small runs of a learner change in its demo preset."""
        sizes = self.sizes
        own = {
            "finetune": [
                f"learner.epochs={sizes.num_finetune_epochs}",
                f"benchmark.order=[{training_domains()[0].name}]",
            ],
            "vladr": [
                "learner.mtad_identity.epochs=1",
                "learner.mtad_attribute.epochs=1",
                f"learner.icar.epochs={sizes.num_icar_epochs}",
            ],
        }
        return [
            *own[learner],
            # Speed does not depend on the weights; random ones need no file.
            "backbone.weights=random",
            f"benchmark.root={self.folder / 'data'}",
            "benchmark.num_validation_identities=8",
            "benchmark.synthetic.num_seen_domains=2",
            "benchmark.synthetic.num_unseen_domains=0",
            f"benchmark.synthetic.num_train_identities={sizes.num_train_identities}",
            f"benchmark.synthetic.num_test_identities={sizes.num_test_identities}",
            "cluster.address=local",
            f"storage.root={self.folder / 'runs'}",
            f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}",
        ]

    def config(self, learner: str, *overrides: str) -> RunConfig:
        """The configuration of the small runs of a learner."""
        return load_config(f"demo-{learner}", [*self.overrides(learner), *overrides])

    def run(self, learner: str, *overrides: str) -> Trace:
        """One small run by the command line; every call is a new run."""
        self._num_runs += 1
        name = f"{learner}-{self._num_runs}"
        changes = [*self.overrides(learner), *overrides, f"run.name={name}"]
        return run_command(f"demo-{learner}", changes, self.folder / "runs" / name)

    def sweep_arguments(self, learner: str, space: Path) -> list[str]:
        """What `sweep` is given for a search over small runs; every call is a new sweep."""
        self._num_runs += 1
        of_runs = ("storage.root", "tracking.uri")
        overrides = [each for each in self.overrides(learner) if not each.startswith(of_runs)]
        return [
            *(str(space), "--preset", f"demo-{learner}", "--name", f"sweep-{self._num_runs}"),
            *("--sweeps", str(self.folder / "sweeps"), "--trials", str(self.sizes.num_trials)),
            *("--concurrent", "1", "--sampler", "random", "--scheduler", "none"),
            # Runs in one process are not tracked either.
            *(*overrides, "tracking.uri=null"),
        ]

    def pairs(self, learner: str) -> dict[str, list[Trace]]:
        """Runs `in_process` and on `ray`, in turns and otherwise alike; once for all benches."""
        if learner not in self._pairs:
            from runner.experiment import read_benchmark

            read_benchmark(self.config(learner))  # draws the people, which no run is to pay for
            self._pairs[learner] = interleaved(
                {
                    "in_process": lambda: self.run(learner, "cluster.num_workers=0"),
                    "ray": lambda: self.run(learner, "cluster.num_workers=1"),
                },
                self.repeats,
            )
        return self._pairs[learner]
