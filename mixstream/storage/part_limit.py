"""How many parts of objects a process reads at once: what its line carries."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mixstream import errors


class PartLimit:
    """How many parts may be read at once: fewer after faults, more again while all goes well.

    One part more per success, half of them per failure, as TCP does. So a line on which 16 parts do not arrive in time
    carries fewer at once, and they do arrive.
    """

    def __init__(self, most: int) -> None:
        self._most, self._now = most, most / 2
        self._taken, self._closed = 0, False
        self._change = threading.Condition()
        self.ended = 0
        self.succeeded = 0.0  # when a request last did

    @contextmanager
    def room(self, parts: int, timeout: float) -> Iterator[None]:
        """Hold the room of so many parts, or all room if there is less; wait for it, `timeout` seconds at most."""

        def free() -> bool:
            return self._closed or not self._taken or self._taken + parts <= int(self._now)

        with self._change:
            came = self._change.wait_for(free, timeout=timeout)
            if self._closed:
                raise errors.StoreError("the interpreter is exiting: nothing is read from stores any more")
            if not came:
                raise errors.WaitTimeoutError(
                    f"no request could be made in {timeout:.0f} s: {self._taken} requests in progress do not end"
                )
            self._taken += parts
        change = 1.0
        try:
            yield
        except (errors.StoreFaultError, errors.StoreBusyError):
            change = -self._now / 2
            raise
        finally:
            with self._change:
                self._taken, self.ended = self._taken - parts, self.ended + 1
                self.succeeded = time.monotonic() if change > 0 else self.succeeded
                self._now = max(1.0, min(self._most, self._now + change))
                self._change.notify_all()

    def close(self, timeout: float) -> None:
        """Let no request begin any more, and wait for those under way, `timeout` seconds at most."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._taken, timeout=timeout)
