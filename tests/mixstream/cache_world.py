"""What the tests of the cache share: a dataset of patterned shards, a disk that behaves as a remote store, and jobs.

Rules: no test lives here. The store writes down every read in a file that all processes append to, so that requests
can be counted wherever they were made. The bytes of a shard follow from its number, so any process can tell if it is
whole.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixstream.errors import ShardCorruptError
from mixstream.storage import (
    CacheLimit,
    CompressedSpec,
    DatasetFiles,
    ObjectBytes,
    ObjectInfo,
    ObjectPart,
    Retry,
    ShardSpec,
)
from mixstream.storage.stores.local import LocalStore

QUICK = Retry(attempts=2, timeout=5.0, unit=0.01)


def content(number: int, size: int) -> bytes:
    """Return the bytes of shard `number`: no two alike, none of them zeros."""
    return random.Random(number).randbytes(size)


@dataclass(frozen=True)
class Slow:
    """A directory of local disk as a remote store: every read is counted, and that of a shard takes its time.

    Args:
        directory: of the objects.
        log: file that every read is appended to.
        pause: seconds before each part of a shard.
    """

    directory: Path
    log: Path
    pause: float = 0.0
    url: str = "fake://bucket/data"

    @property
    def _disk(self) -> LocalStore:
        return LocalStore(self.directory)

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        number = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(number, f"{name} {begin} {end}\n".encode())
        os.close(number)
        if name != "index.json":
            time.sleep(self.pause)
        return self._disk.read(name, begin, end, version=version)

    def info(self, name: str) -> ObjectInfo:
        return self._disk.info(name)

    def write(self, name: str, data: bytes | Path) -> None:
        self._disk.write(name, data)

    def names(self, *, limit: int | None = None) -> list[str]:
        return self._disk.names(limit=limit)

    def remove(self, name: str) -> None:
        self._disk.remove(name)

    def renew(self) -> None:
        pass

    def fetched(self) -> list[str]:
        """Return the names of the shards that were read, packed or raw, by whomever, in order."""
        return [name for name in self.reads() if name != "index.json"]

    def reads(self) -> list[str]:
        """Return the names of the objects that were read, by whomever, in order."""
        return [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@dataclass(frozen=True)
class Checked:
    """Compares bytes with those of a shard, as a hash in an index does."""

    number: int
    size: int
    packed: bool = False

    def __call__(self, data: Any) -> None:
        expected = content(self.number, self.size)
        if bytes(data) != (zlib.compress(expected, 0) if self.packed else expected):
            raise ShardCorruptError(f"Checksum failure: shard {self.number}")


@dataclass(frozen=True)
class World:
    """A dataset of `shards` shards of `size` bytes in a remote store, and a place for caches.

    Args:
        root: a temporary directory.
        packed: whether the store has the compressed forms only.
        parts: whether the shards are ranges of one file, which has a companion.
    """

    root: Path
    shards: int = 6
    size: int = 40_000
    packed: bool = False
    parts: bool = False
    check: bool = True
    pause: float = 0.0
    sub: str = ""
    store: Slow = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Slow(self.root / "remote", self.root / "reads.log", self.pause))

    def build(self) -> World:
        """Write the store's objects."""
        if self.parts:
            whole = b"".join(content(number, self.size) for number in range(self.shards))
            LocalStore(self.root / "remote").write("corpus.bin", whole)
            LocalStore(self.root / "remote").write("corpus.idx", b"companion")
        for number in () if self.parts else range(self.shards):
            data, name = content(number, self.size), self.name(number)
            if self.packed:
                data, name = zlib.compress(data, 0), f"{name}.z"
            path = self.root / "remote" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (self.root / "remote/index.json").write_bytes(b'{"test": "index"}')
        return self

    def name(self, number: int) -> str:
        return f"corpus.bin.{number:05}.part" if self.parts else f"{self.sub}shard.{number:05}.mds"

    @property
    def packed_size(self) -> int:
        return len(zlib.compress(content(0, self.size), 0))

    def want(self, number: int) -> ShardSpec:
        name = self.name(number)
        compressed = None
        if self.packed:
            check = Checked(number, self.size, packed=True) if self.check else None
            compressed = CompressedSpec(name=f"{name}.z", size=self.packed_size, check=check, unpack=zlib.decompress)
        part = ObjectPart(name="corpus.bin", size=self.shards * self.size, begin=number * self.size)
        return ShardSpec(
            name=name,
            size=self.size,
            check=Checked(number, self.size) if self.check else None,
            compressed=compressed,
            part=part if self.parts else None,
        )

    @property
    def local(self) -> Path:
        return self.root / "local"

    @property
    def names(self) -> dict[str, str | None]:
        names = [self.name(number) for number in range(self.shards)]
        return {name: f"{name}.z" if self.packed else None for name in names}

    def files(self, *, limit: int | None = None, cache_limit: CacheLimit | None = None, **kw: Any) -> DatasetFiles:
        """Return the dataset's files, as another process would find them."""
        files = DatasetFiles(**{"home": self.local, "store": self.store, "retry": QUICK, **kw})
        files.read_index()
        return files.within(cache_limit or CacheLimit(limit=limit), self.names)

    def read(self, files: DatasetFiles, number: int, **kw: Any) -> bool:
        """Open a shard and see that it is whole; False if it could not be had without waiting."""
        file = files.open(self.want(number), **kw)
        if file is None:
            return False
        with file:
            assert file.read() == content(number, self.size), f"shard {number} is wrong"
        return True

    def on_disk(self) -> set[str]:
        """Return the names of the cache's files, without the notes."""
        return {
            path.relative_to(self.local).as_posix()
            for path in self.local.rglob("*")
            if path.is_file() and not path.name.startswith(".mixstream") and ".mixstream" not in str(path.parent)
        } - {"index.json"}

    def job(self, **orders: Any) -> list[str]:
        """Return the command line of a job in a fresh process: see `main`."""
        facts = {k: getattr(self, k) for k in ("shards", "size", "packed", "check", "pause", "sub")}
        return [sys.executable, __file__, json.dumps({"root": str(self.root), "world": facts, **orders})]


