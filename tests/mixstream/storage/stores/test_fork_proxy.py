"""Stores in forked processes: no request hangs, whatever the parent did, and no helper outlives its owner."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import children  # pyright: ignore[reportMissingImports] - conftest.py sets the path
import faults  # pyright: ignore[reportMissingImports]
import pytest
from bucket_server import Answer, Request, bucket_server, failure  # pyright: ignore[reportMissingImports]
from children import (  # pyright: ignore[reportMissingImports]
    PATIENCE,
    command_of,
    gone,
    in_child,
    living_children,
    reads,
    status_of,
    zombies,
)
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports]
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.errors import StoreFaultError, StoreNotFoundError
from mixstream.storage import Retry, fork_server, open_store
from mixstream.storage.stores.fork_proxy import ProcessStore

BODY = bytes(range(256)) * 400

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # forking beside threads: the point here


def helper_of(store: ProcessStore) -> int:
    """Return the process that `store` asks, which is running after this."""
    store.renew()
    (pid,) = (pid for pid in living_children(os.getpid()) if "mixstream.storage.fork_server" in command_of(pid))
    return pid


@pytest.fixture
def place(s3: S3) -> S3:
    """Return a place with one object, which this process has read by obstore."""
    s3.put("object", BODY)
    assert reads(s3.url, BODY) == (True, False)
    return s3


def test_it_does_all_that_a_store_does(tmp_path: Path) -> None:
    store = ProcessStore(str(tmp_path / "out"), 10.0, open_store)
    store.write("deep/a", BODY)
    (tmp_path / "file").write_bytes(b"from a file")
    store.write("b", tmp_path / "file")
    assert store.names() == ["b", "deep/a"]
    assert store.names(limit=1) == ["b"]
    whole, part = store.read("deep/a"), store.read("deep/a", 5, 9)
    assert (bytes(whole.data), bytes(part.data)) == (BODY, BODY[5:9])
    assert whole.info == part.info == store.info("deep/a")
    assert whole.info.size == len(BODY)
    assert store.read("deep/a", 5, 5).data == b""
    store.remove("b")
    store.remove("b")
    assert store.names() == ["deep/a"]
    assert bytes(open_store(str(tmp_path / "out")).read("deep/a").data) == BODY


def test_errors_come_back_as_they_were(tmp_path: Path) -> None:
    store = ProcessStore(str(tmp_path), 10.0, open_store)
    (tmp_path / "a").write_bytes(b"123")
    for attempt in (lambda s: s.read("none"), lambda s: s.info("none"), lambda s: s.read("a", 0, 4)):
        raised = []
        for each in (store, open_store(str(tmp_path))):
            with pytest.raises(Exception, match=r"none|a") as caught:
                attempt(each)
            raised.append((type(caught.value), str(caught.value), getattr(caught.value, "size", None)))
        assert raised[0] == raised[1]


def test_threads_share_one_helper(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    store = ProcessStore(str(tmp_path), 10.0, open_store)
    before = helper_of(store)
    with ThreadPoolExecutor(16) as pool:
        parts = [(begin, begin + 1000) for begin in range(0, 100_000, 500)]
        assert list(pool.map(lambda part: bytes(store.read("a", *part).data), parts)) == [
            BODY[begin:end] for begin, end in parts
        ]
    assert helper_of(store) == before


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_reads_whatever_its_parent_did(place: S3, method: str, warm_spawn: None) -> None:
    assert in_child(reads, place.url, BODY, method=method) == (True, method == "fork")


def test_a_bare_fork_reads_too(place: S3) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if reads(place.url, BODY) == (True, True) else 1)
    assert status_of(child) == 0


def test_stores_from_before_the_fork_go_elsewhere_and_from_after_it_not(place: S3) -> None:
    store = open_store(place.url, timeout=10)
    assert in_child(lambda: bytes(store.read("object").data)) == BODY
    copy = pickle.loads(pickle.dumps(ProcessStore(place.url, 10.0, open_store)))
    assert bytes(copy.read("object").data) == BODY
    assert not isinstance(copy, ProcessStore)  # nothing keeps this process from obstore


def test_generations_have_helpers_of_their_own(place: S3) -> None:
    def child() -> tuple[bool, bool, bool]:
        store = ProcessStore(place.url, 10.0, open_store)
        mine = helper_of(store)
        theirs = in_child(lambda: helper_of(store) if store.read("object").data == BODY else 0)
        return theirs not in {0, mine}, gone(theirs), helper_of(store) == mine

    assert in_child(child) == (True, True, True)


def test_a_killed_helper_costs_what_was_in_flight_and_no_more(proxy: FaultProxy, s3: S3) -> None:
    s3.put("object", BODY)
    store = ProcessStore(s3.url, 20.0, open_store)
    pid = helper_of(store)
    proxy.when(faults.stall(1000), times=1)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(store.read, "object")
        while not proxy.count("*/object"):
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StoreFaultError, match=f"process {pid}.*was killed by SIGKILL"):
            lost.result(timeout=10)
    assert bytes(store.read("object").data) == BODY
    assert helper_of(store) != pid
    assert zombies() == 0


def test_a_stopped_helper_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixstream.storage.stores.fork_proxy._SLACK", 0.2)
    store = ProcessStore(str(tmp_path), 0.1, open_store)
    (tmp_path / "a").write_bytes(b"1")
    pid = helper_of(ProcessStore(str(tmp_path), 10.0, open_store))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StoreFaultError, match=r"did not answer in 0\.3 s"):
        store.info("a")
    assert gone(pid)


def test_a_helper_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    python.chmod(0o755)
    store = ProcessStore(str(tmp_path), 10.0, open_store)
    os.kill(pid := helper_of(store), signal.SIGKILL)
    assert gone(pid)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        with pytest.raises(StoreFaultError):  # may still meet the one that was killed
            store.info("a")
        with pytest.raises(StoreFaultError, match="ended with status 3; its last output: no such library"):
            store.info("a")
    with pytest.raises(StoreNotFoundError):
        store.info("a")


def test_the_owner_takes_its_helper_along(place: S3) -> None:
    """By kill -9, with a child of its own alive."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        pid = helper_of(ProcessStore(place.url, 10.0, open_store))
        if os.fork() == 0:
            time.sleep(PATIENCE)
            os._exit(0)
        os.write(theirs, str(pid).encode())
        time.sleep(PATIENCE)
        os._exit(0)
    pid = int(os.read(ours, 20))
    assert pid in living_children(child)
    (grandchild,) = (each for each in living_children(child) if each != pid)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert gone(pid)
    os.kill(grandchild, signal.SIGKILL)
    os.close(ours)
    os.close(theirs)


