"""`ShardList`: the entries of an index of many shards, as arrays; an entry becomes an object when it is asked for.

A million entries take tens of megabytes this way, and what is asked of all of them (how many samples, which columns,
which names) is answered by arrays, or by the few kinds of entries that there are. Functions take any sequence of
entries, so that callers need not know which they have: those of small indexes are tuples.

Shape suffixes: S shards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from typing import Self, overload

import numpy as np

from mixstream.formats.container import FileInfo, ShardEntry
from mixstream.formats.entry import ShardInfo
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

_BLOCK = 1 << 14  # shards whose facts are made at once
_MADE = 1 << 10  # entries that are kept as objects: those of the shards that are open are asked for row by row


@dataclass(frozen=True, slots=True)
class Texts:
    """Many short texts in ASCII, one behind the other.

    >>> texts = Texts.of([b"red", b"", b"blue"])
    >>> texts[2], list(texts.between(0, 2)), bytes(texts.data)
    ('blue', ['red', ''], b'redblue')

    Attributes:
        data: all of them, uint8 [bytes].
        end_S: where each ends, int64 [S].
    """

    data: UInt8
    end_S: Int64

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        """Return these texts."""
        end_S = np.fromiter(accumulate(map(len, texts)), dtype=np.int64, count=len(texts))
        return cls(np.frombuffer(b"".join(texts), dtype=np.uint8), end_S)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the texts of all `parts`, in order."""
        before = np.cumsum([0, *(len(part.data) for part in parts)])[: len(parts)]
        ends = [part.end_S + first for part, first in zip(parts, before.tolist())]
        nothing: Int64 = np.empty(0, dtype=np.int64)
        return cls(
            np.concatenate([np.empty(0, np.uint8), *(part.data for part in parts)]), np.concatenate([nothing, *ends])
        )

    def __getitem__(self, number: int) -> str:
        begin = int(self.end_S[number - 1]) if number else 0
        return self.data[begin : int(self.end_S[number])].tobytes().decode("ascii")

    def between(self, first: int, last: int) -> Iterator[str]:
        """Yield the texts [first, last)."""
        if first >= last:
            return
        begin = int(self.end_S[first - 1]) if first else 0
        end_B = (self.end_S[first:last] - begin).tolist()
        text, at = self.data[begin : begin + end_B[-1]].tobytes().decode("ascii"), 0
        for end in end_B:
            yield text[at:end]
            at = end


