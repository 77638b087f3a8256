"""An object store in this process, for tests: S3, GCS, Azure and plain HTTP on one loopback port, in memory.

It speaks the parts of the four protocols that obstore uses, path style, and believes every signature: what is under
test is mixstream, not a server (`seaweedfs` is the real one). `odd` lets a test put any answer in place of the right
one, byte for byte.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

_DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # percent-decoded
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent, as it stands: a Content-Length that `headers` does not have is that of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True  # send a Content-Length
    close: bool = False  # close the connection afterwards


@dataclass
class BucketServer:
    url: str
    objects: dict[str, bytes] = field(default_factory=dict)  # "bucket/key" -> bytes
    requests: list[Request] = field(default_factory=list)
    odd: Callable[[Request], Answer | None] | None = None
    times: dict[str, float] = field(default_factory=dict)  # "bucket/key" -> when it was written; else at _DATE
    etags: bool = True
    _parts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self.odd is not None and (answer := self.odd(request)) is not None:
                return answer
            if request.query.get("comp") == "list" or "list-type" in request.query:
                return self._list(request)
            key = request.path.removeprefix("/")
            handler = {
                "GET": self._get,
                "HEAD": self._get,
                "PUT": self._put,
                "POST": self._post,
                "DELETE": self._delete,
            }
            return handler[request.method](key, request)

    def right_answer(self, request: Request) -> Answer:
        """Return what would be answered without `odd`, for it to change."""
        odd, self.odd = self.odd, None
        try:
            return self.answer(request)
        finally:
            self.odd = odd

    def _get(self, key: str, request: Request) -> Answer:
        if request.method == "HEAD" and key.strip("/").count("/") == 0:  # head_bucket
            return Answer(headers={"x-amz-bucket-region": "us-east-1"})
        if key not in self.objects:
            return failure(404, "BlobNotFound" if "x-ms-version" in request.headers else "NoSuchKey")
        data = self.objects[key]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if request.headers.get("if-match", etag) != etag:
            return failure(412, "PreconditionFailed")
        headers = {
            "ETag": etag,
            "Last-Modified": formatdate(self.times[key], usegmt=True) if key in self.times else _DATE,
            "Content-Type": "binary/octet-stream",
            "Accept-Ranges": "bytes",
        }
        if not self.etags:
            del headers["ETag"]
        wanted = request.headers.get("x-ms-range", request.headers.get("range"))
        if wanted is None:
            return Answer(200, data, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1 if last else len(data), len(data))
        if begin >= len(data):
            return failure(416, "InvalidRange")
        return Answer(206, data[begin:end], headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def _put(self, key: str, request: Request) -> Answer:
        query = request.query
        if number := query.get("partNumber", query.get("blockid") if query.get("comp") == "block" else None):
            self._parts.setdefault(query.get("uploadId", key), {})[number] = request.body
            return Answer(201 if "blockid" in query else 200, headers={"ETag": f'"{number}"'})
        data = request.body
        if query.get("comp") == "blocklist":
            blocks = [piece.partition("<")[0] for piece in request.body.decode().split("<Uncommitted>")[1:]]
            parts = self._parts.pop(key)
            data = b"".join(parts[block] for block in blocks)
        self.objects[key] = data
        status = 201 if "x-ms-version" in request.headers else 200
        return Answer(status, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last-Modified": _DATE})

    def _post(self, key: str, request: Request) -> Answer:
        if "uploads" in request.query:
            upload = f"upload-{len(self.requests)}"
            return xml(
                f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        if "uploadId" in request.query:
            parts = self._parts.pop(request.query["uploadId"])
            self.objects[key] = b"".join(parts[number] for number in sorted(parts, key=int))
            return xml('<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>')
        if "delete" in request.query:
            bucket = key.strip("/")
            keys = [piece.partition("<")[0] for piece in request.body.decode().split("<Key>")[1:]]
            for name in keys:
                self.objects.pop(f"{bucket}/{name}", None)
            return xml(
                "<DeleteResult>" + "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in keys) + "</DeleteResult>"
            )
        if request.query.get("comp") == "batch":  # Azure: requests within a request
            lines = [line for line in request.body.decode().splitlines() if line.startswith("DELETE ")]
            parts = []
            for number, line in enumerate(lines):
                found = self.objects.pop(unquote(line.split()[1].split("?")[0]).removeprefix("/"), None) is not None
                status = "202 Accepted" if found else "404 The specified blob does not exist."
                head = f"Content-Type: application/http\r\nContent-ID: {number}\r\n"
                parts.append(f"--x\r\n{head}\r\nHTTP/1.1 {status}\r\n\r\n\r\n")
            body = "".join(parts) + "--x--\r\n"
            return Answer(202, body.encode(), {"Content-Type": "multipart/mixed; boundary=x"})
        return failure(400, "InvalidRequest")

    def _delete(self, key: str, request: Request) -> Answer:
        found = self.objects.pop(key, None) is not None
        if "x-ms-version" in request.headers:
            return Answer(202) if found else failure(404, "BlobNotFound")
        if "x-amz-date" not in request.headers and not found:  # only S3 does not mind
            return failure(404, "NoSuchKey")
        return Answer(204)

    def _list(self, request: Request) -> Answer:
        bucket = request.path.strip("/")
        prefix = f"{bucket}/{request.query.get('prefix', '')}"
        after = request.query.get("continuation-token", request.query.get("marker", ""))
        keys = sorted(key.removeprefix(f"{bucket}/") for key in self.objects if key.startswith(prefix))
        keys = [key for key in keys if key > after]
        page, more = keys[:1000], keys[1000:]
        if request.query.get("comp") == "list":
            blobs = "".join(
                f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{_DATE}</Last-Modified>"
                f"<Content-Length>{len(self.objects[f'{bucket}/{key}'])}</Content-Length>"
                f"<Content-Type>x</Content-Type><Etag>e</Etag></Properties></Blob>"
                for key in page
            )
            marker = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else "<NextMarker />"
            return xml(f"<EnumerationResults><Blobs>{blobs}</Blobs>{marker}</EnumerationResults>")
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size>"
            f'<LastModified>2026-10-21T07:28:00.000Z</LastModified><ETag>"e"</ETag></Contents>'
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return xml(
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{rows}{token}</ListBucketResult>"
        )


def xml(text: str, status: int = 200, **headers: str) -> Answer:
    """Return an answer in XML."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return Answer(status, body, {"Content-Type": "application/xml", **headers})


def failure(status: int, code: str, message: str = "in words", **headers: str) -> Answer:
    """Return a refusal as S3, GCS and Azure word it: a status and a code of the store's own."""
    return xml(
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>r</RequestId></Error>", status, **headers
    )


@contextmanager
def bucket_server() -> Iterator[BucketServer]:
    """Serve an empty store on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            self._send(server.answer(Request(self.command, unquote(parts.path), query, headers, body)))

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PROPFIND = _serve

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            headers = dict(answer.headers)
            if answer.length:
                headers.setdefault("Content-Length", str(len(answer.body)))
            if answer.close or not answer.length:
                headers.setdefault("Connection", "close")
                self.close_connection = True
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
                self.wfile.flush()

        def log_message(self, *_: Any, **__: Any) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any, **__: Any) -> None:
            """Say nothing of clients that went away: tests make them."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server = BucketServer(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
