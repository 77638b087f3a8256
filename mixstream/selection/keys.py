"""Keys of rows: what identifies a row of a dataset where shard and position do not, in 64 bits.

Rules. A key is an integer of 64 bits, computed from one row alone, so that it survives new shards and other orders.
`content` is xxh3_64 of a sample's stored bytes; `value` is the low half of xxh3_128 of one of its columns, whose high
half is kept as a check: two values that agree in all 128 bits count as equal. Shards are read one at a time.

Shape suffixes: B rows of a block, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.rows import DomainRows
from mixstream.selection.shard_table import fingerprint

UInt64 = NDArray[np.uint64]
Advance = Callable[[int], None]
_LOW = (1 << 64) - 1
_BLOCK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Keys of some rows.

    Attributes:
        key_B: uint64 [B].
        check_B: uint64 [B], compared too where both sides have one; None if there is none.
    """

    key_B: UInt64
    check_B: UInt64 | None = None

    def __len__(self) -> int:
        return len(self.key_B)


def content_keys(contents: Iterable[Any]) -> Keys:
    """Return xxh3_64 of each content: bytes, or an array of them.

    >>> hex(int(content_keys([b"abc"]).key_B[0]))
    '0x78af5f94892f3950'
    """
    return Keys(key_B=np.fromiter((xxhash.xxh3_64_intdigest(each) for each in contents), dtype=np.uint64))


def value_keys(values: Iterable[Any]) -> Keys:
    """Return the keys of texts, bytes, integers or arrays of numbers: equal values have equal keys.

    An integer has the key of its decimal digits, so that the id `17` of one program is the id `"17"` of another.

    >>> keys = value_keys(["17", 17, b"17"])
    >>> len(set(keys.key_B.tolist()))
    1

    Raises:
        ConfigError: a value is of another kind, such as a float or None.
    """
    digests = [xxhash.xxh3_128_intdigest(_bytes_of(value)) for value in values]
    return Keys(
        key_B=np.fromiter((digest & _LOW for digest in digests), dtype=np.uint64, count=len(digests)),
        check_B=np.fromiter((digest >> 64 for digest in digests), dtype=np.uint64, count=len(digests)),
    )


def read_keys(
    rows: DomainRows,
    *,
    column: str | None = None,
    text_hash: bool = False,
    first: int = 0,
    end: int | None = None,
    advance: Advance = lambda _: None,
) -> Iterator[tuple[int, Keys]]:
    """Yield (ordinal of the first row, keys) for consecutive rows of a domain.

    Args:
        rows: the domain.
        column: whose values are the keys; None for the stored bytes of whole samples.
        text_hash: xxh3_64 of the column's bytes (UTF-8 of a text), which other programs compute too, and no check.
        first: number of the first shard.
        end: number after the last one; None for all shards.
        advance: reports rows.

    Raises:
        ConfigError: there is no such column, or its values are no keys.
        ShardCorruptError, ShardNotFoundError, StoreError: a shard cannot be read.
    """
    if column is not None:
        _require(rows, column)
        for block in rows.blocks(first, end, column=column, size=_BLOCK):
            values = block.values
            keys = content_keys(map(_bytes_of, values)) if text_hash else value_keys(values)
            yield int(block.ordinal_N[0]), keys
            advance(len(values))
        return
    for shard in range(first, len(rows.table.shards) if end is None else end):
        count = rows.table.shards[shard].samples
        if not count:
            continue
        data = rows.domain.map(shard)
        rows.fingerprints.setdefault(shard, fingerprint(rows.domain.container, shard, data))
        for at in range(0, count, _BLOCK):
            until = min(at + _BLOCK, count)
            records = (rows.domain.record(shard, row, data) for row in range(at, until))
            yield int(rows.table.start_S[shard]) + at, content_keys(map(np.ascontiguousarray, records))
            advance(until - at)


def parse_hashes(values: Sequence[Any] | NDArray[Any], *, what: str) -> UInt64:
    """Return hashes of 64 bits that another program wrote, uint64 [B]: integers, or hexadecimal texts of 16 digits.

    >>> parse_hashes(["78af5f94892f3950", "0x1"], what="column 'hash'").tolist() == [0x78AF5F94892F3950, 1]
    True

    Raises:
        ConfigError: a value is neither; `what` names the values.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.int64).view(np.uint64) if array.dtype.kind == "i" else array.astype(np.uint64)
    try:
        return np.fromiter((_hash_of(value) for value in values), dtype=np.uint64, count=len(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{what} has a value that is no hash of 64 bits ({error}); give integers or 16 hexadecimal digits"
        ) from None


def _hash_of(value: Any) -> int:
    if isinstance(value, str):
        return int(value.removeprefix("0x"), 16)
    return int(value) & _LOW if isinstance(value, int) and -(1 << 63) <= value <= _LOW else int(str(value), 16)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value)).encode()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    raise ConfigError(f"a key is {value!r:.80} ({type(value).__name__}); give texts, integers or bytes")


def _require(rows: DomainRows, column: str) -> None:
    for shard in rows.domain.shards:
        if column not in shard.columns:
            raise ConfigError(
                f"shard {shard.raw.basename!r} of {rows.domain.name!r} has no column {column!r}; its columns are "
                f"{', '.join(shard.columns)}"
            )