@dataclass(frozen=True, slots=True)
class FileTable:
    """One file of each shard: its name, size and hashes, as `FileInfo`; empty, and 0, where a shard has none.

    Attributes:
        names: of the files.
        bytes_S: their sizes, int64 [S].
        hashes: the values of the hashes of each file, separated by spaces; their names are those of its kind.
    """

    names: Texts
    bytes_S: Int64
    hashes: Texts

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the files of all `parts`, in order."""
        return cls(
            Texts.joined([part.names for part in parts]),
            np.concatenate([np.empty(0, np.int64), *(part.bytes_S for part in parts)]),
            Texts.joined([part.hashes for part in parts]),
        )

    def infos(self, first: int, last: int, hash_names: Sequence[str]) -> Iterator[FileInfo]:
        """Yield the files of the shards [first, last), which have hashes of these names."""
        texts = self.hashes.between(first, last)
        for name, size, text in zip(self.names.between(first, last), self.bytes_S[first:last].tolist(), texts):
            hashes = dict(zip(hash_names, text.split(" "))) if hash_names else {}
            yield FileInfo(basename=name, bytes=size, hashes=hashes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardList(Sequence[ShardInfo]):
    """The entries of an index of MDS shards. It equals a tuple of the same entries.

    Attributes:
        kinds: the first shard of each kind. Shards of one kind have the same columns, compression, size limit and names
            of hashes, and differ in nothing but samples, and names, sizes and hashes of files.
        kind_S: the kind of each shard, int64 [S].
        samples_S: its samples, int64 [S].
        raw: the uncompressed files.
        zip: the compressed ones.
    """

    kinds: tuple[ShardInfo, ...]
    kind_S: Int64
    samples_S: Int64
    raw: FileTable
    zip: FileTable
    _made: dict[int, ShardInfo] = field(default_factory=dict, repr=False)

    @classmethod
    def joined(cls, kinds: Sequence[ShardInfo], parts: Sequence[Self]) -> Self:
        """Return the shards of all `parts`, whose kinds are numbered alike, in order."""
        nothing: Int64 = np.empty(0, dtype=np.int64)
        return cls(
            kinds=tuple(kinds),
            kind_S=np.concatenate([nothing, *(part.kind_S for part in parts)]),
            samples_S=np.concatenate([nothing, *(part.samples_S for part in parts)]),
            raw=FileTable.joined([part.raw for part in parts]),
            zip=FileTable.joined([part.zip for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.samples_S)

    @overload
    def __getitem__(self, number: int) -> ShardInfo: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[ShardInfo, ...]: ...
    def __getitem__(self, number: int | slice) -> ShardInfo | tuple[ShardInfo, ...]:
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(len(self))))
        if not -len(self) <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        number = int(number) % len(self)
        if (found := self._made.get(number)) is None:
            if len(self._made) >= _MADE:
                self._made.clear()
            found = self._made[number] = next(self._run(number, number + 1))
        return found

    def __iter__(self) -> Iterator[ShardInfo]:
        for begin, end in self._runs():
            yield from self._run(begin, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardList | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} shards of {len(self.kinds)} kinds>"

    def files(self) -> Iterator[tuple[str, str | None]]:
        """Yield the names of the raw and the compressed file of each shard."""
        for begin, end in self._runs():
            raw = self.raw.names.between(begin, end)
            if self.kinds[int(self.kind_S[begin])].zip is None:
                yield from ((name, None) for name in raw)
            else:
                yield from zip(raw, self.zip.names.between(begin, end))

    def facts(self) -> Iterator[str]:
        """Yield what identifies the content of each shard, blocks of shards together: see `content_facts`."""
        for begin, end in self._runs():
            kind = self.kinds[int(self.kind_S[begin])]
            columns = f"{kind.column_names!r}, {kind.column_encodings!r}"
            samples, sizes = self.samples_S[begin:end].tolist(), self.raw.bytes_S[begin:end].tolist()
            names = self.raw.names.between(begin, end)  # without quotes and backslashes, as the hashes are
            if not kind.raw.hashes:
                yield "".join(f"('{n}', {s}, {b}, {columns}, [])" for n, s, b in zip(names, samples, sizes))
                continue
            listed = list(kind.raw.hashes)
            form = ", ".join(f"({_plain(repr(name))}, '{{{listed.index(name)}}}')" for name in sorted(listed))
            hashes = map(str.split, self.raw.hashes.between(begin, end))
            each = (f"('{n}', {s}, {b}, {columns}, [" for n, s, b in zip(names, samples, sizes))
            yield "".join(f"{start}{form.format(*values)}])" for start, values in zip(each, hashes))

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield stretches [begin, end) of shards of one kind, none longer than `_BLOCK`."""
        if not len(self):
            return
        starts = [0, *(np.flatnonzero(np.diff(self.kind_S)) + 1).tolist(), len(self)]
        for first, last in pairwise(starts):
            for begin in range(first, last, _BLOCK):
                yield begin, min(begin + _BLOCK, last)

    def _run(self, begin: int, end: int) -> Iterator[ShardInfo]:
        kind = self.kinds[int(self.kind_S[begin])]
        packed: Iterator[FileInfo | None] = iter((None,) * (end - begin))
        if kind.zip is not None:
            packed = self.zip.infos(begin, end, tuple(kind.zip.hashes))
        raws = self.raw.infos(begin, end, tuple(kind.raw.hashes))
        for samples, raw, zipped in zip(self.samples_S[begin:end].tolist(), raws, packed):
            yield ShardInfo(
                samples=samples,
                column_names=kind.column_names,
                column_encodings=kind.column_encodings,
                column_sizes=kind.column_sizes,
                compression=kind.compression,
                hashes=kind.hashes,
                size_limit=kind.size_limit,
                raw=raw,
                zip=zipped,
            )


