"""Optuna proposes, Tune asks: the study is all that the search knows, and outlives its driver."""

from __future__ import annotations

import importlib.util
import json
import math
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search.optuna import OptunaSearch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from runner.sweep.objectives import Objective
from runner.sweep.settings import Sampler, SweepSettings, parse_url
from tasks.loading.sampling import derive_seed

LOCK_WAIT_S = 2.0
"""Before a sweep: another program may be at the study for a moment, not for good."""
BUSY_WAIT_S = 60.0
"""While it goes on: a dashboard may read the study at leisure."""
_PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}


class StudySearcher(OptunaSearch):
    """Ray's OptunaSearch over conditional spaces, whose study is the one thing that is kept.

    Trials that the study holds as running when the search begins belong to a driver that was
    killed: they are handed out again first, with their numbers and values, so that their runs go on
    from their checkpoints. Tune's own snapshots are not read back: they may be older than the
    study, and they lack what the scheduler knows.

    Args:
        suggest: an Optuna trial to values by configuration path.
        objectives: what `tune.report` brings under their names.
        sampler: proposes values.
        storage: of the study; None keeps it in memory.
        study_name: in that storage; made if it is not there.
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
        self._left = deque(running_trials(self.study))

    @property
    def study(self) -> optuna.Study:
        """What is known."""
        assert self._ot_study is not None
        return self._ot_study

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """{"number": Optuna's, "values": JSON of values by path}.

        Tune reads dots, lists and mappings in a trial's parameters as something of its own; it has
        nothing to read in a text.
        """
        if trial_id not in self._running:
            self._running[trial_id] = self._next()
        trial = self._running[trial_id]
        return {"number": trial.number, "values": json.dumps(self._suggest_values(trial))}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Tells the study a value after so many learned domains (a single objective's alone)."""
        value = result.get(self._names[0])
        trial = self._running.get(trial_id)
        if trial is None or len(self._names) > 1 or value is None:
            return
        step = int(result["learned_domains"])
        # A trial that was started again says what it said before.
        if step not in self._frozen(trial).intermediate_values:
            trial.report(value, step)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study the end: finished, stopped by the scheduler (pruned), or failed."""
        trial = self._running.pop(trial_id, None)
        if trial is None or self._frozen(trial).state.is_finished():
            return
        if error or (result is not None and "failed" in result):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result is None:
            return  # never begun: it is handed out again by the next driver
        elif result.get("finished"):
            values = [result.get(name) for name in self._names]
            known = [value for value in values if value is not None and math.isfinite(value)]
            if len(known) < len(values):
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, known)
        else:
            # The report on which it was stopped comes with its end alone.
            self._running[trial_id] = trial
            self.on_trial_result(trial_id, result)
            del self._running[trial_id]
            self.study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file; what it would hold is in the study."""
        Path(checkpoint_path).write_text("everything is in the study")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings for a restore that is never made

    def _next(self) -> Trial:
        if not self._left:
            return self.study.ask()
        frozen = self._left.popleft()
        return Trial(self.study, frozen._trial_id)  # pyright: ignore[reportPrivateUsage]

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that began and did not end, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def enqueued_numbers(study: optuna.Study) -> list[int]:
    """Trials whose values were given: those of the preset itself."""
    trials = study.get_trials(deepcopy=False)
    return [trial.number for trial in trials if "fixed_params" in trial.system_attrs]


def num_ended(study: optuna.Study) -> int:
    """Finished, stopped and failed trials."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))


def open_study(settings: SweepSettings, storage: BaseStorage) -> optuna.Study:
    """The sweep's study, made if it is not there.

    Raises:
        ValueError: the study there has other objectives.
    """
    wanted = [
        StudyDirection.MAXIMIZE if each.mode == "max" else StudyDirection.MINIMIZE
        for each in settings.objectives
    ]
    study = optuna.create_study(
        storage=storage, study_name=settings.name, directions=wanted, load_if_exists=True
    )
    if study.directions != wanted:
        raise ValueError(
            f"--study: study {settings.name!r} there has {len(study.directions)} objectives of "
            f"other directions than {settings.objective}; choose another --name"
        )
    return study


def make_sampler(settings: SweepSettings, num_known: int) -> BaseSampler:
    """Who proposes values.

    Args:
        settings: kind, seed, and what the budget is.
        num_known: trials there are already: a sampler that goes on must not draw once more what
            it drew at the beginning.
    """
    seed = derive_seed(settings.sampler_seed, "sampler", num_known) % 2**32
    # With Optuna's own 10 random trials (or populations of 50) a dozen trials would all be random.
    num_random = max(2, min(10, settings.num_trials // 4))
    match settings.sampler:
        case "tpe":
            side_by_side = settings.concurrent > 1
            return TPESampler(seed=seed, n_startup_trials=num_random, constant_liar=side_by_side)
        case "random":
            return RandomSampler(seed=seed)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=num_random)
        case "nsga2":
            return NSGAIISampler(
                seed=seed, population_size=max(4, min(50, settings.num_trials // 4))
            )


def check_sampler(sampler: Sampler) -> None:
    """Refuses a sampler whose libraries are not there.

    Raises:
        ValueError: says how to install them.
    """
    missing = [each for each in ("scipy", "torch") if importlib.util.find_spec(each) is None]
    if sampler == "gp" and missing:
        raise ValueError(
            f"--sampler gp needs {' and '.join(missing)}: pip install {' '.join(missing)}, or "
            "choose tpe"
        )


def open_storage(url: str) -> RDBStorage:
    """The database of a study.

    Raises:
        ValueError: the URL is none, or the database's driver is not installed.
        ConnectionError: the database does not answer, or is locked.
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
    if is_sqlite and parsed.database:
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
        raise ConnectionError(
            f"the study {file} cannot be written ({error}); is another program writing it? End "
            "that program, or keep the study elsewhere: --study URL"
        ) from error
