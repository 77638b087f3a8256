"""Selections as sets: what combines, what keeps its buckets, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection import (
    Selection,
    ShardIdentity,
    ShardTable,
    combine,
    difference,
    kept_mask,
    provenance,
    same_shards,
    write_buckets,
    write_selection,
)
from mixstream.selection.combining import bucket_numbers

TABLE = ShardTable(shards=tuple(ShardIdentity(name=f"{at}.mds", samples=n, raw_bytes=9) for at, n in enumerate([3, 5])))


@pytest.fixture
def keep(tmp_path):
    def write(name: str, rows) -> Selection:
        return write_selection(
            tmp_path / name, domain="web", table=TABLE, kept=rows, rule={}, parents={}, made=provenance({})
        )

    return write


@given(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)), st.sampled_from(["and", "or", "minus"]))
def test_selections_combine_as_sets(tmp_path_factory, one: set[int], other: set[int], operation: str) -> None:
    place = tmp_path_factory.mktemp("sets")
    made = [
        write_selection(
            place / str(at), domain="web", table=TABLE, kept=np.array(sorted(rows), dtype=np.int64), rule={},
            parents={}, made=provenance({}),
        )
        for at, rows in enumerate((one, other))
    ]  # fmt: skip
    found = combine(made[0], operation, made[1], out=place / "out")
    expected = {"and": one & other, "or": one | other, "minus": one - other}[operation]
    assert found.ordinals().tolist() == sorted(expected)
    shared = difference(*made)
    assert (shared.both, shared.only_one, shared.only_other) == (len(one & other), len(one - other), len(other - one))


def test_and_keeps_the_buckets_of_the_first(tmp_path, keep) -> None:
    bucket_N = np.array([0, 1, -1, 1, 0, 0, 1, -1])
    made = write_buckets(
        tmp_path / "b", domain="web", table=TABLE, bucket=bucket_N, names=["x", "y"], rule={}, parents={},
        made=provenance({}),
    )  # fmt: skip
    assert bucket_numbers(made).tolist() == bucket_N.tolist()
    other = keep("other", [0, 1, 2, 6])
    found = combine(made, "and", other, out=tmp_path / "out")
    assert found.buckets == ("x", "y")
    assert bucket_numbers(found).tolist() == [0, 1, -1, -1, -1, -1, 1, -1]
    assert combine(made, "minus", other, out=tmp_path / "rest").kept_K.tolist() == [2, 1]
    assert combine(made, "or", other, out=tmp_path / "all").buckets == ("",)


def test_an_unknown_operation_is_refused(keep, tmp_path) -> None:
    with pytest.raises(ConfigError, match="minus"):
        combine(keep("a", [1]), "xor", keep("b", [2]), out=tmp_path / "out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (TABLE.shards[:1], "2 shards of 8 rows against 1 shards of 3 rows; shard '1.mds' differs"),
        (TABLE.shards[::-1], "the hashes of their shards, or their order differ"),
    ],
)
def test_other_shards_are_named(shards, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        same_shards("a", TABLE, "b", ShardTable(shards=shards))


def test_the_mask_covers_all_buckets(tmp_path) -> None:
    made = write_buckets(
        tmp_path / "b", domain="web", table=TABLE, bucket=np.array([0, 1, -1, 1, 0, 0, 1, -1]), names=["x", "y"],
        rule={}, parents={}, made=provenance({}),
    )  # fmt: skip
    assert kept_mask(made).tolist() == [True, True, False, True, True, True, True, False]


def test_shards_that_were_rewritten_are_not_the_same():
    """Names, sizes and rows are equal, and no hash is known: the headers tell."""
    old, new = TABLE.with_fingerprint(0, "aa"), TABLE.with_fingerprint(0, "bb")
    same_shards("a", TABLE, "b", old)
    same_shards("a", old, "b", old.with_fingerprint(1, "cc"))
    with pytest.raises(ConfigError, match=r"a and b are not .* \(shard '.*' was rewritten between them"):
        same_shards("a", old, "b", new)


def test_what_is_combined_is_bound_to_the_headers_that_either_knows(tmp_path):
    """Else a random selection, which reads no shard, would make others forget which rows they are of."""
    bound = TABLE.with_fingerprint(0, "aa")
    facts = {"domain": "web", "kept": [0, 1], "rule": {}, "parents": {}, "made": provenance({})}
    plain, known = (
        write_selection(tmp_path / name, table=table, **facts) for name, table in (("a", TABLE), ("b", bound))
    )
    for at, pair in enumerate([(plain, known), (known, plain)]):
        made = combine(pair[0], "and", pair[1], out=tmp_path / str(at))
        assert made.table == bound
        assert made.id == known.id
