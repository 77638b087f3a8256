"""Where old rows are in new shards: pairs of equal keys, and whole shards that were moved."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixstream.selection import ShardIdentity, ShardTable, match_keys, match_shards


@given(st.lists(st.integers(0, 4), max_size=20), st.lists(st.integers(0, 4), max_size=20))
def test_matching_pairs_equal_keys_in_their_order(old: list[int], new: list[int]) -> None:
    found = match_keys(np.array(old, np.uint64), np.array(new, np.uint64)).tolist()
    left = {key: [at for at, other in enumerate(new) if other == key] for key in range(5)}
    expected = [left[key].pop(0) if left[key] else -1 for key in old]
    assert found == expected


def test_whole_shards_are_found_where_they_were_moved() -> None:
    old = ShardTable(
        shards=tuple(ShardIdentity(name=n, samples=s, raw_bytes=9) for n, s in (("a", 2), ("b", 1), ("c", 3)))
    )
    new = ShardTable(
        shards=tuple(ShardIdentity(name=n, samples=s, raw_bytes=9) for n, s in (("c", 3), ("x", 4), ("a", 2)))
    )
    assert match_shards(old, new, np.array([2, -1, 0])).tolist() == [7, 8, -1, 0, 1, 2]
