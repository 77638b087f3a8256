"""Ranks and nodes as numbers. Pure arithmetic; `distributed` reads them from torch or the environment.

Ranks that read the same rows are *replicas*: those of tensor, context and pipeline parallelism. A run counts all of
them as one rank, so batches, lanes and states know nothing of them.

Shape suffixes: D ranks of the run, N nodes, R ranks of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from hashlib import blake2b

import numpy as np

from mixstream.arguments import whole
from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.types import Int64

_MOST = 1 << 24
"""Ranks that a job may have; more is a mistake, and some things are counted rank by rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among the run's processes.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        nodes: the number of machines on which they run.
        replicas: how many processes of the job count as one of these.
        part: which part of its rows' losses this process holds, from 0.
        parts: how many parts there are.
        groups: identifies which ranks of the job count as one; the same on all ranks of a job.

    Raises:
        ConfigError: `rank` is not below `size`, there are more nodes than ranks, or one of them is no whole number.
    """

    rank: int = 0
    size: int = 1
    nodes: int = 1
    replicas: int = field(default=1, repr=False)
    part: int = field(default=0, repr=False)
    parts: int = field(default=1, repr=False)
    groups: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name, least in (("rank", 0), ("size", 1), ("nodes", 1)):
            argument = "world_size" if name == "size" else name
            object.__setattr__(self, name, whole(argument, getattr(self, name), least=least, most=_MOST))
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} of world size {self.size} is out of range; ranks are 0 to size - 1")
        if self.nodes > self.size:
            raise ConfigError(f"{self.nodes} nodes cannot run {self.size} ranks; give 1 to {self.size} nodes")

    def replicated(self, replication: int | Sequence[int], loss_parts: int | tuple[int, int] = 1) -> World:
        """Return the world in which the ranks that see the same samples count as one.

        Its ranks are numbered by the smallest rank in each. Its nodes are sets of machines that share no rank.

        >>> World(rank=5, size=8, nodes=2).replicated(2)  # ranks 4 and 5 are rank 2 of 4
        World(rank=2, size=4, nodes=2)
        >>> World(rank=5, size=8, nodes=2).replicated([0, 0, 1, 1, 0, 0, 1, 1])  # both machines hold both ranks
        World(rank=0, size=2, nodes=1)

        Args:
            replication: how many consecutive ranks count as one, or the number of each rank's group (`groups_like`).
            loss_parts: how many consecutive ranks hold the parts of their rows' losses, or (part, parts) of this rank.

        Raises:
            ConfigError: the groups are not those of this number of ranks, or `loss_parts` does not divide them, or
                cuts through them.
        """
        group_R = self._groups(replication)
        replicas = self.size // (int(group_R.max()) + 1)
        part, parts = loss_parts if isinstance(loss_parts, tuple) else (self.rank % loss_parts, loss_parts)
        if replicas % parts:
            raise ConfigError(
                f"loss_parts of {parts} ranks cannot hold the parts of the losses of rows that {replicas} ranks read "
                "(replication): give a mesh or a number that divides it"
            )
        if isinstance(loss_parts, int) and np.ptp(group_R.reshape(-1, parts), axis=1).any():
            raise ConfigError(
                f"loss_parts={loss_parts} are consecutive ranks, and they do not all read the same rows, as "
                'replication says: give for example replication=mesh["cp", "tp"], loss_parts=mesh["cp"]'
            )
        return World(
            rank=int(group_R[self.rank]),
            size=self.size // replicas,
            nodes=_separate(group_R, np.arange(self.size) * self.nodes // self.size),
            replicas=replicas,
            part=part,
            parts=parts,
            groups=blake2b(group_R.tobytes(), digest_size=6).hexdigest() if replicas > 1 else "",
        )

    def _groups(self, replication: int | Sequence[int]) -> Int64:
        """Return the number of each rank's group, int64 [R]."""
        if isinstance(replication, int | np.integer):
            if whole("replication", replication) < 1 or self.size % replication:
                raise ConfigError(f"replication={replication} must be at least 1 and divide the world size {self.size}")
            return np.arange(self.size, dtype=np.int64) // replication
        if len(replication) != self.size:
            raise ConfigError(
                f"replication was given for the {len(replication)} ranks of torch.distributed, and this dataset has "
                f"world_size={self.size}: leave out rank and world_size, which follow from it"
            )
        return np.asarray(replication, dtype=np.int64)


def groups_like(members: Sequence[int], order_R: Sequence[int]) -> Int64 | None:
    """Return the number of each rank's group, int64 [R], where `members` are a group and all are alike.

    Ranks in a row are the digits of a number, as in a device mesh: a group has all values of some digits, and the same
    values of the others. Groups are numbered by their smallest rank, whatever the order of `members` is.

    >>> groups_like([2, 6], range(8)).tolist()  # a pipeline of two stages, each of four ranks
    [0, 1, 2, 3, 0, 1, 2, 3]
    >>> groups_like([1, 2], range(4)) is None  # 0 and 3 would be left
    True

    Args:
        members: ranks of one group.
        order_R: the ranks of the job in the order of the mesh.
    """
    place_R = np.empty(len(order_R), dtype=np.int64)
    place_R[np.asarray(order_R, dtype=np.int64)] = np.arange(len(order_R))
    places = np.sort(place_R[np.asarray(members, dtype=np.int64)])
    if (digits := _digits((places - places[0]).tolist())) is None:
        return None
    first_R, unit = np.arange(len(order_R)), 1  # of the group, by place
    for step, count in digits:
        if step % unit or len(order_R) % (step * count):
            return None
        first_R, unit = first_R - first_R // step % count * step, step * count
    if len(set(first_R[places].tolist())) > 1:
        return None
    _, smallest, group_R = np.unique(first_R[place_R], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(smallest))[group_R.ravel()].astype(np.int64)


def _digits(offsets: list[int]) -> list[tuple[int, int]] | None:
    """Return (step, count) of each digit that `offsets`, rising from 0, have all values of; None if they do not."""
    digits = []
    while len(offsets) > 1:
        step = offsets[1]
        count = next((i for i, at in enumerate(offsets) if at != i * step), len(offsets))
        later = offsets[::count]
        if offsets != [at + i * step for at in later for i in range(count)]:
            return None
        digits.append((step, count))
        offsets = later
    return digits


def _separate(group_R: Int64, node_R: Int64) -> int:
    """Return into how many parts the machines fall, where machines that hold ranks of one group belong together."""
    part_D = np.arange(int(group_R.max()) + 1)
    while True:
        part_N = np.full(int(node_R.max()) + 1, len(part_D))
        np.minimum.at(part_N, node_R, part_D[group_R])
        found_D = part_D.copy()
        np.minimum.at(found_D, group_R, part_N[node_R])
        if (found_D == part_D).all():
            return len(set(part_N[np.unique(node_R)].tolist()))
        part_D = found_D
