"""A real object store for tests: SeaweedFS's S3 gateway, on loopback, telemetry off.

Rules: one server serves a whole test session, whatever its number of pytest-xdist workers, since it takes three seconds
and some hundred MB. Nobody owns it: its keeper (this file, run as a program) ends it, and removes its files, when the
last process that holds the session's `users` file locked is gone, `kill -9` included; the kernel ends it when the
keeper is killed. Tests share nothing but the server: each has a prefix of its own.

The bucket `PRIVATE` wants the keys below; `PUBLIC` is also readable without, so plain http:// URLs have a server too.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

KEY, SECRET, REGION = "AKtest", "SKtest", "us-east-1"
OTHER_KEY, OTHER_SECRET = "AKother", "SKother"  # of the same rights: what credentials are renewed to
PRIVATE, PUBLIC = "mix", "public"
IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [
                {"accessKey": KEY, "secretKey": SECRET},
                {"accessKey": OTHER_KEY, "secretKey": OTHER_SECRET},
            ],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
    ]
}
START = 60.0  # seconds that a loaded machine may take to start the server


@dataclass(frozen=True, kw_only=True)
class S3:
    """One place on the server: `bucket`/`prefix`. The methods go there directly, past any proxy and past mixstream.

    Attributes:
        endpoint: of the server, "http://127.0.0.1:port".
        bucket: which exists.
        prefix: below which the methods' names are.
    """

    endpoint: str
    bucket: str = PRIVATE
    prefix: str = ""

    @property
    def url(self) -> str:
        """The place as users write it, s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def http_url(self) -> str:
        """The place as an http:// URL; readable in the public bucket."""
        return f"{self.endpoint}/{self.bucket}/{self.prefix}"

    def below(self, *parts: str) -> S3:
        """Return the place `parts` further down."""
        return replace(self, prefix="/".join(filter(None, (self.prefix, *parts))))

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._ask("PUT", name, data)

    def get(self, name: str) -> bytes:
        """Read an object; FileNotFoundError if there is none."""
        return self._ask("GET", name)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._ask("DELETE", name)

    def upload(self, directory: Path) -> None:
        """Copy all files below `directory`."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(directory).as_posix(), path.read_bytes())

    def names(self) -> list[str]:
        """Return the relative names of all objects here, sorted; at most 1000."""
        prefix = f"{self.prefix}/" if self.prefix else ""
        found = ET.fromstring(self._request("GET", f"/{self.bucket}?list-type=2&prefix={quote(prefix, safe='')}"))
        return sorted(str(key.text).removeprefix(prefix) for key in found.iter() if key.tag.endswith("}Key"))

    def _ask(self, method: str, name: str, data: bytes = b"") -> bytes:
        return self._request(method, "/" + quote("/".join(filter(None, (self.bucket, self.prefix, name)))), data)

    def _request(self, method: str, target: str, data: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(str(urlsplit(self.endpoint).netloc), timeout=30)
        try:
            connection.request(method, target, data, sign(method, self.endpoint + target, {}, data))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status == 404:
            if method == "DELETE":
                return b""
            raise FileNotFoundError(f"{method} {target}: {body[:300]!r}")
        if answer.status >= 300:
            raise OSError(f"{method} {target}: status {answer.status}, {body[:300]!r}")
        return body


def sign(method: str, url: str, headers: dict[str, str], data: bytes = b"") -> dict[str, str]:
    """Return the headers of a request with a signature."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, url, headers=headers, data=data)
    S3SigV4Auth(Credentials(KEY, SECRET), "s3", REGION).add_auth(request)
    return dict(request.headers.items())


def environment(endpoint: str) -> dict[str, str | None]:
    """Return the variables with which s3:// URLs mean this server, and nothing of the machine's own set-up is read.

    A value of None: the variable must not be there.
    """
    gone = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    return {
        **dict.fromkeys((*gone, *proxies)),
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "S3_ENDPOINT_URL": endpoint,
    }


