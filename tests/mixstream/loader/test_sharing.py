"""Threads and iterators that share a loader: each batch is handed out once, or the second is refused by name."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import Tilt, drive, joined, loaders_of, losses, make_dataset, row_ids

import mixstream as ms
from mixstream.errors import ClosedError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)`, `work(1)`, … in threads that start together; return what each returned or raised."""
    barrier = threading.Barrier(count)
    found: list[Any] = [None] * count

    def run(at: int) -> None:
        barrier.wait()
        try:
            found[at] = work(at)
        except Exception as error:
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def epoch(library) -> list[list[int]]:
    with loaders_of(library) as loaders:
        return drive(loaders, 28)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_threads_that_take_the_first_batch_together_receive_different_ones(library, prefetch):
    known = epoch(library)
    for _ in range(5):
        with ms.Loader(make_dataset(library), prefetch=prefetch) as loader:
            first = together(4, lambda at, loader=loader: next(iter(loader)))
            assert sorted(batch.step for batch in first) == [0, 1, 2, 3]
            assert loader.step == 4
            rest = list(loader)
        assert [row_ids(batch) for batch in sorted(first, key=lambda batch: batch.step)] == known[:4]
        assert [row_ids(batch) for batch in rest] == known[4:]


def test_loops_in_threads_share_an_epoch(library):
    with ms.Loader(make_dataset(library)) as loader:
        loops = [iter(loader) for _ in range(3)]  # each begun here and used there
        found = together(3, lambda at: list(loops[at]))
    batches = sorted((batch for taken in found for batch in taken), key=lambda batch: batch.step)
    assert [row_ids(batch) for batch in batches] == epoch(library)


def test_two_live_iterators_of_a_loader_share_its_position(library):
    with ms.Loader(make_dataset(library)) as loader:
        pairs = list(zip(loader, loader))
    assert [row_ids(batch) for pair in pairs for batch in pair] == epoch(library)


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_may_share_the_iterator_of_a_streaming_dataloader(library, workers):
    batches = iter(ms.StreamingDataLoader(make_dataset(library), batch_size=8, num_workers=workers))
    found = together(3, lambda at: list(batches))
    taken = sorted((batch for batches in found for batch in batches), key=lambda batch: batch.step)
    assert [row_ids(batch) for batch in taken] == epoch(library)


def test_threads_that_begin_a_streaming_dataloader_together_repeat_no_batch(library):
    """The later `iter()` is the loader's; the earlier one is refused, by name, before it repeats anything."""
    known = epoch(library)
    loader: Any = ms.StreamingDataLoader(make_dataset(library), batch_size=8)
    loops = [iter(loader) for _ in range(2)]
    taken = together(2, lambda at: [next(loops[at])])
    assert sorted(rows == known[0] for rows in (row_ids(batches[0]) for batches in taken)) == [False, True]
    refused = [isinstance(found, ClosedError) for found in together(2, lambda at: next(loops[at]))]
    assert sorted(refused) == [False, True]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_iterator_of_a_streaming_dataloader_ends_the_earlier_one(library, workers):
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader: Any = ms.StreamingDataLoader(make_dataset(library), batch_size=8, **options)
    first = iter(loader)
    assert next(first).step == 0
    second = iter(loader)
    assert next(second).step == 28  # an abandoned epoch is followed by the next
    with pytest.raises(ClosedError, match=r"a later iter\(\) of the same loader began: .*one position"):
        next(first)
    state = loader.state_dict()
    expected = row_ids(next(second))
    resumed: Any = ms.StreamingDataLoader(make_dataset(library), batch_size=8)
    resumed.load_state_dict(state)
    assert row_ids(next(iter(resumed))) == expected


@pytest.mark.parametrize("into", ["loader", "dataset"])
def test_an_iterator_from_before_a_load_is_refused(library, into):
    loader: Any = ms.StreamingDataLoader(make_dataset(library), batch_size=8)
    state = loader.state_dict()
    batches = iter(loader)
    next(batches)
    (loader if into == "loader" else loader.dataset).load_state_dict(state)
    with pytest.raises(ClosedError, match="a state was loaded while this iterator"):
        next(batches)
    assert next(iter(loader)).step == 0


