"""`order="mosaic"`: every loader hands out the epochs of `plan.mosaic`, and goes on from states of that package.

That the epochs are those of the package is shown in tests/mixstream/plan/test_mosaic.py and, live, in tests/mosaic.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import SIZES, joined, row_ids, streams
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.plan.mosaic import Topology
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.weights import shares

NUMBERS = [1000 * (k + 1) + i for k, size in enumerate(SIZES.values()) for i in range(size)]


def make(root, names=tuple(SIZES), *, each: dict[str, Any] | None = None, **kw: Any) -> ms.StreamingDataset:
    options = {"batch_size": 8, "shuffle": True, "order": "mosaic", **kw}
    return ms.StreamingDataset(streams=streams(root, names, **(each or {})), **options)


def epochs(dataset: ms.StreamingDataset, **kw: Any) -> EpochPlan:
    """Return the plan of a dataset over the library without weights."""
    none = [None] * len(SIZES)
    return EpochPlan(
        samples_per_shard=dataset.samples_per_shard,
        shards_per_stream=tuple(dataset.shards_per_stream.tolist()),
        shares=shares(
            samples=list(SIZES.values()), proportion=none, repeat=none, choose=none, epoch_size=None, seed=9176
        ),
        **{
            "batch_size": 8,
            "num_canonical_nodes": 1,
            "shuffle": True,
            "shuffle_algo": "py1e",
            "shuffle_seed": 9176,
            "shuffle_block_size": 4_000_000,
            "sampling_method": "balanced",
            "sampling_granularity": 1,
            "partition_algo": "relaxed",
            "batching_method": "random",
            "initial_physical_nodes": None,
            **kw,
        },
    )


def sequence(plan: EpochPlan, world: Topology, *, epoch: int, begun: int = 0) -> list[list[int]]:
    """Return the batches of a rank, as row identities."""
    work = plan.work(world, epoch=epoch, sample_in_epoch=begun)[world.node, world.rank_of_node]
    batches = work.transpose(1, 0, 2).reshape(-1, plan.batch_size)
    return [[NUMBERS[i] for i in batch if i >= 0] for batch in batches.tolist() if max(batch) >= 0]


def everything(loader: Any) -> list[list[int]]:
    return [row_ids(batch) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_dataloader_gets_the_epochs_one_after_the_other(library, workers):
    dataset = make(library)
    assert dataset.num_canonical_nodes is None
    assert len(dataset) == dataset.epoch_size == 219
    plan = epochs(dataset)
    loader = DataLoader(dataset, batch_size=8, num_workers=workers)
    for epoch in range(2):
        assert dataset.next_epoch == epoch
        assert everything(loader) == sequence(plan, Topology(), epoch=epoch)


def test_persistent_workers_begin_the_next_epoch(library):
    dataset = make(library, batching_method="stratified", drop_last=True)
    plan = epochs(dataset, batching_method="stratified")
    loader = DataLoader(dataset, batch_size=8, num_workers=2, persistent_workers=True)
    for epoch in range(2):
        assert everything(loader) == sequence(plan, Topology(), epoch=epoch)


def test_workers_deal_in_batches_of_the_dataset_whatever_those_of_the_dataloader_are(library):
    """As there: LLM Foundry's packing ratio takes larger batches than the dataset has."""
    dataset = make(library)
    first, _, third = sequence(epochs(dataset), Topology(), epoch=0)[:3]
    batch = next(iter(DataLoader(dataset, batch_size=16, num_workers=2)))
    assert row_ids(batch) == [*first, *third]  # the first two of worker 0


