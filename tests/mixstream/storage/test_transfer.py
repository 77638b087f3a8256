"""Objects in parts: right bytes under any faults, no part twice, no versions mixed, bounded memory, prompt leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import (
    NoRangesError,
    ShardCorruptError,
    StoreAccessError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage import transfer
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.open import open_store
from mixstream.storage.part_limit import PartLimit
from mixstream.storage.retry import Retry
from mixstream.storage.store import ObjectBytes, ObjectInfo
from mixstream.storage.transfer import PARTS_AT_ONCE, PARTS_OF_ONE, read_object

BODY = bytes(range(251)) * 4


class Fake:
    """One object in memory; `before` may raise, wait, or replace the object."""

    url = "fake://bucket"

    def __init__(self, body: bytes = BODY, before: Callable[[int], None] = lambda begin: None) -> None:
        self.body, self.version, self.before = body, "v0", before
        self.asked: Counter[int] = Counter()
        self.arrived: Counter[int] = Counter()
        self.ends: set[int | None] = set()
        self.renewals = self.now = self.most = 0
        self.careless = False  # does not look at the version it is asked for
        self.lock = threading.Lock()

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        assert name == "x"
        with self.lock:
            self.asked[begin] += 1
            self.ends.add(end)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.before(begin)
            with self.lock:
                if version not in (None, self.version) and not self.careless:
                    raise StoreChangedError(f"{version} is gone")
                stop = len(self.body) if end is None else end
                if stop > len(self.body):
                    raise StoreFaultError(f"{end} is beyond the object")
                self.arrived[begin] += 1
                return ObjectBytes(
                    data=self.body[begin:stop], info=ObjectInfo(size=len(self.body), version=self.version)
                )
        finally:
            with self.lock:
                self.now -= 1

    def info(self, name: str) -> ObjectInfo:
        return ObjectInfo(size=len(self.body), version=self.version)

    def write(self, name: str, data: bytes | Path) -> None:
        self.before(0)
        self.body = data if isinstance(data, bytes) else data.read_bytes()

    def names(self, *, limit: int | None = None) -> list[str]:
        return ["x"][:limit]

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def renew(self) -> None:
        self.renewals += 1


@contextmanager
def parts_of(size: int) -> Iterator[None]:
    with mock.patch.object(transfer, "PART", size):
        yield


def failing(plan: dict[int, list[BaseException]]) -> Callable[[int], None]:
    """Raise what `plan` has for a part, one after the other."""

    def before(begin: int) -> None:
        if plan.get(begin):
            raise plan[begin].pop(0)

    return before


def read(store: Fake, *, size: int | None = None, attempts: int = 2, **options) -> bytearray | None:
    retry = Retry(attempts=attempts, timeout=options.pop("timeout", 10.0), unit=options.pop("unit", 1e-4))
    return read_object(store, "x", size=len(store.body) if size is None else size, retry=retry, **options)


TRANSIENT = st.lists(st.sampled_from([StoreFaultError, StoreBusyError]), max_size=4)


@settings(max_examples=50)
@given(
    size=st.integers(1, 300),
    part=st.integers(7, 100),
    attempts=st.integers(1, 4),
    kinds=st.lists(TRANSIENT, min_size=43, max_size=43),
    to_file=st.booleans(),
)
def test_faults_below_the_limit_cost_nothing_but_their_own_part(size, part, attempts, kinds, to_file):
    plan, wanted = {}, {}
    for begin, kind in zip(range(0, size, part), kinds):
        while kind.count(StoreFaultError) >= attempts:
            kind.remove(StoreFaultError)
        plan[begin] = [each("no") for each in kind]
        wanted[begin] = len(kind) + 1
    store = Fake(BODY[:size], failing(plan))
    with parts_of(part), os.fdopen(os.memfd_create("into"), "r+b") as file:
        file.truncate(size)
        got = read(store, attempts=attempts, into=file.fileno() if to_file else None)
        if to_file:
            assert got is None
            got = os.pread(file.fileno(), size + 1, 0)
    assert got == BODY[:size]
    assert dict(store.asked) == wanted
    assert all(count == 1 for count in store.arrived.values())


@settings(max_examples=40)
@given(part=st.integers(20, 400), attempts=st.integers(0, 3), bad=st.integers(0, 10**6))
def test_a_part_that_never_comes_is_asked_for_attempts_times(part, attempts, bad):
    begins = range(0, len(BODY), part)
    begin = begins[bad % len(begins)]
    store = Fake(before=failing({begin: [StoreFaultError("reset") for _ in range(9)]}))
    with parts_of(part), pytest.raises(StoreFaultError, match="reset") as caught:
        read(store, attempts=attempts)
    assert store.asked[begin] == max(1, attempts)
    assert all(count == 1 for at, count in store.asked.items() if at != begin)
    assert "fake://bucket/x" in caught.value.__notes__[0]


@settings(max_examples=50)
@given(part=st.integers(40, 400), at=st.integers(1, 12), careless=st.booleans(), times=st.integers(0, 2))
def test_parts_of_two_versions_are_never_mixed(part, at, careless, times):
    asked = 0

    def replace(_: int) -> None:
        nonlocal asked
        with store.lock:
            asked += 1
            if asked in range(at, at + 20 * times, 20):
                store.version = f"v{asked}"
                store.body = bytes([asked]) * len(BODY)

    store = Fake(before=replace)
    store.careless = careless
    with parts_of(part):
        got = read(store, attempts=times + 1)
    assert bytes(got or b"") in {BODY} | {bytes([n]) * len(BODY) for n in range(at, asked + 1)}


def test_an_object_that_is_replaced_again_and_again_is_given_up():
    def replace(_: int) -> None:
        with store.lock:
            store.version += "'"

    store = Fake(before=replace)
    with parts_of(100), pytest.raises(StoreChangedError) as caught:
        read(store, attempts=3)
    assert "begun 3 times" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("change", [-5, 5, -len(BODY)])
def test_an_object_of_another_size_is_a_corrupt_shard_after_the_attempts(change):
    store = Fake((BODY * 2)[: len(BODY) + change])
    with parts_of(300), pytest.raises(ShardCorruptError, match=f"{len(store.body)} bytes.*says {len(BODY)}"):
        read(store, size=len(BODY), attempts=2)
    assert max(store.asked.values()) == 2


def test_an_empty_object_asks_for_no_bytes():
    store = Fake(b"")
    assert read(store) == b""
    store = Fake(BODY)
    with pytest.raises(ShardCorruptError):
        read(store, size=0)
    assert store.ends == {0}


class WholeOnly(Fake):
    def read(self, name, begin=0, end=None, *, version=None):
        piece = super().read(name, begin, end, version=version)
        if end is not None:
            raise NoRangesError("whole objects only")
        return piece


def test_a_server_without_ranges_sends_the_object_by_one_request(tmp_path):
    with parts_of(300), (tmp_path / "file").open("w+b") as file:
        store = WholeOnly()
        assert read(store, into=file.fileno()) is None
        assert file.read() == BODY
        assert store.asked[0] == 2  # as a part, and whole
        store = WholeOnly(BODY * 9)
        with pytest.raises(ShardCorruptError, match=f"{9 * len(BODY)} bytes"):
            read(store, size=len(BODY))
        assert None not in store.ends


def test_a_whole_object_takes_the_room_of_its_parts():
    now, most, lock = 0, 0, threading.Lock()

    class Counting(WholeOnly):
        def read(self, name, begin=0, end=None, *, version=None):
            nonlocal now, most
            if end is not None:
                return super().read(name, begin, end, version=version)
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1
            return super().read(name, begin, end, version=version)

    store = Counting()
    with parts_of(-(-len(BODY) // (PARTS_AT_ONCE // 2))), ThreadPoolExecutor(8) as threads:
        for got in threads.map(lambda _: read(store), range(24)):
            assert got == BODY
    assert most <= 2


class Streamed(Fake):
    """A store that hands bytes over as they arrive, `pieces` at a time; `cut` bytes are missing at the end."""

    pieces, cut, more = 7, 0, b""

    def read_into(self, name, begin, end, take, *, version=None):
        found = super().read(name, begin, end, version=version)
        data, write = bytes(memoryview(found.data)) + self.more, take(found.info)
        buffer = bytearray(self.pieces)
        for at in range(0, len(data) - self.cut, self.pieces):
            piece = data[at : min(at + self.pieces, len(data) - self.cut)]
            buffer[: len(piece)] = piece
            write(memoryview(buffer)[: len(piece)], at)
        buffer[:] = bytes(self.pieces)  # the bytes were the callee's for the call only


@settings(max_examples=20)
@given(part=st.integers(40, 400), begin=st.integers(0, 500), size=st.integers(0, 500), pieces=st.integers(1, 60))
def test_what_is_handed_over_in_pieces_is_put_in_its_place(part, begin, size, pieces):
    store = Streamed()
    store.pieces = pieces
    with parts_of(part), tempfile.TemporaryFile() as file:
        span = begin, begin + size
        assert read(store, span=span) == BODY[begin : begin + size]
        file.truncate(size)
        assert read(store, span=span, into=file.fileno()) is None
        assert file.read() == BODY[begin : begin + size]


def test_pieces_of_another_version_or_size_are_not_written():
    store = Streamed()
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ShardCorruptError, match="the index says 3"):
            read(store, size=3, into=file.fileno())
        known = ObjectInfo(size=len(BODY), version="v1")
        store.careless = True
        with pytest.raises(StoreChangedError):
            read(store, into=file.fileno(), known=known)
        assert file.read() == b""


@pytest.mark.parametrize(("cut", "more"), [(1, b""), (0, b"!")])
def test_pieces_that_are_too_few_or_too_many_are_a_fault(cut, more):
    store = Streamed()
    store.cut, store.more = cut, more
    with tempfile.TemporaryFile() as file:
        with pytest.raises(StoreFaultError, match="bytes came from"):
            read(store, into=file.fileno())
        assert store.asked[0] == 2
        assert len(file.read()) <= len(BODY)  # nothing is written behind a part


def test_no_piece_is_written_once_the_caller_has_left():
    left, goes_on = threading.Event(), threading.Event()

    class Slow(Streamed):
        def read_into(self, name, begin, end, take, *, version=None):
            write = take(ObjectInfo(size=len(BODY), version="v0"))
            if begin == 0:
                left.wait(20)
                try:
                    write(memoryview(b"late"), 0)
                finally:
                    goes_on.set()
            raise StoreError("no such part")

    fresh = mock.patch.object(transfer, "_limit", ProcessLocal(lambda: PartLimit(PARTS_AT_ONCE)))
    with tempfile.TemporaryFile() as file, parts_of(len(BODY) // 2), fresh:  # both parts are asked for at once
        with pytest.raises(StoreError, match="no such part"):
            read(Slow(), into=file.fileno())
        left.set()
        assert goes_on.wait(20)
        assert file.read() == b""


def test_a_body_of_another_length_is_not_believed():
    class Short(Fake):
        def read(self, name, begin=0, end=None, *, version=None):
            piece = super().read(name, begin, end, version=version)
            return ObjectBytes(data=bytes(memoryview(piece.data)[:-1]), info=piece.info)

    store = Short()
    with pytest.raises(StoreFaultError, match=f"{len(BODY) - 1} bytes came from 0"):
        read(store, attempts=2)
    assert store.asked[0] == 2


def test_without_a_size_the_object_comes_by_one_request():
    store = Fake(before=failing({0: [StoreFaultError("reset")]}))
    with parts_of(10):
        retry = Retry(unit=1e-4)
        assert read_object(store, "x", size=None, retry=retry) == BODY
    assert store.ends == {None}
    assert store.asked == {0: 2}


def test_expired_credentials_are_read_anew():
    store = Fake(before=failing({0: [StoreAccessError("expired")]}))
    assert read(store, attempts=1) == BODY
    assert store.renewals == 1


def test_a_missing_object_is_final_at_once():
    store = Fake(before=failing({begin: [StoreNotFoundError("no x")] for begin in range(0, 1004, 100)}))
    with parts_of(100), pytest.raises(StoreNotFoundError):
        read(store, attempts=5)
    assert max(store.asked.values()) == 1
    assert store.asked.total() <= PARTS_OF_ONE


def test_a_file_that_cannot_be_written_is_not_tried_again(tmp_path):
    store = Fake()
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as file, parts_of(300), pytest.raises(OSError, match="Bad file descriptor"):
        read(store, attempts=5, into=file.fileno())
    assert max(store.asked.values()) == 1


@pytest.mark.parametrize("each", [1, 7, 1 << 20])
def test_a_disk_that_takes_less_than_it_is_given_gets_the_rest(tmp_path, monkeypatch, each):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, offset: pwrite(number, data[:each], offset))
    with parts_of(24), (tmp_path / "x").open("w+b") as file:
        assert read(Fake(), into=file.fileno()) is None
        assert file.read() == BODY


def test_no_more_parts_are_under_way_than_promised():
    store = Fake(before=lambda begin: time.sleep(0.002))
    with parts_of(50), ThreadPoolExecutor(12) as threads:
        for got in threads.map(lambda _: read(store), range(36)):
            assert got == BODY
    assert PARTS_OF_ONE < store.most <= PARTS_AT_ONCE
    alone = Fake(before=lambda begin: time.sleep(0.002))
    with parts_of(50):
        assert read(alone) == BODY
    assert 1 < alone.most <= PARTS_OF_ONE


def test_after_faults_fewer_are_asked_for_at_once_and_then_more_again():
    barrier = threading.Barrier(PARTS_OF_ONE)
    seen: list[int] = []

    def before(begin: int) -> None:
        if begin < PARTS_OF_ONE * 100 and store.asked[begin] == 1:
            barrier.wait(10)
            raise StoreFaultError("too much at once")
        with store.lock:
            seen.append(store.now)
        time.sleep(0.005)

    store = Fake(BODY * 3, before=before)
    with parts_of(100):
        assert read(store, unit=0.1) == BODY * 3
    assert seen[0] == 1
    assert all(now <= i + 1 for i, now in enumerate(seen))
    assert max(seen) == PARTS_OF_ONE


def test_each_fault_halves_what_is_asked_for_at_once():
    """Eight may be under way at first; four faults leave one, and a second one would join it if there were room."""
    barrier, joined = threading.Barrier(PARTS_OF_ONE), threading.Condition()
    succeeded, crowded = 0, []

    def before(begin: int) -> None:
        nonlocal succeeded
        if begin < PARTS_OF_ONE * 100 and store.asked[begin] == 1:
            barrier.wait(10)
            raise StoreFaultError("too much at once")
        with joined:
            joined.notify_all()
            if not succeeded:
                joined.wait_for(lambda: store.now > 1, timeout=0.4)  # the others' pauses end long before
            crowded.append(store.now > succeeded + 1)
            succeeded += 1

    store = Fake(BODY * 3, before=before)
    with parts_of(100), mock.patch.object(transfer, "_limit", ProcessLocal(lambda: PartLimit(PARTS_AT_ONCE))):
        assert read(store, unit=0.001) == BODY * 3
    assert not any(crowded)


@contextmanager
def stalled() -> Iterator[tuple[Fake, threading.Event]]:
    """Yield a store whose parts from 100 on do not come before the event is set, and that event."""
    release = threading.Event()

    def before(begin: int) -> None:
        if begin >= 100:
            assert release.wait(30)

    try:
        yield Fake(before=before), release
    finally:
        release.set()


def test_an_error_in_one_part_does_not_wait_for_the_others(tmp_path):
    with stalled() as (store, release), (tmp_path / "file").open("w+b") as file:
        wait = store.before

        def before(begin: int) -> None:
            wait(begin)
            if begin == 0:
                while store.asked.total() < PARTS_OF_ONE:
                    time.sleep(0.001)
                raise StoreError("the bucket is closed")

        store.before = before
        file.truncate(len(BODY))
        began = time.monotonic()
        with parts_of(100), pytest.raises(StoreError, match="closed"):
            read(store, into=file.fileno())
        assert time.monotonic() - began < 10
        release.set()
        deadline = time.monotonic() + 20
        while store.now and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert store.asked.total() == PARTS_OF_ONE
        assert os.pread(file.fileno(), len(BODY), 0) == bytes(len(BODY))


def test_ctrl_c_does_not_wait_for_parts_under_way():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stalled() as (store, _), parts_of(100):
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                read(store)
            assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGINT, before)


SCRIPT = """
    import os, sys, threading, time
    from mixstream.storage.retry import Retry
    from mixstream.storage.store import ObjectInfo, ObjectBytes
    from mixstream.storage.transfer import PARTS_AT_ONCE, read_object

    class Stalled:
        url, stall, renew = "fake://bucket", True, None
        def read(self, name, begin=0, end=None, *, version=None):
            if self.stall:
                time.sleep(60)
            return ObjectBytes(data=bytes(end - begin), info=ObjectInfo(size=100, version="v"))

    def start():
        thread = threading.Thread(target=read_object, args=(Stalled(), "x"), kwargs=dict(size=100, retry=Retry()))
        thread.daemon = True
        thread.start()

    for _ in range(PARTS_AT_ONCE + 4):
        start()
    time.sleep(0.3)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(SCRIPT) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)


def test_the_interpreters_exit_does_not_wait_for_a_stalled_store():
    began = time.monotonic()
    done = run("print('end')")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert time.monotonic() - began < 25  # the store stalls for 60
    assert "Fatal" not in done.stderr


def test_a_forked_child_reads_while_its_parent_is_stuck():
    done = run(
        """
        if os.fork() == 0:
            Stalled.stall = False
            os._exit(7 if read_object(Stalled(), "x", size=100, retry=Retry()) == bytes(100) else 1)
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        os._exit(0)
        """
    )
    assert done.stdout == "7\n", done.stderr


def test_a_directory_of_local_disk_is_read_the_same_way(tmp_path):
    (tmp_path / "x").write_bytes(BODY)
    store = open_store(str(tmp_path))
    with parts_of(100):
        assert read_object(store, "x", size=len(BODY), retry=Retry()) == BODY
        with pytest.raises(StoreNotFoundError):
            read_object(store, "y", size=len(BODY), retry=Retry())