def test_interrupts_are_for_the_owner(tmp_path: Path) -> None:
    store = ProcessStore(str(tmp_path), 10.0, open_store)
    os.kill(pid := helper_of(store), signal.SIGINT)
    assert helper_of(store) == pid
    assert os.getpgid(pid) != os.getpgid(0)  # so that Ctrl-C at the terminal does not reach it


def test_renewed_credentials_arrive(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("object", BODY)
    store = ProcessStore(s3.url, 10.0, open_store)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    store.renew()
    with pytest.raises(PermissionError):
        store.read("object")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SKtest")
    store.renew()
    assert bytes(store.read("object").data) == BODY


def test_every_rotation_of_a_credentials_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever threads of the helper served the requests before, and whichever serves the renewal."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "S3_"))]:
        monkeypatch.delenv(name)
    valid = "AK0"

    def refuse(request: Request) -> Answer | None:
        return None if f"Credential={valid}/" in request.headers["authorization"] else failure(403, "AccessDenied")

    file = tmp_path / "credentials"
    with bucket_server() as server, ThreadPoolExecutor(6) as pool:
        server.objects["bucket/a"], server.odd = BODY, refuse
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        store = ProcessStore("s3://bucket", 10.0, open_store)
        store.renew()  # the environment of this test, where the helper was there before
        for turn in range(6):
            valid = f"AK{turn}"
            file.write_text(f"[default]\naws_access_key_id = {valid}\naws_secret_access_key = s\n")
            call = partial(Retry(attempts=1).call, "reading", lambda: store.read("a", 0, 9), renew=store.renew)
            for read in [pool.submit(call) for _ in range(1 if turn else 6)]:  # at first, all its threads have a client
                assert bytes(read.result().data) == BODY[:9]


def test_a_renewal_takes_nothing_away_that_other_threads_are_reading() -> None:
    here = fork_server.Request(number=0, method="renew", url="s3://bucket", timeout=1.0, environment=dict(os.environb))
    done, seen = threading.Event(), set()

    def look() -> None:
        while not done.is_set():
            seen.add(len(os.environ))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            looking = [pool.submit(look) for _ in range(2)]
            for _ in range(100):
                fork_server.carry_out(here, bytearray())
            done.set()
            for each in looking:
                each.result()
    finally:
        sys.setswitchinterval(before)
    assert seen == {len(os.environ)}


def test_credentials_stay_in_the_pipe(tmp_path: Path) -> None:
    store = ProcessStore("http://user:hidden@127.0.0.1:1/x?sig=hidden", 1.0, open_store)
    with pytest.raises(ConnectionError) as caught:
        store.read("a")
    shown = [repr(store), store.url, str(caught.value), *getattr(caught.value, "__notes__", ())]
    shown.append(command_of(helper_of(store)))
    assert not [text for text in shown if "hidden" in text]


def test_a_helper_loads_little() -> None:
    code = "import mixstream.storage.fork_server, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "obstore", "boto3", "numba", "mixstream.loader.loader", "mixstream.data.domain"} & set(loaded)


def test_threads_that_fork_find_no_lock_held(place: S3) -> None:
    """Helpers start and die in one thread while others fork."""
    over = threading.Event()
    store = ProcessStore(place.url, 10.0, open_store)

    def churn() -> None:
        while not over.is_set():
            os.kill(helper_of(store), signal.SIGKILL)
            with suppress(StoreFaultError, ValueError):
                store.info("object")

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        try:
            assert all(in_child(reads, place.url, BODY) == (True, True) for _ in range(2))
        finally:
            over.set()
        with suppress(StoreFaultError, ValueError):
            churning.result(timeout=10)


def test_no_child_inherits_half_an_import() -> None:
    """A thread opens its first store, which imports, while others fork: their children open one too."""
    code = """
import os, threading, time
from children import status_of
from mixstream.storage.open import open_store
thread = threading.Thread(target=open_store, args=("s3://bucket/prefix",))
thread.start()
children = []
while len(children) < 30 or thread.is_alive():
    if not (child := os.fork()):
        open_store("s3://bucket/prefix")
        os._exit(0)
    children.append(child)
    time.sleep(0.003)
print(*{status_of(child) for child in children})
"""
    environ = {**os.environ, "PYTHONPATH": str(Path(children.__file__).parent), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=2 * PATIENCE)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
