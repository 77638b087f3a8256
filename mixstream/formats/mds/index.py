"""`index.json`: which shards a dataset has, and what is in them (`specs/mds.md` section 1).

Rules: an index is untrusted. Nothing of it is used until `parse_index` has checked all of it: paths stay inside the
dataset's directory, sizes are possible, columns are ones that MDS has. Reading is tolerant of keys that it does not
know, at top level (they are kept, as `Index.extra`) and inside a shard's entry (they are dropped: a newer writer may
say more, and no unknown key can change how bytes are read, since `version` and `format` are checked). Writing gives
exactly the keys that mosaicml-streaming accepts. Cost is O(shards), never O(samples).

An index may carry hashes of itself, at top level, where readers that do not know them look past them:

    "mixstream_hashes": {"xxh3_64": "0123456789abcdef"}

Each is the digest of what `dump_index` writes for the same index without that key: JSON in ASCII, keys sorted, `", "`
and `": "` between. So it outlives a change of order, of white space or of how characters are escaped, and sees every
other change. It finds damage and mix-ups; whoever can write the index can also write the hash.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from mixstream.errors import IndexCorruptError
from mixstream.formats.compression import is_compression
from mixstream.formats.container import FileInfo
from mixstream.formats.hashing import hash_hex
from mixstream.formats.mds.encodings import get_mds_encoded_size, get_mds_encodings, is_mds_encoding
from mixstream.formats.mds.paths import Paths

VERSION = 2
FORMAT = "mds"
MAX_OFFSET = (1 << 32) - 1  # offsets inside a shard are u32
INDEX_HASHES = "mixstream_hashes"  # top-level key of the index's hashes of itself

_REMEDY = "nothing of it was used; fetch the index again, or write the dataset again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard's entry.

    Attributes:
        samples: how many samples the shard holds.
        column_names: sorted; the order in which columns stand in a sample.
        column_encodings: aligned with the names.
        column_sizes: aligned with the names; bytes of a fixed-size column, None for the others.
        compression: as it was asked for (`"zstd:7"`), or None.
        hashes: names of the hashes that its files carry.
        size_limit: what the writer kept shards below, in bytes, or None.
        raw: the uncompressed shard, whether or not it is stored.
        zip: the compressed shard; present exactly if there is a compression.
    """

    samples: int
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]
    compression: str | None
    hashes: tuple[str, ...]
    size_limit: int | None
    raw: FileInfo
    zip: FileInfo | None

    @property
    def columns(self) -> dict[str, str]:
        """Encoding of each column, by name."""
        return dict(zip(self.column_names, self.column_encodings))

    def config(self) -> dict[str, Any]:
        """Return what the shard file itself repeats of this entry: all but samples and files."""
        return {
            "version": VERSION,
            "format": FORMAT,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size_limit": self.size_limit,
            "column_names": list(self.column_names),
            "column_encodings": list(self.column_encodings),
            "column_sizes": list(self.column_sizes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A whole `index.json`.

    Attributes:
        shards: in order.
        extra: the top-level keys that the format does not know.
        hashes: names of the hashes of itself that it carries, or is to carry when it is written.
    """

    shards: tuple[ShardInfo, ...]
    extra: Mapping[str, object]
    hashes: tuple[str, ...] = ()


class _WireShard(msgspec.Struct, gc=False):
    # What only MDS has is optional here, so that another format is refused by its name and not by a missing key.
    # `gc=False`: an entry holds no cycle, and walking 100,000 of them again and again doubles the time.
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


_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SHARDS = msgspec.json.Decoder(tuple[_WireShard, ...])
_HASHES = msgspec.json.Decoder(dict[str, str])

_Columns = tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...]]


def parse_index(data: bytes, *, where: str) -> Index:
    """Parse and check a whole index; `where` names it in errors.

    Raises:
        IndexCorruptError: it is not JSON, not MDS version 2, or says what cannot be.
    """
    with _decoding(where):
        top = _TOP.decode(data)
        version = msgspec.json.decode(top.pop("version", b"null"))
        if version != VERSION:
            _refuse(where, f"version is {version!r}; mixstream reads version {VERSION}, with shards of format 'mds'")
        wire = _SHARDS.decode(top.pop("shards", b"null"))
        hashes = _HASHES.decode(top.pop(INDEX_HASHES, b"{}"))
        extra = {key: msgspec.json.decode(value) for key, value in top.items()}
    checker = _Checker(where)
    shards = tuple(checker.shard(position, entry) for position, entry in enumerate(wire))
    checker.paths(shards)
    return Index(shards=shards, extra=extra, hashes=tuple(sorted(hashes)))


def dump_index(index: Index, *, hashes: Iterable[str] | None = None) -> bytes:
    """Write an index, keys sorted: the bytes that MDSWriter writes, with `extra` among the top-level keys.

    Args:
        index: what is written.
        hashes: names of the hashes that the index is to carry of itself (`mixstream.formats.hash_names`); None for
            those of `index.hashes`, which are none unless it was read with some. They are always computed anew.

    Raises:
        ValueError, TypeError: a value in `extra` that JSON cannot hold, or a key that the format has taken.
        ConfigError: no hash of such a name.
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
    top = msgspec.json.decode(data)  # as a reader will sort it: a key that was a number is a text now
    plain = _canonical(top)
    return _canonical({**top, INDEX_HASHES: {name: hash_hex(name, plain) for name in names}})


def check_index_hash(data: bytes, algorithm: str | None, *, where: str) -> None:
    """Check an index against the hash called `algorithm` that it carries of itself.

    One that carries no such hash passes, since no other writer knows of them; so does every one if `algorithm` is None.
    What the index says is `parse_index`'s business: both are called on the same bytes.

    Args:
        data: the index, as `parse_index` takes it.
        algorithm: name of the hash, or None to check nothing.
        where: names the index in errors.

    Raises:
        IndexCorruptError: the hash is another one, or the bytes are no JSON object.
        ConfigError: the index carries a hash of a name that is not known.
    """
    if algorithm is None:
        return
    with _decoding(where):
        expected = _HASHES.decode(_TOP.decode(data).get(INDEX_HASHES, b"{}")).get(algorithm)
        if expected is None:
            return
        top = msgspec.json.decode(data)
        del top[INDEX_HASHES]
        found = hash_hex(algorithm, _canonical(top))
    if found != expected:
        _refuse(where, f"Checksum failure: {algorithm} of the index is {found}, it says {expected[:128]!r}")


def _canonical(top: Mapping[str, object]) -> bytes:
    return json.dumps(top, sort_keys=True, allow_nan=False).encode()


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _refuse(where, f"not an MDS index ({error})", error)


def smallest_sample(column_sizes: Iterable[int | None]) -> int:
    """Return the fewest bytes that a sample of these columns takes: four for the size of each variable one."""
    return sum(4 if size is None else size for size in column_sizes)


def _dump_shard(shard: ShardInfo) -> dict[str, Any]:
    return {
        **shard.config(),
        "samples": shard.samples,
        "raw_data": _dump_file(shard.raw),
        "zip_data": None if shard.zip is None else _dump_file(shard.zip),
    }


def _dump_file(file: FileInfo) -> dict[str, Any]:
    return {"basename": file.basename, "bytes": file.bytes, "hashes": dict(file.hashes)}


def _refuse(where: str, fact: str, cause: BaseException | None = None) -> NoReturn:
    if len(fact) > 1200:  # a hostile index says as much as it likes, an error does not repeat all of it
        fact = f"{fact[:600]} … {fact[-400:]}"
    raise IndexCorruptError(f"{where}: {fact}; {_REMEDY}") from cause


class _Checker:
    """Checks entries one by one; what most shards share (columns, compression) is checked once and then shared."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._columns: dict[_Columns, tuple[_Columns, int]] = {}
        self._hashes: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._compressions: dict[str | None, bool] = {None: True}

    def shard(self, position: int, entry: _WireShard) -> ShardInfo:
        """Check one entry against itself."""
        if entry.version != VERSION or entry.format != FORMAT:
            self._fail(
                position,
                f"is of format {entry.format!r} version {entry.version}; mixstream reads format 'mds' version 2 "
                f"(json, csv, tsv and xsv shards are not supported: write them again as MDS)",
            )
        (names, encodings, sizes), smallest = self._check_columns(position, entry)
        if not 0 <= entry.samples <= MAX_OFFSET:
            self._fail(position, f"has {entry.samples} samples; a shard holds 0 to {MAX_OFFSET}")
        least = 8 + entry.samples * (4 + smallest)
        raw = entry.raw_data
        if not least <= raw.bytes <= MAX_OFFSET:
            self._fail(
                position,
                f"says raw_data takes {raw.bytes} bytes; {entry.samples} samples of its columns take {least} at least, "
                f"and a shard {MAX_OFFSET} at most",
            )
        self._check_compression(position, entry)
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

    def paths(self, shards: tuple[ShardInfo, ...]) -> None:
        """Check that every path stays inside the directory and that no two files share one."""
        paths = Paths()
        for position, shard in enumerate(shards):
            try:
                paths.add(shard.raw.basename)
                if shard.zip is not None:
                    paths.add(shard.zip.basename)
            except ValueError as error:
                self._fail(position, str(error))
        for clash in paths.both():
            _refuse(self._where, f"{clash!r} is both a file and a directory")

    def _check_columns(self, position: int, entry: _WireShard) -> tuple[_Columns, int]:
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
            self._fail(position, f"has columns {list(names)}; names are sorted and each stands once")
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

    def _check_compression(self, position: int, entry: _WireShard) -> None:
        compression, zip_data = entry.compression, entry.zip_data
        if compression not in self._compressions:
            if not is_compression(compression or ""):
                self._fail(position, f"has compression {compression!r}, which is not known")
            self._compressions[compression] = True
        if (compression is None) != (zip_data is None):
            has = "no zip_data" if zip_data is None else "zip_data"
            self._fail(position, f"has compression {compression!r} and {has}; they come together or not at all")
        # No codec makes incompressible bytes longer by more than a sixth and a little.
        if zip_data is not None and not 0 < zip_data.bytes <= 2 * entry.raw_data.bytes + 4096:
            self._fail(
                position,
                f"says zip_data takes {zip_data.bytes} bytes, which {entry.raw_data.bytes} bytes do not compress to",
            )

    def _fail(self, position: int, fact: str) -> NoReturn:
        _refuse(self._where, f"shard {position} {fact}")
