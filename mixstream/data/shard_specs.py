"""The files of a shard as storage knows them: names, sizes, and how to tell that their bytes are right.

Bytes are compared with the hashes that the index lists: with the one that the user chose when they are first mapped,
and with any of them when a file on disk is in doubt.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mixstream.errors import IndexCorruptError, ShardCorruptError
from mixstream.formats import ComputesShards, Container, FileInfo, decompress, hash_hex, is_hash
from mixstream.storage import CompressedSpec, ObjectPart, ShardSpec


def shard_spec(
    container: Container,
    number: int,
    raw: FileInfo,
    packed: FileInfo | None,
    *,
    place: str,
    validate_hash: str | None,
) -> ShardSpec:
    """Return the description of one file of a shard.

    Args:
        container: which stores the shard.
        number: of the shard.
        raw: the uncompressed file, one of `ShardEntry.files`.
        packed: the compressed one; None without compression.
        place: names the dataset's directory in errors.
        validate_hash: name of the hash that bytes are compared with; None for none.
    """

    def check(file: FileInfo) -> Callable[[Any], None] | None:
        if validate_hash is None:
            return None
        return partial(_compare_hash, validate_hash, file.hashes, f"{place}/{file.basename}")

    entry, compressed = container.shards[number], None
    if packed is not None:
        where = f"{place}/{packed.basename}"
        compressed = CompressedSpec(
            name=packed.basename,
            size=packed.bytes,
            check=check(packed),
            unpack=partial(decompress, entry.compression, raw_bytes=raw.bytes, where=where),
            proof=_proof_of(packed),
        )
    return ShardSpec(
        name=raw.basename,
        size=raw.bytes,
        check=check(raw),
        compressed=compressed,
        proof=_proof_of(raw),
        part=_part(container, number),
    )


def _part(container: Container, number: int) -> ObjectPart | None:
    """Return the larger file of which a shard is a part; None if its files are its own."""
    if (part := container.shards[number].part) is None:
        return None
    make = None
    if part.begin is None:
        assert isinstance(container, ComputesShards), "its shard says that it is computed"
        make = partial(container.make, number)
    return ObjectPart(name=part.name, size=part.bytes, begin=part.begin, make=make)


def _proof_of(file: FileInfo) -> Callable[[Any], bool] | None:
    """Return a function that tells whether bytes have a hash that the index lists for `file`; None if it lists none."""
    known = [(algorithm, value) for algorithm, value in sorted(file.hashes.items()) if is_hash(algorithm)]
    if not known:
        return None
    algorithm, expected = known[-1]  # "xxh…" is the fastest
    return lambda data: hash_hex(algorithm, data) == expected


def _compare_hash(algorithm: str, hashes: Mapping[str, str], where: str, data: Any) -> None:
    """Compare bytes with the hash `algorithm` of `hashes`; `where` names the file in errors.

    Raises:
        ShardCorruptError: they have another one.
        IndexCorruptError: there is none.
    """
    if (expected := hashes.get(algorithm)) is None:
        raise IndexCorruptError(
            f"{where}: the index names the hash {algorithm} but has no value for it; write the dataset again, or pass "
            "validate_hash=None"
        )
    if (found := hash_hex(algorithm, data)) != expected:
        raise ShardCorruptError(
            f"Checksum failure: {where}: {algorithm} is {found}, the index says {expected}; the file is damaged or "
            "belongs to another index: copy it again from its origin"
        )
