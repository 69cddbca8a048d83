"""Evaluate cells as tasks of a Ray cluster; no other module imports Ray."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from tofu_export.errors import BackendMissingError, OptionError, first_line
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.workers import Outcome, Pool, attempt

__all__ = ["LOCAL", "check_address", "on_ray"]

LOCAL = "local"
"""Address that starts a new cluster on this machine, which ends with the sweep."""

_PATIENCE_S = 10.0


def on_ray(address: str, jobs: int | None = None) -> Pool:
    """Return a pool that evaluates cells on a Ray cluster, one core each.

    tofu-export must be installed on its nodes, and files (weights, images) must exist there under the same path.

    Args:
        address: address of the cluster, `auto`, or `LOCAL`.
        jobs: number of cores of a local cluster; None for all.

    Raises:
        BackendMissingError: Ray is not installed, or nothing answers at the address.
        OptionError: the address cannot be read.
    """
    ray = _ray()
    check_address(address)

    def run(cells: Sequence[Cell], settings: Settings) -> Iterator[tuple[Cell, Outcome]]:
        _connect(ray, address, jobs)
        try:
            task = ray.remote(num_cpus=1, max_retries=1)(_task)
            pending = {task.remote(cell, settings): cell for cell in cells}
            while pending:
                (done, *_), _ = ray.wait(list(pending), num_returns=1)
                cell = pending.pop(done)
                yield cell, _outcome(ray, done, cell)
        finally:
            ray.shutdown()

    return run


def check_address(address: str) -> None:
    """Check that a cluster answers: Ray itself tries for many minutes, and prints each of its attempts (2.60).

    Raises:
        BackendMissingError: no cluster answers.
        OptionError: the address is neither a known word nor HOST:PORT.
    """
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise OptionError(f"--ray is {address!r}, expected {LOCAL}, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise BackendMissingError(
            f"Ray cannot be imported ({error}): pip install 'tofu-export[ray]', or use --jobs on this machine"
        ) from error
    return ray


def _connect(ray: Any, address: str, jobs: int | None) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        options |= {"num_cpus": jobs, "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> BackendMissingError:
    return BackendMissingError(
        f"no Ray cluster at {address}: {first_line(error)}. Start one with `ray start --head`, or use --ray {LOCAL}"
    )


def _task(cell: Cell, settings: Settings) -> Outcome:
    """Evaluate a cell on a node, which is shared with other cells: one thread."""
    import torch

    torch.set_num_threads(1)
    return attempt(cell, settings, threads=1)


def _outcome(ray: Any, reference: Any, cell: Cell) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:  # the node or its process was lost, also on retry
        return SweepFailure.of(cell.model, str(cell), error)
    return outcome
