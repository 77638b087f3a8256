"""Ranks and nodes as numbers. Pure arithmetic: `distributed.detect_world` asks torch and the environment."""

from __future__ import annotations

from dataclasses import dataclass

from mixstream.errors import ConfigError


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

    def replicated(self, times: int) -> World:
        """Return the world in which every `times` consecutive ranks are one, and see the same samples."""
        if times < 1 or self.size % times:
            raise ConfigError(f"replication={times} must be at least 1 and divide the world size {self.size}")
        return World(rank=self.rank // times, size=self.size // times, nodes=self.nodes)
