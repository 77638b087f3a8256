"""Shards are matched by what they are, never by position; ordinals and parts cover all rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artefacts import entries, entry, table_of
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import ShardTable

SAMPLES = st.lists(st.integers(0, 50), max_size=12)


@given(SAMPLES)
def test_home_inverts_ordinals(samples):
    table = table_of(*samples)
    shard_B, row_B = table.home(np.arange(table.rows))
    assert list(zip(shard_B.tolist(), row_B.tolist())) == [(s, r) for s, n in enumerate(samples) for r in range(n)]


@given(SAMPLES, st.integers(1, 9))
def test_parts_follow_each_other_and_are_balanced(samples, n):
    table = table_of(*samples)
    parts = [table.part(i, n) for i in range(n)]
    assert [shard for first, end in parts for shard in range(first, end)] == list(range(len(samples)))
    for first, end in parts:  # never further from its share than one shard
        rows = table.start_S[end] - table.start_S[first]
        assert abs(rows - table.rows / n) <= max(samples, default=0) + 1


def test_parts_of_huge_domains_stay_exact():
    table = ShardTable.of([entry(f"{i}.mds", (1 << 32) - 1) for i in range(1000)])
    assert [table.part(i, 250) for i in (0, 1, 249)] == [(0, 4), (4, 8), (996, 1000)]


def test_ordinals_out_of_range_and_parts_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="ordinals 0 to 5, the shards have 0 to 4"):
        table_of(3, 2).home(np.array([0, 5]))
    with pytest.raises(ConfigError, match="part 3 of 3"):
        table_of(3).part(3, 3)


def test_the_table_survives_json():
    table = ShardTable.of([entry("a.mds", 3, xxh64="ab"), entry("b.mds", 4)]).with_fingerprint(1, "f00d")
    found = ShardTable.from_json(json.loads(json.dumps(table.to_json())))
    assert found == table
    assert found.shards[1].fingerprint == "f00d"
    assert found.digest == ShardTable.of([entry("a.mds", 3, xxh64="ab"), entry("b.mds", 4)]).digest


@pytest.mark.parametrize(
    "value",
    [
        [{"name": "a", "samples": -1, "raw_bytes": 0}],
        [{"name": "a", "samples": 1 << 40, "raw_bytes": 0}],
        [{"name": "a", "samples": 1, "raw_bytes": 0}, {"name": "a", "samples": 1, "raw_bytes": 0}],
        [{"name": "a", "samples": 1.5, "raw_bytes": 0}],
        [{"name": "a", "samples": 1}],
        {"name": "a"},
        None,
    ],
)
def test_what_is_no_table_is_refused_by_the_file(value):
    with pytest.raises(SelectionError, match=r"here/manifest.json: not a table of shards"):
        ShardTable.from_json(value, where="here/manifest.json")


@given(st.permutations(range(6)), st.integers(0, 6))
def test_reordered_and_dropped_shards_are_found(order, kept):
    shards = entries([5, 5, 7, 1, 5, 9])
    found = ShardTable.of(shards).match([shards[number] for number in order[:kept]])
    assert found.of_S.tolist() == order[:kept]
    assert found.missing == sorted(order[kept:])
    assert not found.changed


def test_added_and_changed_shards_are_told_apart():
    table = table_of(3, 4)
    changed = entry("b.mds", 5, 1001)
    found = table.match([entry("new.mds", 3, 1000), changed, entries([3])[0]])
    assert found.of_S.tolist() == [-1, -1, 0]
    ((number, expected, seen),) = found.changed
    assert (number, expected.samples, seen.samples) == (1, 4, 5)
    assert found.missing == []


def test_a_hash_beats_the_name_and_the_facts():
    table = ShardTable.of([entry("a.mds", 3, xxh64="aa"), entry("b.mds", 3, xxh64="bb")])
    renamed = table.match([entry("x.mds", 3, xxh64="bb"), entry("a.mds", 3, xxh64="cc")])
    assert renamed.of_S.tolist() == [1, -1]
    assert [number for number, _, _ in renamed.changed] == [1]
    assert not renamed.missing
    swapped = table.match([entry("a.mds", 3, xxh64="bb"), entry("b.mds", 3, xxh64="aa")])
    assert swapped.of_S.tolist() == [1, 0]
    other_hash = table.match([entry("b.mds", 3, sha1="0"), entry("x.mds", 3, sha1="0")])
    assert other_hash.of_S.tolist() == [1, -1]


def test_equal_shards_are_told_apart_by_name_and_refused_without():
    same = [entry("a.mds", 3, xxh64="aa"), entry("b.mds", 3, xxh64="aa")]
    table = ShardTable.of(same)
    assert table.match(same[::-1]).of_S.tolist() == [1, 0]
    with pytest.raises(SelectionError, match=r"shard 'x.mds' has the content of the listed shards 'a.mds', 'b.mds'"):
        table.match([entry("x.mds", 3, xxh64="aa")])
    # One kept its name, so the other is the other one.
    assert table.match([same[1], entry("x.mds", 3, xxh64="aa")]).of_S.tolist() == [1, 0]
    with pytest.raises(
        SelectionError, match=r"the shards 'x.mds', 'y.mds' have the content of the listed shard 'a.mds'"
    ):
        ShardTable.of(same[:1]).match([entry("x.mds", 3, xxh64="aa"), entry("y.mds", 3, xxh64="aa")])
    # A copy beside the shard itself is another shard.
    assert ShardTable.of(same[:1]).match([entry("x.mds", 3, xxh64="aa"), same[0]]).of_S.tolist() == [-1, 0]
