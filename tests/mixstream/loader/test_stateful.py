"""The state of the dataset itself: what is asked where it is iterated, in this process or by each DataLoader worker."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from harness import drive, joined, loaders_of, make_dataset, row_ids
from torch.utils.data import DataLoader, get_worker_info

import mixstream as ms
from mixstream.errors import ConfigError, StateError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]

STEPS = 28


@pytest.fixture(scope="module")
def epochs(library) -> list[list[list[int]]]:
    """The batches of the first epochs."""
    with loaders_of(library) as (loader,):
        return [[row_ids(batch) for batch in loader] for _ in range(4)]


def tokens(sample: Any) -> int:
    return int(sample["tokens"][0])


def restored(library: Any, state: dict[str, Any], **kw: Any) -> ms.StreamingDataset:
    dataset = make_dataset(library, **kw)
    dataset.load_state_dict(json.loads(json.dumps(state)))
    return dataset


@pytest.mark.parametrize("taken", [0, 1, 8, 13, 24, 217, 223])
def test_a_state_in_this_process_counts_the_samples_that_were_taken(library, epochs, taken):
    first = joined(epochs[0])
    dataset = make_dataset(library)
    samples = iter(dataset)
    assert [tokens(sample) for sample in islice(samples, taken)] == first[:taken]
    state = dataset.state_dict()
    assert state == dataset.state_dict(taken)
    later = restored(library, state)
    assert later.state_dict() == state
    assert list(map(tokens, later)) == first[taken:]
    assert list(map(tokens, later)) == joined(epochs[1])


def test_after_the_last_sample_the_epoch_is_over(library, epochs):
    dataset = make_dataset(library)
    samples = iter(dataset)
    for _ in range(STEPS * 8):
        next(samples)
    inside = restored(library, dataset.state_dict())  # the loop has not ended yet
    assert list(inside) == []
    assert list(map(tokens, inside)) == joined(epochs[1])
    assert next(samples, None) is None
    after = restored(library, dataset.state_dict())
    assert list(map(tokens, after)) == joined(epochs[1])
    with ms.Loader(restored(library, dataset.state_dict())) as loader:
        assert drive([loader], 3) == epochs[1][:3]


def test_the_first_and_a_loaded_state_are_known_before_anything_is_read(library):
    with ms.Loader(make_dataset(library)) as loader:
        assert make_dataset(library).state_dict() == loader.state_dict()
        drive([loader], 31)
        state = loader.state_dict()
    assert restored(library, state).state_dict() == state


def test_an_unused_iterator_changes_no_state(library):
    dataset = make_dataset(library)
    state = dataset.state_dict()
    iter(dataset)
    assert dataset.state_dict() == state


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_read_ahead_are_no_count(library, epochs, persistent):
    dataset = make_dataset(library)
    options = {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": persistent}
    batches = iter(DataLoader(dataset, batch_size=8, **options))
    assert row_ids(next(batches)) == epochs[0][0]
    with pytest.raises(ConfigError, match=r"pass num_samples=.*StreamingDataLoader.*StatefulDataLoader"):
        dataset.state_dict()
    assert list(map(tokens, restored(library, dataset.state_dict(8)))) == joined(epochs[0][1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_dataset_of_a_loader_does_not_say_where_it_is(library, workers):
    with ms.Loader(make_dataset(library)) as loader:
        next(iter(loader))
        for asked in ((), (8,)):
            with pytest.raises(ConfigError, match=r"a mixstream\.Loader reads this dataset and keeps the position"):
                loader.dataset.state_dict(*asked)
        state = loader.state_dict()
        loader.load_state_dict(state)
        assert loader.dataset.state_dict() == state
    dataset = make_dataset(library)
    options = {"multiprocessing_context": "fork"} if workers else {}
    streaming = ms.StreamingDataLoader(dataset, batch_size=8, num_workers=workers, **options)
    assert dataset.state_dict() == streaming.state_dict()
    next(iter(streaming))
    if workers:
        with pytest.raises(ConfigError, match="DataLoader workers read this dataset"):
            dataset.state_dict()
    else:
        assert dataset.state_dict() == streaming.state_dict()
    assert dataset.state_dict(8) == streaming.state_dict()


# --- what each worker says --------------------------------------------------------------------------------------------


def with_state(samples: list[Any]) -> tuple[list[int], int, str]:
    """Return a batch, its worker and the worker's state after it, as torchdata's StatefulDataLoader collects them."""
    info = get_worker_info()
    assert info is not None
    return [tokens(sample) for sample in samples], info.id, json.dumps(info.dataset.state_dict())


class Restore:
    """Loads each worker's state before it is iterated."""

    def __init__(self, states: dict[int, str]) -> None:
        self.states = states

    def __call__(self, worker: int) -> None:
        get_worker_info().dataset.load_state_dict(json.loads(self.states[worker]))


