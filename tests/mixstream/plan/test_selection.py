import pickle
import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import SelectionError
from mixstream.plan.selection import KeptRows


def kept_of(masks, *, whole=(), map_rows=None, **changes) -> KeptRows:
    """Return the view of the rows where `masks`, one of bool [rows] per shard, are True; all rows of shards `whole`."""
    rows_of = [np.flatnonzero(mask).astype(np.uint32) for mask in masks]
    rows_N = np.concatenate([*rows_of, np.empty(0, dtype=np.uint32)])
    begin_S = np.cumsum([0, *map(len, rows_of)])[:-1]
    samples_S = np.array([len(rows) for rows in rows_of], dtype=np.int64)
    stored_S = np.array([len(mask) for mask in masks], dtype=np.int64)
    begin_S[list(whole)], samples_S[list(whole)] = -1, stored_S[list(whole)]
    hash_S = np.array([xxhash.xxh3_64_intdigest(rows.tobytes()) for rows in rows_of], dtype=np.uint64)
    view = KeptRows(
        id="5e1ec7",
        map_rows=map_rows or partial(np.copy, rows_N),
        begin_S=begin_S,
        samples_S=samples_S,
        stored_S=stored_S,
        hash_S=hash_S,
    )
    return replace(view, **changes)


@settings(deadline=None)
@given(st.data())
def test_samples_of_a_shard_are_its_kept_rows_in_stored_order(data):
    masks = data.draw(st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=6))
    whole = data.draw(st.sets(st.integers(0, len(masks) - 1)))
    view = kept_of(masks, whole=whole)
    expected = [list(range(len(m))) if s in whole else np.flatnonzero(m).tolist() for s, m in enumerate(masks)]
    at = data.draw(st.permutations([(s, k) for s, rows in enumerate(expected) for k in range(len(rows))]))
    shard_B, sample_B = np.array(at, dtype=np.int64).reshape(-1, 2).T
    got_B = view.rows(shard_B, sample_B)
    assert got_B.dtype == np.int64
    assert got_B.tolist() == [expected[s][k] for s, k in at]
    assert (view.kept, view.stored) == (len(at), sum(map(len, masks)))


def test_rows_are_mapped_once_and_pickled_by_the_function_that_maps_them():
    calls = []

    def map_rows():
        calls.append(1)
        return np.arange(1 << 20, dtype=np.uint32)

    view = KeptRows(
        id="a",
        map_rows=map_rows,
        begin_S=np.array([0]),
        samples_S=np.array([1 << 20]),
        stored_S=np.array([1 << 20]),
    )
    for _ in range(3):
        view.rows(np.array([0]), np.array([5]))
    assert calls == [1]
    view = replace(view, map_rows=partial(np.arange, 1 << 20, dtype=np.uint32))
    before = view.rows(np.array([0]), np.array([5]))
    document = pickle.dumps(view)
    assert len(document) < 2000
    assert pickle.loads(document).rows(np.array([0]), np.array([5])) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 2, 4, 9], "hash"),
        ([1, 2, 4, 0], "hash"),
        ([1, 2], "damaged"),
        ([[1, 2, 4, 0]], "damaged"),
    ],
)
def test_rows_that_have_changed_are_refused(rows, message):
    view = kept_of([[0, 1, 1, 0, 1], [0, 1]], map_rows=lambda: np.array(rows, dtype=np.uint32))
    with pytest.raises(SelectionError, match=message):
        view.rows(np.array([1]), np.array([0]))


def test_only_the_shards_that_are_read_are_checked():
    view = kept_of([[1, 1], [1, 1]], map_rows=lambda: np.array([0, 1, 1, 1], dtype=np.uint32))
    assert view.rows(np.array([0, 0]), np.array([1, 0])).tolist() == [1, 0]
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(SelectionError, match="shard 1"):
            view.rows(np.array([0, 1]), np.array([1, 0]))


def test_another_process_checks_the_rows_that_it_maps_again(tmp_path):
    path = tmp_path / "rows"
    np.array([1, 2, 4], dtype=np.uint32).tofile(path)
    view = kept_of([[0, 1, 1, 0, 1]], map_rows=partial(np.fromfile, path, np.uint32))
    assert view.rows(np.array([0]), np.array([2])).tolist() == [4]
    np.array([1, 2, 3], dtype=np.uint32).tofile(path)
    copy = pickle.loads(pickle.dumps(view))
    with pytest.raises(SelectionError, match="kept rows of shard 0 have the hash"):
        copy.rows(np.array([0]), np.array([2]))


@pytest.mark.parametrize("rows", [[3, 1], [1, 1], [1, 5]])
def test_rows_without_a_hash_are_ascending_rows_of_the_shard(rows):
    view = kept_of([[0, 1, 0, 1, 0]], map_rows=lambda: np.array(rows, dtype=np.uint32), hash_S=None)
    with pytest.raises(SelectionError, match="ascending rows below 5"):
        view.rows(np.array([0]), np.array([0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples_S": np.array([3, 2])},
        {"samples_S": np.array([-1, 2])},
        {"begin_S": np.array([-1, 0])},
        {"hash_S": np.zeros(3, dtype=np.uint64)},
        {"header_S": [None]},
    ],
)
def test_tables_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(SelectionError, match="write the selection again"):
        kept_of([[1, 0], [1, 1]], **wrong)


def test_memory_is_that_of_shards_whatever_is_kept(tmp_path):
    """5,000,000 kept rows of 500 shards, 20 MB on disk."""
    path, shards, each = tmp_path / "rows", 500, 10_000
    np.tile(np.arange(0, 2 * each, 2, dtype=np.uint32), shards).tofile(path)
    tracemalloc.start()
    try:
        view = KeptRows(
            id="a",
            map_rows=partial(np.memmap, path, np.uint32, "r"),
            begin_S=np.arange(shards) * each,
            samples_S=np.full(shards, each),
            stored_S=np.full(shards, 2 * each),
        )
        found = view.rows(np.arange(shards), np.arange(shards))
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert found.tolist() == list(range(0, 2 * shards, 2))
