"""Sums and comparisons over the ranks of a job: collective calls, in a process group of their own, each in time."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from mixstream.cached import cached_property
from mixstream.distributed.bounded import Attendance, group_timeout
from mixstream.distributed.group import check_not_inherited, default_group
from mixstream.errors import ConfigError, RanksDisagreeError
from mixstream.records import dataclass
from mixstream.types import Float64, Int64
from mixstream.world import World

_ENTRIES = 8
"""Entries of a table of which a message says that they differ."""


class Exchange:
    """Sums and comparisons of losses over the ranks of a job, separate from the training.

    All its collectives run on the CPU, in a process group of its own, and are called from one thread on each rank, so
    training neither waits for them nor mixes with them. The constructor is collective too.

    A job may have more ranks than the run: the others are replicas.

    Args:
        world: this rank among those of the run, which see different rows.
        timeout: seconds that a collective waits for the slowest rank, at most; never longer than the default group's.

    Raises:
        ForkedError: this process was forked from one of the ranks.
        WaitTimeoutError: here and in each method, a rank did not come in time; the message names it.
        ConfigError: torch.distributed is not initialised, or its ranks are no multiple of the run's.
    """

    def __init__(self, world: World, *, timeout: float = 1800.0) -> None:
        import torch.distributed as dist

        if (group := default_group()) is None:
            raise ConfigError(
                f"losses of {world.size} ranks have to be summed and torch.distributed is not initialised: call "
                "init_process_group first, or pass the global sums to report_sums()"
            )
        check_not_inherited()
        self.world, self.ranks = world, group[1]
        if self.ranks % (world.size * world.parts):
            parts = f" with {world.parts} parts of the losses each" if world.parts > 1 else ""
            raise ConfigError(
                f"{self.ranks} ranks of torch.distributed cannot be replicas of the {world.size} ranks of the "
                f"run{parts}; give the dataset a world_size and replication that fit"
            )
        self._attendance = _attendance(*group, timeout=min(timeout, group_timeout()))
        limit = timedelta(seconds=self._attendance.limit)
        self._group: Any = self._attendance.gather(
            lambda: dist.new_group(backend="gloo", timeout=limit), what="the start of the exchange of losses"
        )

    def agree(self, facts: Mapping[str, Any], *, what: str) -> None:
        """Compare `facts` over all ranks.

        Raises:
            RanksDisagreeError: they differ; the message names what, and the ranks.
        """
        if found := differences(self._gathered(dict(facts), what=f"the comparison {what}")):
            raise RanksDisagreeError(
                f"the ranks disagree {what}:{found}\nStart every rank with the same arguments, code and checkpoint, "
                "and report on every rank"
            )

    def told(self, words: str) -> str:
        """Return a line for each rank that has `words`; collective."""
        gathered = self._gathered(words, what="the comparison of reports")
        return "".join(f"\n  - {theirs} on rank {rank}" for rank, theirs in enumerate(gathered) if theirs)

    def _gathered(self, value: Any, *, what: str) -> list[Any]:
        """Return what each rank gives, by rank."""
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.ranks
        self._attendance.gather(lambda: dist.all_gather_object(gathered, value, group=self._group), what=what)
        return gathered

    def all_reduce(self, values: Float64, *, what: str = "a sum over ranks") -> Float64:
        """Return `values`, float64, summed over the ranks of the job; the same bits on each."""
        import torch.distributed

        tensor = torch.from_numpy(np.array(values, dtype=np.float64))
        work = torch.distributed.all_reduce(tensor, group=self._group, async_op=True)
        self._attendance.wait(work, what=what)
        return np.asarray(tensor.numpy(), dtype=np.float64)

    def broadcast(self, values: Int64, *, what: str = "the weights of rank 0") -> Int64:
        """Return rank 0's `values`, int64."""
        import torch.distributed

        tensor = torch.from_numpy(np.array(values, dtype=np.int64))
        work = torch.distributed.broadcast(tensor, src=0, group=self._group, async_op=True)
        self._attendance.wait(work, what=what)
        return np.asarray(tensor.numpy(), dtype=np.int64)


_exchanges = itertools.count()


def _attendance(rank: int, ranks: int, *, timeout: float) -> Attendance:
    """Return who takes part in the next exchange; all ranks begin their exchanges in the same order."""
    from torch.distributed import distributed_c10d as c10d

    store = c10d.PrefixStore(f"mixstream/exchange/{next(_exchanges)}", c10d._get_default_store())
    return Attendance(store, rank=rank, ranks=ranks, timeout=timeout)


def differences(gathered: Sequence[Mapping[str, Any]], ranks: Sequence[int] | None = None) -> str:
    """Return a line for each fact that `ranks` do not have in common; all ranks if not given."""
    of = range(len(gathered)) if ranks is None else ranks
    lines = [line for name in _names(gathered) for line in _differing(name, [r.get(name) for r in gathered], of)]
    return "".join(f"\n  - {line}" for line in lines)


def _names(gathered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all facts, in their order."""
    return list(dict.fromkeys(name for facts in gathered for name in facts))


def _differing(name: str, value_R: Sequence[Any], rank_R: Sequence[int]) -> list[str]:
    """Return a line for a fact that ranks do not have in common; of a table, for each of the first entries."""
    if len(set(map(repr, value_R))) == 1:
        return []
    if all(isinstance(value, Mapping) for value in value_R):
        found = [
            line
            for key in _names(value_R)
            for line in _differing(f"{name} of {key!r}", [v.get(key) for v in value_R], rank_R)
        ]
        return found[:_ENTRIES] + ([f"{name}: {len(found) - _ENTRIES} more differ"] if found[_ENTRIES:] else [])
    ranks: dict[str, list[int]] = {}
    for rank, value in zip(rank_R, value_R):
        ranks.setdefault(repr(value), []).append(rank)
    return [f"{name}: " + "; ".join(f"{value} on ranks {of_value}" for value, of_value in ranks.items())]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What the ranks of a run exchange by.

    Args:
        world: this rank among those of the run.
        ranks: processes of the job.
    """

    world: World
    ranks: int

    @property
    def is_possible(self) -> bool:
        """Whether there is anything to exchange, and torch.distributed is there for it."""
        return self.ranks > 1 and default_group() is not None

    @cached_property
    def exchange(self) -> Exchange | None:
        """None in a job of one process. The first use is collective: on every rank, in the trainer's thread."""
        return Exchange(self.world) if self.ranks > 1 else None
