"""A sweep -> MLflow: one parent run, and a child for each trial that has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.sweeping.settings import SweepSettings
from runner.tracking import TrackingConfig


def send_outcome(folder: Path, settings: SweepSettings, tracking: TrackingConfig) -> int:
    """Sends what MLflow does not have yet of a sweep's records and outcome files; may be repeated.

    Args:
        folder: of the sweep.
        settings: what it was asked to do.
        tracking: with an absolute `uri` (`runner.experiment.tracking_uri`).

    Returns:
        How many MLflow runs were created or brought up to date.

    Raises:
        TrackingError: the server does not answer or refuses; nothing else is touched.
    """
    return 0


class SweepTracker:
    """Calls `send_outcome` in a thread, so that no trial waits for a server.

    Args:
        say: is told, once, why nothing arrives.
    """

    def __init__(
        self,
        folder: Path,
        settings: SweepSettings,
        tracking: TrackingConfig,
        say: Callable[[str], None],
    ) -> None:
        self._say = say

    def wake(self) -> None:
        """A trial has ended: send soon, but return at once."""

    def close(self, timeout_s: float) -> str | None:
        """Sends the rest, and gives up after a time; returns what is to be said of it."""
        return None
