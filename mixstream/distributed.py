"""Ranks: this process's rank and world size, and what ranks exchange. The only user of torch.distributed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import ConfigError, RanksDisagreeError
from mixstream.types import Float64, Int64
from mixstream.world import World


def detect_world(rank: int | None = None, world_size: int | None = None, nodes: int | None = None) -> World:
    """Return the world of the arguments, else of torch.distributed if initialised, else of RANK and WORLD_SIZE.

    Raises:
        ConfigError: rank, world_size and nodes do not belong together.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"give both rank and world_size or neither; got rank={rank}, world_size={world_size}")
    if nodes is not None and world_size is None:
        raise ConfigError(f"nodes={nodes} goes with rank and world_size: give these too, or leave out nodes")
    if rank is not None and world_size is not None:
        return World(rank=rank, size=world_size, nodes=1 if nodes is None else nodes)
    rank, world_size = _group() or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))  # if unset: one machine
    return World(rank=rank, size=world_size, nodes=max(world_size // max(per_node, 1), 1))


class Exchange:
    """Sums and comparisons of losses over the ranks of a run, separate from the training.

    All its collectives run on the CPU, in a process group of its own, and are called from one thread on each rank, so
    training neither waits for them nor mixes with them. The constructor is collective too.

    A job may have more ranks than the run: the others are replicas, and every row still counts once.

    Args:
        size: ranks of the run, which see different rows.
        timeout: seconds that a collective waits for the slowest rank.

    Raises:
        ConfigError: torch.distributed is not initialised, or its ranks are not a multiple of `size`.
    """

    def __init__(self, *, size: int, timeout: float = 1800.0) -> None:
        import torch.distributed as dist

        if (group := _group()) is None:
            raise ConfigError(
                f"losses of {size} ranks have to be summed and torch.distributed is not initialised: call "
                "init_process_group first, or pass the global sums to report_sums()"
            )
        self.ranks = group[1]
        if self.ranks % size:
            raise ConfigError(
                f"{self.ranks} ranks of torch.distributed cannot be replicas of the {size} ranks of the run; give the "
                "dataset a world_size and replication that fit"
            )
        self.size, self._replicas = size, self.ranks // size
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def agree(self, facts: Mapping[str, Any], *, what: str) -> None:
        """Compare `facts` over all ranks.

        Raises:
            RanksDisagreeError: they differ; the message names what, and the ranks.
        """
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.ranks
        dist.all_gather_object(gathered, dict(facts), group=self._group)
        differing = [line for name in _names(gathered) for line in _differing(name, [r.get(name) for r in gathered])]
        if differing:
            raise RanksDisagreeError(
                f"the ranks disagree {what}:\n  - " + "\n  - ".join(differing) + "\nStart every rank with the same "
                "arguments, code and checkpoint, and report on every rank"
            )

    def all_reduce(self, values: Float64) -> Float64:
        """Return `values`, float64, summed over the ranks of the run."""
        import torch.distributed

        tensor = torch.from_numpy(np.array(values, dtype=np.float64))
        torch.distributed.all_reduce(tensor, group=self._group)
        return np.asarray(tensor.numpy(), dtype=np.float64) / self._replicas

    def broadcast(self, values: Int64) -> Int64:
        """Return rank 0's `values`, int64."""
        import torch.distributed

        tensor = torch.from_numpy(np.array(values, dtype=np.int64))
        torch.distributed.broadcast(tensor, src=0, group=self._group)
        return np.asarray(tensor.numpy(), dtype=np.int64)


def _names(gathered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all facts, in their order."""
    return list(dict.fromkeys(name for facts in gathered for name in facts))


def _differing(name: str, value_R: Sequence[Any]) -> list[str]:
    """Return a line for a fact that ranks do not have in common; of a table, for each of the first entries."""
    if len(set(map(repr, value_R))) == 1:
        return []
    if all(isinstance(value, Mapping) for value in value_R):
        found = [
            line for key in _names(value_R) for line in _differing(f"{name} of {key!r}", [v.get(key) for v in value_R])
        ]
        return found[:_ENTRIES] + ([f"{name}: {len(found) - _ENTRIES} more differ"] if found[_ENTRIES:] else [])
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(value_R):
        ranks.setdefault(repr(value), []).append(rank)
    return [f"{name}: " + "; ".join(f"{value} on ranks {of_value}" for value, of_value in ranks.items())]


_ENTRIES = 8


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What the ranks of a run exchange by.

    Args:
        size: ranks of the run.
        ranks: processes of the job.
    """

    size: int
    ranks: int

    @cached_property
    def exchange(self) -> Exchange | None:
        """None in a job of one process. The first use is collective: on every rank, in the trainer's thread."""
        return Exchange(size=self.size) if self.ranks > 1 else None


class RankNotes:
    """Short notes that every rank of the job can read at any time; no rank waits for another.

    They are kept in the store that torch.distributed was started with.

    Args:
        topic: ranks see the notes of their own topic only.
    """

    def __init__(self, topic: str) -> None:
        from torch.distributed import distributed_c10d as c10d

        self._store = c10d.PrefixStore(f"mixstream/{topic}", c10d._get_default_store())

    @classmethod
    def of_job(cls, topic: str) -> Self | None:
        """Return the notes of this job; None in a job of one process, and in a DataLoader worker.

        A worker has its parent's connection to the store, and two processes cannot use one.
        """
        from torch.utils.data import get_worker_info

        group = _group() if get_worker_info() is None else None
        return cls(topic) if group is not None and group[1] > 1 else None

    def post(self, note: str) -> None:
        """Add a note."""
        self._store.set(f"note-{self._store.add('notes', 1)}", note)

    def read(self) -> list[str]:
        """Return all notes, oldest first."""
        return [self._store.get(f"note-{number + 1}").decode() for number in range(self._store.add("notes", 0))]


def job(world: World) -> tuple[int, int]:
    """Return this process's rank and the number of processes in the job, of which some may be replicas."""
    return _group() or (world.rank, world.size)


def _group() -> tuple[int, int] | None:
    """Return (rank, size) of the default process group; None if there is none."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_rank(), dist.get_world_size()
