"""Retrying requests to a store, and the note on the error when they fail.

What lives here: attempts, waits, and the notes on the error that is raised; no threads, no bytes, no stores. Rules: an
attempt is one request (one part of a shard, not the shard), so a large shard does not get fewer attempts than a small
one. All attempts at one request, pauses included, take no longer than attempts x timeout. Only transient errors are
retried: a fault uses up attempts; a store that asks to slow down uses up time instead;
after a refusal, credentials are read again once. Every other error is raised at once. The error that is raised is the
original one, with a note. No wait is unbounded.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mixstream.errors import ConfigError, StoreAccessError, StoreBusyError, StoreError, StoreFaultError
from mixstream.metering import here
from mixstream.records import dataclass
from mixstream.storage.redaction import redact

T = TypeVar("T")

LONGEST_TIMEOUT = 1 << 31  # seconds, which all clients and locks can count
_LONGEST_PAUSE = 32  # in units of back-off, as its first five doublings reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and for how long, a request is tried.

    With three attempts, the third request succeeds after two faults:

    >>> from unittest.mock import Mock
    >>> read = Mock(side_effect=[StoreFaultError("reset"), StoreFaultError("reset"), b"0123"])
    >>> Retry(attempts=3, unit=0.001).call("reading s3://bucket/web/shard.00000.mds", read)
    b'0123'

    Args:
        attempts: `download_retry`, requests in all before a fault is raised; 0 counts as 1.
        timeout: `download_timeout`, seconds that one request may take, and seconds for which a store may ask to wait.
            A request is given up after attempts x timeout seconds in all.
        unit: seconds of the first pause; the i-th lasts unit · (2^i + U(0, 0.5)), or what attempts x timeout leaves.
        knobs: the user's names of `attempts` and `timeout`, for errors; "" where the user cannot set it.

    Raises:
        ConfigError: a value is out of range.
    """

    attempts: int = 2
    timeout: float = 60.0
    unit: float = 1.0
    knobs: tuple[str, str] = ("download_retry", "download_timeout")

    def __post_init__(self) -> None:
        if self.attempts < 0:
            raise ConfigError(f"`download_retry` is {self.attempts}: the number of attempts; pass 1 for a single one")
        if not 0 < self.timeout <= LONGEST_TIMEOUT:
            raise ConfigError(
                f"`download_timeout` is {self.timeout}: seconds per request, at most {LONGEST_TIMEOUT}; pass 60 if in "
                "doubt"
            )

    @property
    def longest(self) -> float:
        """Seconds that one `call` may take, if no request exceeds its timeout."""
        return self.bound + self.timeout

    @property
    def bound(self) -> float:
        """Seconds after which a request is given up, whatever happened to its attempts."""
        return max(1, self.attempts) * self.timeout

    def pause(self, number: int) -> float:
        """Return the seconds to wait before trying again after the `number`-th failure, counted from 0."""
        return self.unit * (min(2 ** min(number, 16), _LONGEST_PAUSE) + random.uniform(0, 0.5))

    def call(
        self,
        what: str,
        act: Callable[[], T],
        *,
        renew: Callable[[], None] | None = None,
        stop: threading.Event | None = None,
        waited: Callable[[], float] = float,
    ) -> T:
        """Return what `act` returns, in the first attempt that succeeds.

        `StoreChangedError` is raised at once: the same request would get the same answer. A caller that requests a
        version has to start again without it, as `transfer.read_object` does.

        Args:
            what: the action and its object, for the error's note, so without credentials.
            act: makes one attempt.
            renew: reads credentials again, after which a refused request is made once more.
            stop: when set, nothing is retried and a pause ends.
            waited: returns the seconds that `act` spent on waiting for its turn, which do not count.

        Raises:
            StoreError: what the last attempt raised, with a note.
            BaseException: anything else that `act` raises, as it is.
        """
        began = time.monotonic()
        made = faults = pauses = 0
        busy_since: float | None = None
        stop = stop or threading.Event()
        while True:
            try:
                made += 1
                here().traffic.attempt(made)
                return act()
            except StoreError as raised:
                error = raised
            now = time.monotonic()
            remaining = began + self.bound + waited() - now
            if isinstance(error, StoreBusyError):
                busy_since = busy_since or now
                left = min(busy_since + self.timeout - now, remaining)
                again = left > 0
            elif isinstance(error, StoreFaultError):
                faults, busy_since = faults + 1, None  # after a fault the store may ask for a full wait again
                # A pause takes no time from the attempts that are left: each may need its whole timeout.
                left = max(0.0, remaining - (self.attempts - faults) * self.timeout)
                again = faults < self.attempts and remaining > 0
            else:
                left, again = 0.0, isinstance(error, StoreAccessError) and renew is not None and _renewed(renew, error)
                renew = None
            if not again or stop.wait(min(self.pause(pauses), left)):
                raise _noted(error, what, made, time.monotonic() - began, self)
            pauses += not isinstance(error, StoreAccessError)


def _renewed(renew: Callable[[], None], refused: StoreAccessError) -> bool:
    """Read credentials again; if that fails, the refusal is what is raised."""
    try:
        renew()
    except StoreError as error:
        refused.add_note(f"reading the credentials again failed: {error}")
        return False
    return True


def _noted(error: StoreError, what: str, made: int, seconds: float, retry: Retry) -> StoreError:
    """Return the error with a note: what was tried, how often and how long, and what to do."""
    tried = f"while {redact(what)}: {made} attempt{'s' * (made > 1)} in {seconds:.1f} s"
    remedy = ""
    known = dict(zip(retry.knobs, (f"{retry.attempts}", f"{retry.timeout:g} s per request")))
    knobs = [f"`{knob}` (now {value})" for knob, value in known.items() if knob]
    if isinstance(error, StoreBusyError):
        remedy = f"; the store kept asking to slow down for {retry.timeout:g} s: read with fewer processes"
        remedy += f", or raise `{retry.knobs[1]}`" if retry.knobs[1] else ""
    elif isinstance(error, StoreFaultError):
        remedy = "; check the network and the endpoint"
        remedy += f"; if both work but are slow, raise {' or '.join(knobs)}" if knobs else ""
    elif isinstance(error, StoreAccessError):
        remedy = "; check the credentials, their expiry, and that they may read this bucket"
    error.add_note(tried + remedy)
    return error
