"""Finds ranks that read another run than the others, where no losses are exchanged that would show it.

Each rank posts what it is about to read when it begins, and compares it with what another rank posted, after a few
batches. No rank waits for another, so nothing can hang, whichever ranks read and in whatever order. What is found is
certain; not all is found:

- Datasets are compared that have the same class, names, places and `shuffle`, and divide their rows among all ranks of
  torch.distributed. So a validation set is not taken for the training set, nor another directory for the same.
- A rank compares what it begins with what the first rank began that had read the same until then. It is wrong if both
  have taken `BATCHES` batches, and neither has begun what the other reads: in training, a rank waits for the others. A
  rank that reads more than the others, such as a validation set that rank 0 alone reads, reads theirs too.
- A rank that looks at a batch before the others begin is not found, nor is one in a job without torch.distributed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Self

from mixstream.distributed import RankNotes, differences
from mixstream.distributed.group import NO_STORE
from mixstream.errors import RanksDisagreeError
from mixstream.records import dataclass

BATCHES = 8
"""Batches of this rank, and of another, after which they are taken to read what they are meant to."""


@dataclass(frozen=True, kw_only=True)
class RankCheck:
    """What this rank reads, and what another rank reads if that seems to be something else.

    Args:
        notes: what the ranks post.
        topic: of the notes about datasets like this one.
        rank: of this process.
        digest: of what it reads.
        other: the other rank.
        theirs: the digest of what that rank reads.
    """

    notes: RankNotes
    topic: str
    rank: int
    digest: str
    other: int
    theirs: str

    @classmethod
    def begin(cls, facts: Mapping[str, Any], *, dataset: str, rank: int, in_worker: bool) -> Self | None:
        """Post what this rank is about to read; return None if it has read it before, or has no other ranks.

        Args:
            facts: what all ranks must have in common, JSON-able.
            dataset: what identifies the dataset on all ranks.
            rank: of this process in the job.
            in_worker: whether a DataLoader worker posts it for its rank.
        """
        with contextlib.suppress(*NO_STORE):
            if (notes := RankNotes.of_job("runs", in_worker=in_worker)) is None:
                return None
            text = json.dumps(facts, sort_keys=True)
            topic, digest = _digest(dataset), _digest(text)
            history = json.loads(notes.find(f"{topic}/{rank}") or "[]")
            if digest in history:
                return None
            notes.put(f"{topic}/{rank}/{digest}", text)
            notes.put(f"{topic}/{rank}", json.dumps([*history, digest]))
            other, theirs = notes.first(f"{topic}/after/{_digest(str(history))}", f"{rank} {digest}").split()
            return cls(notes=notes, topic=topic, rank=rank, digest=digest, other=int(other), theirs=theirs)
        return None

    def taken(self, batches: int) -> bool:
        """Note that this rank has taken `batches` batches; return whether all is well, and need not be checked again.

        Raises:
            RanksDisagreeError: this rank and the other one read different runs.
        """
        after = batches - BATCHES
        if after < 0 or after & (after - 1):
            return False
        texts: list[str | None] = []
        with contextlib.suppress(*NO_STORE):
            if not after:
                self.notes.put(f"{self.topic}/{self.rank}/{self.digest}/going", "")
            if self.theirs == self.digest or self._in_common():
                return True
            if self.notes.find(f"{self.topic}/{self.other}/{self.theirs}/going") is not None:
                pair = [(self.rank, self.digest), (self.other, self.theirs)]
                texts = [self.notes.find(f"{self.topic}/{rank}/{digest}") for rank, digest in pair]
        if not texts or None in texts:
            return False
        lines = differences([json.loads(str(text)) for text in texts], [self.rank, self.other])
        raise RanksDisagreeError(
            f"the ranks disagree about the run:{lines}\nTheir batches are not parts of the same global batches, so "
            "rows are read twice or never. Start every rank with the same arguments, data and checkpoint; or, if each "
            "rank is to read a run of its own, give the dataset rank=0, world_size=1"
        )

    def _in_common(self) -> bool:
        """Return whether one of the two ranks has begun what the other reads."""
        pair = [(self.rank, self.theirs), (self.other, self.digest)]
        return any(self.notes.find(f"{self.topic}/{rank}/{digest}") is not None for rank, digest in pair)

    def watch(self, samples: Iterator[Any], *, rows: int) -> Iterator[Any]:
        """Yield `samples`, of which a batch has `rows`, and note how many are taken."""
        for number, sample in enumerate(samples):
            well = number % rows == 0 and self.taken(number // rows)
            yield sample
            if well:
                break
        yield from samples


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=9).hexdigest()
