"""What BDAM's kinds of fusion cost where a gallery image is embedded with its description.

Parameters and FLOPs are counted, latency and memory are measured, of batches of 32 random images
and the identity descriptions of 32 drawn people, by learners with the weights that they begin with.
"""

from __future__ import annotations

from runner.bench.measurements import Findings, Measurement, ratio
from runner.bench.workbench import Workbench
from runner.config.run_config import load_config
from runner.profiling.fusion_cost import measure_costs

MIXERS = ("none", "simple", "transformer", "mamba")


def measure(bench: Workbench) -> Findings:
    """The four mixers at the sizes of preset demo-t2i; ratios are to `simple`."""
    configs = {
        mixer: load_config("demo-t2i", [f"learner.fusion.mixer={mixer}", "backbone.weights=random"])
        for mixer in MIXERS
    }
    found = Findings(())
    costs = measure_costs(configs, bench.repeats)
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
        found += Findings(
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
    return found
