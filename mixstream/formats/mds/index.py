"""`index.json`: the shards of a dataset and their content (`specs/mds.md` section 1).

Rules: an index is untrusted. `parse_index` checks all of it before anything is used: paths stay inside the dataset's
directory, sizes are possible, and encodings are those of MDS. Reading accepts unknown keys. Those at top level are kept
in `Index.extra`; those of a shard's entry are dropped, since `version` and `format` alone decide how bytes are read.
Writing gives exactly the keys that mosaicml-streaming accepts. Cost is O(shards).

An index may contain hashes of itself, at top level, where other readers ignore them:

    "mixstream_hashes": {"xxh3_64": "0123456789abcdef"}

Each is the digest of the bytes that `dump_index` writes for the index without this key: JSON in ASCII, keys sorted,
separated by `", "` and `": "`. It is independent of the order of keys, of white space and of escapes, and detects every
other change. It guards against damage and mix-ups, but not against attackers, who can write a matching hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from mixstream.errors import IndexCorruptError
from mixstream.formats.container import FileInfo
from mixstream.formats.entry import MAX_OFFSET, VERSION, ShardInfo
from mixstream.formats.hashing import ARRIVAL, hash_hex, quickest_hash
from mixstream.formats.mds.encodings import get_mds_encoded_size, get_mds_encodings, is_mds_encoding
from mixstream.formats.mds.paths import Paths
from mixstream.formats.split.encodings import FORMATS
from mixstream.lazy import later
from mixstream.records import dataclass

if TYPE_CHECKING:
    from mixstream.formats.compression import is_compression
    from mixstream.formats.split.info import SplitInfo, check_entry
else:
    (is_compression,) = later("mixstream.formats.compression", "is_compression")
    SplitInfo, check_entry = later("mixstream.formats.split.info", "SplitInfo", "check_entry")


FORMAT = "mds"
INDEX_HASHES = "mixstream_hashes"  # top-level key of the index's hashes of itself

_REMEDY = "no part of it was used; fetch the index again, or write the dataset again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A whole `index.json`.

    Attributes:
        shards: in order; a tuple, or the arrays of a large index (`ShardList`).
        extra: the top-level keys that are not part of the format.
        hashes: names of the hashes of itself that it contains, or that `dump_index` adds.
    """

    shards: Sequence[ShardInfo]
    extra: Mapping[str, object]
    hashes: tuple[str, ...] = ()


class WireShard(msgspec.Struct, gc=False):
    """A shard's entry as it stands in the index."""

    # Keys that only MDS has are optional, so that another format is refused by its name, not by a missing key.
    # `gc=False`: entries hold no cycles, and collecting garbage among 100,000 of them doubles the time.
    version: int
    format: str
    samples: int
    raw_data: FileInfo
    column_names: tuple[str, ...] | None = None
    column_encodings: tuple[str, ...] | None = None
    column_sizes: tuple[int | None, ...] | None = None
    compression: str | None = None
    hashes: tuple[str, ...] = ()
    size_limit: int | None = None
    zip_data: FileInfo | None = None
    # What entries of split shards have besides.
    raw_meta: FileInfo | None = None
    zip_meta: FileInfo | None = None
    columns: dict[str, str] | None = None
    newline: str | None = None
    separator: str | None = None


TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""Decodes the top level of an index."""
_SHARDS = msgspec.json.Decoder(list[WireShard])
_HASHES = msgspec.json.Decoder(dict[str, str])

_Columns = tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...]]


def parse_index(data: bytes, *, where: str) -> Index:
    """Parse and check a whole index; `where` names it in errors.

    >>> parse_index(b'{"shards": [], "version": 2, "made_by": "us"}', where="index.json")
    Index(shards=(), extra={'made_by': 'us'}, hashes=())

    Raises:
        IndexCorruptError: it is not JSON, not of version 2, or invalid.
    """
    with _decoding(where):
        top = TOP.decode(data)
        entries = top.pop("shards", b"null")
        extra, hashes = top_level(top, where=where)
        wire = _SHARDS.decode(entries)
    checker = Checker(where)
    shards = tuple(map(checker.shard, range(len(wire)), _taken(wire)))
    checker.paths(shards)
    return Index(shards=shards, extra=extra, hashes=hashes)


def top_level(top: Mapping[str, msgspec.Raw], *, where: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return what the top level of an index says besides its shards: `Index.extra` and `Index.hashes`.

    Raises:
        IndexCorruptError: it is of another version.
        msgspec.MsgspecError: a value is not valid.
    """
    version = msgspec.json.decode(top.get("version", b"null"))
    if version != VERSION:
        _refuse(where, f"version is {version!r}; mixstream reads version {VERSION}, with shards of format 'mds'")
    hashes = _HASHES.decode(top.get(INDEX_HASHES, b"{}"))
    extra = {key: msgspec.json.decode(value) for key, value in top.items() if key not in ("version", INDEX_HASHES)}
    return extra, tuple(sorted(hashes))


