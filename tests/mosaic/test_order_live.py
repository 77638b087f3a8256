"""`order="mosaic"` against mosaicml-streaming itself (`make test-mosaic`): functions, epochs, states both ways."""

import itertools
import json
import logging
import os
import random
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.plan.mosaic import Topology, get_partitions, get_sampling, get_shuffle
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.weights import shares

streaming = pytest.importorskip("streaming", reason="compares live with mosaicml-streaming: make test-mosaic")
from streaming.base.partition import get_partitions as their_partitions  # noqa: E402
from streaming.base.sampling import get_sampling as their_sampling  # noqa: E402
from streaming.base.shuffle import get_shuffle as their_shuffle  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

pytestmark = pytest.mark.mosaic

GOLDENS = runpy.run_path(str(Path(__file__).with_name("make_order_goldens.py")))
SIZES = {"a": 57, "b": 130, "c": 31}
EVEN = ({}, {}, {})
WEIGHTS = (EVEN, ({"proportion": 0.5}, {"proportion": 0.3}, {"proportion": 0.2}), ({"repeat": 1.5}, {"choose": 70}, {}))


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    clean_stale_shared_memory()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out, first = tmp_path_factory.mktemp("mds"), 0
    for name, size in SIZES.items():
        with streaming.MDSWriter(out=str(out / name), columns={"x": "int"}, size_limit=400) as writer:
            for i in range(size):
                writer.write({"x": first + i})
        first += size
    return out


def result(function, *args):
    try:
        return function(*args)
    except Exception as error:  # which one differs: ours says what to do
        return error


def check_same(theirs, ours, args):
    if isinstance(theirs, Exception):
        assert isinstance(ours, ValueError), (args, theirs, ours)
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=repr(args))


@pytest.mark.parametrize("seed", range(10))
def test_the_functions_return_the_same_arrays(seed):
    rng = random.Random(seed)
    for _ in range(200):
        n = rng.choice((1, 2, 3, 5, 7, 10, 17, 33, 100, 257, 1000))
        args = (rng.choice(("orig", "relaxed")), n, rng.choice((1, 2, 3, 4, 6, 8, 16)), rng.choice((1, 2, 3, 4, 8)),
                rng.choice((1, 2, 3, 8)), rng.choice((1, 2, 3)), rng.choice((1, 2, 4, 6, 8)),
                rng.choice((0, 0, 1, 8, 16, 32, 48, n, n + 5)), rng.choice((None, None, 1, 2, 3, 4)))  # fmt: skip
        check_same(result(their_partitions, *args), result(get_partitions, *args), args)
        sizes = np.array([rng.choice((1, 5, 10, 30, 100, 64, 0)) for _ in range(rng.randint(1, 12))], dtype=np.int64)
        args = (rng.choice(GOLDENS["ALGORITHMS"]), sizes, rng.choice((1, 2, 3, 4, 8, 16)), rng.randint(0, 10**6),
                rng.randint(0, 5), rng.choice((1, 2, 3, 10, 40, 100, 1000, 1 << 18)))  # fmt: skip
        check_same(result(their_shuffle, *args), result(get_shuffle, *args), args)
        if total := int(sizes.sum()):
            args = (sizes, rng.randint(0, 3 * total + 1), rng.choice((1, 2, 5, 7, 1000)), rng.randint(0, 10**6),
                    rng.randint(0, 5), rng.random() < 0.5)  # fmt: skip
            check_same(result(their_sampling, *args), result(get_sampling, *args), args)


