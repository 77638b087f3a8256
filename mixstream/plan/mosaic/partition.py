"""Which sample of an epoch goes to which node, rank, worker and batch, as mosaicml-streaming 0.13 deals them out.

Samples are numbered 0 to N - 1 in the order of the epoch before it is shuffled. Each canonical node owns a run of them.
The nodes take turns, the ranks of a node take turns, the workers of a rank take turns by batches. Where the numbers do
not divide, samples near the end are repeated, so that every rank has as many; what is still missing of a worker's last
batch is -1.

Shape suffixes: C canonical nodes, T samples of one of them, P nodes, R ranks per node, W workers per rank, Q batches
of a worker, B samples of a batch.
"""

import logging
import warnings
from collections.abc import Callable

import numpy as np

from mixstream.errors import ConfigError
from mixstream.types import Int64

_LOG = logging.getLogger(__name__)


def get_partitions(
    algo: str,
    num_samples: int,
    num_canonical_nodes: int,
    num_physical_nodes: int,
    ranks_per_node: int,
    workers_per_rank: int,
    batch_size: int,
    drop_first: int = 0,
    initial_physical_nodes: int | None = None,
) -> Int64:
    """Return the samples of an epoch by node, rank, worker and batch: int64 [P, R, W, Q, B], -1 where there is none.

    Five samples over two ranks in batches of two; the sixth place repeats sample 3:

    >>> get_partitions("orig", 5, 1, 1, 2, 1, 2).tolist()
    [[[[[0, 2], [4, -1]]], [[[1, 3], [3, -1]]]]]

    Args:
        algo: "orig", or "relaxed", which also deals a resumed epoch out to a number of nodes that does not divide.
        num_samples: samples of the epoch.
        num_canonical_nodes: runs into which the samples are cut.
        num_physical_nodes: machines.
        ranks_per_node: ranks of each.
        workers_per_rank: DataLoader workers of each rank; 1 where the rank itself reads.
        batch_size: samples per rank and step.
        drop_first: samples of the epoch that were read before.
        initial_physical_nodes: machines on which the run began, if it is resumed.

    Raises:
        ConfigError: the epoch has fewer samples than were read before, or the nodes do not divide one another.
    """
    if algo not in _ALGORITHMS:
        raise ConfigError(f"partition_algo={algo!r} is not known; choose one of {', '.join(_ALGORITHMS)}")
    ranks = num_physical_nodes * ranks_per_node
    if drop_first > num_samples + ranks - num_samples % ranks:
        raise ConfigError(f"Resuming further into the dataset ({drop_first}) than it has samples ({num_samples})")
    return _ALGORITHMS[algo](
        num_samples,
        num_canonical_nodes,
        num_physical_nodes,
        ranks_per_node,
        workers_per_rank,
        batch_size,
        drop_first,
        initial_physical_nodes,
    )


def get_partitions_orig(
    num_samples: int,
    num_canonical_nodes: int,
    num_physical_nodes: int,
    ranks_per_node: int,
    workers_per_rank: int,
    batch_size: int,
    drop_first: int = 0,
    initial_physical_nodes: int | None = None,
) -> Int64:
    """Return `get_partitions` of "orig": canonical and physical nodes divide one another, whatever came before."""
    del initial_physical_nodes
    if num_canonical_nodes % num_physical_nodes and num_physical_nodes % num_canonical_nodes:
        raise ConfigError(
            "Either canonical or physical nodes must be evenly divisible by the other, otherwise striping slices of "
            f"shards over nodes may lead to each node downloading all shards; got {num_canonical_nodes} canonical "
            f"nodes and {num_physical_nodes} physical ones: set num_canonical_nodes"
        )
    if odd := drop_first % num_physical_nodes:
        _LOG.warning("`drop_first` was not divisible by `num_physical_nodes`. Rounding it down to make it divisible.")
        drop_first -= odd
    ids_CT = _runs(num_samples, num_canonical_nodes, num_physical_nodes)
    ids_PN = ids_CT.T.ravel()[drop_first:].reshape(-1, num_physical_nodes).T
    ids_PNR = _even(ids_PN, ranks_per_node).reshape(num_physical_nodes, -1, ranks_per_node)
    turn = workers_per_rank * batch_size
    if missing := -ids_PNR.shape[1] % turn:
        padding = np.full((num_physical_nodes, missing, ranks_per_node), -1, dtype=np.int64)
        ids_PNR = np.concatenate([ids_PNR, padding], axis=1)
    ids_PRN = ids_PNR.transpose(0, 2, 1)
    ids_PRQWB = ids_PRN.reshape(num_physical_nodes, ranks_per_node, -1, workers_per_rank, batch_size)
    return ids_PRQWB.transpose(0, 1, 3, 2, 4)


