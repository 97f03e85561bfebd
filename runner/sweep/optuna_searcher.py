"""Search algorithm of Ray Tune on an Optuna study, which holds the whole state of the search."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search.optuna import OptunaSearch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from runner.sweep.objectives import Objective
from runner.sweep.settings import SweepSettings, parse_url
from runner.sweep.trial_records import PROGRESS
from runner.tracking.sqlite_files import LOCK_WAIT_S, LOCKED, OPTUNA, sqlite_problem

BUSY_WAIT_S = 60.0
"""Longest wait for a lock during a sweep, for instance while a dashboard reads the study."""
_PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}


class StudySearcher(OptunaSearch):
    """OptunaSearch for conditional spaces that stores its state only in the study.

    Trials that are running in the study when the search starts belong to a killed driver. They are
    suggested first, with the same numbers and values, so that their runs resume from their
    checkpoints. Snapshots of Ray Tune are not restored: they may be older than the study, and do
    not contain the state of the scheduler.

    Args:
        suggest: samples values by configuration path from an Optuna trial.
        objectives: objectives, reported under their names by `tune.report`.
        sampler: proposes values.
        storage: storage of the study; None keeps it in memory.
        study_name: name of the study in the storage; created if it does not exist.
    """

    def __init__(
        self,
        suggest: Callable[[Trial], dict[str, Any]],
        objectives: Sequence[Objective],
        sampler: BaseSampler,
        storage: BaseStorage | None,
        study_name: str,
    ) -> None:
        names, modes = [each.name for each in objectives], [each.mode for each in objectives]
        several = len(objectives) > 1
        super().__init__(
            suggest,
            metric=names if several else names[0],
            mode=list(modes) if several else modes[0],
            sampler=sampler,
            storage=storage,
            study_name=study_name,
        )
        self._suggest_values = suggest
        self._names = names
        self._running: dict[str, Trial] = {}
        self._interrupted = deque(running_trials(self.study))

    @property
    def study(self) -> optuna.Study:
        """Optuna study."""
        assert self._ot_study is not None
        return self._ot_study

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns {"number": number in the study, "values": JSON of values by path}.

        Ray Tune interprets dots, lists and mappings in the parameters of a trial; JSON text avoids
        that.
        """
        if trial_id not in self._running:
            self._running[trial_id] = self._next()
        trial = self._running[trial_id]
        return {"number": trial.number, "values": json.dumps(self._suggest_values(trial))}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Reports an intermediate value to the study; only with a single objective."""
        value = result.get(self._names[0])
        trial = self._running.get(trial_id)
        if trial is None or len(self._names) > 1 or value is None:
            return
        step = int(result[PROGRESS])
        # A restarted trial reports earlier domains or epochs again.
        if step not in self._frozen(trial).intermediate_values:
            trial.report(value, step)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how the trial ended: complete, pruned by the scheduler, or failed."""
        trial = self._running.pop(trial_id, None)
        if trial is None or self._frozen(trial).state.is_finished():
            return
        if error or (result is not None and "failed" in result):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result is None:
            return  # never started: the next driver suggests it again
        elif result.get("finished"):
            values = [result.get(name) for name in self._names]
            known = [value for value in values if value is not None and math.isfinite(value)]
            if len(known) < len(values):
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, known)
        else:
            # Tune passes the report after which a trial is stopped only here.
            self._running[trial_id] = trial
            self.on_trial_result(trial_id, result)
            del self._running[trial_id]
            self.study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Writes a placeholder, which Ray Tune requires; the state is in the study."""
        Path(checkpoint_path).write_text("the state is in the Optuna study")

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles the searcher for a restore that is not used

    def _next(self) -> Trial:
        if not self._interrupted:
            return self.study.ask()
        frozen = self._interrupted.popleft()
        return Trial(self.study, frozen._trial_id)  # pyright: ignore[reportPrivateUsage]

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that started but did not end, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def enqueued_numbers(study: optuna.Study) -> list[int]:
    """Numbers of enqueued trials, which have the values of the preset."""
    trials = study.get_trials(deepcopy=False)
    return [trial.number for trial in trials if "fixed_params" in trial.system_attrs]


def num_ended(study: optuna.Study) -> int:
    """Number of finished, stopped and failed trials."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))


def open_study(settings: SweepSettings, storage: BaseStorage) -> optuna.Study:
    """Loads the study of the sweep, or creates it.

    Raises:
        ValueError: the existing study has other objectives.
    """
    directions = [
        StudyDirection.MAXIMIZE if each.mode == "max" else StudyDirection.MINIMIZE
        for each in settings.objectives
    ]
    study = optuna.create_study(
        storage=storage, study_name=settings.name, directions=directions, load_if_exists=True
    )
    if study.directions != directions:
        raise ValueError(
            f"--study: expected a study {settings.name!r} with the directions of objective "
            f"{settings.objective}, got {len(study.directions)} objectives with other directions; "
            "choose another --name"
        )
    return study


def open_storage(url: str) -> RDBStorage:
    """Opens the database of a study.

    Raises:
        ValueError: the URL is invalid, or the driver of the database is not installed.
        ConnectionError: the database does not answer or is locked.
    """
    parsed = parse_url(url)
    shown = parsed.render_as_string(hide_password=True)
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        hint = _PACKAGES.get(error.name or "", error.name)
        raise ValueError(
            f"--study: {shown} needs {error.name}, which is not installed: pip install {hint}"
        ) from error
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database and parsed.database != ":memory:":
        problem = sqlite_problem(Path(parsed.database), OPTUNA)
        if problem == LOCKED:
            raise _not_writable(Path(parsed.database), problem)
        if problem:
            raise ValueError(
                f"--study: {parsed.database} {problem}; it is unchanged; give another file"
            )
        _check_lock(Path(parsed.database))
    arguments = {"connect_args": {"timeout": BUSY_WAIT_S}, "poolclass": NullPool}
    try:
        return RDBStorage(url, engine_kwargs=arguments if is_sqlite else None)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise ConnectionError(f"--study: {shown} cannot be used ({reason})") from error


def _check_lock(file: Path) -> None:
    try:
        with closing(sqlite3.connect(file, timeout=LOCK_WAIT_S, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise _not_writable(file, str(error)) from error


def _not_writable(file: Path, reason: str) -> ConnectionError:
    return ConnectionError(
        f"study {file} is not writable ({reason}); end other programs that write it, or set "
        "--study URL to another database"
    )
