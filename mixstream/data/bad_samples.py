"""Samples that cannot be read: set aside, and others of their domain in their place.

Rules. What is set aside is a property of the data, so every rank, worker and replay sets the same aside when it meets
it; it is noted in the run's state, so that a resumed run does not even try. A row whose sample is set aside gets that
of one of the next draws of its lane and domain instead, by a rule of (seed, domain, lane, draw) alone: no position
moves, no weight changes, and no rank has to ask another. The reach of "next" doubles until a good sample is found, so
that the rows of a whole bad shard do not all become copies of the one sample behind it.

Shape suffixes: B rows, K domains, N entries.
"""

from __future__ import annotations

import json
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from mixstream.data.domains import Domains
from mixstream.distributed import RankNotes
from mixstream.errors import ConfigError, ExhaustedError, MixstreamError
from mixstream.inherited_file import InheritedFile
from mixstream.plan.addressing import Addressing
from mixstream.plan.rng import derive_key
from mixstream.plan.state import SetAside
from mixstream.types import Addresses, Rows

T = TypeVar("T")
Entry = tuple[int, int]
"""(shard, counted over all domains; row); row -1 is the whole shard."""

POLICIES = ("raise", "refetch", "quarantine")
LIMIT = 4096
_HEAD, _RECORD = 8, struct.Struct("<2q")
_FIRST_REACH, _TRIES = 64, 48


def check_policy(policy: str) -> str:
    """Return `policy`, if it is one.

    Raises:
        ConfigError: it is not.
    """
    if policy not in POLICIES:
        raise ConfigError(f"on_bad_sample={policy!r} is not known; choose one of {', '.join(POLICIES)}")
    return policy


