"""Cost of BDAM's fusion modules when gallery images are embedded with their descriptions.

Parameters and FLOPs are counted; latency and memory are measured with untrained weights on batches
of 32 random images with the descriptions of 32 synthetic people.
"""

from __future__ import annotations

from runner.bench.measurements import BenchResult, Measurement, ratio
from runner.bench.workbench import Workbench
from runner.config.run_config import load_config
from runner.profiling.fusion_cost import measure_costs

MIXERS = ("none", "simple", "transformer", "mamba")


def measure(workbench: Workbench) -> BenchResult:
    """Measures the four mixers at the sizes of preset demo-t2i; ratios are relative to `simple`."""
    configs = {
        mixer: load_config("demo-t2i", [f"learner.fusion.mixer={mixer}", "backbone.weights=random"])
        for mixer in MIXERS
    }
    result = BenchResult(())
    costs = measure_costs(configs, workbench.repeats)
    times = {
        mixer: Measurement(f"fusion.{mixer}.image", "ms/image", cost.image_ms)
        for mixer, cost in costs.items()
    }
    for mixer, cost in costs.items():
        counted = {
            "parameters": ("", cost.num_parameters),
            "flops": ("MFLOP/image", cost.flops / 1e6),
            "image_flops": ("MFLOP/image", cost.image_flops / 1e6),
            "memory": ("MB", cost.memory_bytes / 1e6),
        }
        result += BenchResult(
            (
                *(
                    Measurement(f"fusion.{mixer}.{name}", unit, (float(value),))
                    for name, (unit, value) in counted.items()
                ),
                Measurement(f"fusion.{mixer}.alone", "ms/image", cost.fusion_ms),
                times[mixer],
            ),
            (ratio(f"fusion.image.{mixer} / simple", times[mixer], times["simple"]),)
            if mixer != "simple"
            else (),
        )
    return result
