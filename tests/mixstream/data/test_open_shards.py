from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
from harness import make_dataset

from mixstream.data import domains as reading
from mixstream.data.open_shards import OpenShards


def shards() -> dict[int, np.ndarray]:
    return {number: np.full(4, number, dtype=np.uint8) for number in range(50)}


def test_shards_are_opened_when_needed_and_once():
    opened, asked = OpenShards(50), []

    def opener(number: int) -> np.ndarray:
        asked.append(number)
        return shards()[number]

    opened.need(np.array([3, 1, 3, 7]), opener)
    opened.need(np.array([7, 8]), opener)
    assert sorted(asked) == [1, 3, 7, 8]
    assert opened.get(3, opener).tolist() == [3] * 4
    assert opened.get(9, opener).tolist() == [9] * 4
    assert len(asked) == 5


def test_those_unused_for_longest_are_closed_first_and_never_those_in_use():
    opened = OpenShards(50, capacity=4)
    for number in range(20):
        opened.need(np.array([number]), shards().__getitem__)
        assert number in opened.table.data
        assert len(opened.table.data) <= 5
    assert 0 not in opened.table.data
    opened.need(np.arange(30), shards().__getitem__)  # one batch may need more than stay open
    assert set(range(30)) <= set(opened.table.data)
    opened.need(np.array([40]), shards().__getitem__)
    assert len(opened.table.data) <= 5
    for number in range(50):
        assert (opened.table.size_S[number] > 0) == (number in opened.table.data)


def test_readers_of_a_process_share_the_mappings_that_the_kernel_allows():
    byte, readers = np.zeros(1, dtype=np.uint8), [OpenShards(16_000) for _ in range(4)]

    def read(reader: OpenShards) -> None:
        for number_B in np.split(np.arange(16_000), 16):
            reader.need(number_B, lambda number: byte)

    read(readers[0])
    assert len(readers[0].table.data) == 16_000  # alone, or beside one that has few, it keeps all
    readers[1].need(np.arange(10), lambda number: byte)
    read(readers[0])
    assert len(readers[0].table.data) == 16_000
    for reader in readers * 2:
        read(reader)
        assert sum(len(each.table.data) for each in readers) < 60_000
    assert sum(len(each.table.data) for each in readers) <= 20_000
    assert min(len(each.table.data) for each in readers) > 4_000
    del readers[1:], reader
    gc.collect()
    read(readers[0])
    assert len(readers[0].table.data) == 16_000


def test_close_and_travel_leave_mappings_behind():
    opened = OpenShards(5)
    opened.need(np.array([1]), shards().__getitem__)
    assert not pickle.loads(pickle.dumps(opened)).table.data
    opened.close()
    assert not opened.table.data
    opened.need(np.array([1]), shards().__getitem__)
    assert opened.table.size_S.tolist() == [0, 4, 0, 0, 0]


def test_under_a_limit_those_that_are_needed_soon_stay_mapped():
    opened, asked = OpenShards(50, unmap_after_read=True), []

    def opener(number: int) -> np.ndarray:
        asked.append(number)
        return shards()[number]

    opened.keep([3, 7])
    for _ in range(2):
        opened.need(np.array([3, 5]), opener)
        opened.release([3, 5])
        assert list(opened.table.data) == [3]
    assert asked == [3, 5, 5]
    opened.keep([7])
    assert not opened.table.data
    assert opened.table.size_S[3] == 0


def test_without_a_limit_all_stay_mapped():
    opened = OpenShards(50)
    opened.need(np.array([3, 5]), shards().__getitem__)
    opened.release([3, 5])
    opened.keep([])
    assert sorted(opened.table.data) == [3, 5]


def test_what_another_thread_unmaps_stays_mapped_while_rows_are_read(library, monkeypatch):
    """Compiled loops read addresses. The rows are read one by one then."""
    expected = [row["tokens"].tolist() for row in make_dataset(library)]
    dataset, alive = make_dataset(library), []
    gather, table = reading.gather, dataset.domains.opened.table

    def drop_and_gather(*arguments):
        mapped = [weakref.ref(table.data[number]) for number in set(arguments[1].tolist())]
        for number in list(table.data):
            table.drop(number)
        gc.collect()
        alive.extend(found() is not None for found in mapped)
        return gather(*arguments)

    monkeypatch.setattr(reading, "gather", drop_and_gather)
    assert [row["tokens"].tolist() for row in dataset] == expected
    assert alive
    assert all(alive)
