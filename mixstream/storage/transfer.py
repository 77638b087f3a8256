"""Objects, or ranges of them, in parts: many requests at once, so that they arrive as fast as the network carries them.

What lives here: cutting what is read into parts, requesting them in parallel, and putting them together. Rules: a part
that arrived is not requested again; parts of two versions of an object are never mixed; the size in the index counts,
and an object of another size is an error. A part is written while it arrives, if the store hands it over so, and is in
memory until it has arrived otherwise; the process reads no more of them at once than `PARTS_AT_ONCE`, whatever the
number of objects, stores and threads; slow or busy stores get fewer. When the caller leaves, by an error or Ctrl-C,
nothing is written any more, and answers that arrive later are dropped. Threads are started for an object and end with
it; a forked child inherits none.
"""

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

from mixstream import errors
from mixstream.metering import carried, here
from mixstream.records import dataclass
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.part_limit import PartLimit
from mixstream.storage.retry import Retry
from mixstream.storage.spec import wrong_size
from mixstream.storage.store import ObjectInfo, Store, other_size, read_at_most, read_into

PART = 16 << 20  # bytes per request
PARTS_OF_ONE = 4  # of one object at once
PARTS_AT_ONCE = 16  # of all objects of a process

_SLACK = 60.0  # seconds on top of all that retries may take, after which a client counts as hanging
_SIZE_ATTEMPTS = 2  # at asking how large an object is whose bytes did not come
_CHUNK = 1 << 18  # bytes of one write; one of 16 MiB takes up to four times the CPU (bench/storage.py)
_COUNTED = 1 << 20  # bytes that are counted together
_AT_EXIT = 2.0  # seconds that the interpreter's exit waits for requests under way


def read_object(
    store: Store,
    name: str,
    *,
    size: int | None,
    retry: Retry,
    into: int | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    found: Callable[[ObjectInfo], None] = lambda info: None,
    span: tuple[int, int] | None = None,
    known: ObjectInfo | None = None,
) -> bytearray | None:
    """Read an object, whole or a range of it, in parallel parts, each with the attempts of `retry`.

    Args:
        store: where it is.
        name: which object.
        size: bytes of the whole object, as the index has them; None if they are not known: then it is read by one
            request.
        retry: attempts and timeout of each part; an object that is replaced meanwhile is read from the start as often.
        into: descriptor of a file, as large as what is read, to write to while parts arrive; after an error its
            content is of no use. Without it the bytes are returned.
        heartbeat: called before and after each read, on any thread, so that waiting processes see the progress, also
            while the bytes go to memory.
        found: called once, with what the store said of the object whose bytes are returned.
        span: the bytes [begin, end) to read, of an object whose `size` is given; None for all of it.
        known: the version that is to be read, and no other; None for the one that is there.

    Returns:
        The bytes, or None with `into`.

    Raises:
        ShardCorruptError: the object has another size than `size`.
        StoreChangedError: it is another version than `known`, or was replaced while it was read, each time.
        NoRangesError: the server has no ranges, and `span` is not all of the object.
        StoreError: what the last attempt raised, with a note.
        OSError: writing to `into` failed.
        WaitTimeoutError: a request exceeded its own timeout.
    """
    whole, begun, began = size is None, 0, time.monotonic()
    while True:
        reading = _Reading(
            store=store,
            name=name,
            size=size,
            whole=whole,
            retry=retry,
            into=into,
            heartbeat=heartbeat,
            span=span,
            info=known,
        )
        try:
            data = reading.run()
            if reading.info is not None:
                found(reading.info)
            return data
        except errors.NoRangesError:
            if whole or size is None or span not in (None, (0, size)):
                raise
            what = f"asking for the size of {store.url}/{name}"  # first: the server chooses how large the body is
            there = retry.call(what, lambda: store.info(name), renew=store.renew).size
            if there != size:
                raise wrong_size(f"{store.url}/{name}", there, size) from None
            whole = True
        except errors.StoreChangedError as error:
            begun += 1
            if known is not None or begun >= retry.attempts:  # for one version, the answer stays the same
                error.add_note(
                    f"while reading {store.url}/{name}: begun {begun} times, and replaced each time; let the program "
                    "that writes it finish, or raise `download_retry`"
                )
                raise
            time.sleep(retry.pause(begun - 1))
        except errors.StoreFaultError as error:
            until = began + retry.bound
            if size is not None and (there := _size_of(store, name, retry, until, reading)) not in (None, size):
                raise wrong_size(f"{store.url}/{name}", there, size) from error  # that is not the store's fault
            raise