def _taken(wire: list[WireShard]) -> Iterator[WireShard]:
    """Yield the entries, and free each once the next is asked for: there may be millions."""
    wire.reverse()
    while wire:
        yield wire.pop()


def dump_index(index: Index, *, hashes: Iterable[str] | None = None) -> bytes:
    """Return the bytes of an index, keys sorted, as MDSWriter writes them, with `extra` among the top-level keys.

    Args:
        index: the index.
        hashes: names of the hashes of itself to add (`mixstream.formats.hash_names`); None for those of `index.hashes`.
            They are always computed.

    Raises:
        ValueError, TypeError: JSON cannot hold a value in `extra`, or a key in it belongs to the format.
        ConfigError: a name of a hash is unknown.
    """
    taken = {"shards", "version", INDEX_HASHES} & index.extra.keys()
    if taken:
        raise ValueError(f"top-level key {min(taken)!r} belongs to the format; choose another name")
    try:
        msgspec.json.decode(_canonical(index.extra))
    except msgspec.MsgspecError as error:
        raise ValueError(f"a top-level value could not be read again ({error})") from error
    shards = [_dump_shard(shard) for shard in index.shards]
    data = _canonical({**index.extra, "shards": shards, "version": VERSION})
    if not (names := index.hashes if hashes is None else tuple(hashes)):
        return data
    top = msgspec.json.decode(data)  # a number as a key has become a string, which readers sort differently
    plain = _canonical(top)
    return _canonical({**top, INDEX_HASHES: {name: hash_hex(name, plain) for name in names}})


def check_index_hash(data: bytes, algorithm: str | None, *, where: str) -> None:
    """Check an index against the hash `algorithm` of itself that it contains.

    An index without this hash passes, since only mixstream writes such hashes. Nothing else is checked: call
    `parse_index` on the same bytes.

    Args:
        data: the index, as for `parse_index`.
        algorithm: name of the hash, `ARRIVAL` for the quickest that it contains, or None to check nothing.
        where: names the index in errors.

    Raises:
        IndexCorruptError: the hash does not match, or the bytes are no JSON object.
        ConfigError: the index contains a hash `algorithm`, and there is no hash of this name.
    """
    if algorithm is None:
        return
    with _decoding(where):
        hashes = _HASHES.decode(TOP.decode(data).get(INDEX_HASHES, b"{}"))
        algorithm = quickest_hash(hashes) if algorithm == ARRIVAL else algorithm
        if algorithm is None or (expected := hashes.get(algorithm)) is None:
            return
        begin = data.find(f'"{INDEX_HASHES}": {{'.encode())
        end = data.find(b"}, ", begin)
        if begin >= 0 <= end and hash_hex(algorithm, data[:begin] + data[end + 3 :]) == expected:
            return  # it stands as `dump_index` wrote it, so nothing has to be sorted
        top = msgspec.json.decode(data)
        del top[INDEX_HASHES]
        found = hash_hex(algorithm, _canonical(top))
    if found != expected:
        fact = f"Checksum failure: {algorithm} of the index is {found}, it says {expected[:128]!r}"
        _refuse(where, f"{fact} (if it was edited on purpose, remove its key {INDEX_HASHES!r})")


def _canonical(top: Mapping[str, object]) -> bytes:
    return json.dumps(top, sort_keys=True, allow_nan=False).encode()


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _refuse(where, f"not an MDS index ({error})", error)


def smallest_sample(column_sizes: Iterable[int | None]) -> int:
    """Return the size in bytes of the smallest sample of these columns: four bytes for each one that varies."""
    return sum(4 if size is None else size for size in column_sizes)


def _dump_shard(shard: ShardInfo) -> dict[str, Any]:
    entry = {**shard.config(), "samples": shard.samples}
    for (raw, packed), what in zip(reversed(shard.files), ("data", "meta")):
        entry |= {f"raw_{what}": _dump_file(raw), f"zip_{what}": None if packed is None else _dump_file(packed)}
    return entry


def _dump_file(file: FileInfo) -> dict[str, Any]:
    return {"basename": file.basename, "bytes": file.bytes, "hashes": dict(file.hashes)}


def _refuse(where: str, fact: str, cause: BaseException | None = None) -> NoReturn:
    if len(fact) > 1200:  # a hostile index can be long; an error repeats only part of it
        fact = f"{fact[:600]} … {fact[-400:]}"
    raise IndexCorruptError(f"{where}: {fact}; {_REMEDY}") from cause


