"""A web server of a directory, as nginx serves one: times and ETags are those of the files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@contextmanager
def directory_server(
    root: Path, *, headers: bool = True, head: bool = True, modified: Callable[[], float] | None = None
) -> Iterator[str]:
    """Serve a directory and yield its URL.

    Args:
        root: the directory.
        headers: whether answers have ETag and Last-Modified.
        head: whether HEAD is answered, or refused with 405.
        modified: returns the time that an answer gives, without ETag; None for the file's, with an ETag made of it.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = root / unquote(self.path.partition("?")[0]).lstrip("/")
            refused = 405 if self.command == "HEAD" and not head else 404 if not path.is_file() else 0
            if refused:
                self.send_response(refused)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data, when = path.read_bytes(), path.stat().st_mtime
            begin, end = 0, len(data)
            if asked := self.headers.get("Range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                begin, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
            self.send_response(206 if asked else 200)
            if headers:
                self.send_header("Last-Modified", formatdate(modified() if modified else when, usegmt=True))
            if headers and modified is None:
                self.send_header("ETag", f'"{int(when):x}-{len(data):x}"')
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[begin:end])

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
