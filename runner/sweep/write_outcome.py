"""Files that a finished sweep leaves: tables, plots, presets."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.config.run_config import RunConfig, load_config, to_yaml
from runner.results.run_folder import write_atomically
from runner.sweep.outcome import BEST_FILE, PARETO_FOLDER, Outcome, config_file, gather, shown_path
from runner.sweep.settings import SweepSettings
from runner.sweep.space import SearchSpace
from runner.sweep.table import to_csv, to_json, to_markdown
from runner.sweep.trial_records import TrialRecord


def write_outcome(
    folder: Path,
    settings: SweepSettings,
    space: SearchSpace,
    config: RunConfig,
    *,
    quick: bool = False,
) -> Outcome:
    """Writes best.yaml, trials.csv, summary.json, table.md and the pictures, from the records.

    Every file is replaced as a whole, so this may be called at any time, also while trials run.

    Args:
        folder: of the sweep.
        settings: what it was asked to do.
        space: what is searched, within `config`.
        config: what every trial begins with, as the user's own run would have it.
        quick: leave out importances and pictures, which take seconds; for between two trials.
    """
    # Matplotlib takes a second to import.
    from runner.sweep.plot import write_plots

    outcome = gather(folder, settings, space, config, quick=quick)
    _write_presets(outcome, config)
    write_atomically(folder / "trials.csv", to_csv(outcome))
    write_atomically(folder / "summary.json", to_json(outcome))
    write_atomically(folder / "table.md", to_markdown(outcome))
    if not quick:
        write_plots(outcome)
    return outcome


def _write_presets(outcome: Outcome, config: RunConfig) -> None:
    """best.yaml, and pareto/<number>.yaml of several objectives; removes what holds no more."""
    folder = outcome.folder
    if outcome.best is None or outcome.preset is None:
        (folder / BEST_FILE).unlink(missing_ok=True)
    else:
        write_atomically(outcome.preset, _preset(outcome, outcome.best, config, outcome.preset))
    pareto = folder / PARETO_FOLDER
    kept = {f"{record.number}.yaml": record for record in outcome.front}
    for name, record in kept.items():
        pareto.mkdir(exist_ok=True)
        if config_file(folder, outcome.settings, record).is_file():
            write_atomically(pareto / name, _preset(outcome, record, config, pareto / name))
    for file in pareto.glob("*.yaml"):
        if file.name not in kept:
            file.unlink()
    if pareto.is_dir() and not kept:
        shutil.rmtree(pareto)


def _preset(outcome: Outcome, trial: TrialRecord, config: RunConfig, file: Path) -> str:
    """The configuration with which the trial's first seed ran, kept where the user's runs are."""
    settings = outcome.settings
    ran = load_config(str(config_file(outcome.folder, settings, trial)))
    own = {
        "run": config.run,
        "storage": config.storage,
        "tracking": config.tracking,
        "checkpoints": config.checkpoints,
        "cluster": config.cluster,
        "preset": f"{settings.name}-{file.stem}",
    }
    scores = [
        f"{each.name} {value:.2f}"
        for each in settings.objectives
        if trial.last and (value := each.of(trial.last)) is not None
    ]
    seeds = ", ".join(map(str, settings.seeds))
    among = "the best of" if trial is outcome.best else "on the Pareto front of"
    header = (
        f"# Trial {trial.number}, {among} sweep {settings.name}: {', '.join(scores)}\n"
        f"# on validation identities, {'seed' if len(settings.seeds) == 1 else 'mean of seeds'} "
        f"{seeds}. Run it:\n"
        f"#   python runner/lifelong.py run --preset {shown_path(file)}\n"
    )
    return header + to_yaml(ran.model_copy(update=own))
