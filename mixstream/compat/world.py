"""`streaming.base.world.World`: nodes, ranks and DataLoader workers of a job, as numbers."""

from typing import Any, Self

from torch.utils.data import get_worker_info

from mixstream.compat.distributed import get_local_world_size, get_rank, get_world_size
from mixstream.errors import ConfigError


class World:
    """Where a worker is among all workers of a job; every node has as many ranks, and every rank as many workers.

    >>> world = World(num_nodes=2, ranks_per_node=8, workers_per_rank=4, worker=37)
    >>> world.node, world.rank, world.worker_of_rank, world.num_workers
    (1, 9, 1, 64)

    Args:
        num_nodes: nodes of the job.
        ranks_per_node: ranks of a node.
        workers_per_rank: DataLoader workers of a rank, at least 1.
        worker: of this process, among all.
    """

    def __init__(self, num_nodes: int, ranks_per_node: int, workers_per_rank: int, worker: int) -> None:
        self.num_nodes, self.ranks_per_node, self.workers_per_rank = num_nodes, ranks_per_node, workers_per_rank
        self.worker = worker
        self.num_ranks = num_nodes * ranks_per_node
        self.workers_per_node = ranks_per_node * workers_per_rank
        self.num_workers = num_nodes * self.workers_per_node
        self.node, self.worker_of_node = divmod(worker, self.workers_per_node)
        self.rank, self.worker_of_rank = divmod(worker, workers_per_rank)
        self.rank_of_node = self.rank % ranks_per_node
        self.is_multinode = num_nodes > 1
        self.is_leader, self.is_local_leader = worker == 0, self.worker_of_node == 0

    @classmethod
    def detect(cls) -> Self:
        """Return the world of RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and the DataLoader worker that this process is."""
        ranks_per_node = get_local_world_size()
        at, workers = _worker()
        return cls(get_world_size() // ranks_per_node, ranks_per_node, workers, get_rank() * workers + at)

    def detect_workers(self) -> Self:
        """Return a copy for the DataLoader worker that this process is."""
        at, workers = _worker()
        return type(self)(self.num_nodes, self.ranks_per_node, workers, self.rank * workers + at)

    def copy(self) -> Self:
        """Return a copy."""
        return type(self)(self.num_nodes, self.ranks_per_node, self.workers_per_rank, self.worker)

    def replicate(self, replication: int) -> Self:
        """Return the world in which every `replication` consecutive ranks count as one.

        Raises:
            ConfigError: `replication` does not divide the ranks.
        """
        if replication <= 0:
            raise ConfigError(f"Replication factor must be positive, got {replication}.")
        if self.num_ranks % replication:
            raise ConfigError(
                f"World size must be divisible by your replication factor: {self.num_ranks} ranks, {replication}."
            )
        ranks = self.num_ranks // replication
        nodes = ranks // self.ranks_per_node if ranks % self.ranks_per_node == 0 else 1
        worker = self.rank // replication * self.workers_per_rank + self.worker_of_rank
        return type(self)(nodes, ranks // nodes, self.workers_per_rank, worker)

    def to_json(self) -> dict[str, Any]:
        """Return all of its numbers by name."""
        return dict(vars(self))


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
