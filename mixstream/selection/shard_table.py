"""The shards that an artefact describes: the identity of each, and where its rows stand among all rows.

Rules: a row of an artefact is a stored row of one domain; `ordinal = start_S[shard] + row`, int64, shards in the order
of the index. Shards are matched by what they are, never by their position: an index may list them in another order,
drop some and add some. No file is opened here.

Shape suffixes: B rows, S shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import Container, ShardEntry, hash_hex
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

MAX_ROWS = (1 << 32) - 1  # of one shard: selections store the rows of a shard as u4


class ShardIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of one shard.

    Args:
        name: of its raw file, below the dataset's directory.
        samples: stored rows.
        raw_bytes: size of its raw file.
        hashes: name of a hash (`mixstream.formats.hash_names`) -> digest of the raw file, as the index has them.
        fingerprint: `fingerprint` of the shard's header; None if the shard was not read.
    """

    name: str
    samples: int
    raw_bytes: int
    hashes: Mapping[str, str] = {}
    fingerprint: str | None = None

    def __str__(self) -> str:
        return f"{self.name!r} ({self.samples} rows, {self.raw_bytes} bytes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which shard of a table each shard of a dataset is.

    Attributes:
        of_S: int64 [S], the number in the table of each shard of the dataset; -1 if it is not listed or was changed.
        changed: (number in the dataset, identity in the table, identity found) of the shards whose name is listed with
            other content.
        missing: numbers in the table of the shards that the dataset lacks; changed ones are not among them.
    """

    of_S: Int64
    changed: list[tuple[int, ShardIdentity, ShardIdentity]]
    missing: list[int]


@dataclass(frozen=True, kw_only=True)
class ShardTable:
    """The shards of one domain, in the order of its index when the artefact was made.

    Two shards of 3 and 2 rows; ordinal 3 is the first row of the second:

    >>> table = ShardTable(shards=(
    ...     ShardIdentity(name="shard.00000.mds", samples=3, raw_bytes=90),
    ...     ShardIdentity(name="shard.00001.mds", samples=2, raw_bytes=70)))
    >>> table.rows, table.start_S.tolist()
    (5, [0, 3, 5])
    >>> [part.tolist() for part in table.home(np.array([3, 2]))]
    [[1, 0], [0, 2]]

    Args:
        shards: at least one row each is not required: a shard may be empty.

    Raises:
        ConfigError: two shards have one name, or a number is out of range.
    """

    shards: tuple[ShardIdentity, ...]
    start_S: Int64 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for shard in self.shards:
            if not 0 <= shard.samples <= MAX_ROWS or not 0 <= shard.raw_bytes < 1 << 62:
                raise ConfigError(f"shard {shard}: a shard has 0 to {MAX_ROWS} rows and a size; correct the table")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            seen: set[str] = set()
            twice = next(shard.name for shard in self.shards if shard.name in seen or seen.add(shard.name))
            raise ConfigError(f"two shards have the name {twice!r}; rows could not be told apart; list each shard once")
        samples = np.fromiter((shard.samples for shard in self.shards), dtype=np.int64, count=len(self.shards))
        object.__setattr__(self, "start_S", np.concatenate(([0], np.cumsum(samples))).astype(np.int64))

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> ShardTable:
        """Return the table of a container's `shards`; fingerprints are not known, since no shard is read."""
        return cls(shards=tuple(identity_of(entry) for entry in entries))

    @property
    def rows(self) -> int:
        """Stored rows over all shards."""
        return int(self.start_S[-1])

    @property
    def digest(self) -> str:
        """What identifies the shards, hexadecimal of 128 bits; fingerprints do not count, since they may be unknown."""
        facts = [[shard.name, shard.samples, shard.raw_bytes, sorted(shard.hashes.items())] for shard in self.shards]
        return blake2b(msgspec.json.encode(facts), digest_size=16).hexdigest()

    def differs_from(self, other: ShardTable) -> str | None:
        """Return in what two tables differ, as text; None if they describe the same rows, as far as is known.

        They do if their digests are equal, and every fingerprint that both know.
        """
        if self.digest != other.digest:
            names = [{shard.name: str(shard) for shard in table.shards} for table in (self, other)]
            if names[0] == names[1]:
                return "the hashes of their shards, or their order differ"
            shards = [name for name in (*names[0], *names[1]) if names[0].get(name) != names[1].get(name)]
            facts = [f"{len(table.shards):,} shards of {table.rows:,} rows" for table in (self, other)]
            return f"{facts[0]} against {facts[1]}; shard {shards[0]!r} differs"
        for one, two in zip(self.shards, other.shards):
            if one.fingerprint is not None and two.fingerprint is not None and one.fingerprint != two.fingerprint:
                return f"shard {one.name!r} was rewritten between them: its header differs"
        return None

    def with_fingerprints(self, found: Mapping[int, str]) -> ShardTable:
        """Return the table with the fingerprints of some shards, by number."""
        shards = list(self.shards)
        for number, text in found.items():
            shards[number] = msgspec.structs.replace(shards[number], fingerprint=text)
        return replace(self, shards=tuple(shards))

    def knowing(self, *others: ShardTable) -> ShardTable:
        """Return the table with the fingerprints that others of the same shards know; see `differs_from`."""
        found = {
            number: text
            for other in others
            for number, (own, shard) in enumerate(zip(self.shards, other.shards))
            if own.fingerprint is None and (text := shard.fingerprint) is not None
        }
        return self.with_fingerprints(found) if found else self

    def with_fingerprint(self, number: int, fingerprint: str) -> ShardTable:
        """Return the table with the fingerprint of shard `number`; for many shards use `with_fingerprints`."""
        return self.with_fingerprints({number: fingerprint})

    def home(self, ordinal_B: NDArray[np.integer]) -> tuple[Int64, Int64]:
        """Return (shard_B, row_B), int64 [B] each, of ordinals.

        Raises:
            ConfigError: an ordinal is not in [0, rows).
        """
        ordinal_B = np.asarray(ordinal_B, dtype=np.int64)
        if ordinal_B.size and not (ordinal_B.min() >= 0 and ordinal_B.max() < self.rows):
            raise ConfigError(
                f"ordinals {ordinal_B.min()} to {ordinal_B.max()}, the shards have 0 to {self.rows - 1}; they belong "
                "to another dataset"
            )
        shard_B = np.searchsorted(self.start_S, ordinal_B, side="right") - 1
        return shard_B, ordinal_B - self.start_S[shard_B]

    def part(self, i: int, n: int) -> tuple[int, int]:
        """Return the shards [first, end) of part `i` of `n`: contiguous, and balanced by rows; a part may be empty.

        >>> table = ShardTable(shards=tuple(
        ...     ShardIdentity(name=str(i), samples=rows, raw_bytes=0) for i, rows in enumerate([10, 2, 2, 10])))
        >>> [table.part(i, 3) for i in range(3)]
        [(0, 1), (1, 3), (3, 4)]

        Raises:
            ConfigError: not 0 <= i < n.
        """
        check_part((i, n))
        # A shard belongs to the part that holds its middle row: borders depend on n alone, and leave no gap. Python's
        # integers, since 2 * n * rows may exceed 64 bits.
        middle_S = (self.start_S[:-1] + self.start_S[1:]).tolist()
        total = 2 * max(self.rows, 1)

        def border(part: int) -> int:
            if part == n:
                return len(self.shards)
            return int(np.searchsorted(middle_S, -(-part * total // n))) if part else 0

        return border(i), border(i + 1)

    def match(self, entries: Sequence[ShardEntry]) -> Match:
        """Return which of these shards each shard of a dataset is. See `Match`.

        A shard is recognised by a hash that both sides have, whatever its name, or else by name, rows and size.

        >>> entry = ShardIdentity(name="b.mds", samples=2, raw_bytes=70)
        >>> table = ShardTable(shards=(ShardIdentity(name="a.mds", samples=3, raw_bytes=90), entry))
        >>> from types import SimpleNamespace as Some
        >>> found = table.match([Some(samples=2, raw=Some(basename="b.mds", bytes=70, hashes={}))])
        >>> found.of_S.tolist(), found.missing
        ([1], [0])

        Raises:
            SelectionError: shards of equal content and other names than listed cannot be told apart.
        """
        return _Matching(self, [identity_of(entry) for entry in entries]).run()

    def to_json(self) -> list[dict]:
        """Return the shards as JSON values."""
        return [msgspec.to_builtins(shard) for shard in self.shards]

    @classmethod
    def from_json(cls, value: object, *, where: str = "shard table") -> ShardTable:
        """Return the table of `to_json`; `where` names the file in errors.

        Raises:
            SelectionError: it is not one.
        """
        try:
            return cls(shards=msgspec.convert(value, tuple[ShardIdentity, ...]))
        except (msgspec.ValidationError, ConfigError) as error:
            raise SelectionError(f"{where}: not a table of shards ({error}); it was not used; make it again") from error


def fingerprint(container: Container, number: int, data: UInt8) -> str:
    """Return the fingerprint of shard `number`, whose bytes are `data`: xxh3_128 of its header, in hexadecimal.

    The header has the length of every row, so it differs where a shard was rewritten with other texts. Shards of
    fixed-length rows have equal fingerprints; what tells those apart are the hashes in an index.
    """
    return hash_hex("xxh3_128", np.ascontiguousarray(container.header(number, data)).data)


def identity_of(entry: ShardEntry) -> ShardIdentity:
    """Return what an index says of a shard."""
    raw = entry.raw
    return ShardIdentity(name=raw.basename, samples=entry.samples, raw_bytes=raw.bytes, hashes=dict(raw.hashes))


def check_part(part: tuple[int, int]) -> None:
    """Raise ConfigError unless `part` is (i, n) with 0 <= i < n."""
    i, n = part
    if not 0 <= i < n:
        raise ConfigError(f"part {i} of {n}; parts are counted from 0: give one of 0 to {n - 1}")


class _Matching:
    """One run of `ShardTable.match`: first by hash, then by name and facts; each listed shard is given out once."""

    def __init__(self, table: ShardTable, found: list[ShardIdentity]) -> None:
        self._table, self._found = table.shards, found
        self._by_name = {shard.name: number for number, shard in enumerate(table.shards)}
        self._by_hash: dict[tuple[str, str], list[int]] = {}
        for number, shard in enumerate(table.shards):
            for item in shard.hashes.items():
                self._by_hash.setdefault(item, []).append(number)
        self._of = np.full(len(found), -1, dtype=np.int64)
        self._taken: dict[int, int] = {}  # number in the table -> number in the dataset
        self._changed: list[tuple[int, ShardIdentity, ShardIdentity]] = []

    def run(self) -> Match:
        # Names first: where copies of a shard exist, the one that kept its name is the one that is listed.
        rest = [number for number in range(len(self._found)) if not self._by_its_name(number)]
        self._by_content(rest)
        for number in rest:
            listed = self._by_name.get(self._found[number].name)
            if self._of[number] < 0 and listed is not None and listed not in self._taken:
                self._changed.append((number, self._table[listed], self._found[number]))
        known = {*self._taken, *(self._by_name[expected.name] for _, expected, _ in self._changed)}
        return Match(
            of_S=self._of,
            changed=self._changed,
            missing=[number for number in range(len(self._table)) if number not in known],
        )

    def _by_its_name(self, number: int) -> bool:
        found = self._found[number]
        listed = self._by_name.get(found.name)
        if listed is None or not _is_same(self._table[listed], found):
            return False
        self._give(number, listed)
        return True

    def _by_content(self, numbers: list[int]) -> None:
        """Match renamed shards by their hashes."""
        claims: dict[int, list[int]] = {}
        for number in numbers:
            listed = self._of_hashes(self._found[number])
            if len(listed) > 1:
                names = ", ".join(repr(self._table[other].name) for other in listed)
                raise SelectionError(
                    f"shard {self._found[number].name!r} has the content of the listed shards {names}, and another "
                    "name: which rows of it count is unknown; give it its former name"
                )
            for other in listed:
                claims.setdefault(other, []).append(number)
        for listed, claiming in claims.items():
            if len(claiming) > 1:
                names = ", ".join(repr(self._found[number].name) for number in claiming)
                raise SelectionError(
                    f"the shards {names} have the content of the listed shard {self._table[listed].name!r}, and other "
                    "names: which of them counts is unknown; give one of them its former name"
                )
            self._give(claiming[0], listed)

    def _of_hashes(self, found: ShardIdentity) -> list[int]:
        """Return the listed shards that are not given out yet and have the same content."""
        listed = {number for item in found.hashes.items() for number in self._by_hash.get(item, ())}
        return sorted(n for n in listed if n not in self._taken and _is_same_content(self._table[n], found))

    def _give(self, number: int, listed: int) -> None:
        self._of[number] = listed
        self._taken[listed] = number


def _is_same(listed: ShardIdentity, found: ShardIdentity) -> bool:
    """Return whether two shards of one name are the same: by hash if both have one, else by their facts."""
    if listed.hashes.keys() & found.hashes.keys():
        return _is_same_content(listed, found)
    return (listed.samples, listed.raw_bytes) == (found.samples, found.raw_bytes)


def _is_same_content(listed: ShardIdentity, found: ShardIdentity) -> bool:
    facts = (listed.samples, listed.raw_bytes) == (found.samples, found.raw_bytes)
    common = listed.hashes.keys() & found.hashes.keys()
    return facts and all(listed.hashes[name] == found.hashes[name] for name in common)
