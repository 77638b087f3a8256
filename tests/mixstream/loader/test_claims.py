"""Epochs and ranks where the main process is not asked: what workers agree on, and what they receive."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from harness import drive, loaders_of, make_dataset, row_ids
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]


def test_the_same_torch_seed_before_every_epoch_repeats_no_epoch(library):
    expected = list(ms.Loader(make_dataset(library))), None
    loader = DataLoader(make_dataset(library), batch_size=8, num_workers=2)
    epochs = []
    for _ in range(2):
        torch.manual_seed(0)
        epochs.append([row_ids(batch) for batch in loader])
    assert epochs[0] == [row_ids(batch) for batch in expected[0]]
    assert epochs[0] != epochs[1]
    assert len(epochs[1]) == 28


def known_epochs(library, epochs: int) -> list[list[list[int]]]:
    """Return the batches of the first epochs, as `Loader` reads them."""
    with loaders_of(library) as (loader,):
        return [[row_ids(batch) for batch in loader] for _ in range(epochs)]


def sleep_unless_first(worker: int) -> None:
    time.sleep(0.4 * (worker > 0))


def seeded_alike(loader: DataLoader) -> Iterator[Any]:
    """Return an iterator whose workers have the same seeds as those of every other."""
    torch.manual_seed(0)
    return iter(loader)


@pytest.mark.parametrize("persistent_workers", [False, True])
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_agree_on_the_epoch_after_abandoned_iterators(library, workers, persistent_workers):
    """Although workers are slow to begin, and torch gives those of every iterator the same seeds."""
    epochs = known_epochs(library, 4)
    loader = DataLoader(
        make_dataset(library),
        batch_size=8,
        num_workers=workers,
        persistent_workers=persistent_workers,
        worker_init_fn=sleep_unless_first,
    )
    for epoch in (0, 2):
        assert row_ids(next(seeded_alike(loader))) == epochs[epoch][0]  # and abandoned: only worker 0 is known to begin
        assert [row_ids(batch) for batch in seeded_alike(loader)] == epochs[epoch + 1]


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_of_other_start_methods_agree_on_the_epoch(library, start, warm_spawn):
    epochs = known_epochs(library, 2)
    loader = DataLoader(
        make_dataset(library),
        batch_size=8,
        num_workers=2,
        multiprocessing_context=start,
        worker_init_fn=sleep_unless_first,
    )
    next(seeded_alike(loader))
    assert [row_ids(batch) for batch in seeded_alike(loader)] == epochs[1]


def test_iterators_that_are_dropped_at_once_lose_no_row_of_the_next_epoch(library):
    epochs = known_epochs(library, 4)
    loader = DataLoader(make_dataset(library), batch_size=8, num_workers=2, worker_init_fn=sleep_unless_first)
    for _ in range(3):
        seeded_alike(loader)
    assert [row_ids(batch) for batch in seeded_alike(loader)] in epochs  # those may count or not


def test_loaders_over_one_dataset_share_its_epochs(library):
    """A second DataLoader that looks at a batch takes an epoch; the next one of the first is whole."""
    epochs, dataset = known_epochs(library, 5), make_dataset(library)
    train = DataLoader(dataset, batch_size=8, num_workers=2, persistent_workers=True)
    look = DataLoader(dataset, batch_size=8, num_workers=2)
    assert [row_ids(batch) for batch in seeded_alike(train)] == epochs[0]
    for epoch in (1, 3):
        assert row_ids(next(seeded_alike(look))) == epochs[epoch][0]
        assert [row_ids(batch) for batch in seeded_alike(train)] == epochs[epoch + 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_loader_over_the_dataset_does_not_move_the_first(library, workers):
    epochs, dataset = known_epochs(library, 3), make_dataset(library)
    options = {"batch_size": 8, "num_workers": workers, "persistent_workers": workers > 0}
    train, look = (ms.StreamingDataLoader(dataset, **options) for _ in range(2))
    for epoch in range(3):
        assert [row_ids(batch) for batch in seeded_alike(train)] == epochs[epoch]
        assert row_ids(next(seeded_alike(look))) == epochs[epoch][0]


@pytest.mark.parametrize("alike", [False, True])
def test_two_live_iterators_do_not_mix_their_epochs(library, alike):
    known = [rows for epoch in known_epochs(library, 2) for rows in epoch]
    loader = DataLoader(make_dataset(library), batch_size=8, num_workers=2, worker_init_fn=sleep_unless_first)
    first, second = (seeded_alike if alike else iter)(loader), (seeded_alike if alike else iter)(loader)
    taken = [[row_ids(next(batches)) for _ in range(6)] for batches in (first, second)]
    assert sorted(map(known.index, (rows[0] for rows in taken))) == [0, 28]
    for rows in taken:
        begin = known.index(rows[0])
        assert rows == known[begin : begin + 6]


def test_a_state_loaded_behind_persistent_workers_is_no_silent_loss(library):
    dataset = make_dataset(library)
    loader = DataLoader(dataset, batch_size=8, num_workers=1, persistent_workers=True)
    state = dataset.state_dict(0)
    list(loader)
    dataset.load_state_dict(state)
    with pytest.raises(ConfigError, match="persistent workers were alive"):
        list(loader)


def test_ranks_that_come_to_be_after_len_was_asked_are_noticed(library, monkeypatch):
    dataset = make_dataset(library, batch_size=4)
    assert len(dataset) == 4 * 55
    loader = ms.Loader(dataset)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(dataset) == 4 * 28
    with loaders_of(library, world=2) as loaders:
        next(iter(loaders[0]))
        assert row_ids(next(iter(loader))) == row_ids(next(iter(loaders[1])))


def test_a_position_outlives_the_ranks_that_reached_it(library, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ms.Loader(make_dataset(library, batch_size=4)) as loader:
        drive([loader], 5)
        state = loader.state_dict()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert loader.state_dict() == state
    assert loader.step == 5


def test_loaders_of_one_dataset_do_not_disturb_each_other(library):
    dataset = make_dataset(library)
    with loaders_of(library) as loaders:
        expected = drive(loaders, 28 * 8)
    several = [ms.Loader(dataset) for _ in range(3)]
    found: list[list[list[int]]] = [[], [], []]
    threads = [
        threading.Thread(target=lambda at=at: found[at].extend(drive([several[at]], 28 * 8)))
        for at in range(len(several))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_a_loader_that_nobody_closes_takes_its_thread_along(library):
    def alive() -> int:
        return sum(thread.name == "mixstream-prefetch" for thread in threading.enumerate())

    before = alive()
    for _ in range(5):
        for _batch in ms.Loader(make_dataset(library)):
            break
    gc.collect()
    assert alive() <= before + 1


def test_mixers_are_told_apart_by_their_parameters(library):
    weights = {"web": 1, "code": 1, "law": 1}
    with loaders_of(library, mixer=ms.mixers.Schedule({0: weights})) as (loader,):
        state = loader.state_dict()
    other = ms.mixers.Schedule({0: weights, 9: {**weights, "law": 5}})
    with loaders_of(library, mixer=other) as (loader,), pytest.raises(ms.errors.StateError, match="mixing method"):
        loader.load_state_dict(state)


def test_static_weights_of_zero_draw_nothing(library):
    dataset = make_dataset(library, mixer=ms.mixers.Static({"web": 1, "code": 1, "law": 0}), epoch_size=81)
    rows = np.concatenate([row_ids(batch) for batch in ms.Loader(dataset)])
    assert not (rows >= 3000).any()
