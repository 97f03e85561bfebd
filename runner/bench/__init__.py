"""Benchmarks of the runner: one module each, with `measure(workbench) -> BenchResult`."""