@pytest.mark.parametrize("into", ["loader", "dataset"])
def test_a_loop_over_a_loader_goes_on_from_a_state_that_is_loaded_within_it(library, into):
    with ms.Loader(make_dataset(library)) as loader:
        state, steps = loader.state_dict(), []
        for batch in loader:
            steps.append(batch.step)
            if len(steps) == 3:
                (loader if into == "loader" else loader.dataset).load_state_dict(state)
    assert steps == [0, 1, 2, *range(28)]


class Gate:
    """A transform that lets batches pass up to a step."""

    def __init__(self, stops_at: int) -> None:
        self.stops_at, self.waits, self.open = stops_at, threading.Event(), threading.Event()

    def __call__(self, batch: ms.Batch) -> ms.Batch:
        if batch.step >= self.stops_at:
            self.waits.set()
            assert self.open.wait(60)
        return batch


def test_closing_a_loader_while_another_thread_waits_for_its_batch(library):
    """That thread is told so: its loop must not end as if the epoch had."""
    gate, known = Gate(3), epoch(library)
    loader = ms.Loader(make_dataset(library), prefetch=1, transforms=[gate])
    taken: list[Any] = []

    def loop() -> None:
        try:
            taken.extend(batch for batch in loader)
        except ClosedError as error:
            taken.append(error)
            gate.open.set()  # now the background thread may end

    thread = threading.Thread(target=loop)
    thread.start()
    assert gate.waits.wait(60)
    loader.close()
    thread.join(60)
    assert [row_ids(batch) for batch in taken[:-1]] == known[:3]
    assert "closed by another thread while this one waited" in str(taken[-1])
    assert [row_ids(batch) for batch in loader] == known[3:]  # nothing was lost, and the run has not ended
    loader.close()


def test_closing_a_loader_while_another_thread_makes_its_batch(library):
    gate, known = Gate(3), epoch(library)
    loader = ms.Loader(make_dataset(library), prefetch=0, transforms=[gate])
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.extend(itertools.islice(loader, 4)))
    thread.start()
    assert gate.waits.wait(60)
    threading.Timer(0.2, gate.open.set).start()
    loader.close()  # waits for that batch, whose shards it would unmap
    thread.join(60)
    assert [row_ids(batch) for batch in [*taken, *loader]] == known
    loader.close()


LEARNING: dict[str, Any] = {"mixer": Tilt(), "lag": 6}


def report_by_halves(loader: ms.Loader, batch: ms.Batch) -> None:
    halves, loss = batch.split(2), torch.from_numpy(losses(row_ids(batch)))
    assert together(2, lambda at: loader.report(halves[at], loss[halves[at].rows])) == [None, None]


@pytest.mark.filterwarnings("ignore:state is taken after step .* before it was reported")
def test_states_saved_beside_training_are_of_one_step(library):
    """One thread trains, two report halves of its batches, one saves."""
    with loaders_of(library, **LEARNING) as loaders:
        known = drive(loaders, 50)
    states: list[Any] = []
    with ms.Loader(make_dataset(library, **LEARNING)) as loader:
        done = threading.Event()

        def save() -> None:
            while not done.is_set():
                states.append(loader.state_dict())

        saver = threading.Thread(target=save)
        saver.start()
        for batch in (batch for _ in range(2) for batch in loader):
            report_by_halves(loader, batch)
            assert row_ids(batch) == known[batch.step]
            if batch.step == 48:
                break
        done.set()
        saver.join(60)
    assert not [state for state in states if not isinstance(state, dict)]
    for state in states[:: max(len(states) // 8, 1)]:
        with ms.Loader(make_dataset(library, **LEARNING)) as resumed:
            resumed.load_state_dict(state)
            assert drive([resumed], 1) == [known[resumed.step - 1]]


def test_a_loader_is_copied_and_pickled_with_a_lock_of_its_own(library):
    loader = ms.Loader(make_dataset(library))
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        with twin:
            assert joined(row_ids(batch) for batch in twin) == joined(epoch(library))