@pytest.mark.parametrize("seed", range(10))
def test_whole_epochs_are_dealt_out_alike(seed):
    rng, alike = random.Random(1000 + seed), 0
    for _ in range(100):
        case = GOLDENS["random_case"](rng)
        options, (nodes, ranks, workers) = case["options"], case["world"]

        def ours(case=case, options=options, nodes=nodes, ranks=ranks, workers=workers):
            plan = EpochPlan(
                samples_per_shard=np.array([size for sizes in case["shards"] for size in sizes]),
                shards_per_stream=tuple(len(sizes) for sizes in case["shards"]),
                shares=shares(
                    samples=[sum(sizes) for sizes in case["shards"]],
                    **case["weights"],
                    epoch_size=case["epoch_size"],
                    seed=options["shuffle_seed"],
                ),
                **options,
            )
            world = Topology(num_nodes=nodes, ranks_per_node=ranks, workers_per_rank=workers)
            return plan.work(world, epoch=case["epoch"], sample_in_epoch=case["sample_in_epoch"])

        theirs = result(GOLDENS["of_the_package"], case)
        check_same(theirs, result(ours), case)
        alike += isinstance(theirs, np.ndarray)
    assert alike > 40


def options_of(rng):
    """Return dataset arguments, and the weights of the streams."""
    method = rng.choice(("random", "random", "stratified", "per_stream", "device_per_stream"))
    options = {
        "batch_size": rng.choice((1, 4, 7)) if method == "random" else 8,
        "shuffle": rng.random() < 0.8,
        "shuffle_algo": rng.choice(GOLDENS["ALGORITHMS"]),
        "batching_method": method,
        "num_canonical_nodes": rng.choice((None, 1, 2)),
        "sampling_method": rng.choice(("balanced", "fixed")),
    }
    if method != "random" and options["shuffle_algo"] in {"py1s", "py2s"}:
        options["num_canonical_nodes"] = 2
    return options, rng.choice(WEIGHTS)


def theirs(root, weights, options):
    clean_stale_shared_memory()
    streams = [streaming.Stream(local=str(root / name), **kw) for name, kw in zip(SIZES, weights)]
    return streaming.StreamingDataset(streams=streams, **options)


def ours(root, weights, options):
    streams = [ms.Stream(local=str(root / name), **kw) for name, kw in zip(SIZES, weights)]
    return ms.StreamingDataset(streams=streams, order="mosaic", **options)


def read(loader):
    return [batch["x"].tolist() for batch in loader]


@pytest.mark.parametrize("seed", range(12))
def test_dataloaders_read_the_same_samples(root, seed):
    rng = random.Random(2000 + seed)
    options, weights = options_of(rng)
    workers, size = rng.choice((0, 1, 2, 3)), rng.choice((options["batch_size"], 3))
    kw = {"batch_size": size, "num_workers": workers, "persistent_workers": workers > 0 and rng.random() < 0.5}
    their_dataset, our_dataset = theirs(root, weights, options), ours(root, weights, options)
    assert (len(our_dataset), our_dataset.epoch_size) == (len(their_dataset), their_dataset.epoch_size)
    for name in ("choose", "proportion", "repeat"):
        assert [getattr(s, name) for s in our_dataset.streams] == [getattr(s, name) for s in their_dataset.streams]
    loaders = DataLoader(their_dataset, **kw), DataLoader(our_dataset, **kw)
    for _ in range(2):
        first, second = map(read, loaders)
        assert first == second
        state = their_dataset.state_dict(sum(map(len, first)), True)
        assert state == {key: our_dataset.state_dict(sum(map(len, first)), True)[key] for key in state}


def test_spawned_workers_read_the_same_samples(root):
    options = {"batch_size": 8, "shuffle": True}
    expected = read(DataLoader(theirs(root, EVEN, options), batch_size=8, num_workers=2))
    loader = DataLoader(ours(root, EVEN, options), batch_size=8, num_workers=2, multiprocessing_context="spawn")
    assert read(loader) == expected


def our_loader(kind, dataset, workers):
    if kind == "plain":
        return DataLoader(dataset, batch_size=dataset.batch_size, num_workers=workers)
    return ms.Loader(dataset) if kind == "fast" else ms.StreamingDataLoader(dataset, num_workers=workers)


