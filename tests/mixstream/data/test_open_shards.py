from __future__ import annotations

import pickle

import numpy as np

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


def test_close_and_travel_leave_mappings_behind():
    opened = OpenShards(5)
    opened.need(np.array([1]), shards().__getitem__)
    assert not pickle.loads(pickle.dumps(opened)).table.data
    opened.close()
    assert not opened.table.data
    opened.need(np.array([1]), shards().__getitem__)
    assert opened.table.size_S.tolist() == [0, 4, 0, 0, 0]
