"""From far away: the time to the first batch, and epochs from a cold cache, beside what wire and cores give bare.

    python bench/far.py [--rounds 3] [--wire 80] [--threads 4] [--json FILE]

A real S3 server (SeaweedFS, loopback) has 24 shards of 16 MiB as 8 domains, raw and in zstd. Clocks start when the
dataset is open, since bare clients do not read an index; what opening takes is printed by itself.

First batch: from `Loader(...)` to its first batch, against a bare download of exactly the shards that its rows lie in,
by `--threads` threads: obstore, written to files; in zstd, unpacked and written. Once at the speed of loopback, where
the server and the reader share the cores, and once through a wire of `--wire` MB/s in all, where nothing but the order
of the requests counts. Epochs: all rows gathered, against all shards bare, once to files as a cache has to write them,
once to memory that is dropped; over loopback with no core to spare, the CPU of both decides. Limit: an epoch of many
small shards in zstd on local disk under a `cache_limit` that evicts, against one without limit; the shuffle's windows
fit.

To compare two versions in one run, run it in turns with PYTHONPATH set to either: all ratios are within a turn.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import zstandard

import mixstream as ms
from mixstream.plan.forecast import Forecast

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/mixstream"))

from servers import KEY, PRIVATE, REGION, S3, SECRET, environment, seaweed  # pyright: ignore[reportMissingImports]
from table import Table

SEQ, SHARD, BATCH, DOMAINS, SHARDS = 2048, 16 << 20, 256, 8, 3
ROWS = (SHARD - 1024) // (2 * SEQ + 4)  # of a shard
DATA = Path(__file__).parent / "data"
_CHUNK = 1 << 16
_WRITE = 1 << 18  # bytes that a bare client writes at once; all of a shard at once takes up to four times the CPU


def write(place: Path, domains: int, rows: int, size: int, compression: str | None) -> Path:
    """Write a dataset once: `domains` directories of `rows` rows in shards of `size` bytes, all with the same rows."""
    rng, options = np.random.default_rng(0), {"compression": compression, "hashes": ["xxh3_64"]}
    first = place / "d0"
    if not (first / "index.json").exists():
        columns = {"tokens": f"ndarray:uint16:{SEQ}"}
        with ms.MDSWriter(columns=columns, out=str(first), size_limit=size, exist_ok=True, **options) as writer:
            for begin in range(0, rows, 1000):  # frequencies as in text, so that zstd has something to do
                some = rng.random((min(1000, rows - begin), SEQ), dtype=np.float32)
                for row in (50_000 * (some * some) * (some * some)).astype(np.uint16):
                    writer.write({"tokens": row})
    for k in range(1, domains):
        if not (place / f"d{k}").exists():
            shutil.copytree(first, place / f"d{k}")
    return place


def wire(port: int, rate: float) -> None:
    """Pass connections on to `port`, at most `rate` bytes/s of answers in all; print the port, and run for ever."""
    lock, free_at = threading.Lock(), [0.0]

    def pump(source: socket.socket, target: socket.socket, *, limited: bool) -> None:
        try:
            while data := source.recv(_CHUNK):
                if limited:
                    with lock:
                        free_at[0] = max(free_at[0], time.monotonic() - 0.02) + len(data) / rate
                        pause = free_at[0] - time.monotonic()
                    time.sleep(max(0.0, pause))
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    while True:
        client = listener.accept()[0]
        server = socket.create_connection(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        for ends, limited in (((client, server), False), ((server, client), True)):
            threading.Thread(target=pump, args=ends, kwargs={"limited": limited}, daemon=True).start()


@contextmanager
def behind_wire(place: S3, rate: float) -> Iterator[S3]:
    """Yield the place behind a wire of `rate` bytes/s."""
    command = [sys.executable, __file__, "--port", str(urlsplit(place.endpoint).port), "--wire", str(rate / 1e6)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield replace(place, endpoint=f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@dataclass(frozen=True)
class Far:
    """One dataset of a server, read by mixstream and bare.

    Args:
        place: of the domains' directories.
        scratch: a directory on the disk that is written to.
        threads: of the bare client; mixstream has its own number.
    """

    place: S3
    scratch: str
    threads: int

    def dataset(self, local: str, **options: Any) -> ms.StreamingDataset:
        """Open the dataset on a cold cache."""
        for name, value in environment(self.place.endpoint).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        streams = [
            ms.Stream(remote=f"{self.place.url}/d{k}", local=f"{local}/d{k}", name=f"d{k}") for k in range(DOMAINS)
        ]
        return ms.StreamingDataset(streams=streams, batch_size=BATCH, **{"shuffle": True, **options})

    def first(self, **options: Any) -> tuple[float, float, list[str]]:
        """Return the seconds that opening takes, those to the first batch, and the objects that it needs."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as local:
            began = time.perf_counter()
            dataset = self.dataset(local, **options)
            opened = time.perf_counter()
            with ms.Loader(dataset, widen=False) as loader:
                next(iter(loader))
                took = time.perf_counter() - opened
                numbers, _ = Forecast(loader.run.run_plan).upcoming(loader.run.start(), None, BATCH)
                homes = [dataset.domains.home(number) for number in numbers.tolist()]
            while any(
                thread.name.startswith(("mixstream-fetch", "mixstream-read")) for thread in threading.enumerate()
            ):
                time.sleep(0.05)  # they finish what they have begun, and would take from the bare client
            names = [f"{domain.name}/{(domain.shards[s].zip or domain.shards[s].raw).basename}" for domain, s in homes]
            return opened - began, took, names

    def epoch(self, **options: Any) -> tuple[float, float]:
        """Return the wall and CPU seconds of an epoch."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as local:
            dataset = self.dataset(local, **options)
            wall, cpu = time.perf_counter(), time.process_time()
            with ms.Loader(dataset, widen=False) as loader:
                rows = sum(len(batch["tokens"]) for batch in loader)
            assert rows >= DOMAINS * SHARDS * ROWS - BATCH
            return time.perf_counter() - wall, time.process_time() - cpu

    def bare(self, names: list[str], *, to_files: bool = True) -> tuple[float, float]:
        """Return the wall and CPU seconds of a bare download of objects, unpacked if they are in zstd.

        Args:
            names: of the objects.
            to_files: whether they are written to files, in pieces of 256 KiB, the quickest way; otherwise dropped.
        """
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            self.place.bucket,
            prefix=self.place.prefix,
            endpoint=self.place.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region=REGION,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

        def fetch(name: str) -> None:
            data = obstore.get(store, name).bytes()
            if name.endswith(".zstd"):
                data = zstandard.ZstdDecompressor().decompress(memoryview(data))
            if to_files:
                view = memoryview(data)
                with Path(local, name.replace("/", "-")).open("wb", buffering=0) as file:
                    file.writelines(view[at : at + _WRITE] for at in range(0, len(view), _WRITE))

        with tempfile.TemporaryDirectory(dir=self.scratch) as local, ThreadPoolExecutor(self.threads) as pool:
            wall, cpu = time.perf_counter(), time.process_time()
            list(pool.map(fetch, names))
            return time.perf_counter() - wall, time.process_time() - cpu


def first_batches(table: Table, places: dict[str, Far], rounds: int) -> None:
    """Measure the time to the first batch."""
    settings: dict[str, dict[str, Any]] = {
        "in order": {"shuffle": False},
        "in order, 8 shards ahead": {"shuffle": False, "predownload": 8 * ROWS},
        "windows of a shard": {"shuffle_block_size": ROWS},
        "windows of a shard, 16 shards ahead": {"shuffle_block_size": ROWS, "predownload": 16 * ROWS},
        "default windows": {},
    }
    for place, far in places.items():
        ratios: dict[str, list[float]] = {}
        opening: list[float] = []
        for turn in range(rounds + 1):
            for name in random.Random(turn).sample(list(settings), len(settings)):
                opened, ours, names = far.first(**settings[name])
                theirs, _ = far.bare(names)
                if turn:
                    key = f"{name}: {len(names)} of {DOMAINS * SHARDS} shards, bare {theirs:.2f} s"
                    key = next((known for known in ratios if known.startswith(f"{name}: ")), key)
                    ratios.setdefault(key, []).append(ours / theirs)
                    opening.append(opened)
        table.title(f"Time to the first batch over that of a bare download of its shards: {place}")
        for key in sorted(ratios):
            table.line(key, ratios[key], at_most=1.3)
        table.line(f"seconds that opening {DOMAINS} domains takes", opening)


def epochs(table: Table, places: dict[str, Far], rounds: int) -> None:
    """Measure epochs from a cold cache: gathered by mixstream; bare to files, and bare to memory that is dropped."""
    size = DOMAINS * SHARDS * ROWS * SEQ * 2 / 1e9
    for place, far in places.items():
        names = [name for name in far.place.names() if not name.endswith("index.json")]
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "mixstream": lambda far=far: far.epoch(predownload=8 * ROWS, shuffle_block_size=ROWS),
            "bare, to files": lambda far=far, names=names: far.bare(names),
            "bare, to memory": lambda far=far, names=names: far.bare(names, to_files=False),
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for turn in range(rounds + 1):
            for name in random.Random(turn).sample(list(contenders), len(contenders)):
                found = contenders[name]()
                took[name] += [found] * (turn > 0)
        ours, files, memory = took.values()
        table.title(f"An epoch from a cold cache, gathered, against all shards bare: {place}")
        goal = 0.8 if "zstd" in place else 0.9
        table.line("speed over bare, to files", [b[0] / a[0] for a, b in zip(ours, files)], at_least=goal)
        table.line("speed over bare, to memory", [b[0] / a[0] for a, b in zip(ours, memory)])
        table.line("speed of bare to files over bare to memory", [b[0] / a[0] for a, b in zip(files, memory)])
        table.line(
            "CPU of bare to files over ours: the speed where no core is idle",
            [b[1] / a[1] for a, b in zip(ours, files)],
        )
        for name, each in took.items():
            table.line(f"CPU seconds per GB, {name}", [cpu / size for _, cpu in each])


def limits(table: Table, source: Path, scratch: str, rounds: int) -> None:
    """Measure epochs under a limit that evicts, and without one."""
    total = 20_000 * (2 * SEQ + 4)
    took: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds):
        cases = {"no limit": None, "cache_limit of 0.6 of the data": int(0.6 * total)}
        for name in random.Random(turn).sample(list(cases), len(cases)):
            with tempfile.TemporaryDirectory(dir=scratch) as local:
                stream = ms.Stream(remote=str(source / "d0"), local=local, name="tokens")
                dataset = ms.StreamingDataset(
                    streams=[stream], batch_size=BATCH, shuffle=True, shuffle_block_size=5000, cache_limit=cases[name]
                )
                wall, cpu = time.perf_counter(), time.process_time()
                with ms.Loader(dataset, widen=False) as loader:
                    steps = sum(1 for _ in loader)
                took.setdefault(name, []).append(
                    (1e3 * (time.perf_counter() - wall) / steps, 1e3 * (time.process_time() - cpu) / steps)
                )
    table.title(f"A cold epoch of 80 shards of 1 MB in zstd from local disk, ms a batch of {BATCH} rows")
    for name, both in took.items():
        table.line(f"{name}, wall", [wall for wall, _ in both])
        table.line(f"{name}, CPU", [cpu for _, cpu in both])
    bare, kept = took["no limit"], took["cache_limit of 0.6 of the data"]
    table.line(
        "CPU under the limit over that without",
        [statistics.median(c for _, c in kept) / statistics.median(c for _, c in bare)],
    )


def main() -> int:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns that each contender takes")
    parser.add_argument("--threads", type=int, default=4, help="threads of the bare client")
    parser.add_argument("--wire", type=float, default=80.0, help="MB/s of the slow wire")
    parser.add_argument("--parts", nargs="+", default=["first", "epoch", "limit"], help="what to measure")
    parser.add_argument("--json", type=Path, help="file to write all values to")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.port is not None:
        wire(options.port, options.wire * 1e6)
    kinds: dict[str, Callable[[], Path]] = {
        kind: lambda name=name, kind=kind: write(DATA / f"far-{kind}", DOMAINS, SHARDS * ROWS, SHARD, name)
        for kind, name in (("raw", None), ("zstd", "zstd"))
    }
    print(f"mixstream of {Path(ms.__file__).parent}; {os.cpu_count()} cores shared with the server")
    table = Table(seeds=range(options.rounds))
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        if {"first", "epoch"} & set(options.parts):
            session = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(seaweed(session))
            places, slow = {}, {}
            for kind, made in kinds.items():
                place = S3(endpoint=server.endpoint, bucket=PRIVATE, prefix=f"{uuid4().hex[:8]}/{kind}")
                place.upload(made())
                places[kind] = Far(place, scratch, options.threads)
                behind = stack.enter_context(behind_wire(place, options.wire * 1e6))
                slow[f"{kind}, a wire of {options.wire:g} MB/s"] = replace(places[kind], place=behind)
            time.sleep(6)  # an index that was written just now is not believed at once
            if "first" in options.parts:
                first_batches(table, places | slow, options.rounds)
            if "epoch" in options.parts:
                epochs(table, places | {name: far for name, far in slow.items() if "raw" in name}, options.rounds)
        if "limit" in options.parts:
            limits(table, write(DATA / "far-many", 1, 20_000, 1 << 20, "zstd:1"), scratch, options.rounds)
    return table.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