@pytest.mark.parametrize("method", ["random", "per_stream", "device_per_stream"])
def test_both_loaders_of_ours_hand_out_the_same_batches_with_steps_and_domains(library, method):
    names = ("web", "code") if method == "per_stream" else tuple(SIZES)
    options = {"batching_method": method, "batch_size": 4}
    plain = [everything(DataLoader(make(library, names, **options), batch_size=4))]
    loader = ms.StreamingDataLoader(make(library, names, **options), num_workers=2)
    fast = ms.Loader(make(library, names, **options))
    steps = len(fast)
    for epoch in range(2):
        for found in (loader, fast):
            batches = list(found)
            assert [batch.step for batch in batches] == list(range(epoch * steps, (epoch + 1) * steps))
            for batch in batches:
                assert batch.domain.tolist() == [n // 1000 - 1 for n in row_ids(batch)]
            if epoch == 0:
                assert [row_ids(batch) for batch in batches] == plain[0]
    fast.close()


@pytest.mark.parametrize(("size", "nodes", "replication"), [(2, 1, None), (4, 2, None), (4, 2, 2)])
def test_ranks_and_nodes_get_their_part(library, size, nodes, replication):
    for rank in range(size):
        dataset = make(
            library, batch_size=4, rank=rank, world_size=size, nodes=nodes, replication=replication, drop_last=True
        )
        ranks = size // (replication or 1)
        world = Topology(num_nodes=ranks // 2 or 1, ranks_per_node=min(ranks, 2), rank=rank // (replication or 1))
        canonical = world.num_nodes
        plan = epochs(dataset, batch_size=4, num_canonical_nodes=canonical, shuffle_block_size=4_000_000 // canonical)
        expected = [batch for batch in sequence(plan, world, epoch=0) if len(batch) == 4]
        assert everything(DataLoader(dataset, batch_size=4, num_workers=2)) == expected
        with ms.Loader(dataset) as loader:
            assert everything(loader) == expected


def test_tables_of_an_epoch_are_those_of_this_order(library):
    chosen = {"web": {"choose": 40}, "law": {"repeat": 2}}
    datasets = [make(library, each=chosen, rank=rank, world_size=2, nodes=2) for rank in range(2)]
    dataset = datasets[1]
    found = shares(
        samples=list(SIZES.values()), proportion=[None] * 3, repeat=[None, None, 2], choose=[40, None, None],
        epoch_size=None, seed=9176,
    )  # fmt: skip
    plan = replace(epochs(dataset, num_canonical_nodes=2), shares=found)
    assert (dataset.epoch_size, dataset.length, len(dataset)) == (found.epoch_size, *[-(-found.epoch_size // 2)] * 2)
    for epoch in range(2):
        for stream in (None, 0, 2):
            for ours, theirs in zip(dataset.resample_streams(epoch, stream), plan.resample_streams(epoch, stream)):
                assert ours.tolist() == theirs.tolist()
        read = {int(sample["tokens"][0]) for each in datasets for sample in each}
        numbers = dataset.resample_streams(epoch)[1].tolist()
        assert read == {int(dataset[number]["tokens"][0]) for number in numbers}
    assert dataset.initial_physical_nodes is None
    dataset.load_state_dict(their_state(-1, 0, initial_physical_nodes=3))
    assert dataset.initial_physical_nodes is None
    dataset.load_state_dict(their_state(2, 0, initial_physical_nodes=3))
    assert dataset.initial_physical_nodes == 3


def test_a_subclass_and_remote_shards_are_read_as_ever(library, tmp_path):
    class Numbers(ms.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return {"n": super().__getitem__(at)["tokens"][0].astype("int64"), "at": at}

    cached = [ms.Stream(remote=str(library / n), local=str(tmp_path / n)) for n in SIZES]
    dataset = Numbers(streams=cached, batch_size=8, shuffle=True, order="mosaic", cache_limit=12_000, predownload=20)
    expected = sequence(epochs(dataset), Topology(), epoch=0)
    found = list(DataLoader(dataset, batch_size=8, num_workers=2))
    assert [batch["n"].tolist() for batch in found] == expected
    assert [[NUMBERS[i] for i in batch["at"].tolist()] for batch in found] == expected
    with ms.Loader(dataset) as loader:
        assert [batch["n"].tolist() for batch in loader] == expected


# --- states -----------------------------------------------------------------------------------------------------------


def their_state(epoch: int, samples: int, **kw: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "sample_in_epoch": samples,
        "num_canonical_nodes": 1,
        "shuffle_seed": 9176,
        "initial_physical_nodes": 1,
        **kw,
    }


def test_a_state_is_that_of_the_package_and_survives_a_round_trip(library):
    dataset = make(library)
    state = dataset.state_dict(0, False)
    assert {key: state[key] for key in their_state(0, 0)} == their_state(-1, 0)
    assert all(type(value) is int for value in state.values())
    for key in state:
        state[key] += 1
    dataset.load_state_dict(state)
    assert dataset.state_dict(0, False) == state
    assert dataset.state_dict(0, True) == {**state, "sample_in_epoch": 0}
    old = {key: value for key, value in their_state(3, 8).items() if key != "initial_physical_nodes"}
    dataset.load_state_dict(old)
    assert dataset.state_dict(8, False) == {**old, "sample_in_epoch": 16, "initial_physical_nodes": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_from_a_state_of_the_package(library, workers):
    plan = epochs(make(library), num_canonical_nodes=2, shuffle_seed=17, shuffle_block_size=2_000_000)
    rest, following = (sequence(plan, Topology(), epoch=e, begun=b) for e, b in ((3, 40), (4, 0)))
    state = their_state(3, 40, num_canonical_nodes=2, shuffle_seed=17)
    dataset = make(library)
    dataset.load_state_dict(state)
    plain = DataLoader(dataset, batch_size=8, num_workers=workers)
    assert [everything(plain), everything(plain)] == [rest, following]
    loader = ms.StreamingDataLoader(make(library), num_workers=workers)
    loader.load_state_dict(state)
    taken = list(itertools.islice(loader, 3))
    assert [row_ids(batch) for batch in taken] == rest[:3]
    assert taken[0].step == 3 * 28 + 5
    saved = loader.state_dict()
    assert saved is not None
    assert {key: saved[key] for key in state} == {**state, "sample_in_epoch": 64}
    with ms.Loader(make(library)) as fast:
        fast.load_state_dict(json.loads(json.dumps(saved)))
        assert everything(fast) == rest[3:]
        end = fast.state_dict()
        assert {key: end[key] for key in state} == {**state, "epoch": 4, "sample_in_epoch": 0}
        assert everything(fast) == following


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_run_goes_on_on_other_ranks(library, nodes):
    """It began on 2 nodes with 2 canonical ones, 24 samples a step; 3 nodes divide neither, which "relaxed" allows."""

    def steps(world: int, begun: int, state: dict[str, Any] | None) -> list[list[int]]:
        found = []
        for rank in range(world):
            dataset = make(library, batch_size=24 // world, rank=rank, world_size=world, nodes=world)
            if state is not None:
                dataset.load_state_dict(state)
            found.append(everything(DataLoader(dataset, batch_size=24 // world)))
        together = [sorted(joined(batches)) for batches in zip(*found)]
        return [step for step in together if len(step) == 24]

    state = their_state(0, 72, num_canonical_nodes=2, initial_physical_nodes=2)
    assert steps(nodes, 72, state) == steps(2, 0, None)[3:]


def test_the_second_iter_after_a_state_is_warned_of(library):
    dataset = make(library)
    dataset.load_state_dict(their_state(0, 40))
    next(iter(DataLoader(dataset, batch_size=8)))
    with pytest.warns(UserWarning, match="the rest of epoch 0 is given up, and epoch 1 begins"):
        assert everything(DataLoader(dataset, batch_size=8)) == sequence(epochs(dataset), Topology(), epoch=1)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"each": {"web": {"repeat": 2}}}, "mixstream_streams|the streams, their samples or weights"),
        ({"shuffle_algo": "naive"}, "shuffle_algo"),
        ({"sampling_granularity": 2}, "sampling_granularity"),
    ],
)
def test_other_settings_within_an_epoch_are_refused_and_between_epochs_not(library, now, message):
    loader = ms.StreamingDataLoader(make(library))
    next(iter(loader))
    state = loader.state_dict()
    assert state is not None
    changed = make(library, **now)
    changed.load_state_dict(state)
    with pytest.raises(StateError, match=message):
        next(iter(changed))
    changed.load_state_dict({**state, "epoch": 1, "sample_in_epoch": 0})
    assert next(iter(changed))
    again = make(library, **now)
    again.load_state_dict(state, strict=False)
    with pytest.warns(UserWarning, match="strict=False"):
        assert next(iter(again))


def test_ranks_that_would_lose_rows_of_an_epoch_are_refused(library):
    """Which rows fill a batch of one stream depends on the ranks; the package loses and repeats rows there."""

    def ranks(world: int, nodes: int, state: dict[str, Any] | None = None, **kw: Any) -> tuple[list[int], Any]:
        found: list[int] = []
        for rank in range(world):
            options = {"batching_method": "device_per_stream", "num_canonical_nodes": 2, **kw}
            dataset = make(library, batch_size=8 // world, rank=rank, world_size=world, nodes=nodes, **options)
            loader = ms.StreamingDataLoader(dataset)
            if state is not None:
                loader.load_state_dict(state)
            batches = iter(loader)
            found += joined([row_ids(batch) for batch in (batches if state else itertools.islice(batches, 9))])
        return found, loader.state_dict()

    first, state = ranks(2, 1)
    assert sorted(first + ranks(2, 1, state)[0]) == sorted(ranks(2, 1, {**state, "sample_in_epoch": 0})[0])
    with pytest.raises(
        StateError, match=r"2 ranks on 1 nodes.*Here are 1 ranks.*of the samples .* left \d+ would never"
    ):
        ranks(1, 1, state)
    even = {
        "batching_method": "per_stream",
        "each": {"web": {"choose": 64}, "code": {"choose": 32}, "law": {"choose": 16}},
    }
    first, state = ranks(2, 1, **even)
    assert len(first) == 72
    assert sorted(first + ranks(1, 1, state, **even)[0]) == sorted(
        ranks(1, 1, {**state, "sample_in_epoch": 0}, **even)[0]
    )


def test_a_state_that_does_not_fit_the_epoch_is_refused_or_warned_of(library):
    dataset = make(library, batching_method="stratified")
    dataset.load_state_dict(their_state(0, 5000))
    with pytest.raises(StateError, match="5000 samples of epoch 0, and an epoch has 219"):
        next(iter(dataset))
    dataset.load_state_dict(their_state(0, 21))
    with pytest.warns(UserWarning, match="the last 5 of them are read again"):
        next(iter(dataset))
    dataset.load_state_dict(their_state(2, 0))
    with pytest.warns(UserWarning, match=r"set dataset.next_epoch = 3"):
        next(iter(dataset))
    dataset.next_epoch = 3
    assert dataset.next_epoch == 3
    ids = [NUMBERS.index(int(sample["tokens"][0])) for sample in dataset]
    plan = epochs(dataset, batching_method="stratified")
    assert [NUMBERS[i] for i in ids] == joined(sequence(plan, Topology(), epoch=3))


def test_a_trainer_that_counts_from_0_at_an_epochs_end_does_not_read_it_again(library):
    """Composer saves its epoch checkpoints so; the package would replay the epoch."""
    dataset = make(library)
    rows = sum(map(len, everything(DataLoader(dataset, batch_size=8))))
    assert dataset.state_dict(rows, True)["epoch"] == 0
    assert dataset.state_dict(0, True)["epoch"] == 1
    iterator = iter(DataLoader(dataset, batch_size=8))
    next(iterator)
    assert dataset.state_dict(0, True)["epoch"] == 1


def test_our_order_begins_where_an_epoch_ended(library):
    def ours(state: dict[str, Any], **kw: Any) -> ms.StreamingDataset:
        dataset = make(library, order="mixstream", **kw)
        dataset.load_state_dict(state)
        return dataset

    for state, kw in (
        (their_state(1, 219), {}),
        (their_state(1, 224), {}),
        (make(library).state_dict(0) | {"epoch": 2}, {}),  # ours says by its facts that epoch 2 has not begun
        (their_state(1, 216), {"drop_last": True}),
    ):
        plain = make(library, order="mixstream", **kw)
        plain.set_epoch(2)
        expected = everything(DataLoader(plain, batch_size=8))
        found = ours(state, **kw)
        assert found.next_epoch == 2
        assert everything(DataLoader(found, batch_size=8)) == expected
        with ms.Loader(make(library, order="mixstream", **kw)) as loader:
            loader.load_state_dict(state)
            assert loader.epoch == 2
            assert row_ids(next(iter(loader))) == expected[0]
    with pytest.raises(StateError, match=r'3 samples of it are left.*order="mosaic"'):
        ours(their_state(1, 216))
    with pytest.warns(UserWarning, match=r"epoch is read again: set dataset.next_epoch = 3"):
        assert ours(their_state(2, 0)).next_epoch == 2
    with pytest.raises(StateError, match='saved with order="mixstream"'):
        make(library).load_state_dict(make(library, order="mixstream").state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": ms.mixers.ADO()}, r"mixer=ADO makes the weights of each step.*leave out order="),
        ({"mixer": ms.mixers.Static({"web": 1, "code": 1, "law": 1})}, "give the streams `proportion`"),
        ({"on_bad_sample": "quarantine"}, "whose states cannot list them"),
        ({"each": {"web": {"max_epochs": 2}}}, "in which no stream leaves the mix"),
        ({"order": "random"}, "order='random' is not known; choose one of mixstream, mosaic"),
    ],
)
def test_what_needs_our_order_is_refused_by_name(library, options, message):
    with pytest.raises(ConfigError, match=message):
        make(library, **options)


def test_what_is_not_known_here_is_refused(library):
    dataset = make(library)
    with pytest.raises(ConfigError, match="pass num_samples="):
        dataset.state_dict()
    with pytest.raises(ConfigError, match="Please pass `batch_size`"):
        next(iter(make(library, batch_size=None)))
    loader = DataLoader(dataset, batch_size=8, num_workers=1, persistent_workers=True)
    next(iter(loader))
    dataset.load_state_dict(their_state(0, 40))
    with pytest.raises(ConfigError, match="persistent workers were alive"):
        next(iter(loader))


def test_losses_are_logged_by_domain_and_short_batches_too(library, tmp_path):
    with ms.Loader(make(library), log=tmp_path) as loader:
        for batch in loader:
            loader.report(batch, torch.ones(len(batch.domain)))
        steps = len(loader)
        assert "static" in loader.describe()
        assert loader.weights == pytest.approx({name: size / 219 for name, size in SIZES.items()})
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    logged = [line for line in lines if "step" in line and "mixstream" not in line]
    assert [line["step"] for line in logged] == list(range(steps))
    assert sum(sum(line["rows"].values()) for line in logged) == 219


def test_a_dataset_is_pickled_without_its_tables(library):
    dataset = make(library)
    with ms.Loader(dataset) as loader:
        next(iter(loader))
    copy = pickle.loads(pickle.dumps(dataset))
    assert everything(DataLoader(copy, batch_size=8)) == sequence(epochs(dataset), Topology(), epoch=0)


def test_our_own_order_imports_none_of_it():
    modules = r"mixstream\.(plan\.mosaic|loader\.mosaic_order\.(order|origin|run|setup|shared_epoch))\b"
    of_it = re.compile(rf"^(from|import) {modules}", re.MULTILINE)
    package = Path(ms.__file__).parent
    known = {
        "plan/mosaic",
        *(f"loader/mosaic_order/{name}.py" for name in ("order", "origin", "run", "setup")),
        "compat",
    }
    paths = {path: path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    others = {name: path.read_text() for path, name in paths.items() if not name.startswith(tuple(known))}
    assert len(others) > 100
    assert not [name for name, source in others.items() if of_it.search(source)]  # at the top; functions may


def test_other_workers_go_on_if_one_is_killed_while_it_computes_an_epoch(library):
    dataset = make(library)
    order = dataset._order
    pid = os.fork()
    if not pid:
        order._shared.part((0, 0, 2), 0, lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type]
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert everything(DataLoader(dataset, batch_size=8, num_workers=2)) == sequence(
        epochs(dataset), Topology(), epoch=0
    )


def test_an_epoch_without_a_batch_is_refused_not_empty(library):
    kw = {"batching_method": "stratified", "epoch_size": 4, "batch_size": 80}
    with pytest.raises(ConfigError, match=r"gives an epoch no sample|has no batch for rank 0"):
        next(iter(make(library, **kw)))
    loader = ms.Loader(make(library, batch_size=400, drop_last=True))
    with pytest.raises(ConfigError, match="has no batch for rank 0"):
        next(iter(loader))