def _plain(text: str) -> str:
    """Return `text` as `str.format` takes it where nothing is to be put in."""
    return text.replace("{", "{{").replace("}", "}}")


def kinds_of(shards: Sequence[ShardEntry]) -> Sequence[ShardEntry]:
    """Return shards that stand for all: in their order, the first of each kind (`ShardList.kinds`), perhaps others."""
    return shards.kinds if isinstance(shards, ShardList) else shards


def first_of_kinds(shards: Sequence[ShardEntry]) -> Iterator[tuple[int, ShardEntry]]:
    """Yield `kinds_of(shards)`, and the number of each among the shards."""
    if not isinstance(shards, ShardList):
        yield from enumerate(shards)
        return
    numbers = np.unique(shards.kind_S, return_index=True)[1] if len(shards) else ()
    yield from zip(map(int, numbers), shards.kinds)


def of_kinds(shards: Sequence[ShardEntry], value_N: Sequence[int]) -> Int64:
    """Return for each shard the value of its kind, int64 [S]; the values are those of `first_of_kinds`, in order."""
    value_N = np.array(value_N, dtype=np.int64)  # type: ignore[assignment]
    return value_N[shards.kind_S] if isinstance(shards, ShardList) else value_N  # type: ignore[return-value]


def samples_of(shards: Sequence[ShardEntry]) -> Int64:
    """Return the stored samples of each shard, int64 [S], not to be written to."""
    if isinstance(shards, ShardList):
        return shards.samples_S
    return np.fromiter((shard.samples for shard in shards), dtype=np.int64, count=len(shards))


def raw_bytes_of(shards: Sequence[ShardEntry]) -> Int64:
    """Return the bytes of the uncompressed files of each shard, int64 [S], not to be written to."""
    if isinstance(shards, ShardList):
        return shards.raw.bytes_S
    return np.fromiter(map(attrgetter("raw_bytes"), shards), dtype=np.int64, count=len(shards))


def zip_bytes_of(shards: Sequence[ShardEntry]) -> Int64:
    """Return the bytes of the compressed files of each shard, int64 [S], not to be written to."""
    if isinstance(shards, ShardList):
        return shards.zip.bytes_S
    return np.fromiter(map(attrgetter("zip_bytes"), shards), dtype=np.int64, count=len(shards))


def raw_names(shards: Sequence[ShardEntry]) -> Iterator[str]:
    """Yield the name of each shard's raw file of rows."""
    if isinstance(shards, ShardList):
        return shards.raw.names.between(0, len(shards))
    return (shard.raw.basename for shard in shards)


def file_names(shards: Sequence[ShardEntry], *, remote: bool) -> Mapping[str, str | None]:
    """Return the compressed file, or None, of every raw file of the shards.

    Nothing is returned of an index of many shards that are read where they are: nobody asks for a million names then.

    Args:
        shards: the shards.
        remote: whether their files are elsewhere.
    """
    if isinstance(shards, ShardList):
        return dict(shards.files()) if remote or any(kind.zip is not None for kind in shards.kinds) else {}
    pairs = chain.from_iterable(shard.files for shard in shards)
    return {raw.basename: packed.basename if packed else None for raw, packed in pairs}


def content_facts(shards: Sequence[ShardEntry]) -> Iterator[str]:
    """Yield texts that together say what identifies the content of the shards: names, samples, columns, hashes, parts.

    States and selections of earlier versions hold digests of them, so they never change.
    """
    if isinstance(shards, ShardList):
        yield from shards.facts()
        return
    for shard in shards:
        raw, hashes = shard.raw, sorted(shard.raw.hashes.items())
        facts = (raw.basename, shard.samples, raw.bytes, shard.column_names, shard.column_encodings, hashes)
        yield repr(facts if shard.part is None else (*facts, shard.part.name, shard.part.begin))
