"""A process that has imported everything and forks readers, since importing torch costs a second each time.

It is forked before its parent has threads, and has none itself. It ends with its parent, and its children with it.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any


class Zygote:
    """Starts processes; for one thread.

    Args:
        modules: what it imports besides.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            self._ours.close()
            try:
                _serve(theirs, modules)
            finally:
                os._exit(1)
        theirs.close()

    def start(self, target: Callable[..., None], *args: Any) -> Reader:
        """Start a process."""
        return Reader(self, self.ask("start", (target, args)))

    def ask(self, what: str, about: Any) -> Any:
        """Ask the process that forks."""
        self._ours.send((what, about))
        return self._ours.recv()


class Reader:
    """A process that was started, as `multiprocessing.Process`."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self.pid = zygote, pid

    @property
    def exitcode(self) -> int | None:
        """Its status; None while it runs."""
        return self._zygote.ask("code", self.pid)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self._zygote.ask("join", (self.pid, timeout))

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._zygote.ask("kill", self.pid)


def _serve(asked: Connection, modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    context, processes = multiprocessing.get_context("fork"), dict[int, Any]()
    while True:
        try:
            what, about = asked.recv()
        except EOFError:
            return
        if what == "start":
            target, args = about
            process = context.Process(target=target, args=args)
            process.start()
            processes[process.pid or 0] = process
            asked.send(process.pid)
        elif what == "join":
            asked.send(processes[about[0]].join(about[1]))
        elif what == "kill":
            asked.send(processes[about].kill())
        else:
            asked.send(processes[about].exitcode)
