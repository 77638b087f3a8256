"""The files of a shard as storage knows them: names, sizes, and how to tell that their bytes are right.

Bytes are compared with the hashes that the index lists: with the one that the user chose when they are first mapped;
with the quickest when they arrive, if the user did not choose; and likewise when a file on disk is in doubt.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mixstream.errors import ConfigError, IndexCorruptError, ShardCorruptError
from mixstream.formats import (
    ARRIVAL,
    ComputesShards,
    Container,
    FileInfo,
    ShardEntry,
    hash_hex,
    kinds_of,
    quickest_hash,
)
from mixstream.lazy import later
from mixstream.storage import CompressedSpec, ObjectPart, ShardSpec

if TYPE_CHECKING:
    from mixstream.formats.compression import decompress
else:
    (decompress,) = later("mixstream.formats.compression", "decompress")


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
        validate_hash: name of the hash that bytes are compared with; `ARRIVAL` for the quickest, of those that arrive;
            None for none.
    """

    def check(file: FileInfo) -> Callable[[Any], None] | None:
        return None if validate_hash in (None, ARRIVAL) else compare(file, validate_hash)

    def check_arrived(file: FileInfo) -> Callable[[Any], None] | None:
        return compare(file, quickest_hash(file.hashes)) if validate_hash == ARRIVAL else None

    def compare(file: FileInfo, algorithm: str | None) -> Callable[[Any], None] | None:
        if algorithm is None:
            return None
        return partial(_compare_hash, algorithm, file.hashes[algorithm], f"{place}/{file.basename}")

    arrived = check_arrived(raw)
    entry, compressed = container.shards[number], None
    if packed is not None:
        where = f"{place}/{packed.basename}"
        compressed = CompressedSpec(
            name=packed.basename,
            size=packed.bytes,
            check=check(packed),
            unpack=partial(decompress, entry.compression, raw_bytes=raw.bytes, where=where),
            proof=_proof_of(packed),
            check_arrived=None if arrived is not None else check_arrived(packed),  # the raw bytes prove both
        )
    return ShardSpec(
        name=raw.basename,
        size=raw.bytes,
        check=check(raw),
        compressed=compressed,
        proof=_proof_of(raw),
        part=_part(container, number),
        check_arrived=arrived,
    )


def check_hashes(shards: Sequence[ShardEntry], validate_hash: str, *, where: str) -> None:
    """Check that the index has the hashes by which shards are to be checked, as `validate_hash` of `shard_spec` says.

    With `ARRIVAL`, only what an entry promises has to be there: of a shard without hashes nothing is checked.

    Raises:
        ConfigError: a shard does not have the hash that the user chose.
        IndexCorruptError: a shard is said to have a hash, and the index has no value of it.
    """
    for shard in kinds_of(shards):
        if validate_hash != ARRIVAL and validate_hash not in shard.hashes:
            raise ConfigError(
                f"{where}: validate_hash={validate_hash!r}, but shard {shard.raw.basename} carries the hashes "
                f"{list(shard.hashes)}; choose one of these, {ARRIVAL!r} or None"
            )
        for pair in shard.files:
            has = [file.hashes for file in pair if file is not None]
            if validate_hash != ARRIVAL:
                lacking = validate_hash if any(validate_hash not in hashes for hashes in has) else None
            else:
                lacking = quickest_hash(shard.hashes) if not any(map(quickest_hash, has)) else None
            if lacking is not None:
                raise _no_value(f"{where}: shard {pair[0].basename}", lacking)


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
    if (algorithm := quickest_hash(file.hashes)) is None:
        return None
    return lambda data: hash_hex(algorithm, data) == file.hashes[algorithm].lower()


def _compare_hash(algorithm: str, expected: str, where: str, data: Any) -> None:
    """Compare bytes with the value of a hash; `where` names the file in errors.

    Raises:
        ShardCorruptError: they have another one.
    """
    if (found := hash_hex(algorithm, data)) != expected.lower():  # other tools may write capitals
        raise ShardCorruptError(
            f"Checksum failure: {where}: {algorithm} is {found}, the index says {expected}; the file is damaged or "
            "belongs to another index: copy it again from its origin. If a program rewrote the shards and left the "
            "hashes of the index as they were, validate_hash=None reads them unchecked"
        )


def _no_value(where: str, algorithm: str) -> IndexCorruptError:
    return IndexCorruptError(
        f"{where}: the index names the hash {algorithm} but has no value for it; write the dataset again, or pass "
        "validate_hash=None"
    )
