"""Steady-state training throughput in one process and on Ray Train, in images/s."""

from __future__ import annotations

from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.timed_runs import steady_images_per_s
from runner.bench.workbench import Workbench


def measure(workbench: Workbench) -> BenchResult:
    """Measures `finetune` and VLADR's image stage; both variants use the same number of threads."""
    return _measure(workbench, "finetune", "finetune") + _measure(workbench, "vladr", "icar")


def _measure(workbench: Workbench, learner: str, stage: str) -> BenchResult:
    batch_size = workbench.config(learner).global_batch
    speeds = {
        variant: Measurement(
            f"loop.{learner}.{variant}",
            "images/s",
            tuple(steady_images_per_s(trace.events, stage, batch_size) for trace in traces),
        )
        for variant, traces in workbench.pairs(learner).items()
    }
    share = ratio(
        f"loop.{learner}.ray / in_process",
        speeds["ray"],
        speeds["in_process"],
        Target(">=", 0.95),
    )
    return BenchResult(tuple(speeds.values()), (share,))
