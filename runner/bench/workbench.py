"""Shared state of the benchmarks: scratch folder, sizes, and runs used by several of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.bench.timed_runs import Trace, run_command
from runner.config.run_config import RunConfig, load_config
from runner.profiling.interleave import interleaved
from tasks.synthetic.domains import training_domains


@dataclass(frozen=True)
class Sizes:
    """Amount of work per repeat of the benchmarks.

    Attributes:
        num_train_identities: training identities per domain of the runs.
        num_test_identities: test identities per domain of the runs.
        num_finetune_epochs: epochs of fine-tuning on one domain.
        num_icar_epochs: epochs of VLADR's image stage on each of two domains.
        step_backbone: open_clip name of the backbone of the training step.
        step_image_height: height of its input in pixels; the width is half of it.
        view_height: height in pixels of images that are augmented; the width is half of it.
        ranking_divisor: divisor of the sizes of the real data sets for ranking.
        num_doctor_images: images opened by `doctor`.
        num_trials: trials of the sweep.
    """

    num_train_identities: int = 56
    num_test_identities: int = 16
    num_finetune_epochs: int = 8
    num_icar_epochs: int = 5
    step_backbone: str = "ViT-B-16-quickgelu"
    step_image_height: int = 256
    view_height: int = 256
    ranking_divisor: int = 1
    num_doctor_images: int = 50_000
    num_trials: int = 4

    @staticmethod
    def quick() -> Sizes:
        """Minimal sizes to check that all benchmarks work; the measurements are meaningless."""
        return Sizes(24, 4, 2, 2, "tiny-clip", 64, 64, 50, 240, 2)


class Workbench:
    """Settings and cached runs of a benchmark session.

    Args:
        folder: empty scratch folder for data and runs.
        repeats: number of repeats of each measurement, at least 1.
        sizes: amount of work per repeat.
    """

    def __init__(self, folder: Path, repeats: int, sizes: Sizes) -> None:
        self.folder = folder
        self.repeats = repeats
        self.sizes = sizes
        self._pairs: dict[str, dict[str, list[Trace]]] = {}
        self._num_runs = 0

    def overrides(self, learner: str) -> list[str]:
        """Overrides of the demo preset of a learner for the small runs."""
        sizes = self.sizes
        by_learner = {
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
            *by_learner[learner],
            # The speed does not depend on the weights; random weights need no file.
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
        """Configuration of the small runs of a learner."""
        return load_config(f"demo-{learner}", [*self.overrides(learner), *overrides])

    def run(self, learner: str, *overrides: str) -> Trace:
        """Starts a new small run with the command line."""
        self._num_runs += 1
        name = f"{learner}-{self._num_runs}"
        changes = [*self.overrides(learner), *overrides, f"run.name={name}"]
        return run_command(f"demo-{learner}", changes, self.folder / "runs" / name)

    def sweep_arguments(self, learner: str, space: Path) -> list[str]:
        """Arguments of the command `sweep` for a new sweep of small runs."""
        self._num_runs += 1
        run_settings = ("storage.root", "tracking.uri")
        overrides = [each for each in self.overrides(learner) if not each.startswith(run_settings)]
        return [
            *(str(space), "--preset", f"demo-{learner}", "--name", f"sweep-{self._num_runs}"),
            *("--sweeps", str(self.folder / "sweeps"), "--trials", str(self.sizes.num_trials)),
            *("--concurrent", "1", "--sampler", "random", "--scheduler", "none"),
            # Single in-process runs are not tracked either.
            *(*overrides, "tracking.uri=null"),
        ]

    def pairs(self, learner: str) -> dict[str, list[Trace]]:
        """Runs the learner `in_process` and on `ray`, in turn; the results are cached."""
        if learner not in self._pairs:
            from runner.experiment import read_benchmark

            read_benchmark(self.config(learner))  # generates the data before the measurement
            self._pairs[learner] = interleaved(
                {
                    "in_process": lambda: self.run(learner, "cluster.num_workers=0"),
                    "ray": lambda: self.run(learner, "cluster.num_workers=1"),
                },
                self.repeats,
            )
        return self._pairs[learner]