def workers_of(dataset: Any, workers: int, size: int = 8, **kw: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset, size, num_workers=workers, collate_fn=with_state, multiprocessing_context="fork", timeout=60, **kw
    )


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("workers", "size"), [(1, 8), (2, 8), (3, 12)])
def test_each_worker_goes_on_after_what_it_has_handed_out(library, epochs, workers, size, persistent):
    rows, taken = joined(epochs[1]), 2 * workers + 1
    loader = workers_of(make_dataset(library), workers, size, persistent_workers=persistent)
    assert joined(batch for batch, *_ in loader) == joined(epochs[0])
    states = {}
    for batch, worker, state in islice(loader, taken):
        states[worker], last = state, worker
        del batch
    dataset = make_dataset(library)
    again = workers_of(dataset, workers, size, persistent_workers=persistent, worker_init_fn=Restore(states))
    batches: dict[int, list[list[int]]] = {}
    for batch, worker, _ in again:
        batches.setdefault(worker, []).append(batch)
    turns = [(last + 1 + i) % workers for i in range(-(-len(rows) // size) - taken)]  # which torchdata restores
    assert joined(batches[worker].pop(0) for worker in turns) == rows[taken * size :]
    assert not any(batches.values())
    again.worker_init_fn = None
    assert joined(batch for batch, *_ in again) == joined(epochs[2])
    assert dataset.next_epoch == 3
    with pytest.raises(ConfigError, match="DataLoader whose workers loaded a state reads this dataset"):
        dataset.state_dict()


def test_a_worker_s_state_is_for_this_worker(library):
    states = {worker: state for _, worker, state in islice(workers_of(make_dataset(library), 2), 2)}
    with pytest.raises(StateError, match=r"worker 1 of 2 of a DataLoader, and this is worker 0 of 1: .*num_workers=2"):
        restored(library, json.loads(states[1]))
    with pytest.raises(StateError, match=r"worker 1 of 2 of a DataLoader, and mixstream\.Loader goes on for all"):
        ms.Loader(make_dataset(library)).load_state_dict(json.loads(states[1]))
    for workers, given, message in (
        (1, {0: states[1]}, "worker 1 of 2 of a DataLoader, and this is worker 0 of 1"),
        (1, dict.fromkeys(range(2), json.dumps(make_dataset(library).state_dict())), "does not say what this worker"),
    ):
        with pytest.raises(StateError, match=message):
            list(workers_of(make_dataset(library), workers, worker_init_fn=Restore(given)))
    with pytest.raises(StateError, match=r"took turns of 8 samples, and this DataLoader has batch_size=16"):
        list(workers_of(make_dataset(library), 2, 16, worker_init_fn=Restore(states)))


# --- torchdata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "options"),
    [
        (0, {}),
        (1, {"snapshot_every_n_steps": 3}),
        (2, {"persistent_workers": True}),
        (2, {"snapshot_every_n_steps": 4, "batch_size": 12}),
    ],
)
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_dataloader_of_torchdata_resumes_exactly(library, epochs, workers, options, epoch):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def loader() -> Any:
        start = {"multiprocessing_context": "fork", "timeout": 60} if workers else {}
        return stateful(make_dataset(library), **{"batch_size": 8, "num_workers": workers, **start, **options})

    size = options.get("batch_size", 8)
    batches = [[joined(rows)[i : i + size] for i in range(0, STEPS * 8, size)] for rows in epochs]
    for taken in (0, 5, len(batches[0]), None):
        run = loader()
        for _ in range(epoch):
            list(run)
        for _ in islice(run, taken):
            pass
        state = run.state_dict()
        later = loader()
        later.load_state_dict(state)
        if taken is not None:  # else the loop has ended, and the next one is the next epoch
            assert [row_ids(batch) for batch in later] == batches[epoch][taken:]
            again = loader()
            again.load_state_dict(state)
            assert [row_ids(batch) for batch in islice(again, 1)] == batches[epoch][taken : taken + 1]
        assert [row_ids(batch) for batch in later] == batches[epoch + 1]