class Checker:
    """Checks entries one by one; columns and compressions that several shards have are checked once and shared."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._columns: dict[_Columns, tuple[_Columns, int]] = {}
        self._hashes: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._compressions: dict[str | None, bool] = {None: True}

    def shard(self, position: int, entry: WireShard) -> ShardInfo:
        """Check one entry and return it."""
        if entry.version != VERSION or entry.format not in (FORMAT, *FORMATS):
            self._fail(
                position,
                f"is of format {entry.format!r} version {entry.version}; mixstream reads version 2 of the formats "
                f"{FORMAT}, {', '.join(FORMATS)}",
            )
        if not 0 <= entry.samples <= MAX_OFFSET:
            self._fail(position, f"has {entry.samples} samples; a shard holds 0 to {MAX_OFFSET}")
        if entry.format != FORMAT:
            return self._split_shard(position, entry)
        (names, encodings, sizes), smallest = self._check_columns(position, entry)
        least = 8 + entry.samples * (4 + smallest)
        raw = entry.raw_data
        if not least <= raw.bytes <= MAX_OFFSET:
            self._fail(
                position,
                f"says raw_data takes {raw.bytes} bytes; {entry.samples} samples of its columns take at least {least}, "
                f"and a shard at most {MAX_OFFSET}",
            )
        self._check_compression(position, entry, "data", raw, entry.zip_data)
        return ShardInfo(
            samples=entry.samples,
            column_names=names,
            column_encodings=encodings,
            column_sizes=sizes,
            compression=entry.compression,
            hashes=self._hashes.setdefault(entry.hashes, entry.hashes),
            size_limit=entry.size_limit,
            raw=raw,
            zip=entry.zip_data,
        )

    def _split_shard(self, position: int, entry: WireShard) -> SplitInfo:
        try:
            info = check_entry(entry)
        except ValueError as error:
            self._fail(position, str(error))
        for (raw, packed), what in zip(info.files, ("meta", "data")):
            self._check_compression(position, entry, what, raw, packed)
        return info

    def paths(self, shards: tuple[ShardInfo, ...]) -> None:
        """Check that every path stays inside the directory and that no two files have the same path."""
        paths = Paths()
        for position, shard in enumerate(shards):
            try:
                for file in (shard.raw, shard.zip) if shard.meta is None else (*shard.files[0], *shard.files[1]):
                    if file is not None:
                        paths.add(file.basename)
            except ValueError as error:
                self._fail(position, str(error))
        for clash in paths.both():
            _refuse(self._where, f"{clash!r} is both a file and a directory")

    def _check_columns(self, position: int, entry: WireShard) -> tuple[_Columns, int]:
        names, encodings, sizes = entry.column_names, entry.column_encodings, entry.column_sizes
        if names is None or encodings is None or sizes is None:
            self._fail(position, "lacks column_names, column_encodings or column_sizes")
        key = (names, encodings, sizes)
        known = self._columns.get(key)
        if known is not None:
            return known
        if not len(names) == len(encodings) == len(sizes):
            self._fail(position, f"has {len(names)} column names, {len(encodings)} encodings and {len(sizes)} sizes")
        if list(names) != sorted(set(names)):
            self._fail(position, f"has columns {list(names)}; names must be sorted and unique")
        for name, encoding, size in zip(*key):
            if not is_mds_encoding(encoding):
                self._fail(
                    position,
                    f"has column {name!r} of encoding {encoding!r}, which MDS does not have; "
                    f"known are {', '.join(sorted(get_mds_encodings()))}",
                )
            if get_mds_encoded_size(encoding) != size:
                self._fail(
                    position,
                    f"has column {name!r} of size {size}; encoding {encoding!r} has {get_mds_encoded_size(encoding)}",
                )
        return self._columns.setdefault(key, (key, smallest_sample(sizes)))

    def _check_compression(
        self, position: int, entry: WireShard, what: str, raw: FileInfo, packed: FileInfo | None
    ) -> None:
        compression = entry.compression
        if compression not in self._compressions:
            if not is_compression(compression or ""):
                self._fail(position, f"has compression {compression!r}, which is not known")
            self._compressions[compression] = True
        if (compression is None) != (packed is None):
            has = f"no zip_{what}" if packed is None else f"zip_{what}"
            self._fail(position, f"has compression {compression!r} and {has}; an entry has both or neither")
        # No codec expands incompressible bytes by more than about a sixth.
        if packed is not None and not 0 < packed.bytes <= 2 * raw.bytes + 4096:
            self._fail(
                position, f"says zip_{what} takes {packed.bytes} bytes, which {raw.bytes} bytes do not compress to"
            )

    def _fail(self, position: int, fact: str) -> NoReturn:
        _refuse(self._where, f"shard {position} {fact}")