def get_partitions_relaxed(
    num_samples: int,
    num_canonical_nodes: int,
    num_physical_nodes: int,
    ranks_per_node: int,
    workers_per_rank: int,
    batch_size: int,
    drop_first: int = 0,
    initial_physical_nodes: int | None = None,
) -> Int64:
    """Return `get_partitions` of "relaxed": a resumed epoch may be dealt out to any nodes that divide its batches.

    Where the nodes do not divide, the epoch is dealt out to the nodes on which it began, and its global batches are cut
    anew, in the order in which they are read.
    """
    divides = num_canonical_nodes % num_physical_nodes == 0 or num_physical_nodes % num_canonical_nodes == 0
    if initial_physical_nodes is None or divides:
        return get_partitions_orig(
            num_samples,
            num_canonical_nodes,
            num_physical_nodes,
            ranks_per_node,
            workers_per_rank,
            batch_size,
            drop_first,
        )
    together, ranks = num_physical_nodes * ranks_per_node * batch_size, initial_physical_nodes * ranks_per_node
    if together % ranks:
        raise ConfigError(
            f"A global batch size of {together} is not evenly divisible by the initial total number of devices of "
            f"{ranks}. Make sure that when using the `relaxed` partitioning algorithm, the global batch size does not "
            "change during resumption of training."
        )
    begun = get_partitions_orig(
        num_samples,
        num_canonical_nodes,
        initial_physical_nodes,
        ranks_per_node,
        workers_per_rank,
        together // ranks,
        drop_first,
    )
    return dealt_out(in_order(begun), num_physical_nodes, ranks_per_node, workers_per_rank, batch_size)


_ALGORITHMS: dict[str, Callable[..., Int64]] = {"orig": get_partitions_orig, "relaxed": get_partitions_relaxed}


def in_order(ids_PRWQB: Int64) -> Int64:
    """Return the samples of all ranks in the order in which they are read, step after step; int64 [N]."""
    return ids_PRWQB.transpose(3, 2, 0, 1, 4).ravel()


def dealt_out(ids_N: Int64, nodes: int, ranks: int, workers: int, batch_size: int) -> Int64:
    """Return whole steps of `in_order` by node, rank, worker and batch again; int64 [P, R, W, Q, B]."""
    return ids_N.reshape(-1, workers, nodes, ranks, batch_size).transpose(2, 3, 1, 0, 4)


def _runs(samples: int, canonical: int, physical: int) -> Int64:
    """Return the run of samples that each canonical node owns, all of one length; int64 [C, T]."""
    longest = -(-samples // canonical)
    ratio = max(physical // canonical, 1)  # nodes that share a canonical node's run
    missing = -longest % ratio
    if samples < canonical or (samples == canonical and canonical < physical):
        warnings.warn(
            f"Trying to partition {samples} samples over {canonical} canonical nodes. This will result in many samples "
            "being repeated, and depending on your batching method, batches being completely dropped. Check if your "
            "dataset has the expected number of samples, and consider decreasing the number of canonical nodes.",
            stacklevel=4,
        )
        return np.resize(np.arange(samples, dtype=np.int64), (canonical, longest + missing))
    bound = np.arange(canonical + 1, dtype=np.int64) * samples // canonical
    within = np.minimum(np.arange(longest, dtype=np.int64), np.diff(bound)[:, None] - 1)  # a short run's last one twice
    ids_CT = bound[:-1, None] + within
    if not missing:
        return ids_CT
    begin = longest - ratio + 1 - missing
    if begin < 0:
        raise ConfigError(
            f"{samples} samples in {canonical} canonical nodes are too few to share each of these out to {ratio} "
            "physical nodes: use fewer nodes, or set num_canonical_nodes to their number"
        )
    return np.concatenate([ids_CT, ids_CT[:, begin : begin + missing]], axis=1)


def _even(ids_PN: Int64, ranks: int) -> Int64:
    """Return the samples of each node with as many repeats as give all its ranks the same number."""
    nodes, samples = ids_PN.shape
    if not (missing := -samples % ranks):
        return ids_PN
    begin = samples - ranks - missing + 1
    if begin >= 0:
        return np.concatenate([ids_PN, ids_PN[:, begin : begin + missing]], axis=1)
    warnings.warn(
        f"Attempting to partition {samples} samples per physical node over {ranks} gpus. This will result in many "
        "samples being repeated, and depending on your batching method, batches being completely dropped. Check if "
        "your dataset has the expected number of samples.",
        stacklevel=4,
    )
    repeats = np.tile(ids_PN, -(-(samples + missing) // samples))
    return repeats[:, : samples + missing].reshape(nodes, -1)