@contextmanager
def sampled(directory: Path) -> Iterator[list[int]]:
    """Yield a list whose last item is, afterwards, the most bytes that a directory's files had at any instant."""
    peak, stop = [0], threading.Event()

    def look() -> dict[str, int]:
        sizes = {}
        for parent, _, names in os.walk(directory):
            for name in names:
                with suppress(FileNotFoundError):
                    found = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - quick
                    sizes[f"{parent} {name} {found.st_ino}"] = found.st_size
        return sizes

    def watch() -> None:
        before = {}
        while not stop.is_set():
            # No instant has what is evicted while we look and what comes in its place: only what is seen twice was.
            now = look()
            if now == before:
                peak[0] = max(peak[0], sum(now.values()))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def main(orders: dict[str, Any]) -> None:
    """Read shards in the order that is given, round and round if need be; print how many were right."""
    world = World(Path(orders["root"]), **orders["world"])
    files = world.files(limit=orders.get("limit"), keep_compressed=orders.get("keep_compressed", False))
    until = time.monotonic() + orders.get("seconds", 0)
    sequence, ahead, done = orders["sequence"], orders.get("ahead", 0), 0
    with ThreadPoolExecutor(1) as pool:
        while not done or time.monotonic() < until:
            for at, number in enumerate(sequence):
                coming = sequence[at + 1 : at + 1 + ahead]
                files.cache_limit.announce(
                    [files.path(world.name(n)) for n in (number, *coming)], [float(i) for i in range(len(coming) + 1)]
                )
                fetched = pool.submit(prefetch, world, files, coming)
                assert world.read(files, number)
                fetched.result()
                done += 1
    files.cache_limit.close()
    sys.stdout.write(f"{done}\n")


def prefetch(world: World, files: DatasetFiles, coming: list[int]) -> None:
    for steps, number in enumerate(coming, 1):
        world.read(files, number, need=float(steps), wait=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
