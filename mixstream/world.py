"""Ranks and nodes as numbers. Pure arithmetic; `distributed.detect_world` reads them from torch or the environment."""

from __future__ import annotations

from dataclasses import dataclass

from mixstream.arguments import whole
from mixstream.errors import ConfigError

_MOST = 1 << 24
"""Ranks that a job may have; more is a mistake, and some things are counted rank by rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among the run's processes.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        nodes: the number of machines on which they run.

    Raises:
        ConfigError: `rank` is not below `size`, there are more nodes than ranks, or one of them is no whole number.
    """

    rank: int = 0
    size: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name, least in (("rank", 0), ("size", 1), ("nodes", 1)):
            argument = "world_size" if name == "size" else name
            object.__setattr__(self, name, whole(argument, getattr(self, name), least=least, most=_MOST))
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} of world size {self.size} is out of range; ranks are 0 to size - 1")
        if self.nodes > self.size:
            raise ConfigError(f"{self.nodes} nodes cannot run {self.size} ranks; give 1 to {self.size} nodes")

    def replicated(self, times: int) -> World:
        """Return the world in which every `times` consecutive ranks count as one and see the same samples.

        >>> World(rank=5, size=8, nodes=2).replicated(2)  # ranks 4 and 5 are rank 2 of 4
        World(rank=2, size=4, nodes=2)

        Raises:
            ConfigError: `times` does not divide the world size.
        """
        if whole("replication", times) < 1 or self.size % times:
            raise ConfigError(f"replication={times} must be at least 1 and divide the world size {self.size}")
        return World(rank=self.rank // times, size=self.size // times, nodes=self.nodes)
