"""Samples that cannot be read are set aside, and other samples of their domain take their place.

Rules. Whether a sample is bad is a property of the data, so every rank, worker and replay that reads it sets it aside.
The run's state lists what is set aside, and a resumed run does not read it again. A row whose sample is set aside gets
the sample of one of the next draws of its lane and domain. Which one depends on (seed, domain, lane, draw) alone: no
position moves, no weight changes, and ranks need not communicate. The range of "next" doubles until a good sample is
found; without that, all rows of a bad shard would become copies of the first sample after it.

Shape suffixes: B rows, K domains, N entries.
"""

from __future__ import annotations

import json
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import field
from hashlib import blake2b
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from mixstream.cached import cached_property
from mixstream.data.domains import Domains
from mixstream.errors import ExhaustedError, MixstreamError, StateError
from mixstream.formats import samples_of
from mixstream.inherited_file import InheritedFile
from mixstream.lazy import later
from mixstream.plan.rng import derive_key
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.state_record import RunState, SetAside
from mixstream.records import dataclass
from mixstream.storage import ProcessLocal
from mixstream.types import Addresses, Rows

if TYPE_CHECKING:
    from mixstream.distributed.notes import RankNotes
else:
    (RankNotes,) = later("mixstream.distributed.notes", "RankNotes")


T = TypeVar("T")
Entry = tuple[int, int]
"""(shard, numbered over all domains; row); row -1 stands for the whole shard."""

LIMIT = 4096
_HEAD, _RECORD = 8, struct.Struct("<2q")
_FIRST_REACH, _TRIES = 64, 48


@dataclass(eq=False)
class _Seen:
    """How much of the file one process has read, and which entries other ranks have from it. Copies begin empty."""

    entries: set[Entry] = field(default_factory=set)
    count: int = 0
    posted: set[Entry] = field(default_factory=set)
    head: bytes = b""  # of the file, when all of it was posted
    lock: ProcessLocal[threading.Lock] = field(default_factory=lambda: ProcessLocal(threading.Lock))

    def __reduce__(self) -> tuple[type[_Seen], tuple[()]]:
        return _Seen, ()


