"""Processes that tests start, and what they see of them.

Rules: no wait is unbounded, so that a child that hangs fails its test and nothing else. What a spawned child runs has
to lie in a module that it can import: here, not in a test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = 90.0  # seconds after which a child hangs: on a busy machine, to start a process alone takes twenty


class Child:
    """A process that calls a function. Made and asked by one thread: `multiprocessing` wants that.

    Args:
        function: what to call, with `args`; picklable unless `method` is "fork".
        method: how to start it.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, method: str = "fork") -> None:
        context: Any = multiprocessing.get_context(method)
        self._method = method
        self._ours, theirs = context.Pipe()
        self._child = context.Process(target=_tell, args=(function, args, theirs))
        self._child.start()
        theirs.close()

    def result(self) -> Any:
        """Return what the function returned; fail if it raised, or if the child hangs."""
        try:
            assert self._ours.poll(PATIENCE), f"the {self._method} child hangs"
            well, result = self._ours.recv()
            assert well, result
            self._child.join(PATIENCE)
            assert self._child.exitcode == 0
            return result
        finally:
            self.end()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    def await_stop(self) -> None:
        """Wait until it is stopped (SIGSTOP)."""
        until = time.monotonic() + PATIENCE
        while not any(pid == self.pid and state == "T" for pid, state, _ in _processes()):
            assert time.monotonic() < until, "the child does not stop"
            time.sleep(0.01)

    def end(self) -> None:
        """Kill the child, unless it has ended; nothing, the second time."""
        if not self._ours.closed:
            self._child.kill()
            self._child.join()
            self._child.close()
            self._ours.close()


def in_child(function: Callable[..., Any], *args: Any, method: str = "fork") -> Any:
    """Return what a function returns in a child."""
    return Child(function, *args, method=method).result()


def _tell(function: Callable[..., Any], args: tuple[Any, ...], pipe: Any) -> None:
    try:
        pipe.send((True, function(*args)))
    except BaseException as error:
        pipe.send((False, repr(error)))


def loaded() -> tuple[bool, bool]:
    """Return whether torch is loaded in this process, and mixstream is not."""
    return "torch" in sys.modules, "mixstream" not in sys.modules


def reads(url: str, body: bytes) -> tuple[bool, bool]:
    """Read "object" through a store; return whether it is `body`, and whether this process must use the fork proxy."""
    from mixstream.storage.forks import must_use_proxy
    from mixstream.storage.open import open_store

    return bytes(open_store(url, timeout=10).read("object").data) == body, must_use_proxy()


def status_of(child: int) -> int:
    """Wait for a child of `os.fork` and return its status; kill it and fail if it hangs."""
    until = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    return ended[1]


def living_children(parent: int) -> list[int]:
    """Return the children of a process that are no zombies."""
    return [pid for pid, state, its_parent in _processes() if its_parent == parent and state != "Z"]


def zombies() -> int:
    """Return how many children of this process have ended and were not reaped."""
    return sum(its_parent == os.getpid() and state == "Z" for _, state, its_parent in _processes())


def gone(pid: int) -> bool:
    """Wait until a process has ended; False if it does not, in five seconds."""
    until = time.monotonic() + 5
    while any(each == pid and state != "Z" for each, state, _ in _processes()):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def command_of(pid: int) -> str:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _processes() -> Iterator[tuple[int, str, int]]:
    """Yield (pid, state, parent) of all processes."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            yield int(stat.parent.name), state, int(parent)
