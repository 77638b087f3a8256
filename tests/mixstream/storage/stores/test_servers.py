"""The tests' own servers: a fault that the proxy does not make would let every test of faults pass."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import faults  # pyright: ignore[reportMissingImports] - conftest.py sets the path
import pytest
import servers  # pyright: ignore[reportMissingImports]
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports]
from own_time import OwnTime
from servers import S3  # pyright: ignore[reportMissingImports]

BODY = bytes(range(256)) * 1000


@pytest.fixture
def place(s3: S3) -> S3:
    """Return a place in the public bucket with one object, so that plain HTTP can read it."""
    place = S3(endpoint=s3.endpoint, bucket=servers.PUBLIC, prefix=s3.prefix)
    place.put("object", BODY)
    return place


def ask(proxy: FaultProxy, place: S3, *, timeout: float = 5.0, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """GET the object through the proxy, on a connection of its own."""
    connection = http.client.HTTPConnection(str(urlsplit(proxy.endpoint).netloc), timeout=timeout)
    try:
        connection.request("GET", f"/{place.bucket}/{place.prefix}/object", headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def answers(endpoint: str) -> bool:
    """Whether somebody listens there."""
    address = urlsplit(endpoint)
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:  # caught while it closes
        return True
    return True


def test_objects_come_back_and_places_are_apart(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x y+z").write_bytes(b"12")
    s3.upload(tmp_path)
    s3.put("a", b"1")
    assert s3.names() == ["a", "deep/x y+z"]
    assert s3.below("deep").get("x y+z") == b"12"
    assert s3.below("elsewhere").names() == []
    s3.remove("a")
    with pytest.raises(FileNotFoundError):
        s3.get("a")


def test_without_rules_the_proxy_is_not_there(proxy: FaultProxy, place: S3) -> None:
    status, headers, body = ask(proxy, place, Range="bytes=10-19")
    assert (status, body, headers["content-range"]) == (206, BODY[10:20], f"bytes 10-19/{len(BODY)}")
    assert ask(proxy, place)[2] == BODY
    assert proxy.count("*/object") == 2
    assert proxy.sent("*/object") == len(BODY) + 10
    assert proxy.count(method="PUT") == 0


def test_resets_and_truncation_look_different(proxy: FaultProxy, place: S3) -> None:
    proxy.when(faults.reset(), times=1)
    proxy.when(faults.reset(1000), times=1)
    proxy.when(faults.truncate(1000), times=1)
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            ask(proxy, place)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(proxy, place)
    assert caught.value.partial == BODY[:1000]
    assert ask(proxy, place)[2] == BODY


def test_stalls_and_trickles_take_their_time(proxy: FaultProxy, place: S3) -> None:
    proxy.when(faults.stall(), times=1)
    proxy.when(faults.stall(1000), times=1)
    proxy.when(faults.trickle(1e6), times=1)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            ask(proxy, place, timeout=0.2)
    begun = time.monotonic()
    with OwnTime() as clock:
        assert ask(proxy, place)[2] == BODY
    assert time.monotonic() - begun > 0.2
    assert clock.seconds < 2.0


def test_lies_are_told(proxy: FaultProxy, place: S3) -> None:
    lies = [
        faults.corrupt(7),
        faults.ignore_range(),
        faults.shift_range(5),
        faults.change_headers(etag='"other"'),
        faults.refuse_with(503, "SlowDown", retry_after=2),
    ]
    for lie in lies:
        proxy.when(lie, times=1)
    corrupted, whole, shifted, other, busy = (ask(proxy, place, Range="bytes=0-9") for _ in lies)
    assert corrupted[2] == bytes([*range(7), 7 ^ 0xFF, 8, 9])
    assert (whole[0], whole[2]) == (200, BODY)
    assert (shifted[0], shifted[2], shifted[1]["content-range"][:10]) == (206, BODY[5:15], "bytes 5-14")
    assert (other[0], other[2], other[1]["etag"]) == (206, BODY[:10], '"other"')
    assert (busy[0], busy[1]["retry-after"], b"<Code>SlowDown</Code>" in busy[2]) == (503, "2", True)


def test_rules_have_their_turns(proxy: FaultProxy, place: S3) -> None:
    rule = proxy.when(faults.refuse_with(500, "InternalError"), path="*/object", skip=1, times=2)
    proxy.when(faults.refuse_with(404, "NoSuchKey"), path="*/other")
    assert [ask(proxy, place)[0] for _ in range(5)] == [200, 500, 500, 200, 200]
    assert rule.acted == 2
    proxy.when(faults.refuse_with(500, "InternalError"), chance=0.5)
    assert {ask(proxy, place)[0] for _ in range(30)} == {200, 500}


def test_a_closed_port_refuses_until_it_opens(proxy: FaultProxy, place: S3) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy, place)
    proxy.accept()
    assert ask(proxy, place)[0] == 200


def test_the_server_outlives_who_started_it_and_nobody_else(s3_server: S3, tmp_path: Path) -> None:
    """A server of its own: two users, each killed; then nothing of it is left."""
    code = (
        "import sys, pathlib; from servers import seaweed\n"
        "with seaweed(pathlib.Path(sys.argv[1])) as s: print(s.endpoint, flush=True); sys.stdin.read()"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(servers.__file__).parent)}
    users = []
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path)]
        user = subprocess.Popen(command, stdin=-1, stdout=-1, env=environ, text=True)  # -1: PIPE
        assert user.stdout is not None
        users.append((user, user.stdout.readline().strip()))
    assert users[0][1] == users[1][1] != s3_server.endpoint
    place = S3(endpoint=users[0][1], prefix="x")
    for user, _ in users:
        place.put("a", b"1")
        user.send_signal(signal.SIGKILL)
        with user:
            pass
    until = time.monotonic() + 10
    while answers(place.endpoint):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not (tmp_path / ".seaweed.json").exists()
