"""Token files as other programs write them, made from the descriptions of their formats with nothing but `struct`."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.errors import StoreNotFoundError

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def tokens_of(documents: Iterable[Sequence[int]], dtype: str) -> bytes:
    """Return the documents behind each other, as bytes."""
    return b"".join(np.array(document, dtype=np.dtype(dtype).newbyteorder("<")).tobytes() for document in documents)


def megatron_idx(
    lengths: Sequence[int],
    *,
    dtype: str = "uint16",
    documents: Sequence[int] | None = None,
    pointers: Sequence[int] | None = None,
    head: bytes = b"MMIDIDX\x00\x00",
    version: int = 1,
    code: int | None = None,
    modes: bytes = b"",
) -> bytes:
    """Return an .idx of sequences of these lengths; each is a document unless `documents` says otherwise."""
    n, itemsize = len(lengths), np.dtype(dtype).itemsize
    documents = list(range(n + 1)) if documents is None else documents
    if pointers is None:
        pointers = [itemsize * sum(lengths[:i]) for i in range(n)]
    fixed = struct.pack("<QBQQ", version, CODES[dtype] if code is None else code, n, len(documents))
    arrays = (struct.pack(f"<{n}i", *lengths), struct.pack(f"<{n}q", *pointers))
    return b"".join((head, fixed, *arrays, struct.pack(f"<{len(documents)}q", *documents), modes))


def megatron_pair(documents: Sequence[Sequence[int]], name: str = "web", dtype: str = "uint16") -> dict[str, bytes]:
    """Return a .bin and its .idx, by name."""
    idx = megatron_idx([len(document) for document in documents], dtype=dtype)
    return {f"{name}.bin": tokens_of(documents, dtype), f"{name}.idx": idx}


def read_megatron(idx: bytes, bin_: bytes) -> list[list[int]]:
    """Return the documents of a pair, read as its specification says."""
    version, code, n, m = struct.unpack("<QBQQ", idx[9:34])
    assert (idx[:9], version, len(idx)) == (b"MMIDIDX\x00\x00", 1, 34 + 12 * n + 8 * m)
    lengths = struct.unpack(f"<{n}i", idx[34 : 34 + 4 * n])
    pointers = struct.unpack(f"<{n}q", idx[34 + 4 * n : 34 + 12 * n])
    documents = struct.unpack(f"<{m}q", idx[34 + 12 * n :])
    letter = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}[code]
    sequences = [list(struct.unpack_from(f"<{k}{letter}", bin_, at)) for k, at in zip(lengths, pointers)]
    return [list(chain(*sequences[a:b])) for a, b in pairwise(documents)]


def datatrove_files(
    documents: Sequence[Sequence[int]], name: str = "web", width: int = 2, metadata: str | None = None
) -> dict[str, bytes]:
    """Return a .ds with its index and metadata, by name; `metadata` "" leaves that out."""
    lengths = [len(document) for document in documents]
    ends = struct.pack(f"<{len(lengths)}Q", *(sum(lengths[: i + 1]) for i in range(len(lengths))))
    made = {f"{name}.ds": tokens_of(documents, f"uint{8 * width}"), f"{name}.ds.index": ends}
    text = f"gpt2|{width}\n{sum(lengths)}\n{sum(lengths)}" if metadata is None else metadata
    return made | ({f"{name}.ds.metadata": text.encode()} if text else {})


def olmo_files(documents: Sequence[Sequence[int]], name: str = "part-0", dtype: str = "uint16") -> dict[str, bytes]:
    """Return an .npy without header and its .csv.gz, by name."""
    lines, at = [], 0
    for i, document in enumerate(documents):
        lines.append(f'{at},{at + len(document)},"doc, {i}",a.jsonl.gz,{i + 1}\r\n')
        at += len(document)
    table = gzip.compress("".join(lines).encode(), mtime=0)
    return {f"{name}.npy": tokens_of(documents, dtype), f"{name}.csv.gz": table}


def llmc_file(tokens: Sequence[int], magic: int = 20240520, version: int = 1, count: int | None = None) -> bytes:
    """Return a .bin with a header of llm.c."""
    head = struct.pack("<iii", magic, version, len(tokens) if count is None else count)
    return head.ljust(1024, b"\0") + tokens_of([tokens], "uint32" if magic == 20240801 else "uint16")


def write_files(place: Path, files: dict[str, bytes]) -> Path:
    """Write files into a directory."""
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


@dataclass(frozen=True)
class _Info:
    size: int
    identity: str


@dataclass
class Files:
    """Files in memory, as a `Look` shows them to formats; counts the bytes that are read."""

    files: dict[str, bytes]
    read_bytes: int = field(default=0)
    place: str = "s3://bucket/web"

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def info(self, name: str) -> _Info:
        if name not in self.files:
            raise StoreNotFoundError(f"{name}: no such file")
        return _Info(len(self.files[name]), "version 1")

    def read(self, name: str, begin: int, end: int) -> bytes:
        self.read_bytes += end - begin
        return self.files[name][begin:end]

    def each(self, act: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
        return [act(name) for name in names]


def kept(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Keep what formats make of border files."""
    return np.frombuffer(b"".join(part.astype("<i8").tobytes() for part in parts), dtype=np.uint8)
