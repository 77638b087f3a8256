"""How close a cold cache fills to the speed of the wire: MB/s beside bare obstore and boto3, CPU, and peak disk.

    python bench/storage.py [--shards 24] [--rounds 5] [--threads 4] [--json FILE]

A real S3 server (SeaweedFS, loopback, warm) holds 24 shards of 16 MiB, raw, and the same rows again in zstd. In a turn
each contender fills an empty directory of the same disk with the same raw shards, by as many threads: a bare obstore
`get` written to a file, in pieces of 256 KiB and at once, boto3 in its two ways, and mixstream, whose bytes are asked
for in parts, checked and published under a limit. All take turns in one process, in an order that changes from turn to
turn; the ratio is that within a turn. `Loader` is timed over an epoch from a cold cache, shuffled in blocks of four
shards, every row gathered as it is stored; its first batch waits for the shards of a block. CPU is this process's own;
the server takes the rest of the machine, which it shares with us. Disk is counted in blocks, evicted files that are
still mapped included.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

import mixstream as ms
from mixstream.plan.compiled import compile_at_once

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/mixstream"))

from servers import KEY, PRIVATE, REGION, S3, SECRET, environment, seaweed  # pyright: ignore[reportMissingImports]
from table import Table

SEQ, SHARD, BATCH = 2048, 16 << 20, 512
ROWS = (SHARD - 1024) // (2 * SEQ + 4)  # of a shard
DATA = Path(__file__).parent / "data"


def corpus(shards: int) -> dict[str, Path]:
    """Write the dataset once, raw and in zstd; return the directories."""
    paths = {kind: DATA / f"storage-{shards}" / kind for kind in ("raw", "zstd")}
    for kind, path in paths.items():
        if (path / "index.json").exists():
            continue
        rng = np.random.default_rng(0)
        options: dict[str, Any] = {"compression": "zstd" if kind == "zstd" else None, "hashes": ["xxh3_64"]}
        columns = {"tokens": f"ndarray:uint16:{SEQ}"}
        with ms.MDSWriter(columns=columns, out=str(path), size_limit=SHARD, exist_ok=True, **options) as writer:
            for _ in range(shards * ROWS):  # frequencies as in text, so that zstd has something to do
                writer.write({"tokens": (50_000 * rng.random(SEQ) ** 4).astype(np.uint16)})
        print(f"wrote {path}", file=sys.stderr)
    return paths


@dataclass
class Turns:
    """What one contender took, per turn."""

    rate: list[float] = field(default_factory=list)  # MB/s of raw bytes on disk
    cores: list[float] = field(default_factory=list)
    per_gb: list[float] = field(default_factory=list)  # CPU seconds per GB
    first: list[float] = field(default_factory=list)  # seconds to the first batch


@dataclass(frozen=True)
class Bench:
    """The contenders, on one dataset.

    Args:
        place: where the server has it.
        source: the same files on local disk.
        scratch: an empty directory on the disk that is written to.
        threads: how many threads each contender has.
    """

    place: S3
    source: Path
    scratch: Path
    threads: int

    def dataset(self, local: Path | str, **options: Any) -> ms.StreamingDataset:
        """Return the dataset on a cold cache."""
        streams = [ms.Stream(remote=self.place.url, local=str(local), name="tokens")]
        return ms.StreamingDataset(
            streams=streams, batch_size=BATCH, shuffle=True, shuffle_block_size=4 * ROWS, **options
        )

    def names(self) -> list[str]:
        """Return the objects, without the index."""
        return [name for name in self.place.names() if name != "index.json"]

    def spread(self, fetch: Callable[[str], None], names: list[str]) -> None:
        """Call `fetch` for all names, on as many threads as all contenders have."""
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(fetch, names))

    def obstore(self, write: int = 1 << 18) -> Callable[[Path], None]:
        """Bare obstore: whole objects, of which `write` bytes are written at once; a quarter of a MiB is quickest."""
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
        names = self.names()

        def fill(directory: Path) -> None:
            def fetch(name: str) -> None:
                view = memoryview(obstore.get(store, name).bytes())
                with (directory / name).open("wb", buffering=0) as file:
                    file.writelines(view[at : at + write] for at in range(0, len(view), write))

            self.spread(fetch, names)

        return fill

    def boto3(self, way: str) -> Callable[[Path], None]:
        """boto3, by `get_object` or by `download_fileobj` with its default settings."""
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.place.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(max_pool_connections=10 * self.threads, s3={"addressing_style": "path"}),
        )
        names = self.names()

        def fill(directory: Path) -> None:
            def fetch(name: str) -> None:
                key = f"{self.place.prefix}/{name}"
                with (directory / name).open("wb") as file:
                    if way == "download_fileobj":
                        client.download_fileobj(self.place.bucket, key, file)
                    else:
                        body = client.get_object(Bucket=self.place.bucket, Key=key)["Body"]
                        shutil.copyfileobj(body, file, 1 << 20)

            self.spread(fetch, names)

        return fill

    def cache(self, directory: Path) -> None:
        """Mixstream without a loader: every shard through `DatasetFiles.open`."""
        (domain,) = self.dataset(directory).domains

        def fetch(number: int) -> None:
            for spec in domain.specs(number):
                file = domain.files.open(spec)
                assert file is not None
                file.close()

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(fetch, range(len(domain.shards))))

    def epoch(self, directory: Path, **options: Any) -> float:
        """Read an epoch through `Loader`; return the seconds to its first batch."""
        began, first = time.perf_counter(), 0.0
        options = {"predownload": 8 * ROWS, **options}
        with ms.Loader(self.dataset(directory, **options), widen=False) as loader:
            for batch in loader:
                first = first or time.perf_counter() - began
                assert len(batch["tokens"]) <= BATCH
        return first

    @contextmanager
    def empty(self) -> Iterator[Path]:
        """Yield an empty directory, with nothing left to be written to disk; remove it afterwards."""
        directory = Path(tempfile.mkdtemp(dir=self.scratch))
        os.sync()
        time.sleep(0.2)  # the server tidies up, too
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    def raw_bytes(self) -> int:
        """Return how many bytes the raw shards have."""
        return sum(shard.raw.bytes for shard in self.dataset(self.scratch / "index").domains[0].shards)


def take_turns(contenders: dict[str, Callable[[Path], float | None]], bench: Bench, rounds: int) -> dict[str, Turns]:
    """Return what all took, in `rounds` turns after one that is not counted."""
    turns, size = {name: Turns() for name in contenders}, bench.raw_bytes()
    for turn in range(rounds + 1):
        # Not in rotation: each would always follow the same one, whose litter the server is still tidying up.
        for name in random.Random(turn).sample(list(contenders), len(contenders)):
            with bench.empty() as directory:
                wall, cpu = time.perf_counter(), time.process_time()
                first = contenders[name](directory)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if turn == 0:
                    check(directory, bench.source, name)
                    continue
            turns[name].rate.append(size / wall / 1e6)
            turns[name].cores.append(cpu / wall)
            turns[name].per_gb.append(cpu / (size / 1e9))
            turns[name].first.append(first or 0.0)
    return turns


def check(directory: Path, source: Path, name: str) -> None:
    """See that the directory has the very bytes of the dataset, where it has files of the dataset."""
    there = {path.name for path in directory.iterdir()}
    found = [path for path in sorted(source.iterdir()) if path.name != "index.json" and path.name in there]
    if not found and any(file.suffix == ".mds" for file in source.iterdir()):
        raise SystemExit(f"{name} left nothing of {source}")
    for path in found:
        theirs, ours = (hashlib.sha256(file.read_bytes()).digest() for file in (directory / path.name, path))
        if theirs != ours:
            raise SystemExit(f"{name} left other bytes than {path} has")


class Disk:
    """Measures what a directory takes on disk, until it is stopped; evicted files that are mapped included."""

    def __init__(self, directory: Path) -> None:
        self.peak = self.samples = 0
        self._directory, self._stop = directory, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self.peak, self.samples = max(self.peak, self._blocks() + self._deleted()), self.samples + 1

    def _blocks(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._directory):
            for name in names:
                try:
                    total += 512 * os.stat(os.path.join(folder, name)).st_blocks  # noqa: PTH116, PTH118 - many and often
                except FileNotFoundError:
                    continue
        return total

    def _deleted(self) -> int:
        sizes: dict[str, int] = {}
        for line in Path("/proc/self/maps").read_text().splitlines():
            if str(self._directory) in line and line.endswith("(deleted)"):
                begin, _, end = line.split(" ", 1)[0].partition("-")
                sizes[line.split()[4]] = int(end, 16) - int(begin, 16)
        return sum(sizes.values())

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def run(options: argparse.Namespace, table: Table, benches: dict[str, Bench]) -> None:
    """Measure and print."""
    raw, zstd = benches["raw"], benches["zstd"]
    contenders: dict[str, Callable[[Path], float | None]] = {
        "bare obstore": raw.obstore(),
        "bare obstore, one write a shard": raw.obstore(SHARD),
        "boto3 get_object": raw.boto3("get_object"),
        "boto3 download_fileobj": raw.boto3("download_fileobj"),
        "mixstream, DatasetFiles.open": raw.cache,
        "mixstream, an epoch of Loader": raw.epoch,
    }
    turns = take_turns(contenders, raw, options.rounds)
    bare = turns["bare obstore"]
    table.title("Raw shards to a cold cache, MB/s")
    for name, took in turns.items():
        table.line(name, took.rate, form="7.1f")
    table.title("The same, beside bare obstore: median over the turns, then [the least, the most], then best by best")
    aims = {"mixstream, DatasetFiles.open": 0.9}
    for name, took in turns.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(took.rate, bare.rate))
        notes = f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]  {max(took.rate) / max(bare.rate):.2f}"
        table.line(f"{name:<31} {notes}", statistics.median(ratios), at_least=aims.get(name))
    table.title("CPU of this process: cores that it kept busy")
    for name, took in turns.items():
        table.line(name, took.cores)
    table.title("CPU of this process: seconds per GB")
    for name, took in turns.items():
        table.line(name, took.per_gb)
    table.title("Seconds to the first batch of Loader, opening the dataset included")
    table.line("raw, cold cache", turns["mixstream, an epoch of Loader"].first)

    packed = take_turns({"bare obstore": zstd.obstore(), "epoch": zstd.epoch, "open": zstd.cache}, zstd, options.rounds)
    share = sum(path.stat().st_size for path in zstd.source.glob("*.zstd")) / zstd.raw_bytes()
    table.title(f"zstd shards ({share:.2f} of their raw size) to raw shards, MB/s of raw bytes")
    table.line("bare obstore, which leaves them packed", packed["bare obstore"].rate, form="7.1f")
    table.line("mixstream, DatasetFiles.open", packed["open"].rate, form="7.1f")
    table.line("mixstream, an epoch of Loader", packed["epoch"].rate, form="7.1f")
    table.line("seconds to the first batch", packed["epoch"].first)

    table.title("Peak disk of an epoch, in shares of cache_limit, which is half of the raw dataset")
    for kind, bench in benches.items():
        limit = bench.raw_bytes() // 2
        with bench.empty() as directory:
            disk = Disk(directory)
            bench.epoch(directory, cache_limit=limit)
            disk.stop()
        table.line(f"{kind}, {disk.samples} samples", disk.peak / limit, at_most=round(1 + SHARD / limit, 3))


def main() -> int:
    """Run the comparison and print a table."""
    compile_at_once()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", type=int, default=24, help="shards of 16 MiB")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    parser.add_argument("--threads", type=int, default=4, help="threads of each contender")
    parser.add_argument("--json", type=Path, help="file to write all values to")
    options = parser.parse_args()
    paths = corpus(options.shards)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores shared with the server; Python {platform.python_version()}; ",
        end="",
    )
    print(f"{options.shards} shards of {SHARD >> 20} MiB, {options.threads} threads, {options.rounds} turns")
    table = Table(seeds=range(options.rounds))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=DATA)))
        session = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(seaweed(session))
        for name, value in environment(server.endpoint).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        benches = {}
        for kind, source in paths.items():
            place = S3(endpoint=server.endpoint, bucket=PRIVATE, prefix=f"{uuid4().hex[:8]}/{kind}")
            place.upload(source)
            benches[kind] = Bench(place, source, scratch, options.threads)
        run(options, table, benches)
    return table.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