class Quarantine:
    """What is set aside in this run. A process shares it with its workers, and each of them may add to it.

    A run that goes on from a state has a quarantine of its own (`restored`), so that neither a state that is refused
    nor threads and workers of the run before change it.

    Args:
        domains: the domains whose shards are numbered in the entries.
        load: how many states were loaded before; ranks exchange entries that were found since the last of them.
    """

    def __init__(self, domains: Domains, *, load: int = 0) -> None:
        self._domains, self._load = domains, load
        self._file = InheritedFile(_HEAD + LIMIT * _RECORD.size)
        self._seen = _Seen()

    @property
    def entries(self) -> set[Entry]:
        """All entries, including those of the workers. Must not be changed."""
        seen, count = self._seen, int.from_bytes(self._file.read(_HEAD), "little")
        if count != seen.count:
            with seen.lock.value:
                data = self._file.read(count * _RECORD.size, _HEAD)
                seen.entries = seen.entries | set(_RECORD.iter_unpack(data))
                seen.count = count
        return seen.entries

    def add(self, entries: Sequence[Entry]) -> list[Entry]:
        """Set more entries aside; return those that are new.

        Raises:
            MixstreamError: there are more than a run can list.
        """
        with self._seen.lock.value, self._file:
            count = int.from_bytes(self._file.read(_HEAD), "little")
            there = set(_RECORD.iter_unpack(self._file.read(count * _RECORD.size, _HEAD)))
            new = [entry for entry in dict.fromkeys(entries) if entry not in there]
            if count + len(new) > LIMIT:
                raise MixstreamError(
                    f"{count + len(new)} bad samples and shards, and a run sets {LIMIT} aside at most: so many are no "
                    "accident; run `mixstream verify` on the datasets and write the broken shards again"
                )
            self._file.write(b"".join(_RECORD.pack(*entry) for entry in new), _HEAD + count * _RECORD.size)
            self._file.write((count + len(new)).to_bytes(_HEAD, "little"))
        return new

    def publish(self) -> None:
        """Post new entries to the other ranks of the job, since any rank may save the state.

        Called by the rank's main process, any number of times; its workers cannot reach other ranks.
        """
        if (head := self._file.read(_HEAD)) == self._seen.head:  # as after nearly every batch
            return
        if new := self.entries - self._seen.posted:
            self._seen.posted = self._seen.posted | new
            if (notes := RankNotes.of_job(self._topic)) is not None:
                notes.post(json.dumps(sorted(new)))
        self._seen.head = head

    def document(self) -> list[SetAside]:
        """Return everything that is set aside on any rank, sorted, with domains in the plan's order."""
        self.publish()
        notes = RankNotes.of_job(self._topic)
        received = {tuple(entry) for note in (notes.read() if notes else ()) for entry in json.loads(note)}
        found = []
        for shard, row in self.entries | received:
            domain, number = self._domains.home(shard)
            found.append(SetAside(domain=domain.name, shard=number, row=None if row < 0 else row))
        names = [(domain.whole or domain).name for domain in self._domains]
        return sorted(found, key=lambda e: (names.index(e.domain), e.shard, -1 if e.row is None else e.row))

    @classmethod
    def restored(cls, domains: Domains, state: RunState, *, load: int) -> Self:
        """Return exactly what `state` sets aside of those of `domains` that are also in it; buckets name their stream.

        Raises:
            StateError: it sets rows aside that their domain does not have.
        """
        found, saved = cls(domains, load=load), {(domain.name, domain.fingerprint) for domain in state.domains}
        wholes = [domain.whole or domain for domain in domains if (domain.name, domain.fingerprint) in saved]
        shards = {domain.name: samples_of(domain.shards) for domain in wholes}
        offset = {
            (domain.whole or domain).name: first for domain, first in zip(domains, domains.shard_offset_K.tolist())
        }
        here = [entry for entry in state.quarantined if entry.domain in shards]
        for e in here:
            rows_S = shards[e.domain]
            if e.shard >= len(rows_S) or (e.row is not None and e.row >= rows_S[e.shard]):
                raise StateError(
                    f"the state is damaged: it sets aside row {e.row} of shard {e.shard} of domain {e.domain!r}, which "
                    f"has {len(rows_S)} shards and no such row; load an older checkpoint"
                )
        entries = [(offset[e.domain] + e.shard, -1 if e.row is None else e.row) for e in here]
        found.add(entries)
        found._seen.posted = set(entries)  # every rank loads the state
        return found

    @cached_property
    def _topic(self) -> str:
        names = [(domain.name, domain.fingerprint) for domain in self._domains]
        return f"quarantine/{blake2b(repr((names, self._load)).encode(), digest_size=8).hexdigest()}"

    def describe(self, entry: Entry) -> str:
        """Return an entry in words."""
        shard, row = entry
        domain, number = self._domains.home(shard)
        name = domain.shards[number].raw.basename
        what = f"shard {name}" if row < 0 else f"sample {row} of shard {name}"
        return f"{what} of domain {domain.name!r}"

    def holds(self, at: Addresses) -> np.ndarray:
        """Return which of the rows at `at` are set aside, bool [B]."""
        entries = self.entries
        if not entries:
            return np.zeros(len(at), dtype=bool)
        rows = zip(at.shard_B.tolist(), at.row_B.tolist())
        return np.array([(s, r) in entries or (s, -1) in entries for s, r in rows], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Reads rows, and handles those that cannot be read as `on_bad_sample` says.

    Args:
        policy: "raise", "refetch" (fetch the shard again, once, before raising) or "quarantine" (the same, but set the
            sample or shard aside instead of raising).
        domains: the domains to read.
        run_plan: what is drawn; by it other samples take the place of those that are set aside.
        quarantine: what is set aside.
    """

    policy: str
    domains: Domains
    run_plan: RunPlan
    quarantine: Quarantine

    def read(self, rows: Rows, mine: slice, at: Addresses, make: Callable[[Addresses], T]) -> T:
        """Return the result of `make` for the addresses of some of this rank's rows.

        Args:
            rows: the global batch.
            mine: which of this rank's rows.
            at: their addresses.
            make: reads the rows at some addresses.
        """
        renewed: set[int] = set()
        while True:
            settled = self.settled(rows, mine, at)
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
                if not _is_among(error.bad, settled):  # setting it aside would not change what `make` reads
                    error.add_note(
                        "on_bad_sample='quarantine' sets rows aside, and this is not a row of the batch: an overridden "
                        "`__getitem__` or `get_item` reads it for another row; catch the error there"
                    )
                    raise
                self._set_aside((shard, -1 if row is None else row), error)

    def _set_aside(self, entry: Entry, error: MixstreamError) -> None:
        for new in self.quarantine.add([entry]):
            warnings.warn(
                f"{self.quarantine.describe(new)} cannot be read and is set aside: other samples of the domain take "
                f"its place for the rest of the run ({error})",
                stacklevel=3,
            )

    def settled(self, rows: Rows, mine: slice, at: Addresses) -> Addresses:
        """Return `at` with other samples in the place of those that are set aside."""
        bad_B = self.quarantine.holds(at)
        if not bad_B.any():
            return at
        shard_B, row_B = at.shard_B.copy(), at.row_B.copy()
        lanes = self.run_plan.addressing.lanes
        per_lane = len(rows.domain_B) // lanes
        for i in np.flatnonzero(bad_B).tolist():
            place = range(len(rows.domain_B))[self.run_plan.part][mine][i]
            found = self._stand_in(place // per_lane, int(rows.domain_B[place]), int(rows.draw_B[place]))
            shard_B[i], row_B[i] = found.shard_B[0], found.row_B[0]
        return Addresses(domain_B=at.domain_B, shard_B=shard_B, row_B=row_B)

    def _stand_in(self, lane: int, k: int, draw: int) -> Addresses:
        """Return the address, of one row, that takes the place of `draw` of the plan's domain `k` in `lane`."""
        order = self.run_plan.addressing.orders[k]
        total = int(order.samples_S.sum())
        for attempt in range(_TRIES):
            reach = min(_FIRST_REACH << attempt, total)
            ahead = derive_key(self.run_plan.shuffle_seed, "stand-in", order.name, lane, draw, attempt) % reach
            if not self.quarantine.holds(found := self._at(lane, k, draw + 1 + ahead, 1)).any():
                return found
        for begin in range(draw + 1, draw + 1 + total, 4096):  # few good samples are left: look at all
            found = self._at(lane, k, begin, min(4096, draw + 1 + total - begin))
            if len(good := np.flatnonzero(~self.quarantine.holds(found))):
                return found[good[0] : good[0] + 1]
        raise ExhaustedError(
            f"domain {order.name!r} has no sample left that can be read in lane {lane}; run `mixstream verify` on it, "
            "or leave it out"
        )

    def _at(self, lane: int, k: int, draw: int, count: int) -> Addresses:
        return self.run_plan.addressing.of_draws(
            domain=k, lane=lane, draw_B=np.arange(draw, draw + count, dtype=np.int64)
        )


def _is_among(bad: tuple[int, int | None], at: Addresses) -> bool:
    shard, row = bad
    here_B = at.shard_B == shard
    return bool((here_B if row is None else here_B & (at.row_B == row)).any())
