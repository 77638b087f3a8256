"""Nodes, ranks and DataLoader workers as mosaicml-streaming counts them."""

from __future__ import annotations

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.world import World


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The processes among which an epoch is dealt out, and which of them this one is.

    Args:
        num_nodes: machines.
        ranks_per_node: ranks of each.
        workers_per_rank: DataLoader workers of each rank; 1 where the rank itself reads.
        rank: this rank, over all nodes.
        worker_of_rank: this worker of its rank.
    """

    num_nodes: int = 1
    ranks_per_node: int = 1
    workers_per_rank: int = 1
    rank: int = 0
    worker_of_rank: int = 0

    @classmethod
    def of(cls, world: World, reading: World | None = None) -> Topology:
        """Return the topology of the ranks of a run, without workers.

        Replicas count as one rank. All ranks count as those of one node if they do not fill whole nodes.

        >>> world = World(rank=5, size=8, nodes=2)
        >>> Topology.of(world, world.replicated(2))  # four ranks in fours are one node
        Topology(num_nodes=1, ranks_per_node=4, workers_per_rank=1, rank=2, worker_of_rank=0)
        >>> world = World(rank=5, size=16, nodes=4)
        >>> Topology.of(world, world.replicated(2)).num_nodes  # eight ranks in fours
        2

        Args:
            world: the ranks of the job.
            reading: those of the run, of which each reads other rows; the same if not given.

        Raises:
            ConfigError: the nodes do not divide the ranks.
        """
        each, odd = divmod(world.size, world.nodes)
        if odd:
            raise ConfigError(
                f'order="mosaic" counts the same number of ranks on each node, and {world.nodes} nodes do not divide '
                f"{world.size} ranks: set LOCAL_WORLD_SIZE, or give nodes="
            )
        found = world if reading is None else reading
        nodes = max(found.size // each, 1) if found.size % each == 0 else 1
        return cls(num_nodes=nodes, ranks_per_node=found.size // nodes, rank=found.rank)

    @property
    def num_ranks(self) -> int:
        """Ranks of all nodes."""
        return self.num_nodes * self.ranks_per_node

    @property
    def node(self) -> int:
        """The node of this rank."""
        return self.rank // self.ranks_per_node

    @property
    def rank_of_node(self) -> int:
        """This rank among those of its node."""
        return self.rank % self.ranks_per_node
