"""Output files of a sweep: tables, figures and presets."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from runner import program_name
from runner.config.run_config import RunConfig, load_config, to_yaml
from runner.config.values_file import values_text
from runner.results.run_folder import write_atomically
from runner.sweep.outcome import (
    BEST_FILE,
    BEST_VALUES_FILE,
    PARETO_FOLDER,
    Outcome,
    config_file,
    gather,
    shown_path,
)
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
    """Writes the presets, trials.csv, summary.json, table.md and the figures from the records.

    Files are replaced atomically, so this may be called at any time, also while trials run.

    Args:
        folder: folder of the sweep.
        settings: settings of the sweep.
        space: search space, resolved for `config`.
        config: base configuration, without the overrides of trials.
        quick: omit importances and figures, which take seconds; used between two trials.
    """
    # Matplotlib takes a second to import.
    from runner.sweep.plot import write_figures

    outcome = gather(folder, settings, space, config, quick=quick)
    _write_presets(outcome, config)
    write_atomically(folder / "trials.csv", to_csv(outcome))
    write_atomically(folder / "summary.json", to_json(outcome))
    write_atomically(folder / "table.md", to_markdown(outcome))
    if not quick:
        write_figures(outcome)
    return outcome


def _write_presets(outcome: Outcome, config: RunConfig) -> None:
    """Writes best.yaml, best-values.yaml and pareto/<number>.yaml; removes old files."""
    folder = outcome.folder
    if outcome.best is None or outcome.preset is None:
        for name in (BEST_FILE, BEST_VALUES_FILE):
            (folder / name).unlink(missing_ok=True)
    else:
        write_atomically(folder / BEST_VALUES_FILE, _values(outcome, outcome.best))
        write_atomically(outcome.preset, _preset(outcome, outcome.best, config, outcome.preset))
    pareto = folder / PARETO_FOLDER
    files = {f"{record.number}.yaml": record for record in outcome.front}
    for name, record in files.items():
        pareto.mkdir(exist_ok=True)
        if config_file(folder, outcome.settings, record).is_file():
            write_atomically(pareto / name, _preset(outcome, record, config, pareto / name))
    for file in pareto.glob("*.yaml"):
        if file.name not in files:
            file.unlink()
    if pareto.is_dir() and not files:
        shutil.rmtree(pareto)


def _values(outcome: Outcome, trial: TrialRecord) -> str:
    """Sampled values of the trial alone, which can be laid over another preset."""
    file = shlex.quote(shown_path(outcome.folder / BEST_VALUES_FILE))
    return (
        f"# Values of trial {trial.number}, the best of sweep {outcome.settings.name}. "
        f"Lay them over a preset:\n#   {program_name()} run --preset NAME --with {file}\n"
        + values_text(trial.values)
    )


def _preset(outcome: Outcome, trial: TrialRecord, config: RunConfig, file: Path) -> str:
    """Configuration of the trial's first seed, with the storage settings of `config`."""
    settings = outcome.settings
    trial_config = load_config(str(config_file(outcome.folder, settings, trial)))
    restored = {
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
    rank = "the best of" if trial is outcome.best else "on the Pareto front of"
    header = (
        f"# Trial {trial.number}, {rank} sweep {settings.name}: {', '.join(scores)}\n"
        f"# on validation identities, {'seed' if len(settings.seeds) == 1 else 'mean of seeds'} "
        f"{seeds}. Run it:\n"
        f"#   {program_name()} run --preset {shlex.quote(shown_path(file))}\n"
    )
    preset = trial_config.model_copy(update=restored)
    return header + to_yaml(preset.with_references(config.references))
