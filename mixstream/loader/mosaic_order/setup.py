"""From a dataset's options to a plan in the order of mosaicml-streaming."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixstream.arguments import shown
from mixstream.errors import ConfigError, StateError
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.run_plan import MosaicRunPlan
from mixstream.plan.mosaic.state import MosaicState
from mixstream.plan.mosaic.topology import Topology
from mixstream.plan.mosaic.weights import StreamShares
from mixstream.world import World

_BY_SHARD = {"py1s", "py2s"}
"""Algorithms that move no sample beyond its shard's part of a canonical node, so there are many of these by default."""
_PARTS, _PARTS_OF_NODE = 1 << 16, 256
"""Canonical nodes that there may be, at least, and for each node: an epoch takes time and memory for each of them."""


def run_plan_of(
    dataset: Any,
    shares: StreamShares,
    world: World,
    *,
    num_canonical_nodes: int | None,
    shuffle_seed: int,
    state: MosaicState | None,
) -> MosaicRunPlan:
    """Return what the ranks `world` draw; the settings in a state take the place of the dataset's.

    Args:
        dataset: its options and domains.
        shares: what an epoch takes from each stream.
        world: the ranks.
        num_canonical_nodes: as given to the dataset.
        shuffle_seed: likewise.
        state: that the run goes on from.

    Raises:
        ConfigError: the dataset has no batch size or too many canonical nodes, or the nodes do not divide the ranks.
        StateError: the state has too many canonical nodes.
    """
    if not isinstance(dataset.batch_size, int):
        raise ConfigError(
            "Please pass `batch_size` to StreamingDataset (rows per rank and step, a whole number >= 1; got "
            f"{dataset.batch_size!r}): an epoch is dealt out in batches"
        )
    reading = dataset.reading(world)
    topology = Topology.of(world, reading)
    canonical = num_canonical_nodes or topology.num_nodes * (64 if dataset.shuffle_algo in _BY_SHARD else 1)
    seed, initial, most = shuffle_seed, None, max(_PARTS, _PARTS_OF_NODE * topology.num_nodes)
    if state is not None and state.epoch >= 0:
        canonical, seed, initial = state.num_canonical_nodes, state.shuffle_seed, state.initial_physical_nodes
        if dataset.shuffle and dataset.shuffle_algo == "py1e":  # which needs a sample in each
            most = min(most, shares.epoch_size)
    _check_parts(canonical, most, saved=state is not None)
    views = [domain.view for domain in dataset.domains.listed]
    epochs = EpochPlan(
        samples_per_shard=np.concatenate([view.samples_S for view in views]).astype(np.int64),
        shards_per_stream=tuple(len(view.samples_S) for view in views),
        shares=shares,
        batch_size=dataset.batch_size,
        num_canonical_nodes=canonical,
        shuffle=dataset.shuffle,
        shuffle_algo=dataset.shuffle_algo,
        shuffle_seed=seed,
        shuffle_block_size=dataset.shuffle_block_size or max(4_000_000 // canonical, 1 << 18),
        sampling_method=dataset.sampling_method,
        sampling_granularity=dataset.sampling_granularity,
        partition_algo=dataset.partition_algo,
        batching_method=dataset.batching_method,
        initial_physical_nodes=initial,
    )
    source_K = dataset.domains.source_K
    return MosaicRunPlan(
        domains=tuple(dataset.domains.listed),
        epochs=epochs,
        world=reading,
        topology=topology,
        drop_last=dataset.drop_last,
        source_K=tuple(source_K[k] for k in dataset.domains.plan_K.tolist()),
    )


def _check_parts(canonical: int, most: int, *, saved: bool) -> None:
    if canonical <= most:
        return
    if saved:
        raise StateError(
            f"the state is damaged: it has {shown(canonical)} for num_canonical_nodes, which are at most {most} here; "
            "load an older checkpoint"
        )
    raise ConfigError(f'`num_canonical_nodes` must be at most {most} with order="mosaic", got {shown(canonical)}')


def unread(dataset: Any, shares: StreamShares, state: MosaicState) -> int:
    """Return how many samples a state leaves of its epoch, for a dataset with the options of its run.

    With `drop_last`, those of batches that are not full do not count.

    Raises:
        StateError: the options are not those of its run.
    """
    run_plan = run_plan_of(
        dataset,
        shares,
        dataset.ranks(),
        num_canonical_nodes=dataset.num_canonical_nodes,
        shuffle_seed=dataset.shuffle_seed,
        state=state,
    )
    epoch, begun, _ = run_plan.at(state)
    return int(np.count_nonzero(run_plan.plan.table(epoch, begun) >= 0))
