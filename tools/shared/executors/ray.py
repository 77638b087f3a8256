"""A Ray cluster: tasks run on its workers, and a task whose worker dies runs again on another one.

Rules. A task must be safe to repeat: it writes its file under a temporary name and renames it at the end. Nothing is
sent to Ray's usage statistics. What this process started (a local cluster, a connection) ends with it; a cluster that
the caller connected to before stays as it is. Every node needs the same version of this package, and sees the same
files and URLs.

Progress is reported when a task ends, since a task that runs again would count twice.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from mixstream.errors import ConfigError

from . import Advance, Function, Result, Task, WorkerDiedError

_DISTRIBUTION = "mixstream-data"
_RETRIES = 3
_POLL_S = 1.0
_CONNECT_S = 5.0


class RayTasks:
    """Runs tasks on a Ray cluster.

    Args:
        address: `HOST:PORT` of a running cluster, `auto` for the one on this machine, `ray://HOST:PORT` for Ray's
            client. None takes $RAY_ADDRESS if that is set, and else starts a cluster in this machine's cores.
        workers: the maximum number of tasks at once; None for as many as the cluster has cores or GPUs.
        gpus: GPUs that each task needs.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None, gpus: float = 0) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._workers, self._gpus = workers, gpus
        self._connected = False

    def __enter__(self) -> Self:
        """Keep the connection between runs, and with it the cluster that was started for it.

        Raises:
            ConfigError: Ray is not installed, or the address does not answer.
        """
        ray = _import_ray()
        if not ray.is_initialized():
            self._connect(ray)
            self._connected = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._connected:
            self._connected = False
            _import_ray().shutdown()

    def run(self, function: Function[Task, Result], tasks: Sequence[Task], advance: Advance) -> Iterator[Result]:
        """See `Executor.run`. Raises WorkerDiedError if the workers of one task die again and again.

        Raises:
            ConfigError: Ray is not installed, the address does not answer, or the cluster cannot run such tasks.
        """
        if not tasks:
            return
        ray = _import_ray()
        ours = not ray.is_initialized()
        try:
            if ours:
                self._connect(ray)
            yield from self._run(ray, function, tasks, advance)
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
        if self._address is None or self._address == "local":
            ray.init(address="local", num_cpus=self._workers, include_dashboard=False, **quiet)
            return
        _check_reachable(self._address)
        try:
            ray.init(address=self._address, **quiet)
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, and errors of gRPC
            raise ConfigError(
                f"--ray-address {self._address}: the Ray cluster does not accept the connection: {error}. Check that "
                f"`ray status` works there, and that both sides run the same versions of ray and Python."
            ) from error

    def _run(
        self, ray: Any, function: Function[Task, Result], tasks: Sequence[Task], advance: Advance
    ) -> Iterator[Result]:
        remote = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=_RETRIES)(_portable_task())
        at_once = self._slots(ray)
        version = metadata.version(_DISTRIBUTION)
        left, running = deque(tasks), {}
        failure: Exception | None = None
        try:
            while running or (left and failure is None):
                while left and failure is None and len(running) < at_once:
                    task = left.popleft()
                    running[remote.remote(version, ray.cloudpickle.dumps((function, task)))] = task
                for done in ray.wait(list(running), num_returns=1, timeout=_POLL_S)[0]:
                    kind, value, amount = _answer(ray, done, running.pop(done))
                    if kind == "failed":
                        failure = failure or value
                    else:
                        advance(amount)
                        yield value
            if failure is not None:
                raise failure
        finally:
            for each in running:
                with suppress(Exception):  # the cluster may be gone
                    ray.cancel(each, force=True)

    def _slots(self, ray: Any) -> int:
        """Return how many tasks the cluster can run at once, at most `workers`."""
        has = ray.cluster_resources()
        slots = int(has.get("CPU", 0))
        if self._gpus:
            slots = min(slots, int(has.get("GPU", 0) / self._gpus))
        if slots < 1:
            needs = f"1 core and {self._gpus:g} GPU" if self._gpus else "1 core"
            raise ConfigError(
                f"the Ray cluster has {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs, and a task needs "
                f"{needs}: it would wait for ever. Add nodes, or give --engine local."
            )
        return min(slots, self._workers or slots)


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray hides all GPUs from a task that asks for none, and warns that it will not do so in future: take the future.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "--engine ray: the package `ray` is not installed. Run: pip install ray, or leave out --engine, which "
            "uses processes on this machine."
        ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise ConfigError if nothing listens at `address`: Ray itself would retry for minutes, or abort the process."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or (10001 if parts.scheme == "ray" else 6379)
    except ValueError:
        host, port = None, 0
    if not host:
        raise ConfigError(f"--ray-address {address}: not an address; give HOST:PORT (often port 6379), or auto.")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"--ray-address {address}: nothing answers at {host} port {port} ({error}). Start the cluster there with "
            f"`ray start --head --port {port}`, or leave out --ray-address, which starts one on this machine."
        ) from None


def _portable_task() -> Any:
    """Return the function that a Ray worker runs.

    It is a closure, so that Ray pickles its code: a node without this package can then say so in an answer.
    """

    def run_task(version: str, payload: bytes) -> tuple[str, Any, int]:
        from importlib import import_module, metadata

        try:
            found = metadata.version("mixstream-data")
        except metadata.PackageNotFoundError:
            found = None
        if found != version:
            return "version", found, 0
        return import_module("mixstream_tools.shared.executors.ray").run_payload(payload)

    return run_task


def run_payload(payload: bytes) -> tuple[str, Any, int]:
    """Run one pickled (function, task) in a Ray worker; returns (`done`, result, progress) or (`failed`, error, 0)."""
    from ray import cloudpickle

    from .local import portable_error

    amounts: list[int] = []
    try:
        function, task = cloudpickle.loads(payload)
        return "done", function(task, amounts.append), sum(amounts)
    except Exception as error:
        return "failed", portable_error(error), 0


def _answer(ray: Any, done: Any, task: object) -> tuple[str, Any, int]:
    """Return what a finished task answered, with what Ray itself reports as an error of ours."""
    try:
        kind, value, amount = ray.get(done)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        died = WorkerDiedError(
            f"the Ray workers died {_RETRIES + 1} times while they did {task} (often: out of memory; give fewer "
            f"--workers, or more --parts): {reason}"
        )
        return "failed", died, 0
    if kind != "version":
        return kind, value, amount
    found = "does not have it" if value is None else f"has {value}"
    wrong = ConfigError(
        f"a node of the Ray cluster {found}: the package {_DISTRIBUTION} {metadata.version(_DISTRIBUTION)} must be "
        f"installed on every node, since the output must not depend on the node. Install it there and run this again."
    )
    return "failed", wrong, 0
