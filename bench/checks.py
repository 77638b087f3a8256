"""What it costs to compare hashes when shards arrive, and to be durable: time beside the same without, in one turn.

    python bench/checks.py [--shards 24] [--shard-mib 16] [--rounds 7] [--threads 4]

Every pair is timed in turn, in an order that changes, and the ratio is that within a turn: how many times as long it
takes with the check as without. A real S3 server (SeaweedFS, loopback) has the same rows with each hash, raw and in
zstd; a cold cache on a disk is filled from it ("S3"), and from a directory of the same disk ("local"). Writers cannot
be told not to sync; for the bench, what syncs does nothing. An index of many shards is read with its own hash and
without. A loopback network is faster than most, and so worse for hashes: beside a slower one they cost less.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np

import mixstream as ms
from mixstream.formats import FileInfo, Index, dump_index, open_container, parse_index

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/mixstream"))

from servers import PRIVATE, S3, environment, seaweed  # pyright: ignore[reportMissingImports]
from table import Table

SEQ = 2048
HASHES = ("xxh3_64", "sha1", "md5")
DATA = Path(__file__).parent / "data"
Act = Callable[[Path], float]
"""Fills a directory; returns the seconds that it took."""


def write(out: Path, rows: int, *, shard: int, hashes: str | None = "xxh3_64", compression: str | None = None) -> Path:
    """Write rows of tokens whose frequencies are as in text, unless they are there."""
    if not (out / "index.json").exists():
        rng = np.random.default_rng(0)
        columns, names = {"tokens": f"ndarray:uint16:{SEQ}"}, [hashes] if hashes else []
        with ms.MDSWriter(
            columns=columns, out=str(out), size_limit=shard, hashes=names, compression=compression, exist_ok=True
        ) as writer:
            for _ in range(rows):
                writer.write({"tokens": (50_000 * rng.random(SEQ) ** 4).astype(np.uint16)})
    return out


def fill(remote: str, threads: int, **options: object) -> Act:
    """Return what fills a directory with all shards of a dataset."""

    def act(local: Path) -> float:
        streams = [ms.Stream(remote=remote, local=str(local))]
        (domain,) = ms.StreamingDataset(streams=streams, batch_size=1, **options).domains  # type: ignore[arg-type]
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for fetched in pool.map(lambda number: domain.fetch(number, 0.0), range(len(domain.shards))):
                assert fetched
        return time.perf_counter() - began

    return act


def timed_write(rows: int, shard: int, directory: Path) -> float:
    """Write rows into a directory; return the seconds that it took."""
    began = time.perf_counter()
    write(directory / "written", rows, shard=shard)
    return time.perf_counter() - began


@contextmanager
def unsynced() -> Iterator[None]:
    """Let what waits for the disk do nothing."""
    fsync = os.fsync
    os.fsync = lambda number: None  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = fsync


def without_sync(act: Act) -> Act:
    """Return the same without waiting for the disk."""

    def unsafe(directory: Path) -> float:
        with unsynced():
            return act(directory)

    return unsafe


def compare(pairs: dict[str, tuple[Act, Act]], scratch: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of both of each pair, in `rounds` turns after one that is not counted."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for turn in range(rounds + 1):
        rng = random.Random(turn)
        for name in rng.sample(list(pairs), len(pairs)):
            seconds = [0.0, 0.0]
            for which in rng.sample((0, 1), 2):
                directory = Path(tempfile.mkdtemp(dir=scratch))
                seconds[which] = pairs[name][which](directory)
                shutil.rmtree(directory)
            if turn:
                took[name].append((seconds[0], seconds[1]))
    return took


def show(table: Table, title: str, took: dict[str, list[tuple[float, float]]], size: int) -> None:
    """Print the ratios of all pairs."""
    table.title(title)
    for name, turns in took.items():
        rate = statistics.median(size / plain / 1e6 for _, plain in turns)
        ratios = sorted(checked / plain for checked, plain in turns)
        about = f"{name:<34} {rate:7.0f} MB/s without; [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        table.line(about, statistics.median(ratios))


def index_of(shards: int) -> tuple[bytes, bytes]:
    """Return an index of so many shards, with a hash of itself and without."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), 1, shard=1 << 20)
        (entry,) = parse_index((Path(place) / "index.json").read_bytes(), where="").shards
    hashes = entry.raw.hashes
    made = [
        replace(entry, raw=FileInfo(basename=f"shard.{n:05}.mds", bytes=entry.raw.bytes, hashes=hashes))
        for n in range(shards)
    ]
    index = Index(shards=tuple(made), extra={})
    return dump_index(index, hashes=["xxh3_64"]), dump_index(index)


def run(options: argparse.Namespace, table: Table, server: S3, scratch: Path) -> None:
    """Measure and print."""
    shard = options.shard_mib << 20
    rows = options.shards * ((shard - 1024) // (2 * SEQ + 4))
    size, pairs, raw = rows * 2 * SEQ, {}, {}
    for compression in (None, "zstd"):
        for name in HASHES:
            kind = f"{compression or 'raw'}, {name}"
            out = DATA / f"checks-{options.shards}-{options.shard_mib}" / f"{compression or 'raw'}-{name}"
            write(out, rows, shard=shard, hashes=name, compression=compression)
            place = replace(server, prefix=uuid4().hex[:8])
            place.upload(out)
            remotes = {"S3": place.url, "local": str(out)}
            raw = raw or remotes
            for where, remote in remotes.items():
                pairs[f"{where}, {kind}"] = (
                    fill(remote, options.threads),
                    fill(remote, options.threads, validate_hash=None),
                )
    show(table, 'Time with validate_hash="arrival" over that without', compare(pairs, scratch, options.rounds), size)

    durable: dict[str, tuple[Act, Act]] = {
        f"cache, {where}": (fill(remote, options.threads, durable=True), fill(remote, options.threads))
        for where, remote in raw.items()
    }
    for mib in (options.shard_mib, 1):
        writes = partial(timed_write, rows, mib << 20)
        durable[f"MDSWriter, shards of {mib} MiB"] = (writes, without_sync(writes))
    show(table, "Time with durable over that without", compare(durable, scratch, options.rounds), size)

    table.title(f"Seconds to open an index of {options.index:,} shards: with its own hash compared, and without")
    hashed, plain = index_of(options.index)
    for what, data, check in (
        ("compared", hashed, "arrival"),
        ("not compared", hashed, None),
        ("has none", plain, "arrival"),
    ):
        seconds = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            open_container(data, where="index.json", validate_hash=check)
            seconds.append(time.perf_counter() - began)
        table.line(f"{what}, {len(data) / 1e6:.0f} MB", seconds)


def main() -> int:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", type=int, default=24, help="how many shards")
    parser.add_argument("--shard-mib", type=int, default=16, help="MiB of a shard")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each pair")
    parser.add_argument("--threads", type=int, default=4, help="threads that fill a cache")
    parser.add_argument("--index", type=int, default=100_000, help="shards of the index that is opened")
    options = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores shared with the server; Python {platform.python_version()}, "
        f"mixstream {ms.__version__}; {options.shards} shards of {options.shard_mib} MiB, {options.threads} threads, "
        f"{options.rounds} turns; load {os.getloadavg()[0]:.1f}"
    )
    table = Table(seeds=range(options.rounds))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=DATA)))
        found = stack.enter_context(seaweed(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        for name, value in environment(found.endpoint).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        run(options, table, S3(endpoint=found.endpoint, bucket=PRIVATE, prefix="-"), scratch)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