@contextmanager
def seaweed(directory: Path) -> Iterator[S3]:
    """Yield the server of all processes that give the same `directory`; the first starts it, the last ends it."""
    with (directory / ".seaweed-users").open("ab") as users, (directory / ".seaweed-start").open("ab") as start:
        fcntl.flock(users, fcntl.LOCK_SH)  # a keeper that is tidying up holds it: it is done when we get it
        fcntl.flock(start, fcntl.LOCK_EX)
        told = directory / ".seaweed.json"
        if not told.exists():
            command = [sys.executable, __file__, str(directory)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * START)
            if done.returncode:
                raise RuntimeError(f"the S3 server of the tests did not start:\n{done.stderr}")
        fcntl.flock(start, fcntl.LOCK_UN)
        yield S3(endpoint=json.loads(told.read_text())["endpoint"])


def _keep(directory: Path, ready: int) -> None:
    """Run the server until nobody uses `directory`; write "ready", or why not, to the pipe `ready`."""
    data = Path(tempfile.mkdtemp(prefix="mixstream-weed-"))  # short: there are sockets in it
    told = directory / ".seaweed.json"
    ports: list[int] = []
    server = None
    try:
        server, ports = _start(data)
        aside = told.with_suffix(".new")
        aside.write_text(json.dumps({"endpoint": _endpoint(ports)}))
        aside.replace(told)
        os.write(ready, b"ready")
        os.close(ready)
        with (directory / ".seaweed-users").open("ab") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                told.unlink()
            _stop(server, ports)
    except Exception as error:  # whoever waits for us must be told
        with suppress(OSError):
            os.write(ready, f"{error!r}\n".encode())
        if server is not None:
            _stop(server, ports)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _start(data: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start the server in `data`; return it, once it takes requests, and its ports."""
    (data / "s3.json").write_text(json.dumps(IDENTITIES))
    log = data / "log"
    for _ in range(4):  # somebody else may take a port between our look and its start
        ports = _free_ports(8)
        store = data / str(ports[0])
        store.mkdir()
        with log.open("wb") as out:
            server = subprocess.Popen(
                _command(data, store, ports),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "TMPDIR": str(data)},
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        if _answers(server, _endpoint(ports)):
            return server, ports
        _stop(server, ports)
    raise RuntimeError(f"weed came to no life; its log ends with\n{log.read_text(errors='replace')[-3000:]}")


def _command(data: Path, store: Path, ports: list[int]) -> list[str]:
    """Return the command line of the server; it names every port, since those left out are guessed, taken or not."""
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    return [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr=true",
        "server",
        f"-dir={store}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=64",
        "-volume.preStopSeconds=0",
        "-filer",
        f"-filer.localSocket={data / 'filer.sock'}",
        "-s3",
        f"-s3.localSocket={data / 's3.sock'}",
        f"-s3.config={data / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in zip(names, ports[:4], strict=True)),
        *(f"-{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=True)),
    ]


def _endpoint(ports: list[int]) -> str:
    return f"http://127.0.0.1:{ports[3]}"


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at, from below the range out of which the kernel gives them to clients."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def _answers(server: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Wait until the buckets are there. False: the server ended. RuntimeError: it does not come up in time."""
    until = time.monotonic() + START
    buckets = [PRIVATE, PUBLIC]
    while buckets and server.poll() is None:
        try:  # ports are open a second before buckets can be made
            S3(endpoint=endpoint, bucket=buckets[-1]).put("", b"")
            buckets.pop()
        except OSError as error:
            if time.monotonic() > until:
                server.kill()
                raise RuntimeError(f"no buckets after {START:g} s: {error}") from error
            time.sleep(0.1)
    return not buckets


def _stop(server: subprocess.Popen[bytes], ports: list[int]) -> None:
    """End the server, whose data nobody wants, and remove the sockets that it makes in /tmp whatever TMPDIR is."""
    server.kill()
    server.wait()
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _main(directory: Path) -> int:
    """Leave a keeper behind and return when the server takes requests."""
    ready, write = os.pipe()
    if os.fork() == 0:
        os.setsid()  # Ctrl-C is for the tests
        os.close(ready)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # pytest's helper waits for the end of our output
            os.dup2(nothing, stream)
        _keep(directory, write)
        os._exit(0)
    os.close(write)
    with os.fdopen(ready) as answer:
        text = answer.read()
    if text == "ready":
        return 0
    sys.stderr.write(text or "the keeper ended")
    return 1


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
