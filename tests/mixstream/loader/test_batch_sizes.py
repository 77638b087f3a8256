"""DataLoaders whose batches are no steps: other batch sizes, `drop_last`, and states in the middle of a step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import FIRST, SIZES, drive, joined, loaders_of, make_dataset, row_ids, streams
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.loader.iteration import Share

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]


@pytest.fixture(scope="module")
def epochs(library) -> list[list[int]]:
    """The rows of the first epochs, one after the other: 224 each, 8 a step, of which 5 are repeats."""
    with loaders_of(library) as (loader,):
        return [joined(row_ids(batch) for batch in loader) for _ in range(3)]


def plain(dataset: Any, batch_size: int | None, workers: int, **kw: Any) -> DataLoader[Any]:
    if workers:
        kw = {"num_workers": workers, "multiprocessing_context": "fork", "timeout": 60, **kw}
    return DataLoader(dataset, batch_size=batch_size, **kw)


def first_tokens(batch: Any) -> list[int]:
    return [int(batch["tokens"][0])] if batch["tokens"].ndim == 1 else row_ids(batch)


@given(workers=st.integers(1, 5), size=st.integers(1, 9), begin=st.integers(0, 40), rows=st.integers(1, 12))
def test_each_row_is_one_worker_s(workers, size, begin, rows):
    shares = [Share(worker=worker, workers=workers, batch_size=size) for worker in range(workers)]
    got = joined(share.of_step(begin=begin, rows=rows).tolist() for share in shares)
    assert sorted(got) == list(range(rows))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [16, 12, 5, None])
def test_batches_of_any_size_have_the_rows_in_their_order(library, epochs, size, workers):
    """LLM Foundry's packing ratio makes such batches: 2, 1.5 or .625 times the dataset's 8 rows."""
    loader, n = plain(make_dataset(library), size, workers), size or 1
    for rows in epochs[:2]:
        assert [first_tokens(batch) for batch in loader] == [rows[i : i + n] for i in range(0, len(rows), n)]


class Doubled(IterableDataset[Any]):
    """A user's dataset around ours."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        for sample in self.dataset:
            yield {"tokens": sample["tokens"] * 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrapped_dataset_serves_batches_of_any_size(library, epochs, workers):
    loader = plain(Doubled(make_dataset(library)), 12, workers)
    assert joined(row_ids(batch) for batch in loader) == [2 * row for row in epochs[0]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [16, 12, 5])
def test_a_state_by_count_of_samples_goes_on_after_them(library, epochs, size, workers):
    """As Composer saves it, which asks the dataset with the samples that the model was given."""
    dataset = make_dataset(library)
    batches = iter(plain(dataset, size, workers))
    for taken in (1, 2, 3):
        next(batches)
        state = json.loads(json.dumps(dataset.state_dict(taken * size, True)))
        for later, other in ((size, workers), (8, 2), (7, 0)):
            loaded = make_dataset(library)
            loaded.load_state_dict(state)
            loader = plain(loaded, later, other)
            assert joined(row_ids(batch) for batch in loader) == epochs[0][taken * size :]
            assert joined(row_ids(batch) for batch in loader) == epochs[1]
        resumed = make_dataset(library)
        resumed.load_state_dict(state)
        next(iter(plain(resumed, size, 0)))
        assert resumed.state_dict((taken + 1) * size) == dataset.state_dict((taken + 1) * size)
        assert resumed.state_dict(size, False) == dataset.state_dict((taken + 1) * size)


def test_ranks_go_on_in_the_middle_of_a_step(library):
    def ranks(batch: int = 4, size: int = 2) -> list[Any]:
        return [make_dataset(library, batch_size=batch, rank=rank, world_size=size) for rank in range(size)]

    expected = [joined(row_ids(batch) for batch in plain(dataset, 4, 0)) for dataset in ranks()]
    first, states = ranks(), []
    for dataset, rows in zip(first, expected):
        assert row_ids(next(iter(plain(dataset, 6, 2)))) == rows[:6]
        states.append(dataset.state_dict(12))
    assert states[0] == states[1]
    for dataset, rows in zip(ranks(), expected):
        dataset.load_state_dict(states[0])
        assert joined(row_ids(batch) for batch in plain(dataset, 6, 2)) == rows[6:]
    with pytest.raises(StateError, match="of ranks with 4 rows a step each, and this rank has 2"):
        ranks(2, 4)[0].load_state_dict(states[0])
    with pytest.raises(ConfigError, match="13 samples over 2 ranks are not the same number on each"):
        first[0].state_dict(13)


def test_loaders_of_whole_steps_refuse_a_place_within_one(library):
    state = make_dataset(library).state_dict(12)
    dataset = make_dataset(library)
    for loader in (ms.Loader(make_dataset(library)), ms.StreamingDataLoader(dataset, batch_size=8)):
        before = loader.state_dict()
        with pytest.raises(StateError, match=r"within a step \(4 of 8 rows of each rank are handed out\)"):
            loader.load_state_dict(state)
        assert loader.state_dict() == before
    dataset.load_state_dict(state)
    with pytest.raises(StateError, match="within a step"):
        ms.Loader(dataset)


@pytest.mark.parametrize("place", [{"rows": 8}, {"worker": 1}, {"rows": -1}])
def test_a_damaged_place_is_refused(library, place):
    state = make_dataset(library).state_dict(12)
    state["iterator"] |= place
    with pytest.raises(StateError, match="damaged"):
        make_dataset(library).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [8, 12])
