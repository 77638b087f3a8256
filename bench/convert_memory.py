"""Memory of `mixstream convert` over the size of its input, for each kind of source.

    python bench/convert_memory.py [--mb 64 256 1024] [--kinds text jsonl …]

Each line is one conversion in a fresh process with one worker: the peak of its resident memory above that of a
conversion of a file of 1 kB, in MB, by size of input. Bounded means: it does not grow with the input. Kinds whose
document is as large as the file have a limit of 256 MiB, or are cut into pieces (text).

The store is a web server with ranges in another process, on this machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import zstandard

SENTENCE = "The quick brown fox jumps over the lazy dog, and a corpus has many such lines of text. "
LINE = json.dumps({"text": SENTENCE * 12, "url": "https://example.org/page"}).encode() + b"\n"
BLOCK = 1 << 20


def text(size: int) -> Iterator[bytes]:
    """One document."""
    yield from repeated(SENTENCE.encode() * 5 + b"\n", size)


def separated(size: int) -> Iterator[bytes]:
    """Documents of 1 kB between separators."""
    yield from repeated(SENTENCE.encode() * 12 + b"<|endoftext|>", size)


def jsonl(size: int) -> Iterator[bytes]:
    """Lines of 1 kB."""
    yield from repeated(LINE, size)


def array(size: int) -> Iterator[bytes]:
    """One array of objects of 1 kB."""
    yield b"["
    yield from repeated(LINE.rstrip() + b",\n", size)
    yield LINE + b"]"


def long_line(size: int) -> Iterator[bytes]:
    """One line of JSON, between two short ones."""
    yield LINE + b'{"text": "'
    yield from repeated(SENTENCE.encode(), size)
    yield b'"}\n' + LINE


def long_value(size: int) -> Iterator[bytes]:
    """One object of an array, behind a short one."""
    yield b"[" + LINE + b',{"text": "'
    yield from repeated(SENTENCE.encode(), size)
    yield b'"}]'


def repeated(unit: bytes, size: int) -> Iterator[bytes]:
    """About `size` bytes."""
    block = unit * (BLOCK // len(unit))
    for _ in range(max(1, size // len(block))):
        yield block


MAKERS: dict[str, tuple[str, Callable[[int], Iterator[bytes]]]] = {
    "text": ("txt", text),
    "separated": ("sep.txt", separated),
    "jsonl": ("jsonl", jsonl),
    "json array": ("json", array),
    "one line": ("jsonl", long_line),
    "one value": ("json", long_value),
    "jsonl.gz": ("jsonl.gz", jsonl),
    "jsonl.zst": ("jsonl.zst", jsonl),
    "jsonl.xz": ("jsonl.xz", jsonl),
    "stdin": ("jsonl", jsonl),
    "store, text": ("txt", text),
    "store, jsonl": ("jsonl", jsonl),
    "store, jsonl.zst": ("jsonl.zst", jsonl),
}


def write(path: Path, blocks: Iterator[bytes]) -> None:
    """Write a file, compressed as its name says."""
    openers: dict[str, Callable[[Path], object]] = {
        ".gz": lambda path: gzip.open(path, "wb", 1),  # noqa: SIM115
        ".xz": lambda path: lzma.open(path, "wb", preset=0),  # noqa: SIM115
        ".zst": lambda path: zstandard.open(path, "wb"),
    }
    with openers.get(path.suffix, lambda path: path.open("wb"))(path) as file:  # type: ignore[attr-defined]
        for block in blocks:
            file.write(block)


def serve(directory: Path, port) -> None:
    """Serve the files of a directory, with ranges."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = directory / self.path.lstrip("/")
            size = path.stat().st_size
            first, _, last = self.headers.get("Range", f"bytes=0-{size - 1}").removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1, size)
            self.send_response(206)
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            with path.open("rb") as file:
                file.seek(begin)
                self.wfile.write(file.read(end - begin))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


def convert(source: str, out: str, *options: str) -> None:
    """Convert in this process, and print its peak memory in bytes."""
    from mixstream_tools.cli import main

    status = main(["convert", source, "--out", out, "--workers", "1", "--json", *options])
    print(json.dumps({"status": status, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def measure(kind: str, size: int, directory: Path, port: int) -> tuple[int, str]:
    """Peak memory of a conversion in bytes, and what was not converted."""
    suffix, make = MAKERS[kind]
    path = directory / f"a.{suffix}"
    write(path, make(size))
    source = f"http://127.0.0.1:{port}/{path.name}" if kind.startswith("store") else str(path)
    options = ["--document-separator", "<|endoftext|>"] if kind == "separated" else []
    command = [
        sys.executable,
        __file__,
        "--convert",
        "a=-" if kind == "stdin" else f"a={source}",
        str(directory / "out"),
    ]
    with path.open("rb") as file:
        done = subprocess.run(
            [*command, "--on-bad-document", "skip", *options],
            stdin=file if kind == "stdin" else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    subprocess.run(["rm", "-rf", path, directory / "out"], check=True)
    try:
        told, mine = done.stdout.rstrip().rsplit("\n", 1)
        skipped = json.loads(told)["skipped"]
        return json.loads(mine)["peak"], skipped["examples"][0].partition(", ")[2] if skipped["documents"] else ""
    except (ValueError, KeyError):
        raise SystemExit(f"{kind}: {done.stdout[-500:]}\n{done.stderr[-2000:]}") from None


def compare(kinds: list[str], sizes: list[int]) -> None:
    """Print a line for each kind."""
    print(
        f"{'peak memory above that of 1 kB, in MB':24}" + "".join(f"{size >> 20:>8} MB" for size in sizes), flush=True
    )
    with tempfile.TemporaryDirectory() as place:
        mine, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(Path(place), theirs), daemon=True)
        server.start()
        port = mine.recv()
        for kind in kinds:
            least = measure(kind, 1, Path(place), port)[0]
            found = [measure(kind, size, Path(place), port) for size in sizes]
            grown = "".join(f"{(peak - least) / (1 << 20):11.0f}" for peak, _ in found)
            print(f"{kind:37}{grown}  {found[-1][1]}", flush=True)
        server.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--convert"]:
        convert(*sys.argv[2:])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--kinds", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    given = parser.parse_args()
    compare(given.kinds, [size << 20 for size in given.mb])
