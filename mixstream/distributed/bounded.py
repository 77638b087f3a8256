"""Calls of torch.distributed that end in time, whatever has become of the other ranks.

Rules. Nothing waits longer than the timeout of the job's process group. A collective that is slow costs nothing until
it has taken a while: then each rank that waits leaves a word in the store, and so every rank can name those that did
not come. A store may not answer either, if the process that keeps it was stopped: so it is asked by a thread that may
be left behind (a daemon, blocked outside of Python, which does not keep the interpreter from exiting).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from mixstream.errors import WaitTimeoutError
from mixstream.lazy import pattern

T = TypeVar("T")
_SOURCE = pattern(r"^\[[^\]]*\] *")  # the place in the source of torch where an error was raised
_log = logging.getLogger("mixstream")

LONGEST = 1800.0
"""Seconds that a call takes at most where the process group does not say."""
_SOON, _PART = 2.0, 0.1
"""Seconds, and part of the timeout, after which a rank that waits says so; the lower of both."""


def group_timeout() -> float:
    """Return the timeout of the default process group, in seconds: the lowest of its backends."""
    import torch
    from torch.distributed import distributed_c10d as c10d

    group: Any = c10d._get_default_group()
    found: list[timedelta] = []
    for device in ("cpu", "cuda"):
        with contextlib.suppress(RuntimeError, AttributeError, TypeError, NotImplementedError):
            found.append(group._get_backend(torch.device(device)).options._timeout)
    if not found:
        with contextlib.suppress(RuntimeError, AttributeError, TypeError, NotImplementedError):
            store: Any = c10d._get_default_store()
            found.append(store.timeout)
    return min([each.total_seconds() for each in found if each.total_seconds() > 0] + [LONGEST])


def in_time(call: Callable[[], T], *, timeout: float, what: str) -> T:
    """Return what `call` returns or raises, if it does within `timeout` seconds; it may go on behind.

    >>> in_time(lambda: 7, timeout=10, what="the answer")
    7

    Raises:
        WaitTimeoutError: it does not; the message says `what` was waited for.
    """
    done, found, raised = threading.Event(), [], []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            raised.append(error)
        done.set()

    threading.Thread(target=run, name="mixstream-store", daemon=True).start()
    if not done.wait(timeout):
        raise WaitTimeoutError(
            f"{what}: torch.distributed has not answered in {timeout:.3g} s; the process that keeps its store (rank 0, "
            "or torchrun) or another rank is stopped or gone: look for it, and start the job again from a checkpoint"
        )
    if raised:
        raise raised[0]
    return found[0]


class Attendance:
    """Who takes part in the collective calls of one group. All its calls are made by one thread of each rank.

    Args:
        store: of the ranks; what is kept in it is the group's own.
        rank: of this process.
        ranks: how many there are.
        timeout: seconds that a call takes at most.

    Attributes:
        limit: the timeout to give torch for a collective: what is left is for asking which ranks came.
    """

    def __init__(self, store: Any, *, rank: int, ranks: int, timeout: float) -> None:
        self._store, self._rank, self._ranks, self.timeout = store, rank, ranks, timeout
        self._soon = min(_SOON, _PART * timeout)
        self.limit = timeout - 2 * self._soon
        self._number = 0

    def gather(self, call: Callable[[], T], *, what: str) -> T:
        """Return what a blocking collective returns; as `wait`. For rare calls: each takes threads."""
        self._number += 1
        until = time.monotonic() + self.timeout - self._soon
        try:
            in_time(self._come, timeout=self.limit, what=what)
            return in_time(call, timeout=max(until - time.monotonic(), 0.0), what=what)
        except (WaitTimeoutError, RuntimeError) as error:
            raise self._missing(what, error) from error

    def wait(self, work: Any, *, what: str) -> None:
        """Wait for a collective that was begun.

        Raises:
            WaitTimeoutError: it failed, or did not end in time; the message says which ranks did not come, or gave up.
        """
        self._number += 1
        began, pause, came = time.monotonic(), self._soon, False
        until = began + self.timeout - self._soon  # torch ends it before, unless it has stopped itself
        while True:
            try:
                work.wait(timedelta(seconds=max(min(pause, until - time.monotonic()), 0.001)))
                return
            except RuntimeError as error:  # of torch: it is not done yet, or has failed
                over = work.is_completed() or time.monotonic() >= until
                if not came:
                    came = True
                    with contextlib.suppress(WaitTimeoutError, RuntimeError):
                        in_time(self._come, timeout=self._soon, what=what)
                if over:
                    raise self._missing(what, error) from error
            pause = min(2 * pause, 60.0)
            if (waited := time.monotonic() - began) >= _SOON:
                self._tell(what, waited)

    def _come(self) -> None:
        self._store.set(f"{self._number}/{self._rank}", "here")

    def _absent(self) -> list[int]:
        return [rank for rank in range(self._ranks) if not self._store.check([f"{self._number}/{rank}"])]

    def _silent(self) -> list[int]:
        """Return the ranks that came, and have neither failed nor come to the next call."""
        number = self._number
        self._store.set(f"{number}/{self._rank}/over", "")
        marks = {rank: (f"{number}/{rank}/over", f"{number + 1}/{rank}") for rank in range(self._ranks)}
        return [rank for rank, each in marks.items() if not any(self._store.check([mark]) for mark in each)]

    def _tell(self, what: str, seconds: float) -> None:
        """Log for whom this rank waits."""
        with contextlib.suppress(WaitTimeoutError, RuntimeError):
            if absent := in_time(self._absent, timeout=self._soon, what=what):
                _log.warning("rank %d has waited %.0f s for %s: %s", self._rank, seconds, _named(absent), what)

    def _missing(self, what: str, error: BaseException) -> WaitTimeoutError:
        """Return the error that names the ranks that did not come; one that has just come needs a moment to say so."""
        absent = self._until_none(self._absent, what)
        silent = self._until_none(self._silent, what) if absent == [] else None
        if absent:
            fact = f"{_named(absent)} did not come to {what}"
        elif silent:
            fact = f"{_named(silent)} came to {what} and did not go on"
        elif absent is None:
            fact = f"{what} failed, and the store that knows which ranks came (of rank 0, or torchrun) does not answer"
        else:
            fact = f"{what} failed: another rank has ended, or gave up waiting"
        told = "" if isinstance(error, WaitTimeoutError) else f" ({_SOURCE.sub('', str(error)).partition('. ')[0]})"
        return WaitTimeoutError(
            f"{fact}; rank {self._rank} waits {self.timeout:.4g} s at most, the timeout of the process group{told}. "
            "Look whether a rank is stopped, stuck or gone, and start the job again from a checkpoint"
        )

    def _until_none(self, find: Callable[[], list[int]], what: str) -> list[int] | None:
        """Return the ranks that `find` finds, after a moment; None if the store does not answer."""
        until, found = time.monotonic() + 0.5 * self._soon, None
        with contextlib.suppress(WaitTimeoutError, RuntimeError):
            while (left := until - time.monotonic()) > 0:
                if not (found := in_time(find, timeout=left, what=what)):
                    break
                time.sleep(0.1 * self._soon)
        return found


def _named(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {list(ranks)}"
