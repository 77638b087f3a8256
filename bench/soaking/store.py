"""A store that fails at random: rules of the fault proxy, and what happens to the store meanwhile.

Everything here passes, or can be told: wrong bytes are sent only where hashes show them, and an object that is written
again has the bytes that it had.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fault_proxy import FaultProxy, Rule  # pyright: ignore[reportMissingImports] - soak.py sets the path
from faults import (  # pyright: ignore[reportMissingImports]
    Action,
    Exchange,
    corrupt,
    delay,
    ignore_range,
    refuse_with,
    reset,
    stall,
    trickle,
    truncate,
)
from servers import S3  # pyright: ignore[reportMissingImports]


def shift_range(by: int) -> Action:
    """Answer a request for a range with another one of the same length, and say so in Content-Range."""

    def act(exchange: Exchange) -> None:
        begin, _, end = str(exchange.seen.range or "").removeprefix("bytes=").partition("-")
        if not begin.isdigit() or not end.isdigit() or int(begin) < by:
            exchange.answer(*exchange.ask())
        else:
            exchange.answer(*exchange.ask(range=f"bytes={int(begin) - by}-{int(end) - by}"))

    return act


def lose_answer() -> Action:
    """Let the request happen, and reset the connection in place of an answer."""

    def act(exchange: Exchange) -> None:
        exchange.ask()
        exchange.reset()

    return act


READS: list[tuple[str, str, Callable[[], Action], float]] = [
    ("reset in the body", "GET", lambda: reset(after=1000), 0.04),
    ("reset", "GET", reset, 0.02),
    ("truncated", "GET", lambda: truncate(after=5000), 0.03),
    ("stalled", "GET", lambda: stall(after=2000, seconds=30), 0.005),
    ("trickled", "GET", lambda: trickle(400_000), 0.02),
    ("late", "GET", lambda: delay(0.3), 0.03),
    ("503 SlowDown", "GET", lambda: refuse_with(503, "SlowDown", retry_after=1), 0.02),
    ("500", "GET", lambda: refuse_with(500, "InternalError"), 0.02),
    ("range ignored", "GET", ignore_range, 0.01),
    ("another range", "GET", lambda: shift_range(64), 0.01),
    ("HEAD reset", "HEAD", reset, 0.03),
    ("HEAD 500", "HEAD", lambda: refuse_with(500, "InternalError"), 0.03),
]
"""What happens to reads: name, method, action, chance."""

WRONG = ("wrong byte", "GET", lambda: corrupt(at=-5), 0.02)

WRITES: list[tuple[str, str, Callable[[], Action], float]] = [
    (f"{method} {name}", method, action, chance)
    for method in ("PUT", "POST", "DELETE")
    for name, action, chance in (
        ("reset", reset, 0.04),
        ("done, answer lost", lose_answer, 0.04),
        ("503 SlowDown", lambda: refuse_with(503, "SlowDown", retry_after=1), 0.02),
        ("500", lambda: refuse_with(500, "InternalError"), 0.04),
        ("late", lambda: delay(0.3), 0.05),
    )
]
"""What happens to writes."""


@dataclass
class Mischief:
    """What goes wrong in one scenario: rules, refused connections, objects that are written again.

    Args:
        proxy: through which readers reach the store.
        s3: the scenario's place in the store, past the proxy.
        dice: decides.
        hashed: whether a wrong byte can be known.
        mild: whether readers make few attempts.
        writes: whether writes fail too.
        rewrites: whether objects are written again, with the same bytes.
    """

    proxy: FaultProxy
    s3: S3
    dice: random.Random
    hashed: bool
    mild: bool = False
    writes: bool = False
    rewrites: bool = False
    refused: int = 0
    rewritten: int = 0
    _rules: list[tuple[str, Rule]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin."""
        scale = 0.4 if self.mild else self.dice.choice((0.4, 1.0, 1.0, 1.6))
        for name, method, action, chance in [*READS, *(WRITES if self.writes else [])]:
            seed = self.dice.randrange(1 << 30)
            self._rules.append((name, self.proxy.when(action(), method=method, chance=chance * scale, seed=seed)))
        if self.hashed:
            name, method, action, chance = WRONG
            rule = self.proxy.when(
                action(), method=method, path="*.mds*", chance=chance, seed=self.dice.randrange(9999)
            )
            self._rules.append((name, rule))
        self._thread = threading.Thread(target=self._run, name="mischief", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        names = self.s3.names() if self.rewrites else []
        while not self._ended.wait(self.dice.uniform(4, 12)):
            if names and self.dice.random() < 0.5:
                name = self.dice.choice(names)
                with suppress(OSError):
                    self.s3.put(name, self.s3.get(name))
                    self.rewritten += 1
            else:
                self.proxy.refuse()
                self._ended.wait(self.dice.uniform(0.2, 1.5))
                self.proxy.accept()
                self.refused += 1

    def end(self) -> dict[str, int]:
        """Let all go well from now on; return how often each kind of fault happened."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(30)
        self.proxy.clear()
        found = {name: rule.acted for name, rule in self._rules}
        return found | {"connections refused": self.refused, "objects written again": self.rewritten}