class Quarantine:
    """What is set aside in this run; common to a process and its workers, and grown by any of them.

    Args:
        domains: whose shards entries count.
    """

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._file = InheritedFile(_HEAD + LIMIT * _RECORD.size)
        self._forget()

    def _forget(self) -> None:
        self._known: set[Entry] = set()
        self._posted: set[Entry] = set()
        self._read = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_domains": self._domains, "_file": self._file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def entries(self) -> set[Entry]:
        """All entries, those of the workers included. Not to be changed."""
        count = int.from_bytes(self._file.read(_HEAD), "little")
        if count != self._read:
            with self._lock:
                data = self._file.read(count * _RECORD.size, _HEAD)
                self._known = self._known | set(_RECORD.iter_unpack(data))
                self._read = count
        return self._known

    def add(self, entries: Sequence[Entry]) -> list[Entry]:
        """Set more aside; returns those that were not before.

        Raises:
            MixstreamError: there are more than a run can note.
        """
        with self._lock, self._file:
            count = int.from_bytes(self._file.read(_HEAD), "little")
            there = set(_RECORD.iter_unpack(self._file.read(count * _RECORD.size, _HEAD)))
            new = [entry for entry in dict.fromkeys(entries) if entry not in there]
            if count + len(new) > LIMIT:
                raise MixstreamError(
                    f"{count + len(new)} bad samples and shards, and a run sets {LIMIT} aside at most: these are no "
                    "accidents; run `mixstream verify` on the datasets and make the broken shards again"
                )
            self._file.write(b"".join(_RECORD.pack(*entry) for entry in new), _HEAD + count * _RECORD.size)
            self._file.write((count + len(new)).to_bytes(_HEAD, "little"))
        return new

    def publish(self) -> None:
        """Let the other ranks of the job know what is new here: any of them may be the one that saves the state.

        For the rank's main process, as often as it likes; its workers have no means of their own.
        """
        if not (new := self.entries - self._posted):
            return
        self._posted = self._posted | new
        if (bulletin := RankNotes.of_job(self._topic)) is not None:
            bulletin.post(json.dumps(sorted(new)))

    def document(self) -> list[SetAside]:
        """Return all that is set aside on any rank, sorted."""
        self.publish()
        bulletin = RankNotes.of_job(self._topic)
        told = {tuple(entry) for note in (bulletin.read() if bulletin else ()) for entry in json.loads(note)}
        found = []
        for shard, row in self.entries | told:
            domain, number = self._domains.home(shard)
            found.append(SetAside(domain=domain.name, shard=number, row=None if row < 0 else row))
        listed = [domain.name for domain in self._domains.listed]
        return sorted(found, key=lambda e: (listed.index(e.domain), e.shard, -1 if e.row is None else e.row))

    def restore(self, document: Iterable[SetAside]) -> None:
        """Set aside what `document` says, as far as it is of shards that are here."""
        offset = {domain.name: first for domain, first in zip(self._domains, self._domains.shard_offset_K.tolist())}
        shards = {domain.name: len(domain.shards) for domain in self._domains}
        here = [
            (offset[e.domain] + e.shard, -1 if e.row is None else e.row)
            for e in document
            if e.shard < shards.get(e.domain, 0)
        ]
        self.add(here)
        self._posted = self._posted | set(here)  # every rank is given the state

    @cached_property
    def _topic(self) -> str:
        return (
            "quarantine/"
            + blake2b(repr([(d.name, d.fingerprint) for d in self._domains]).encode(), digest_size=8).hexdigest()
        )

    def describe(self, entry: Entry) -> str:
        """Return the words for an entry."""
        shard, row = entry
        domain, number = self._domains.home(shard)
        name = domain.shards[number].raw.basename
        what = f"shard {name}" if row < 0 else f"sample {row} of shard {name}"
        return f"{what} of domain {domain.name!r}"

    def counts(self) -> dict[tuple[int, bool], int]:
        """Return how many entries each domain has, by (place in the user's list, whether whole shards)."""
        listed = [domain.name for domain in self._domains.listed]
        found = [(listed.index(self._domains.home(shard)[0].name), row < 0) for shard, row in self.entries]
        return {key: found.count(key) for key in sorted(set(found))}

    def holds(self, at: Addresses) -> np.ndarray:
        """Return which of the rows at `at` are set aside, bool [B]."""
        entries = self.entries
        if not entries:
            return np.zeros(len(at), dtype=bool)
        rows = zip(at.shard_B.tolist(), at.row_B.tolist())
        return np.array([(s, r) in entries or (s, -1) in entries for s, r in rows], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Reads rows, and does what `on_bad_sample` says about those that cannot be read.

    Args:
        policy: "raise", "refetch" (fetch the shard anew, once, before raising) or "quarantine" (the same, then set the
            sample or shard aside instead of raising).
        domains: what is read.
        addressing: where a stand-in for a draw is found.
        part: this rank's rows of a global batch.
        quarantine: what is set aside.
        seed: the run's shuffle seed, of which stand-ins derive.
    """

    policy: str
    domains: Domains
    addressing: Addressing
    part: slice
    quarantine: Quarantine
    seed: int

    def read(self, rows: Rows, mine: slice, at: Addresses, make: Callable[[Addresses], T]) -> T:
        """Return what `make` makes of the addresses of some of this rank's rows.

        Args:
            rows: the global batch.
            mine: which of this rank's rows.
            at: where they are.
            make: reads them.
        """
        renewed: set[int] = set()
        while True:
            settled = self._settled(rows, mine, at)
            try:
                return make(settled)
            except MixstreamError as error:
                if error.bad is None or self.policy == "raise":
                    raise
                shard, row = error.bad
                if row is not None and shard not in renewed:
                    renewed.add(shard)
                    if self.domains.renew(shard):
                        continue
                if self.policy != "quarantine":
                    raise
                if not _is_among(error.bad, settled):  # no stand-in would keep whoever reads the row from looking there
                    error.add_note(
                        "on_bad_sample='quarantine' sets rows aside, and this is none of them: an overridden "
                        "`__getitem__` or `get_item` reads it for another row; catch the error there"
                    )
                    raise
                self._set_aside((shard, -1 if row is None else row), error)

    def each(self, rows: Rows, at: Addresses, make: Callable[[Addresses], T]) -> Iterator[T]:
        """Yield what `make` makes of each of this rank's rows, one by one."""
        for i in range(len(at)):
            yield self.read(rows, slice(i, i + 1), at[i : i + 1], make)

    def _set_aside(self, entry: Entry, error: MixstreamError) -> None:
        for new in self.quarantine.add([entry]):
            warnings.warn(
                f"{self.quarantine.describe(new)} cannot be read and is set aside: others of the domain take its place "
                f"for the rest of the run ({error})",
                stacklevel=3,
            )

    def _settled(self, rows: Rows, mine: slice, at: Addresses) -> Addresses:
        """Return `at` with stand-ins for what is set aside."""
        bad_B = self.quarantine.holds(at)
        if not bad_B.any():
            return at
        shard_B, row_B = at.shard_B.copy(), at.row_B.copy()
        lanes = self.addressing.lanes
        per_lane = len(rows.domain_B) // lanes
        for i in np.flatnonzero(bad_B).tolist():
            place = range(len(rows.domain_B))[self.part][mine][i]
            found = self._stand_in(place // per_lane, int(rows.domain_B[place]), int(rows.draw_B[place]))
            shard_B[i], row_B[i] = found.shard_B[0], found.row_B[0]
        return Addresses(domain_B=at.domain_B, shard_B=shard_B, row_B=row_B)

    def _stand_in(self, lane: int, k: int, draw: int) -> Addresses:
        """Return the address, of one row, that stands in for `draw` of the plan's domain `k` in `lane`."""
        order = self.addressing.orders[k]
        total = int(order.samples_S.sum())
        for attempt in range(_TRIES):
            reach = min(_FIRST_REACH << attempt, total)
            ahead = derive_key(self.seed, "stand-in", order.name, lane, draw, attempt) % reach
            if not self.quarantine.holds(found := self._at(lane, k, draw + 1 + ahead, 1)).any():
                return found
        for begin in range(draw + 1, draw + 1 + total, 4096):  # hardly anything is left: look at all of it
            found = self._at(lane, k, begin, min(4096, draw + 1 + total - begin))
            if len(good := np.flatnonzero(~self.quarantine.holds(found))):
                return found[good[0] : good[0] + 1]
        raise ExhaustedError(
            f"domain {order.name!r} has no sample left that can be read in lane {lane}; run `mixstream verify` on it, "
            "or leave it out"
        )

    def _at(self, lane: int, k: int, draw: int, count: int) -> Addresses:
        return self.addressing.of_draws(domain=k, lane=lane, draw_B=np.arange(draw, draw + count, dtype=np.int64))


def _is_among(bad: tuple[int, int | None], at: Addresses) -> bool:
    shard, row = bad
    here_B = at.shard_B == shard
    return bool((here_B if row is None else here_B & (at.row_B == row)).any())