def _size_of(store: Store, name: str, retry: Retry, until: float, reading: "_Reading") -> int | None:
    """Return how large an object is behind a fault; None if the store does not say so until `until`.

    A store that does not answer is not asked: that would take longer than `retry` allows. One that answers may fail
    once more; then the sizes count that answers to `reading` showed. An object that was cut can be set aside, a fault
    of the store cannot.
    """
    for attempt in range(_SIZE_ATTEMPTS):
        in_time = time.monotonic() + retry.timeout <= until
        if not in_time and (attempt > 0 or not reading.answers):
            break
        try:
            return store.info(name).size
        except (errors.StoreFaultError, errors.StoreBusyError):
            if attempt + 1 < _SIZE_ATTEMPTS:
                time.sleep(min(retry.pause(0), max(0.0, until - retry.timeout - time.monotonic())))
        except errors.StoreError:
            break
    return reading.shown


_limit = ProcessLocal(lambda: PartLimit(PARTS_AT_ONCE))
# A thread that is inside a client when the interpreter is finalized may abort the process.
atexit.register(lambda: _limit.value.close(_AT_EXIT))


@dataclass(kw_only=True, eq=False)
class _Reading:
    """One object, or a range of it, read once."""

    store: Store
    name: str
    size: int | None
    whole: bool
    retry: Retry
    into: int | None
    heartbeat: Callable[[], None]
    span: tuple[int, int] | None
    info: ObjectInfo | None

    def __post_init__(self) -> None:
        self._parts: list[tuple[int, int | None]] = [(0, None)]
        if not self.whole:
            begin, end = self.span or (0, self.size or 0)
            self._parts = [(at, min(at + PART, end)) for at in range(begin, end, PART)] or [(begin, end)]
        self._todo = list(reversed(self._parts))
        self._data: bytearray | None = None  # what is returned, once the store has said how large it is
        self._sizes = Counter[int]()  # other ones than the index has, by answers
        self.answers = False  # whether the newest request ended before its timeout, be it with an error
        self._change = threading.Condition()
        self._arrived = self._writing = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()

    @property
    def shown(self) -> int | None:
        """The size that answers showed, if two or more agree on it, and none showed another one."""
        return next(iter(self._sizes)) if len(self._sizes) == 1 and self._sizes.total() > 1 else None

    def run(self) -> bytearray | None:
        """Return the bytes, or None when they were written to a file."""
        try:
            for i in range(min(PARTS_OF_ONE, len(self._parts))):
                threading.Thread(target=carried(self._work), name=f"mixstream-read-{i}", daemon=True).start()
            self._wait()
            if self._error is not None:
                raise self._error
            return bytearray() if self.into is None and self._data is None else self._data
        finally:
            with self._change:
                self._stop.set()  # under the lock: from here on no thread begins to write
                self._change.wait_for(lambda: not self._writing, timeout=_SLACK)
            self._data = None
            self._error = None  # its traceback refers to this object

    def _wait(self) -> None:
        """Wait until all parts are there or one has failed, as long as requests of this process end."""
        timeout = min(self.retry.longest + _SLACK, threading.TIMEOUT_MAX)
        with self._change:
            while True:
                ended = _limit.value.ended
                if self._change.wait_for(lambda: self._error or self._arrived == len(self._parts), timeout=timeout):
                    return
                if ended == _limit.value.ended:
                    raise errors.WaitTimeoutError(
                        f"{self.store.url}/{self.name}: no request ended in {timeout:.0f} s, though each has a "
                        f"timeout of {self.retry.timeout:g} s: the client hangs; restart this process"
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
        room = 1 if end is not None or self.size is None else -(-self.size // PART)
        waited = 0.0

        def attempt() -> None:
            nonlocal waited
            asked = time.monotonic()
            with _limit.value.room(max(1, room), self.retry.longest + _SLACK):
                now = time.monotonic()
                # While nothing is answered, waiting behind other requests is waiting for the store.
                idle = now - max(asked, _limit.value.succeeded)
                if idle > self.retry.bound:
                    raise errors.StoreFaultError(
                        f"{self.store.url}/{self.name}: it was not requested, since the requests that this process has "
                        f"made before were not answered for {idle:.0f} s"
                    )
                waited += now - asked - idle
                if not self._stop.is_set():
                    try:
                        self._receive(begin, end)
                    except errors.StoreFaultError as error:
                        self._sizes.update(() if error.size is None else (error.size,))
                        raise

        what = f"reading {bytes_}{self.store.url}/{self.name}"
        self.retry.call(what, attempt, renew=self.store.renew, stop=self._stop, waited=lambda: waited)

    def _receive(self, begin: int, end: int | None) -> None:
        """Read a part, check it, and put it in its place."""
        self.heartbeat()
        version, arrived, counted = self.info.version if self.info is not None else None, 0, 0

        def take(info: ObjectInfo) -> Callable[[memoryview, int], None]:
            self._accept(info)
            expected = (info.size if end is None else end) - begin

            def write(data: memoryview, at: int) -> None:
                nonlocal arrived, counted
                if (arrived := at + data.nbytes) > expected:
                    raise self._other_length(arrived, begin, expected)
                if arrived - counted >= _COUNTED:
                    here().traffic.add("store_bytes", arrived - counted)
                    counted = arrived
                self._put(data, begin + at, info)

            return write

        asked, self.answers = time.monotonic(), False
        try:
            with here().traffic.request():
                if end is not None:
                    read_into(self.store, self.name, begin, end, take, version=version)
                else:  # the server chooses how long an object is
                    whole = (
                        self.store.read(self.name, begin, end, version=version)
                        if self.size is None
                        else read_at_most(self.store, self.name, self.size, version=version)
                    )
                    take(whole.info)(memoryview(whole.data).cast("B"), 0)
                    end = whole.info.size
        finally:
            here().traffic.add("store_bytes", arrived - counted)
            self.answers = time.monotonic() - asked < self.retry.timeout / 2
            self.heartbeat()
        if arrived != end - begin:
            raise self._other_length(arrived, begin, end - begin)
        with self._change:
            self._arrived += 1
            self._change.notify_all()

    def _other_length(self, found: int, begin: int, expected: int) -> errors.StoreFaultError:
        place = f"{self.store.url}/{self.name}"
        return errors.StoreFaultError(f"{place}: {found} bytes came from {begin} on, {expected} were requested")

    def _accept(self, info: ObjectInfo) -> None:
        """Check what the store says of the object of which a part is to come."""
        place = f"{self.store.url}/{self.name}"
        if self.size is not None and info.size != self.size:
            raise other_size(f"{place}: the store has {info.size} bytes of it, the index says {self.size}", info.size)
        with self._change:
            self.info = before = self.info or info
        if info.identity != before.identity:
            raise errors.StoreChangedError(
                f"{place}: replaced while it was read: version {info.version} after {before.version}"
            )

    def _put(self, data: memoryview, begin: int, info: ObjectInfo) -> None:
        """Put bytes of the object, which begin at `begin` of it, where they belong; not after the caller has left."""
        first, last = self.span or (0, info.size)
        at = begin - first
        with self._change:
            if self._stop.is_set():
                raise errors.StoreError(f"{self.store.url}/{self.name}: nobody waits for it any more")
            if self.into is None and self._data is None:
                self._data = bytearray(last - first)
            self._writing += 1
        try:
            if self.into is not None:
                write_all(self.into, data, at)
            elif self._data is not None:
                memoryview(self._data)[at : at + data.nbytes] = data
        finally:
            with self._change:
                self._writing -= 1
                if self._stop.is_set():  # only then is that waited for, and a piece comes every millisecond
                    self._change.notify_all()


def write_all(number: int, data: memoryview, offset: int = 0) -> None:
    """Write all of `data` at `offset`, in pieces, by which other processes see progress."""
    done = 0
    while done < len(data):
        done += os.pwrite(number, data[done : done + _CHUNK], offset + done)
