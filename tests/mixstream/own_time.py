"""How long something took, without the time in which a busy machine let this process wait."""

from __future__ import annotations

import threading
from types import TracebackType

_TICK = 0.01


class OwnTime:
    """A clock that a thread of this process moves on, a tick after each sleep of a tick.

    On an idle machine it goes a few percent slow. Where the process waits for a core, the clock waits too; so a bound
    on `seconds` holds under any load, and is broken by what sleeps, or waits for an answer, for too long.

    >>> with OwnTime() as clock:
    ...     time.sleep(0.1)
    >>> 0.0 < clock.seconds <= 0.11
    True
    """

    def __init__(self) -> None:
        self._ticks, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds that have passed by this clock."""
        return self._ticks * _TICK

    def __enter__(self) -> OwnTime:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_TICK):
            self._ticks += 1