@pytest.mark.parametrize("kind", ["plain", "StreamingDataLoader", "fast"])
@pytest.mark.parametrize("seed", range(8))
def test_a_run_goes_on_in_both_directions(root, seed, kind):
    rng = random.Random(3000 + seed)
    options, weights = options_of(rng)
    their_workers, our_workers = rng.choice((0, 2)), rng.choice((0, 1, 3))
    passed, steps = rng.choice((0, 1)), rng.randint(1, 6)
    loader = streaming.StreamingDataLoader(
        theirs(root, weights, options), batch_size=options["batch_size"], num_workers=their_workers
    )
    for _ in range(passed):
        read(loader)
    batches = iter(loader)
    first, state = read(itertools.islice(batches, steps)), loader.state_dict()
    rest, following = read(batches), read(loader)
    assert rest

    dataset = ours(root, weights, options)
    if kind == "plain":
        dataset.load_state_dict(state)
        assert dataset.state_dict(0, False) == state
    here = our_loader(kind, dataset, our_workers)
    if kind != "plain":
        here.load_state_dict(state)
    assert read(here) == rest
    assert read(here) == following

    dataset = ours(root, weights, options)
    here = our_loader(kind, dataset, our_workers)
    for _ in range(passed):
        read(here)
    batches = iter(here)
    assert read(itertools.islice(batches, steps)) == first
    saved = dataset.state_dict(sum(map(len, first)), False) if kind == "plain" else here.state_dict()
    assert {key: saved[key] for key in state} == state
    there = streaming.StreamingDataLoader(
        theirs(root, weights, options), batch_size=options["batch_size"], num_workers=our_workers
    )
    there.load_state_dict(saved)
    assert [read(there), read(there)] == [rest, following]


def their_ranks(root, options, *, nodes, ranks, steps=0, state=None):
    """Return what the ranks of a run read, and the state of rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(ranks):
        each = ranks // nodes
        world = {
            "RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank % each, "LOCAL_WORLD_SIZE": each,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("order_rank.py")), str(root)]
        arguments = [json.dumps(options), str(steps), json.dumps(state)]
        env = {**os.environ, **{key: str(value) for key, value in world.items()}}
        running.append(subprocess.Popen([*command, *arguments], env=env, stdout=subprocess.PIPE, text=True))
    found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    return [one["read"] for one in found], found[0]["state"]


def our_ranks(root, options, *, nodes, ranks, state=None):
    found = []
    for rank in range(ranks):
        dataset = ms.StreamingDataset(
            local=str(root), order="mosaic", rank=rank, world_size=ranks, nodes=nodes, **options
        )
        if state is not None:
            dataset.load_state_dict(state)
        found.append(read(DataLoader(dataset, batch_size=options["batch_size"], num_workers=1)))
    return found


@pytest.mark.parametrize("replication", [None, 2])
def test_ranks_of_real_processes_read_the_same_and_go_on(root, replication):
    options = {"batch_size": 6, "shuffle": True, "num_canonical_nodes": 2, "replication": replication}
    read_there, state = their_ranks(root / "b", options, nodes=1, ranks=2, steps=3)
    whole = our_ranks(root / "b", options, nodes=1, ranks=2)
    assert [one[:3] for one in whole] == read_there
    rest = [one[3:] for one in whole]
    assert our_ranks(root / "b", options, nodes=1, ranks=2, state=state) == rest
    if replication is None:  # the same 12 samples a step on one rank
        (alone,) = our_ranks(root / "b", {**options, "batch_size": 12}, nodes=1, ranks=1, state=state)
        (there,), _ = their_ranks(root / "b", {**options, "batch_size": 12}, nodes=1, ranks=1, state=state)
        assert alone == there
        assert [sorted(batch) for batch in alone[:-1]] == [sorted(a + b) for a, b in zip(*rest)][: len(alone) - 1]
