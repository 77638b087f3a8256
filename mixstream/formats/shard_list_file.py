"""The compact form of a large index: a `ShardList` and what else the index says, as bytes that load at once.

    magic · xxh3_128 of all that follows · u32 size of the header · header, JSON · kinds, an index.json · arrays

Rules. It stands for one text of an index, whose digest is in it. A text that is another's, damaged, cut or of another
version of this file is no error: `load_shard_list` returns None, and the index is read. A checksum detects damage only,
so what arrays say is checked besides: nothing in them leads out of them, or to a shard that is not there. The kinds are
checked as an index is. Names are not: that they are those of a checked index rests on who may write this file.

Shape suffixes: S shards.
"""

from dataclasses import replace

import msgspec
import numpy as np
import xxhash

from mixstream.errors import IndexCorruptError
from mixstream.formats.entry import ShardInfo
from mixstream.formats.mds.entry_pattern import UnusualError
from mixstream.formats.mds.index import Index, dump_index, parse_index
from mixstream.formats.mds.large_index import check_sizes
from mixstream.formats.shard_list import FileTable, ShardList, Texts
from mixstream.types import Int64

_MAGIC = b"mixstream entries 2\n"  # the number changes with everything that the bytes mean
_LONGEST = (1 << 16) - 1  # of a text
_ARRAYS = ("<u2", "<u4", "<u4", "<u4", "<u2", "<u2", "<u2", "<u2")  # kinds, samples, raw and zip bytes, 4 of lengths


class _Header(msgspec.Struct, kw_only=True):
    index: str  # xxh3_128 of its text, hexadecimal
    digest: str  # what a cache directory knows it by
    hashes: tuple[str, ...]
    shards: int
    kinds: int  # bytes
    arrays: tuple[bool, ...]  # whether there is one, or all of it is zero: those of `_ARRAYS`
    texts: tuple[int, ...]  # bytes of raw names, raw hashes, compressed names, their hashes


_decode = msgspec.json.Decoder(_Header).decode  # made here: threads that are the first to decode one type can crash


def dump_shard_list(index: Index, *, text: str, digest: str) -> bytes | None:
    """Return the compact form of an index; None if it has none.

    Args:
        index: the index, whose shards are a `ShardList`.
        text: xxh3_128 of the bytes of the index, in hexadecimal.
        digest: another digest of them, for the reader of the compact form.
    """
    shards = index.shards
    assert isinstance(shards, ShardList)
    files = [file for kind in shards.kinds for file in (kind.raw, kind.zip) if file is not None]
    if any(list(file.hashes) != sorted(file.hashes) for file in files):
        return None  # `dump_index` sorts the names, and the values stand in the order of the index
    if shards.zip.bytes_S.max(initial=0) >= 1 << 32:
        return None
    texts = shards.raw.names, shards.raw.hashes, shards.zip.names, shards.zip.hashes
    length_4S = [np.diff(each.end_S, prepend=0) for each in texts]
    if any(each.max(initial=0) > _LONGEST for each in length_4S):
        return None
    try:
        kinds = dump_index(Index(shards=shards.kinds, extra=index.extra), hashes=())
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = shards.kind_S, shards.samples_S, shards.raw.bytes_S, shards.zip.bytes_S, *length_4S
    arrays = [each.astype(dtype).tobytes() if each.any() else b"" for dtype, each in zip(_ARRAYS, numbers)]
    header = msgspec.json.encode(
        _Header(
            index=text,
            digest=digest,
            hashes=index.hashes,
            shards=len(shards),
            kinds=len(kinds),
            arrays=tuple(map(bool, arrays)),
            texts=tuple(len(each.data) for each in texts),
        )
    )
    parts = [
        len(header).to_bytes(4, "little") + header + kinds,
        *arrays,
        *(each.data.tobytes() for each in texts),
    ]
    whole = xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    return b"".join((_MAGIC, whole.digest(), *parts))


def load_shard_list(data: bytes, *, text: str) -> tuple[Index, str] | None:
    """Return the index of which `data` is the compact form, and the other digest of it; None if it is not.

    Args:
        data: what `dump_shard_list` returned, perhaps.
        text: as of `dump_shard_list`.
    """
    at = len(_MAGIC) + 16
    if not data.startswith(_MAGIC) or data[len(_MAGIC) : at] != xxhash.xxh3_128(memoryview(data)[at:]).digest():
        return None
    size = int.from_bytes(data[at : at + 4], "little")
    try:
        header = _decode(data[at + 4 : at + 4 + size])
        if header.index != text or (len(header.arrays), len(header.texts)) != (len(_ARRAYS), 4):
            return None
        at += 4 + size
        kinds = parse_index(data[at : at + header.kinds], where="")
        shards = _shards(data, at + header.kinds, header, kinds.shards)
    except (msgspec.MsgspecError, IndexCorruptError, UnusualError, ValueError, OverflowError):
        return None
    return replace(kinds, shards=shards, hashes=header.hashes), header.digest


def _shards(data: bytes, at: int, header: _Header, kinds: object) -> ShardList:
    """Return the shards whose arrays begin at byte `at` of `data`.

    Raises:
        ValueError: they are not there, or contradict each other.
    """
    assert isinstance(kinds, tuple)
    if header.shards > len(data):  # each has a name
        raise ValueError
    found: list[Int64] = []
    for dtype, written in zip(_ARRAYS, header.arrays):
        if written:
            array = np.frombuffer(data, dtype=dtype, count=header.shards, offset=at)
            at += array.nbytes
            found.append(array.astype(np.int64))
        else:
            found.append(np.zeros(header.shards, dtype=np.int64))
    kind_S, samples_S, raw_S, zip_S, *length_4S = found
    texts = []
    for length_S, written, size in zip(length_4S, header.arrays[4:], header.texts):
        end_S = np.cumsum(length_S, out=length_S) if written else length_S
        text = np.frombuffer(data, dtype=np.uint8, count=size, offset=at)
        at += size
        if size != (end_S[-1] if len(end_S) else 0) or (text >= 128).any():
            raise ValueError
        texts.append(Texts(text, end_S))
    if at != len(data) or not len(kind_S) or int(kind_S.max()) >= len(kinds):
        raise ValueError
    if any(type(kind) is not ShardInfo for kind in kinds):
        raise ValueError
    check_sizes(kinds, kind_S, samples_S, raw_S, zip_S)
    raw, zipped = FileTable(texts[0], raw_S, texts[1]), FileTable(texts[2], zip_S, texts[3])
    return ShardList(kinds=kinds, kind_S=kind_S, samples_S=samples_S, raw=raw, zip=zipped)
