"""The sample order of mosaicml-streaming 0.13, bit for bit: pure functions on arrays.

It is here for programs that go on from a checkpoint of that package (`StreamingDataset(order="mosaic")`). An epoch is
computed as a whole: memory and time are O(samples), as there. Nothing else in mixstream imports this package. In the
order of the flow:

    weights     proportion, repeat and choose -> samples that an epoch takes from each stream
    sampling    ... -> which samples of each shard
    shuffle     the order of these samples in an epoch
    partition   place in the epoch -> node, rank, worker, batch
    batching    all of these: the samples of every batch of every rank and worker
    topology    nodes, ranks and workers
"""

from mixstream.plan.mosaic.batching import (
    BATCHING_METHODS,
    generate_work,
    generate_work_device_per_stream_batching,
    generate_work_per_stream_batching,
    generate_work_random_batching,
    generate_work_stratified_batching,
)
from mixstream.plan.mosaic.partition import get_partitions, get_partitions_orig, get_partitions_relaxed
from mixstream.plan.mosaic.sampling import get_sampling, resample
from mixstream.plan.mosaic.shuffle import (
    ALGORITHMS,
    get_shuffle,
    get_shuffle_naive,
    get_shuffle_py1br,
    get_shuffle_py1e,
    get_shuffle_py1s,
    get_shuffle_py2s,
)
from mixstream.plan.mosaic.topology import Topology

__all__ = [
    "ALGORITHMS",
    "BATCHING_METHODS",
    "Topology",
    "generate_work",
    "generate_work_device_per_stream_batching",
    "generate_work_per_stream_batching",
    "generate_work_random_batching",
    "generate_work_stratified_batching",
    "get_partitions",
    "get_partitions_orig",
    "get_partitions_relaxed",
    "get_sampling",
    "get_shuffle",
    "get_shuffle_naive",
    "get_shuffle_py1br",
    "get_shuffle_py1e",
    "get_shuffle_py1s",
    "get_shuffle_py2s",
    "resample",
]
