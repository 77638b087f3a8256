"""The processes of the demo's parts: started, watched, and ended when this one gives up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from mixstream.errors import MixstreamError, WaitTimeoutError

from .journal import Journal, Step
from .settings import PROCESSES, Settings

_PATIENCE_S = 300.0
"""Longest time without a step."""
_POLL_S = 0.1
_TOLD_LINES = 12


def run_part(settings: Settings, part: str, *, on_step: Callable[[Step], None]) -> list[Step]:
    """Train `part` until its processes end; returns its steps.

    Raises:
        MixstreamError: they did not end as this part has to: `before` by its own SIGKILL, `after` with status 0.
        WaitTimeoutError: no step for minutes.
    """
    journal = Journal(files=settings.journals(part))
    expected = -signal.SIGKILL if part == "before" else 0
    processes = _start(settings, part, PROCESSES[part])
    try:
        last = time.monotonic()
        running = True
        while running:
            running = any(process.poll() is None for process in processes)
            for step in journal.poll():
                on_step(step)
                last = time.monotonic()
            for rank, process in enumerate(processes):
                if process.poll() not in {None, expected}:
                    raise _failure(settings, part, rank, f"ended with status {process.returncode}")
            if time.monotonic() - last > _PATIENCE_S:
                raise WaitTimeoutError(
                    f"the training made no step in {_PATIENCE_S:.0f} s; its logs are {settings.run}/*.log"
                )
            time.sleep(_POLL_S if running else 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    steps = settings.kill_after if part == "before" else settings.steps
    if not journal.steps or journal.steps[-1].step != steps - 1:
        raise _failure(settings, part, 0, f"ended before step {steps} (did the machine run out of memory?)")
    return journal.steps


def run_reference(settings: Settings) -> None:
    """Read the run once more, in one process that nothing interrupts and that trains nothing (`demo_proof`).

    It is a process as the others are, since numbers may depend on how many threads compute them.

    Raises:
        MixstreamError: it did not end with status 0.
        WaitTimeoutError: it did not end in minutes.
    """
    (process,) = _start(settings, "reference", 1)
    try:
        if process.wait(_PATIENCE_S) != 0:
            raise _failure(settings, "reference", 0, f"ended with status {process.returncode}")
    except subprocess.TimeoutExpired as error:
        raise WaitTimeoutError(
            f"the reference was not read in {_PATIENCE_S:.0f} s; its log is {settings.log('reference', 0)}"
        ) from error
    finally:
        process.kill()
        process.wait()


def _start(settings: Settings, part: str, ranks: int) -> list[subprocess.Popen[bytes]]:
    # What torchrun would set. One thread each: on a busy machine two threads in lockstep are slower than one.
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
    error = MixstreamError(f"the process {rank} of the part {part!r} {what}; its log is {log}")
    for line in log.read_text(errors="replace").splitlines()[-_TOLD_LINES:]:
        error.add_note(line)
    return error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
