"""One module a bench, with `measure(bench: Workbench) -> Findings`; `runner.bench` runs them."""
