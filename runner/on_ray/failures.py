"""Short messages for failures of Ray: what died and why, without Ray's tracebacks."""

from __future__ import annotations

import ray.train
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)

DIED: tuple[type[RayError], ...] = (
    *(LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfDiskError, OutOfMemoryError),
    *(RayActorError, RaySystemError, RpcError, WorkerCrashedError),
)
"""Errors that mean that a process or a machine of the cluster ended."""

_MAX_CHARACTERS = 300


def died_while_starting(error: ray.train.TrainingFailedError) -> bool:
    """Whether a process died before the workers ran; Ray Train does not retry this case."""
    if not isinstance(error, ray.train.ControllerError):
        return False
    return isinstance(error.controller_failure, DIED) and ray.is_initialized()


def failure_message(error: ray.train.TrainingFailedError, max_failures: int) -> str:
    """Explains why the workers of a run failed too often, or could not be started.

    Args:
        error: error of `TorchTrainer.fit`.
        max_failures: `cluster.max_failures`.
    """
    if isinstance(error, ray.train.ControllerError):
        return (
            f"Ray could not start or control the workers: {reason(error.controller_failure)}. "
            "Often a process ran out of memory, or a machine of the cluster was lost"
        )
    failures = getattr(error, "worker_failures", {})
    workers = "; ".join(f"worker {rank}: {reason(each)}" for rank, each in failures.items())
    return (
        f"cluster.max_failures: expected at most {max_failures} worker failures, got "
        f"{max_failures + 1}; last failure: {workers or reason(error)}"
    )


def cluster_message(error: RayError, address: str) -> str:
    """Explains that the connection to the cluster, or a process of it, was lost."""
    where = "on this machine" if address == "local" else f"at {address}"
    return f"a process of the Ray cluster {where} died: {reason(error)}"


def reason(error: BaseException) -> str:
    """First informative line of an error of Ray, or last line of the traceback it contains."""
    cause = getattr(error, "_base_exc", None)  # a worker's exception with its traceback as text
    if isinstance(cause, BaseException):
        error = cause
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    has_traceback = any(line.startswith("Traceback") for line in lines)
    line = (lines[-1] if has_traceback else lines[0]) if lines else ""
    name = type(error).__name__
    line = line.rstrip(".")
    text = line if line.startswith(name) or has_traceback else f"{name}: {line}"
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
