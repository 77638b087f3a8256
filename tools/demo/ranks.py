"""Starts, watches and stops the processes of the demo's parts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from mixstream.errors import MixstreamError, WaitTimeoutError

from .settings import PROCESSES, Settings
from .step_log import Step, StepLogReader

_TIMEOUT_S = 300.0
"""Maximum time without a step."""
_POLL_S = 0.1
_SHOWN_LINES = 12


def run_part(settings: Settings, part: str, *, on_step: Callable[[Step], None]) -> list[Step]:
    """Train `part` until its processes end; returns its steps.

    Raises:
        MixstreamError: they ended in another way than expected: `before` by its own SIGKILL, `after` with status 0.
        WaitTimeoutError: there was no step for minutes.
    """
    step_log = StepLogReader(files=settings.step_logs(part))
    expected = -signal.SIGKILL if part == "before" else 0
    processes = _start(settings, part, PROCESSES[part])
    try:
        last = time.monotonic()
        running = True
        while running:
            running = any(process.poll() is None for process in processes)
            for step in step_log.poll():
                on_step(step)
                last = time.monotonic()
            for rank, process in enumerate(processes):
                if process.poll() not in {None, expected}:
                    raise _failure(settings, part, rank, f"ended with status {process.returncode}")
            if time.monotonic() - last > _TIMEOUT_S:
                raise WaitTimeoutError(
                    f"the training made no step in {_TIMEOUT_S:.0f} s; its logs are {settings.run}/*.log"
                )
            time.sleep(_POLL_S if running else 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    steps = settings.kill_after if part == "before" else settings.steps
    if not step_log.steps or step_log.steps[-1].step != steps - 1:
        raise _failure(settings, part, 0, f"ended before step {steps} (did the machine run out of memory?)")
    return step_log.steps


def run_reference(settings: Settings) -> None:
    """Read the run again without interruption or training, in one process (proof.py).

    It is a process with the same environment as the others, because results may depend on the number of threads.

    Raises:
        MixstreamError: it did not end with status 0.
        WaitTimeoutError: it did not end within minutes.
    """
    (process,) = _start(settings, "reference", 1)
    try:
        if process.wait(_TIMEOUT_S) != 0:
            raise _failure(settings, "reference", 0, f"ended with status {process.returncode}")
    except subprocess.TimeoutExpired as error:
        raise WaitTimeoutError(
            f"the reference did not end within {_TIMEOUT_S:.0f} s; its log is {settings.log('reference', 0)}"
        ) from error
    finally:
        process.kill()
        process.wait()


def _start(settings: Settings, part: str, ranks: int) -> list[subprocess.Popen[bytes]]:
    # The variables of torchrun. One thread each: on a busy machine two synchronised threads are slower than one.
    world = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-P", "-m", f"{__package__}.child", str(settings.save()), part]
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with settings.log(part, rank).open("wb") as log:
            processes.append(
                subprocess.Popen(
                    command, env={**os.environ, **world, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )
    return processes


def _failure(settings: Settings, part: str, rank: int, what: str) -> MixstreamError:
    log = settings.log(part, rank)
    error = MixstreamError(f"process {rank} of the part {part!r} {what}; its log is {log}")
    for line in log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]:
        error.add_note(line)
    return error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
