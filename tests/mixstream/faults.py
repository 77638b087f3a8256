"""What a store can do to its clients: the actions of `fault_proxy.FaultProxy`, as (exchange) -> None.

Rule: faults are made of what the real server said, so that clients meet them in the middle of true answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(kw_only=True)
class Seen:
    """One exchange, as the meter saw it: `sent` counts the body bytes that the client was given."""

    method: str
    path: str
    range: str | None
    status: int = 0
    sent: int = 0


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request of a client, and the means to answer it.

    Attributes:
        headers: of the request, names in lower case.
        ask: sends the request on (with these headers besides; None: without it) and returns (status, headers, body).
        answer: gives the client a status, headers and a body; `length` is what the head says, if not the truth;
            `rate`: bytes per second.
        sleep: waits so many seconds, or until the proxy ends.
        reset: closes the connection, by RST unless `politely`.
    """

    seen: Seen
    headers: Mapping[str, str]
    ask: Callable[..., tuple[int, dict[str, str], bytes]]
    answer: Callable[..., None]
    sleep: Callable[[float], None]
    reset: Callable[..., None]


Action = Callable[[Exchange], None]


def reset(after: int = 0) -> Action:
    """RST after `after` bytes of the body (a true head comes first), or at once."""

    def act(exchange: Exchange) -> None:
        if after:
            status, headers, body = exchange.ask()
            exchange.answer(status, headers, body[:after], length=len(body))
            exchange.sleep(0.02)  # RST overtakes what the client has not read yet
        exchange.reset()

    return act


def truncate(after: int) -> Action:
    """Announce the whole body, send `after` bytes of it and close as if all were well."""

    def act(exchange: Exchange) -> None:
        status, headers, body = exchange.ask()
        exchange.answer(status, headers, body[:after], length=len(body))
        exchange.reset(politely=True)

    return act


def stall(after: int = 0, seconds: float = 60.0) -> Action:
    """Fall silent for `seconds` after `after` bytes of the body (0: before the head), then RST."""

    def act(exchange: Exchange) -> None:
        if after:
            status, headers, body = exchange.ask()
            exchange.answer(status, headers, body[:after], length=len(body))
        exchange.sleep(seconds)
        exchange.reset()

    return act


def delay(seconds: float) -> Action:
    """Answer truly, but late."""

    def act(exchange: Exchange) -> None:
        exchange.sleep(seconds)
        exchange.answer(*exchange.ask())

    return act


def trickle(rate: float) -> Action:
    """Answer truly, at `rate` bytes per second."""
    return lambda exchange: exchange.answer(*exchange.ask(), rate=rate)


def corrupt(at: int = 0) -> Action:
    """Flip the bits of one byte of the body; length, checksums and everything else stay."""

    def act(exchange: Exchange) -> None:
        status, headers, body = exchange.ask()
        wrong = bytearray(body)
        wrong[at] ^= 0xFF
        exchange.answer(status, headers, bytes(wrong))

    return act


def refuse_with(status: int, code: str, *, retry_after: float | None = None) -> Action:
    """Answer with an S3 error: (503, "SlowDown"), (403, "ExpiredToken"), (404, "NoSuchKey"), (500, "InternalError")."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    headers = {"Content-Type": "application/xml"} | ({} if retry_after is None else {"Retry-After": f"{retry_after:g}"})
    return lambda exchange: exchange.answer(status, headers, text.encode())


def expire(key: str) -> Action:
    """Refuse what is signed with this access key, as one that has expired."""
    refuse = refuse_with(403, "ExpiredToken")

    def act(exchange: Exchange) -> None:
        if f"Credential={key}/" in exchange.headers.get("authorization", ""):
            refuse(exchange)
        else:
            exchange.answer(*exchange.ask())

    return act


def before(happens: Callable[[], None]) -> Action:
    """Let something happen on the server, then answer truly."""

    def act(exchange: Exchange) -> None:
        happens()
        exchange.answer(*exchange.ask())

    return act


def ignore_range() -> Action:
    """Answer a request for a range with status 200 and the whole object, as plain servers do."""
    return lambda exchange: exchange.answer(*exchange.ask(range=None))


def shift_range(by: int) -> Action:
    """Answer a request for a range with another one, of the same length, and say so in Content-Range."""

    def act(exchange: Exchange) -> None:
        begin, end = (int(x) + by for x in str(exchange.seen.range).removeprefix("bytes=").split("-"))
        exchange.answer(*exchange.ask(range=f"bytes={begin}-{end}"))

    return act


def change_headers(**headers: str | None) -> Action:
    """Answer truly but for these headers (`_` for `-`; None: left out): another object's `etag`, a wrong size, ..."""
    changes = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    def act(exchange: Exchange) -> None:
        status, true, body = exchange.ask()
        kept = {name: value for name, value in true.items() if name.lower() not in changes}
        exchange.answer(status, kept | {name: value for name, value in changes.items() if value is not None}, body)

    return act
