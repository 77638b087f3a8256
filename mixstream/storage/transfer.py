"""Whole objects, in parts: many requests at once, so that one object comes as fast as the wire can carry it.

What lives here: cutting an object into parts, asking for them side by side, and putting them together. Rules: a part
that arrived is not asked for again; parts of two versions of an object are never mixed; the index's size is believed,
and a store that says otherwise is contradicted. A part stays in memory from its request until it is written, and the
process has no more of them at once than `PARTS_AT_ONCE`, whatever the number of objects, stores and threads; slow or
busy stores get fewer. When the caller leaves, by an error or Ctrl-C, nothing is written any more, and what is still
under way is dropped when it comes. Threads are made for an object and end with it; a forked child inherits none.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mixstream.errors import (
    NoRangesError,
    ShardCorruptError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    WaitTimeoutError,
)
from mixstream.storage.retry import Retry
from mixstream.storage.store import ObjectBytes, Store

if TYPE_CHECKING:
    from typing_extensions import Buffer

PART = 16 << 20  # bytes per request
PARTS_OF_ONE = 4  # of one object at once
PARTS_AT_ONCE = 16  # of all objects of a process

_PATIENCE = 60.0  # seconds on top of all that retries may take, before we say that a client hangs
_AT_EXIT = 2.0  # seconds that the interpreter's exit waits for requests under way


def read_object(store: Store, name: str, *, size: int | None, retry: Retry, into: int | None = None) -> bytes | None:
    """Read a whole object, in parts side by side, each with the attempts of `retry`.

    Args:
        store: where it is.
        name: which object.
        size: bytes, as the index has them; None if nobody knows: then it comes by one request.
        retry: attempts and timeout of each part; an object that is replaced meanwhile is begun anew as often.
        into: descriptor of a file of `size` bytes to write to, while parts arrive; what stands in it after an error is
            of no use. Without it the bytes are returned, and take twice their size in memory for an instant.

    Returns:
        The bytes, or None with `into`.

    Raises:
        ShardCorruptError: the object has another size than `size`.
        StoreError: what the last attempt met, with a note.
        OSError: writing to `into` failed.
        WaitTimeoutError: a request did not keep to its own timeout.
    """
    whole, begun = size is None, 0
    while True:
        try:
            return _Reading(store, name, size=size, whole=whole, retry=retry, into=into).run()
        except NoRangesError:
            if whole or size is None:
                raise
            # The body is as large as the server likes, so its size is asked for first.
            what = f"asking for the size of {store.url}/{name}"
            found = retry.call(what, lambda: store.info(name), renew=store.renew).size
            if found != size:
                raise _other_size(store, name, size, found) from None
            whole = True
        except StoreChangedError as error:
            begun += 1
            if begun >= retry.attempts:
                error.add_note(
                    f"while reading {store.url}/{name}: begun {begun} times, and replaced each time; let whoever "
                    "writes it finish, or raise `download_retry`"
                )
                raise
            time.sleep(retry.pause(begun - 1))
        except StoreFaultError as error:
            found = _ask_size(store, name)
            if None not in (found, size) and found != size:
                raise _other_size(store, name, size, found) from error
            raise


def _ask_size(store: Store, name: str) -> int | None:
    """Tell an object of another size, which no request can deliver as asked for, from a store at fault."""
    try:
        return store.info(name).size
    except StoreError:
        return None


def _other_size(store: Store, name: str, size: int | None, found: int | None) -> ShardCorruptError:
    return ShardCorruptError(
        f"{store.url}/{name}: {found} bytes, the index says {size}; the shard is truncated or belongs to another "
        "index: upload it again from its origin, or convert it again"
    )


class _Limit:
    """How many parts may be in memory at once: fewer after faults, more again while all goes well.

    One part per success, half of them per failure, as TCP does. So a line on which 16 parts do not come in time
    carries fewer at once, and still delivers.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.begin()

    def begin(self) -> None:
        """Begin with nothing taken."""
        self._now, self._taken, self._closed = self._most / 2, 0, False
        self._change = threading.Condition()
        self.ended = 0

    @contextmanager
    def room(self, parts: int, patience: float) -> Iterator[None]:
        """Hold the room of so many parts, or all room if there is less; wait for it, `patience` seconds at most."""

        def free() -> bool:
            return self._closed or not self._taken or self._taken + parts <= int(self._now)

        with self._change:
            came = self._change.wait_for(free, timeout=patience)
            if self._closed:
                raise StoreError("the interpreter is exiting: nothing is read from stores any more")
            if not came:
                raise WaitTimeoutError(f"no request could be made in {patience:.0f} s: {self._taken} others hang")
            self._taken += parts
        change = 1.0
        try:
            yield
        except (StoreFaultError, StoreBusyError):
            change = -self._now / 2
            raise
        finally:
            with self._change:
                self._taken, self.ended = self._taken - parts, self.ended + 1
                self._now = max(1.0, min(self._most, self._now + change))
                self._change.notify_all()

    def close(self, patience: float) -> None:
        """Let no request begin any more, and wait for those under way, `patience` seconds at most."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._taken, timeout=patience)


_LIMIT = _Limit(PARTS_AT_ONCE)
os.register_at_fork(after_in_child=_LIMIT.begin)  # the parent's threads, which hold room, are not in the child
atexit.register(_LIMIT.close, _AT_EXIT)  # a thread inside a client when its interpreter goes may abort the process


class _Reading:
    """One object, read once."""

    def __init__(
        self, store: Store, name: str, *, size: int | None, whole: bool, retry: Retry, into: int | None
    ) -> None:
        self._store, self._name, self._size, self._retry, self._into = store, name, size, retry, into
        self._parts: list[tuple[int, int | None]] = [(0, None if whole else 0)]
        if size and not whole:
            self._parts = [(at, min(at + PART, size)) for at in range(0, size, PART)]
        self._todo = list(reversed(self._parts))
        self._pieces: dict[int, Buffer] = {}
        self._version: str | None = None
        self._change = threading.Condition()
        self._arrived = self._writing = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()

    def run(self) -> bytes | None:
        """Return the bytes, or None when they were written to a file."""
        try:
            for i in range(min(PARTS_OF_ONE, len(self._parts))):
                threading.Thread(target=self._work, name=f"mixstream-read-{i}", daemon=True).start()
            self._wait()
            if self._error is not None:
                raise self._error
            return None if self._into is not None else b"".join(self._pieces[begin] for begin, _ in self._parts)
        finally:
            with self._change:
                self._stop.set()  # under the lock: from here on nobody begins to write
                self._change.wait_for(lambda: not self._writing, timeout=_PATIENCE)
            self._pieces.clear()
            self._error = None  # its traceback refers to us

    def _wait(self) -> None:
        """Wait until all parts are there or one has failed, as long as anything moves in this process."""
        patience = self._retry.longest + _PATIENCE
        with self._change:
            while True:
                ended = _LIMIT.ended
                if self._change.wait_for(lambda: self._error or self._arrived == len(self._parts), timeout=patience):
                    return
                if ended == _LIMIT.ended:
                    raise WaitTimeoutError(
                        f"{self._store.url}/{self._name}: no request ended in {patience:.0f} s, though each has a "
                        f"timeout of {self._retry.timeout:g} s: the client hangs; restart this process"
                    )

    def _work(self) -> None:
        try:
            while (part := self._next()) is not None:
                self._fetch(*part)
        except BaseException as error:
            with self._change:
                self._error = self._error or error
                self._stop.set()
                self._change.notify_all()

    def _next(self) -> tuple[int, int | None] | None:
        with self._change:
            return self._todo.pop() if self._todo and not self._stop.is_set() else None

    def _fetch(self, begin: int, end: int | None) -> None:
        bytes_ = "" if len(self._parts) == 1 else f"bytes {begin} to {end} of "

        room = 1 if end is not None or self._size is None else -(-self._size // PART)

        def attempt() -> None:
            with _LIMIT.room(max(1, room), self._retry.longest + _PATIENCE):
                if not self._stop.is_set():
                    self._keep(begin, end, self._store.read(self._name, begin, end, version=self._version))

        what = f"reading {bytes_}{self._store.url}/{self._name}"
        self._retry.call(what, attempt, renew=self._store.renew, stop=self._stop)

    def _keep(self, begin: int, end: int | None, piece: ObjectBytes) -> None:
        """Check a part and put it in its place."""
        place, info = f"{self._store.url}/{self._name}", piece.info
        if self._size is not None and info.size != self._size:
            raise StoreFaultError(f"{place}: the store has {info.size} bytes of it, the index says {self._size}")
        data = memoryview(piece.data).cast("B")
        if data.nbytes != (wanted := (info.size if end is None else end) - begin):
            raise StoreFaultError(f"{place}: {data.nbytes} bytes came from {begin} on, asked for {wanted}")
        with self._change:
            if self._stop.is_set():
                return
            self._version = self._version if self._version is not None else info.version
            if info.version != self._version:
                raise StoreChangedError(
                    f"{place}: replaced while it was read: version {info.version} after {self._version}"
                )
            self._writing += 1
        try:
            if self._into is None:
                self._pieces[begin] = piece.data
            else:
                _write_all(self._into, data, begin)
        finally:
            with self._change:
                self._writing -= 1
                self._change.notify_all()
        with self._change:
            self._arrived += 1
            self._change.notify_all()


def _write_all(number: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`: one `pwrite` may write less."""
    done = 0
    while done < len(data):
        done += os.pwrite(number, data[done:], offset + done)