def test_drop_last_of_a_dataloader_drops_the_step_that_repeats_would_fill(library, epochs, size, workers):
    """Training or validation: 219 rows are 27 steps of 8, and the three rows that are left come with 5 repeats."""
    dataset = make_dataset(library)
    loader = plain(dataset, size, workers, drop_last=True)
    kept = 216 // size * size
    for rows in epochs[:2]:
        batches = [row_ids(batch) for batch in loader]
        assert joined(batches) == rows[:kept]
        assert len(batches) == len(loader)
    assert len(dataset) == 224


def test_an_epoch_without_repeats_is_read_whole_with_drop_last(library):
    dataset = make_dataset(library, batch_size=3)
    loader = plain(dataset, 3, 0, drop_last=True)
    assert sorted(joined(row_ids(batch) for batch in loader)) == sorted(
        FIRST[name] + i for name, size in SIZES.items() for i in range(size)
    )
    assert len(loader) == 73


# --- sampling_method --------------------------------------------------------------------------------------------------

WEIGHTS: list[dict[str, Any]] = [
    {"web": {"choose": 70}, "code": {"choose": 40}, "law": {"choose": 30}},
    {"web": {"repeat": 0.3}, "law": {"repeat": 2.3}},
    {"web": {"proportion": 1}, "code": {"proportion": 1}, "law": {"proportion": 2}},
]


def sampled(library: Any, each: dict[str, Any], **kw: Any) -> ms.StreamingDataset:
    options = {"batch_size": 4, "shuffle": True, "sampling_method": "fixed", "drop_last": False}
    return ms.StreamingDataset(streams=streams(library, **each), **{**options, **kw})


@settings(max_examples=12)
@given(each=st.sampled_from(WEIGHTS), lanes=st.sampled_from([1, 2]), shuffle=st.booleans(), seed=st.integers(0, 9))
def test_fixed_sampling_reads_the_same_samples_in_each_epoch(library, each, lanes, shuffle, seed):
    dataset = sampled(library, each, num_canonical_nodes=lanes, shuffle=shuffle, shuffle_seed=seed)
    with ms.Loader(dataset, prefetch=0) as loader:
        read = [joined(row_ids(batch) for batch in loader) for _ in range(3)]
    assert len({frozenset(rows) for rows in read}) == 1
    assert read[0] != read[1] or not shuffle  # the same samples, in another order
    for stream, name in zip(dataset.streams, SIZES):
        rows = [row for row in read[0] if row // 1000 == FIRST[name] // 1000]
        assert abs(len(set(rows)) - min(stream.choose, SIZES[name])) <= 1  # a share of 54.75 rows is 54 or 55


def test_balanced_sampling_goes_on_from_epoch_to_epoch(library):
    with ms.Loader(sampled(library, WEIGHTS[0], sampling_method="balanced")) as loader:
        assert len({frozenset(joined(row_ids(batch) for batch in loader)) for _ in range(2)}) == 2


def test_a_fixed_sample_is_resumed_under_any_ranks_and_is_no_state_of_another_sampling(library):
    with ms.Loader(sampled(library, WEIGHTS[1])) as loader:
        rows = drive([loader], 60)
    with ms.Loader(sampled(library, WEIGHTS[1])) as loader:
        drive([loader], 41)
        state = loader.state_dict()
    halves = [sampled(library, WEIGHTS[1], batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    loaders = [ms.Loader(dataset) for dataset in halves]
    for loader in loaders:
        loader.load_state_dict(state)
    assert drive(loaders, 19) == rows[41:]
    for loader in loaders:
        loader.close()
    with pytest.raises(StateError, match="a fixed sample of 45, and is now read without"):
        sampled(library, WEIGHTS[1], sampling_method="balanced").load_state_dict(state)


def test_fixed_sampling_is_refused_where_weights_change(library):
    with pytest.raises(ConfigError, match="takes the same samples in each epoch, and ADO changes how many"):
        make_dataset(library, sampling_method="fixed", mixer=ms.mixers.ADO())
