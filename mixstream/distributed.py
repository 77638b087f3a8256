"""Ranks: who we are among how many, and sums over all. The only user of torch.distributed."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mixstream.errors import ConfigError
from mixstream.types import Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among the run's processes.

    Attributes:
        rank: this process, counted from 0.
        size: how many there are.
        nodes: machines that they run on.
    """

    rank: int = 0
    size: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} of world size {self.size} cannot be; ranks count from 0")

    @classmethod
    def detect(cls, rank: int | None = None, world_size: int | None = None) -> World:
        """Return the world given, or that of torch.distributed if it is initialised, or of RANK and WORLD_SIZE."""
        if (rank is None) != (world_size is None):
            raise ConfigError(f"give both rank and world_size or neither; got rank={rank}, world_size={world_size}")
        if rank is None or world_size is None:
            rank, world_size = _group() or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
            per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))  # not said: one machine
            return cls(rank=rank, size=world_size, nodes=max(world_size // max(per_node, 1), 1))
        return cls(rank=rank, size=world_size)

    def replicated(self, times: int) -> World:
        """Return the world in which every `times` consecutive ranks are one, and see the same samples."""
        if times < 1 or self.size % times:
            raise ConfigError(f"replication={times} must be at least 1 and divide the world size {self.size}")
        return World(rank=self.rank // times, size=self.size // times, nodes=self.nodes)


def sum_over_ranks(values: Float64, *, size: int) -> Float64:
    """Return float64 `values` summed over the `size` ranks that see different rows, by the default process group.

    Where the group is larger, its ranks are replicas, and each row is counted once all the same.

    Raises:
        ConfigError: the run has `size` > 1 ranks and torch.distributed is not initialised, so nobody can sum.
    """
    if (group := _group()) is None:
        if size == 1:
            return values
        raise ConfigError(
            f"losses of {size} ranks have to be summed and torch.distributed is not initialised: call "
            "init_process_group first, or hand the global sums to report_sums()"
        )
    import torch
    import torch.distributed as dist

    if group[1] == 1:
        return values
    on = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.as_tensor(values, dtype=torch.float64, device=on)
    dist.all_reduce(tensor)
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64) / max(group[1] // size, 1)


def _group() -> tuple[int, int] | None:
    """Return (rank, size) of the default process group, None if there is none."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_rank(), dist.get_world_size()
