"""Images/s of training in the steady state: the bare loop in one process, and under Ray Train."""

from __future__ import annotations

from runner.bench.measurements import Aim, Findings, Measurement, ratio
from runner.bench.timed_runs import steady_images_per_s
from runner.bench.workbench import Workbench


def measure(bench: Workbench) -> Findings:
    """`finetune`, and VLADR's image stage; both variants have the same threads."""
    return _measure(bench, "finetune", "finetune") + _measure(bench, "vladr", "icar")


def _measure(bench: Workbench, learner: str, stage: str) -> Findings:
    batch_size = bench.config(learner).global_batch
    speeds = {
        variant: Measurement(
            f"loop.{learner}.{variant}",
            "images/s",
            tuple(steady_images_per_s(trace.events, stage, batch_size) for trace in traces),
        )
        for variant, traces in bench.pairs(learner).items()
    }
    share = ratio(
        f"loop.{learner}.ray / in_process",
        speeds["ray"],
        speeds["in_process"],
        Aim(">=", 0.95),
    )
    return Findings(tuple(speeds.values()), (share,))
