"""What a part notes of each of its documents: `.convert/parts/<group>/NNNNN.documents`, an Arrow file.

A line is a document, in the order of the part, with its tokens. Where it lies in the dataset is not known before all
parts are done: publishing adds that (published.py). The batches of the file are of one domain and split each; the
part's record says which are whose. Memory is bounded by `_HELD` for all domains of the part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mixstream.storage import named_full_disk

from ..documents.fields import Fields
from ..readers import Origin, Pieces
from .kept import keep

HEAD = 600  # characters
_HELD = 16 << 20  # bytes of lines that are not written yet
_BATCH = 2 << 20  # bytes of lines of one domain and split that become a batch
_LINE = 400  # bytes of a line in memory, about, without its texts
COLUMNS = {
    "id": "string",
    "slice": "int32",
    "record": "int64",
    "tokens": "int64",
    "bytes": "int64",
    "hash": "uint64",
}
"""Name and Arrow type of the columns; those of `--keep` follow, as JSON, named `0`, `1`, …"""


class Facts(NamedTuple):
    """What is known of a document before it has tokens."""

    id: str
    slice: int
    """Number of its slice in the part."""
    record: int
    bytes: int
    hash: int
    kept: tuple[str | None, ...]
    characters: int
    head: str
    """The first `HEAD` characters of its text."""


@dataclass(kw_only=True)
class Watch:
    """Looks at the pieces of documents on their way to the tokenizer, and says in order what they were.

    Args:
        keep: the fields of `--keep`.

    Attributes:
        kinds: which kinds of values each kept field has.
        done: documents whose last piece was seen.
    """

    keep: Sequence[str]
    kinds: list[set[str]] = field(init=False)
    done: deque[Facts] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self.kinds = [set() for _ in self.keep]

    def look(self, number: int, fields: Fields, pieces: Pieces) -> Pieces:
        """Yield the pieces of slice `number`, whose documents have these `fields`; returns what the reader does."""
        places = [fields.kept.index(name) if name in fields.kept else -1 for name in self.keep]
        short, long = xxhash.xxh3_64(), xxhash.xxh3_128()
        size, characters, head, origin, own = 0, 0, "", Origin(0), False
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                return end.value
            data = piece.text.encode()
            if piece.begins:
                origin = piece.origin or Origin(0)
                own, size, characters, head = origin.id is not None, 0, 0, piece.text[:HEAD]
                if not piece.ends:
                    short, long = xxhash.xxh3_64(), xxhash.xxh3_128()
            size, characters = size + len(data), characters + len(piece.text)
            if piece.begins and piece.ends:
                name = origin.id if origin.id is not None else xxhash.xxh3_128_hexdigest(data)
                kept = self._kept(origin, places)
                digest = xxhash.xxh3_64_intdigest(data)
                self.done.append(Facts(name, number, origin.record, size, digest, kept, characters, head))
            else:
                short.update(data)
                if not own:
                    long.update(data)
                if piece.ends:
                    name = origin.id if origin.id is not None else long.hexdigest()
                    kept, digest = self._kept(origin, places), short.intdigest()
                    self.done.append(Facts(name, number, origin.record, size, digest, kept, characters, head))
            yield piece

    def _kept(self, origin: Origin, places: Sequence[int]) -> tuple[str | None, ...]:
        if not places:
            return ()
        kept = tuple(keep(origin.kept[at]) if 0 <= at < len(origin.kept) else keep(None) for at in places)
        for kinds, each in zip(self.kinds, kept):
            kinds.add(each.kind)
        return tuple(each.text for each in kept)


class SidecarWriter:
    """Writes the file of a part.

    Args:
        path: the file; replaced.
        kept: how many fields `--keep` names.
    """

    def __init__(self, path: Path, kept: int) -> None:
        import pyarrow as pa

        self._path, self._schema = path, schema_of(kept)
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with named_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(path), "wb")
            self._writer: Any = pa.ipc.new_file(self._file, self._schema, options=options)
        self._held: dict[tuple[str, str], _Lines] = {}
        self._size = self._batches = 0
        self._written: dict[tuple[str, str], list[int]] = {}

    def add(self, place: tuple[str, str], facts: Facts, tokens: int) -> None:
        """Add a document of a domain and split, which has so many tokens."""
        lines = self._held.get(place)
        if lines is None:
            lines = self._held[place] = _Lines()
        cost = _LINE + len(facts.id) + (sum(map(len, filter(None, facts.kept))) if facts.kept else 0)
        lines.lines.append((facts.id, facts.slice, facts.record, tokens, facts.bytes, facts.hash, *facts.kept))
        lines.size += cost
        self._size += cost
        if lines.size >= _BATCH:
            self._flush(place)
        elif self._size >= _HELD:
            self._flush(max(self._held, key=lambda each: self._held[each].size))

    def finish(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Write what is left; returns the numbers of the batches of each domain and split."""
        for place in sorted(self._held):
            self._flush(place)
        self.close()
        return {place: tuple(batches) for place, batches in self._written.items()}

    def close(self) -> None:
        """Close the file; what is not written is lost."""
        with named_full_disk(self._path), self._file:
            if not self._file.closed:
                self._writer.close()

    def _flush(self, place: tuple[str, str]) -> None:
        import pyarrow as pa

        lines = self._held.pop(place)
        columns = [pa.array(column, each.type) for column, each in zip(zip(*lines.lines), self._schema)]
        with named_full_disk(self._path):
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._written.setdefault(place, []).append(self._batches)
        self._batches += 1
        self._size -= lines.size


@dataclass(slots=True)
class _Lines:
    """Lines that are not written yet, and their size in memory."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)
    size: int = 0


def schema_of(kept: int) -> Any:
    """Return the Arrow schema of a part's file."""
    import pyarrow as pa

    own = [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    return pa.schema([*own, *((str(at), pa.string()) for at in range(kept))])


def read_batches(path: Path, batches: Sequence[int]) -> Iterator[Any]:
    """Yield batches of a part's file by their numbers, as `pyarrow.RecordBatch`es."""
    import pyarrow as pa

    with closing(pa.memory_map(str(path))) as file, pa.ipc.open_file(file) as opened:
        for number in batches:
            yield opened.get_batch(number)
