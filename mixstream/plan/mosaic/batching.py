"""What an epoch's batches consist of, as mosaicml-streaming 0.13 makes them.

    random             any samples; streams have their proportion on average
    stratified         every global batch has the same number of samples of each stream
    per_stream         a global batch is of one stream
    device_per_stream  a rank's batch is of one stream

The samples are numbered over all shards, stream after stream. All but "random" drop what does not fill a batch.

Shape suffixes: P nodes, R ranks per node, W workers per rank, Q batches of a worker, B samples of a batch, N samples of
the epoch, M batches of a stream or an epoch, K streams.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from mixstream.errors import ConfigError
from mixstream.plan.mosaic.partition import dealt_out, get_partitions, in_order
from mixstream.plan.mosaic.shuffle import get_shuffle
from mixstream.types import Int64

_LOG = logging.getLogger(__name__)


class Ranks(Protocol):
    """The processes among which an epoch is dealt out; `Topology`, or `World` of mosaicml-streaming."""

    @property
    def num_nodes(self) -> int:
        """Machines."""
        ...

    @property
    def ranks_per_node(self) -> int:
        """Ranks of each."""
        ...

    @property
    def workers_per_rank(self) -> int:
        """DataLoader workers of each rank."""
        ...


def generate_work(batching_method: str, dataset: Any, world: Ranks, epoch: int, sample_in_epoch: int) -> Int64:
    """Return the samples of an epoch by node, rank, worker and batch: int64 [P, R, W, Q, B], -1 where there is none.

    Args:
        batching_method: "random", "stratified", "per_stream" or "device_per_stream".
        dataset: `EpochPlan`, or a dataset with its attributes: its arguments; `streams`, which have `proportion`; and
            `resample_streams`.
        world: among whom it is dealt out.
        epoch: its number.
        sample_in_epoch: samples that all ranks together have read of it.

    Raises:
        ConfigError: the arguments do not fit the streams' sizes or one another.
    """
    if batching_method not in BATCHING_METHODS:
        raise ConfigError(
            f"Invalid batching method: {batching_method}. Must be one of `random`, `stratified`, `per_stream`, or "
            "`device_per_stream`."
        )
    return BATCHING_METHODS[batching_method](dataset, world, epoch, sample_in_epoch)


def generate_work_random_batching(dataset: Any, world: Ranks, epoch: int, sample_in_epoch: int) -> Int64:
    """Return `generate_work` of "random"."""
    canonical, batch_size = _canonical_nodes(dataset), _batch_size(dataset)
    units, sample_N = dataset.resample_streams(epoch)
    ids = get_partitions(
        dataset.partition_algo,
        dataset.epoch_size,
        canonical,
        world.num_nodes,
        world.ranks_per_node,
        world.workers_per_rank,
        batch_size,
        sample_in_epoch,
        dataset.initial_physical_nodes,
    )
    if dataset.shuffle:
        sample_N = sample_N[_shuffle(dataset, units, canonical, epoch, portion=None)]
    return _looked_up(sample_N, ids)


def generate_work_stratified_batching(dataset: Any, world: Ranks, epoch: int, sample_in_epoch: int) -> Int64:
    """Return `generate_work` of "stratified". The epoch ends with the stream that is used up first."""
    together = _batch_size(dataset) * world.ranks_per_node * world.num_nodes
    proportions = [stream.proportion for stream in dataset.streams]
    parts_K = np.array([int(proportion * together) for proportion in proportions])
    if missing := together - int(parts_K.sum()):  # to the streams that rounding down took most from
        parts_K[np.flip(np.argsort(together * np.array(proportions) - parts_K))[:missing]] += 1
    for k, part in enumerate(parts_K.tolist()):
        if part <= 0:
            raise ConfigError(
                f"Number of samples for stream {k} is {part} because the portion of this stream in the global batch, "
                f"which is of size {together}, is too low. Please increase the global batch size or increase the "
                f"proportion of total samples that come from stream {k}."
            )
    of_stream = []
    for k, part in enumerate(parts_K.tolist()):
        ids = in_order(_stream_work(dataset, world, epoch, k, nodes=1, batch_size=1))
        if not len(ids):
            raise ConfigError(f"stream {k} gives an epoch no sample and each global batch {part}: raise epoch_size")
        batches, dropped = _full(ids, part)
        if dropped:
            _LOG.warning(
                "Because of the `stratified` batching method, some batches with an inadequate number of samples from "
                "stream with index %d are being dropped.",
                k,
            )
        of_stream.append(batches)
    shortest = min(len(batches) for batches in of_stream)
    merged = np.concatenate([batches[:shortest] for batches in of_stream], axis=1)
    if sample_in_epoch % together:
        warnings.warn(_resumes_between("stratified", together), stacklevel=3)
    return _resumed(merged, world, dataset.batch_size, sample_in_epoch)


def generate_work_per_stream_batching(dataset: Any, world: Ranks, epoch: int, sample_in_epoch: int) -> Int64:
    """Return `generate_work` of "per_stream"."""
    batch_size = _batch_size(dataset)
    together = batch_size * world.ranks_per_node * world.num_nodes
    of_stream = []
    for k in range(len(dataset.streams)):
        ids = in_order(_stream_work(dataset, world, epoch, k, nodes=world.num_nodes, batch_size=batch_size))
        batches, dropped = _full(ids, together)
        if dropped:
            _LOG.warning(
                "Because of the `per_stream` batching method, some batches with an inadequate number of samples from "
                "stream with index %d will be dropped.",
                k,
            )
        if not len(batches):
            raise ConfigError(
                f"Stream with index {k} does not have an adequate number of samples to construct a complete global "
                f"batch. Training will occur without any samples from this stream. It has fewer than {together}: lower "
                "batch_size, or leave the stream out"
            )
        of_stream.append(batches)
    merged = _in_turns(of_stream, _origin_rng(dataset, epoch))
    if sample_in_epoch % together:
        _LOG.warning(_resumes_between("per_stream", together))
    return _resumed(merged, world, batch_size, sample_in_epoch)


def generate_work_device_per_stream_batching(dataset: Any, world: Ranks, epoch: int, sample_in_epoch: int) -> Int64:
    """Return `generate_work` of "device_per_stream"."""
    canonical, batch_size = _canonical_nodes(dataset), _batch_size(dataset)
    if canonical % world.num_nodes:
        raise ConfigError(
            "For `device_per_stream` batching, num_canonical_nodes must be divisible by physical nodes. Got "
            f"{canonical} canonical nodes and {world.num_nodes} physical nodes."
        )
    of_stream = [
        _stream_work(dataset, world, epoch, k, nodes=canonical, batch_size=1, least_block=1)
        for k in range(len(dataset.streams))
    ]
    rng = _origin_rng(dataset, epoch)
    of_node = [
        _in_turns([_device_batches(in_order(part), batch_size, k) for k, part in enumerate(parts)], rng)
        for parts in zip(*(np.split(ids_PRWQB, world.num_nodes) for ids_PRWQB in of_stream))
    ]
    ranks = world.num_nodes * world.ranks_per_node
    most = max(len(batches) for batches in of_node)
    most += ranks - most % ranks
    together = batch_size * ranks
    merged = np.stack([_lengthened(batches, most) for batches in of_node], axis=1).reshape(-1, together)
    if sample_in_epoch % together:
        _LOG.warning(_resumes_between("device_per_stream", together))
    return _resumed(merged, world, batch_size, sample_in_epoch)


BATCHING_METHODS: dict[str, Callable[[Any, Ranks, int, int], Int64]] = {
    "random": generate_work_random_batching,
    "stratified": generate_work_stratified_batching,
    "per_stream": generate_work_per_stream_batching,
    "device_per_stream": generate_work_device_per_stream_batching,
}


def _canonical_nodes(dataset: Any) -> int:
    if dataset.num_canonical_nodes is None:
        raise ConfigError("`num_canonical_nodes` can never be None. Provide a positive integer.")
    return dataset.num_canonical_nodes


def _batch_size(dataset: Any) -> int:
    if not isinstance(dataset.batch_size, int):
        raise ConfigError(
            "Please pass `batch_size` to StreamingDataset. It should be set the same as the DataLoader, and is the "
            "number of samples per batch, for each device; got " + repr(dataset.batch_size)
        )
    return dataset.batch_size


def _shuffle(dataset: Any, units: Int64, canonical: int, epoch: int, *, portion: float | None) -> Int64:
    """Return the shuffled order of an epoch, or of a stream that is `portion` of it."""
    block_size = dataset.shuffle_block_size
    if not isinstance(block_size, int):
        raise ConfigError(f"Dataset `shuffle_block_size` must be an integer. Got {type(block_size)} instead.")
    if portion is not None:
        block_size = int(block_size * portion)
    return get_shuffle(dataset.shuffle_algo, units, canonical, dataset.shuffle_seed, epoch, block_size)


def _stream_work(
    dataset: Any, world: Ranks, epoch: int, k: int, *, nodes: int, batch_size: int, least_block: int = 0
) -> Int64:
    """Return the samples of stream `k` by node, rank, worker and batch, from the beginning of the epoch."""
    canonical, proportion = _canonical_nodes(dataset), dataset.streams[k].proportion
    units, sample_N = dataset.resample_streams(epoch, k)
    ids = get_partitions(
        dataset.partition_algo,
        len(sample_N),
        canonical,
        nodes,
        world.ranks_per_node,
        world.workers_per_rank,
        batch_size,
        0,
        dataset.initial_physical_nodes,
    )
    if dataset.shuffle:
        if isinstance(block := dataset.shuffle_block_size, int) and int(block * proportion) < least_block:
            raise ConfigError(
                f"Samples from stream {k} are not being used. Please either increase the `shuffle_block_size` from "
                f"{block}, or increase the stream proportion from {proportion}."
            )
        sample_N = sample_N[_shuffle(dataset, units, canonical, epoch, portion=proportion)]
    return _looked_up(sample_N, ids)


def _looked_up(sample_N: Int64, ids: Int64) -> Int64:
    """Return the samples that stand at the places `ids`; -1 stays."""
    return np.where(ids >= 0, sample_N[ids], -1) if ids.size else ids


def _full(ids_N: Int64, size: int) -> tuple[Int64, bool]:
    """Return the batches of `size` samples without -1, int64 [M, size], and whether anything is left over."""
    batches = np.append(ids_N, np.full(-len(ids_N) % size, -1)).reshape(-1, size)
    count = int(np.count_nonzero(batches.min(axis=1) >= 0))
    return batches[:count], count < len(batches)


def _device_batches(ids_N: Int64, size: int, k: int) -> Int64:
    """Return the batches of a rank from stream `k` on one node; int64 [M, size]."""
    batches, _ = _full(ids_N, size)
    _LOG.warning(
        "Because of the `device_per_stream` batching method, some batches with an inadequate number of samples from "
        "stream with index %d will be dropped.",
        k,
    )
    if not len(batches):
        raise ConfigError(
            f"Stream with index {k} does not have an adequate number of samples to construct even a single device "
            f"batch of size {size}. Training will occur without any samples from this stream!"
        )
    return batches


def _origin_rng(dataset: Any, epoch: int) -> np.random.Generator:
    """Return the generator that shuffles from which stream each batch is."""
    return np.random.default_rng(dataset.shuffle_seed + (epoch if dataset.epoch_seed_change else 0))


def _in_turns(of_stream: Sequence[Int64], rng: np.random.Generator) -> Int64:
    """Return the batches of all streams in a random order that keeps the order within each stream; int64 [M, …]."""
    origin_M = np.repeat(np.arange(len(of_stream)), [len(batches) for batches in of_stream])
    rng.shuffle(origin_M)
    at_M = np.empty(len(origin_M), dtype=np.int64)
    at_M[np.argsort(origin_M, kind="stable")] = np.arange(len(origin_M))
    return np.concatenate(of_stream)[at_M]


def _lengthened(batches: Int64, count: int) -> Int64:
    """Return `count` batches: these, and empty ones behind."""
    return np.concatenate([batches, np.full((count - len(batches), batches.shape[1]), -1, dtype=np.int64)])


def _resumed(merged: Int64, world: Ranks, batch_size: int, sample_in_epoch: int) -> Int64:
    """Return the global batches that come after those that were read, dealt out; whole rounds of the workers."""
    left = merged[sample_in_epoch // merged.shape[1] :]
    left = _lengthened(left, -(-len(left) // world.workers_per_rank) * world.workers_per_rank)
    return dealt_out(left, world.num_nodes, world.ranks_per_node, world.workers_per_rank, batch_size)


def _resumes_between(method: str, together: int) -> str:
    return (
        f"Because of the `{method}` batching method, resumption may only occur on a sample that is a multiple of the "
        f"current global batch size of {together}. Resuming training after the most recently finished global batch."
    )
