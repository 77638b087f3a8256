"""The order of mosaicml-streaming: digests that its package gave (tests/mosaic/make_order_goldens.py), and rules."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError, StateError
from mixstream.plan.addressing import WholeShards
from mixstream.plan.mosaic import Topology, get_partitions, get_sampling, get_shuffle
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.forecast import EpochForecast
from mixstream.plan.mosaic.state import MosaicState
from mixstream.plan.mosaic.steps import MosaicPlan, SampleNumbers
from mixstream.plan.mosaic.weights import StreamShares, shares
from mixstream.world import World

CASES = json.loads((Path(__file__).parents[2] / "goldens" / "mosaic_order.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:Trying to partition", "ignore:Attempting to", "ignore:Shuffle block")


def plan_of(case: dict[str, Any]) -> EpochPlan:
    found = shares(
        samples=[sum(sizes) for sizes in case["shards"]],
        **case["weights"],
        epoch_size=case["epoch_size"],
        seed=case["options"]["shuffle_seed"],
    )
    return EpochPlan(
        samples_per_shard=np.array([size for sizes in case["shards"] for size in sizes]),
        shards_per_stream=tuple(len(sizes) for sizes in case["shards"]),
        shares=found,
        **case["options"],
    )


def topology(case: dict[str, Any], **kw: Any) -> Topology:
    nodes, ranks, workers = case["world"]
    return Topology(**{"num_nodes": nodes, "ranks_per_node": ranks, "workers_per_rank": workers, **kw})


def work(case: dict[str, Any], **kw: Any) -> np.ndarray:
    return plan_of(case).work(topology(case, **kw), epoch=case["epoch"], sample_in_epoch=case["sample_in_epoch"])


def test_the_cases_are_of_all_kinds():
    kinds = {(case["options"]["shuffle_algo"], case["options"]["batching_method"]) for case in CASES}
    assert len(kinds) == 20
    assert len(CASES) == 40


@pytest.mark.filterwarnings("ignore:Because of the")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["digest"])
def test_the_order_is_that_of_the_package(case):
    ids = np.ascontiguousarray(work(case), dtype="<i8")
    assert blake2b(repr(ids.shape).encode() + ids.tobytes(), digest_size=12).hexdigest() == case["digest"]


@pytest.mark.filterwarnings("ignore:Because of the")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["digest"])
def test_a_rank_reads_the_same_samples_in_turn_with_any_number_of_workers(case):
    def of_ranks(workers: int) -> list[list[int]]:
        ids = work(case, workers_per_rank=workers).transpose(0, 1, 3, 2, 4)  # its workers take turns by batches
        return [part[part >= 0].tolist() for part in ids.reshape(-1, ids[0, 0].size)]

    assert of_ranks(1) == of_ranks(2) == of_ranks(5)


@given(data=st.data())
def test_what_is_left_after_some_steps_is_the_rest_of_the_epoch(data):
    case = data.draw(st.sampled_from([case for case in CASES if case["options"]["initial_physical_nodes"] is None]))
    if case["options"]["batching_method"] == "device_per_stream":
        case = {**case, "world": [1, *case["world"][1:]]}  # nodes have different numbers of batches
    plan, world = plan_of(case), topology(case, workers_per_rank=1)
    whole = MosaicPlan(
        names=tuple("abcd")[: len(case["shards"])],
        epochs=plan,
        world=world,
        drop_last=False,
        numbers=SampleNumbers(
            views=[WholeShards(samples_S=np.array(sizes)) for sizes in case["shards"]],
            first_shard_K=np.cumsum([0, *map(len, case["shards"])])[:-1],
        ),
    )
    table = whole.table(case["epoch"])
    assert len(table) == whole.steps_per_epoch
    full = int((table >= 0).all(axis=(1, 2)).sum())
    steps = data.draw(st.integers(0, full))
    rest = whole.table(case["epoch"], steps * whole.global_batch_size)
    if case["options"]["batching_method"] == "random" and steps < full:  # repeats at the end depend on what is left
        np.testing.assert_array_equal(rest[: full - steps - 1], table[steps : full - 1])
    elif steps < full:
        np.testing.assert_array_equal(rest, table[steps:])
    cursor = whole.at(case["epoch"], steps * whole.global_batch_size)
    assert (cursor.epoch, cursor.step_in_epoch) == (case["epoch"], steps)
    assert cursor.step == case["epoch"] * whole.steps_per_epoch + steps


@pytest.mark.parametrize("nodes", [1, 3, 4, 6])
def test_a_relaxed_epoch_goes_on_on_other_nodes(nodes):
    """It began on 2 nodes of 2 ranks with batches of 6: any ranks whose batches make 24 samples read the same ones."""
    before = get_partitions("relaxed", 240, 2, 2, 2, 1, 6)
    after = get_partitions("relaxed", 240, 2, nodes, 2, 1, 12 // nodes, 48, initial_physical_nodes=2)
    steps = [np.sort(part[:, :, 0].transpose(2, 0, 1, 3).reshape(-1, 24)) for part in (before, after)]
    np.testing.assert_array_equal(steps[0][2:], steps[1])
    if nodes == 3:
        with pytest.raises(ConfigError, match="must be evenly divisible by the other"):
            get_partitions("orig", 240, 2, nodes, 2, 1, 4, 48, 2)
        with pytest.raises(ConfigError, match="global batch size of 30 is not evenly divisible"):
            get_partitions("relaxed", 240, 2, nodes, 2, 1, 5, 48, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_partitions("orig", 10, 1, 1, 2, 1, 1, 13), r"Resuming further into the dataset \(13\) than"),
        (lambda: get_partitions("new", 10, 1, 1, 2, 1, 1), "partition_algo='new' is not known"),
        (lambda: get_partitions("orig", 5, 1, 4, 1, 1, 1), "too few to share"),
        (lambda: get_shuffle("py3", np.array([3]), 1, 0, 0), "shuffle_algo='py3' is not known"),
        (lambda: get_shuffle("py1e", np.array([3]), 4, 0, 0), "assigned to a canonical node is 0"),
        (lambda: get_shuffle("py1br", np.array([3]), 1, 0, 0, 1), "blocks of 1 samples are too small"),
        (lambda: get_sampling(np.array([3]), -1, 1, 0, 0, True), "`choose` must be a non-negative integer"),
        (lambda: get_sampling(np.array([3]), 1, 0, 0, 0, True), "`granularity` must be a positive integer"),
        (lambda: get_sampling(np.array([0]), 1, 1, 0, 0, True), "asked of a stream that has none"),
        (lambda: Topology.of(World(size=5, nodes=2)), "2 nodes do not divide 5 ranks"),
        (lambda: MosaicState.parse({"epoch": 1}), "The StreamingDataset state dict"),
        (lambda: MosaicState.parse({"mixstream": 2, "epoch": 1}), 'saved with order="mixstream"'),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises((ConfigError, StateError), match=message):
        call()


@pytest.mark.parametrize(
    ("samples", "canonical", "nodes", "ranks", "message"),
    [
        (2, 4, 1, 1, "Trying to partition 2 samples over 4 canonical nodes"),
        (3, 1, 1, 8, "partition 3 samples per phys"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_many_repeats_are_warned_of(samples, canonical, nodes, ranks, message):
    with pytest.warns(UserWarning, match=message):
        ids = get_partitions("orig", samples, canonical, nodes, ranks, 1, 1)
    assert set(ids.ravel().tolist()) == set(range(samples))


def test_the_digests_tell_settings_and_streams_apart():
    case = next(case for case in CASES if case["options"]["shuffle"])
    plan = plan_of(case)
    assert replace(plan, shuffle_algo="x").order_digest != plan.order_digest
    assert replace(plan, batch_size=99).order_digest == plan.order_digest
    assert replace(plan, shares=StreamShares(plan.shares.choose_K + 1, plan.shares.proportion_K)).shares_digest != (
        plan.shares_digest
    )
    assert plan.order_digest < 2**48 > plan.shares_digest


def test_a_forecast_says_what_is_needed_and_when():
    shard_QB = np.array([[3, 3], [0, 3], [1, -1]])
    place = iter([0, 1, 1, 2, 0])
    forecast = EpochForecast(lambda cursor: (shard_QB, next(place)))
    cursor: Any = None
    assert [a.tolist() for a in forecast.upcoming(cursor, None, 4)] == [[3, 0], [0.0, 1.0]]
    assert [a.tolist() for a in forecast.upcoming(cursor, None, 2)] == [[0, 3], [0.0, 0.0]]
    assert forecast.distance(cursor, None, np.array([0, 1, 2, 3])).tolist() == [0.0, 1.0, np.inf, 0.0]
    assert forecast.distance(cursor, None, np.array([0, 1, 2, 3])).tolist() == [np.inf, 0.0, np.inf, np.inf]
    assert forecast.distance(cursor, None, np.array([0, 1, 2, 3])).tolist() == [1.0, 2.0, np.inf, 0.0]


@pytest.mark.parametrize(
    ("changed", "doubted"),
    [
        ({}, True),
        ({"epoch": 3}, True),
        ({"epoch": -1}, False),
        ({"sample_in_epoch": 8}, False),
        ({"mixstream_rows": 9}, False),
    ],
)
def test_a_state_at_the_beginning_of_an_epoch_may_be_one_of_its_end(changed, doubted):
    """That package saves the same at both, also in epoch 0; ours say more."""
    state = {"epoch": 0, "sample_in_epoch": 0, "num_canonical_nodes": 1, "shuffle_seed": 7, **changed}
    assert (MosaicState.parse(state).doubt is not None) == doubted
