"""What the tests of virtual shards share: a flat file of tokens with a companion, a maker of its index, its container.

Rules: no test lives here. `corpus.bin` is a header of 5 bytes and then tokens, u16; its shards are ranges of `PART`
bytes and a last one. `corpus.idx` is a companion of any bytes. In "squares" shards are computed: each token is squared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixstream.errors import IndexCorruptError, ShardCorruptError
from mixstream.formats import FileInfo, FilePart, FixedStride, ShardEntry
from mixstream.storage import CacheLimit, DatasetFiles, ObjectPart, OriginalFiles, ShardSpec

HEADER, PART, MAGIC = 5, 6000, b"FLAT\0"


def part_name(file: str, number: int) -> str:
    """Return the name by which a cache keeps a part."""
    return f"{file}.{number:05}.part"


def corpus(first: int, tokens: int = 10_000) -> bytes:
    """Return a file of tokens, from `first` on."""
    return MAGIC + np.arange(first, first + tokens).astype("<u2").tobytes()


@dataclass(frozen=True)
class FlatMaker:
    """Makes the index of one file, and of its companion."""

    name: str = "corpus.bin"
    companion: str = "corpus.idx"
    computed: bool = False
    part: int = PART

    @property
    def about(self) -> str:
        return f"{self.name} {'squares' if self.computed else 'tokens'} {self.part}"

    def make(self, look: OriginalFiles) -> bytes:
        if look.read(self.name, 0, HEADER) != MAGIC:
            raise IndexCorruptError(f"{look.place}/{self.name}: it has another magic")
        said: dict[str, Any] = {"computed": self.computed, "part": self.part}
        for key, name in (("file", self.name), ("companion", self.companion)):
            info = look.info(name)
            said[key] = {"name": name, "bytes": info.size, "version": info.version}
        return json.dumps({"flat": said}, sort_keys=True).encode()


@dataclass(frozen=True)
class Flat:
    """The container of such an index."""

    index: bytes
    first: int = HEADER

    @property
    def said(self) -> dict[str, Any]:
        return json.loads(self.index)["flat"]

    @property
    def companion(self) -> tuple[str, int]:
        return self.said["companion"]["name"], self.said["companion"]["bytes"]

    @property
    def shards(self) -> list[ShardEntry]:
        said = self.said
        name, size, part = said["file"]["name"], said["file"]["bytes"], said["part"]
        found = []
        for number, begin in enumerate(range(self.first, size - HEADER + self.first, part)):
            length = min(part, size - HEADER + self.first - begin)
            found.append(
                ShardEntry(
                    samples=length // 2,
                    column_names=("tokens",),
                    column_encodings=("uint16",),
                    column_sizes=(2,),
                    compression=None,
                    hashes=(),
                    raw=FileInfo(basename=part_name(name, number), bytes=length, hashes={}),
                    zip=None,
                    part=FilePart(name=name, bytes=size, begin=None if said["computed"] else begin),
                )
            )
        return found

    @property
    def extra(self) -> Mapping[str, object]:
        return {}

    def rows(self, shard: int) -> FixedStride:
        return FixedStride(begins=0, stride=2, size=2)

    def check(self, shard: int, data: Any, *, where: str) -> None:
        if len(data) != self.shards[shard].raw.bytes:
            raise ShardCorruptError(where)

    def header(self, shard: int, data: Any) -> Any:
        return data[:0]

    def make(self, shard: int, file: BinaryIO) -> bytes:
        file.seek(HEADER + shard * self.said["part"])
        return squares(file.read(self.shards[shard].raw.bytes))

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        return {"tokens": np.frombuffer(row, "<u2")[0]}

    def specs(self) -> list[ShardSpec]:
        """Return the shards as storage sees them."""
        return [
            ShardSpec(
                name=shard.raw.basename,
                size=shard.raw.bytes,
                check=None,
                compressed=None,
                part=ObjectPart(
                    name=shard.part.name,
                    size=shard.part.bytes,
                    begin=shard.part.begin,
                    make=(lambda file, number=number: self.make(number, file)) if shard.part.begin is None else None,
                ),
            )
            for number, shard in enumerate(self.shards)
            if shard.part is not None
        ]


def squares(data: bytes) -> bytes:
    return (np.frombuffer(data, "<u2") ** 2).tobytes()


@dataclass(frozen=True)
class Opened:
    """A dataset that is read: its files, and its shards."""

    files: DatasetFiles
    flat: Flat

    @classmethod
    def of(cls, files: DatasetFiles, limit: int | None = None) -> Opened:
        """Read the index, and prepare the cache."""
        flat = Flat(files.read_index()[0])
        names = {spec.name: None for spec in flat.specs()}
        within = files.within(CacheLimit(limit=limit), names, computes=flat.said["computed"])
        return cls(within, flat)

    def read(self, number: int) -> bytes:
        """Return the bytes of a shard, as `Domain` would map them."""
        spec = self.flat.specs()[number]
        file = self.files.open(spec)
        assert file is not None
        with file:
            data = file.read()
            self.files.check_in_place(spec, file)
        return data

    def expected(self, number: int, whole: bytes) -> bytes:
        """Return what `read` should return, of the content of the file."""
        begin = HEADER + number * self.flat.said["part"]
        data = whole[begin : begin + self.flat.shards[number].raw.bytes]
        return squares(data) if self.flat.said["computed"] else data

    def companion(self) -> bytes:
        return self.files.companion(*self.flat.companion).tobytes()


def write(directory: Path, first: int = 0, **options: Any) -> bytes:
    """Write the files of a dataset; return the content of the larger one."""
    directory.mkdir(parents=True, exist_ok=True)
    data = corpus(first, **options)
    (directory / "corpus.bin").write_bytes(data)
    (directory / "corpus.idx").write_bytes(bytes(range(256)) * 40)
    return data
