"""Selections: kept rows are what was given, bound to their shards, and seen by a stream through a view."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from artefacts import MADE, entries, entry, select, table_of
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError, OutputExistsError, SelectionError
from mixstream.selection import Selection, ShardTable, find_artefacts, provenance, write_buckets

SHARDS = entries([5, 0, 7, 3])
TABLE = ShardTable.of(SHARDS)
KEPT = [0, 4, 5, 6, 11, 14]


def seen(view) -> list[list[int]]:
    """Return the rows of each shard that a view gives."""
    return [
        view.rows(np.full(count, shard), np.arange(count)).tolist()
        for shard, count in enumerate(view.samples_S.tolist())
    ]


@given(data=st.data(), samples=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_rows_come_back(tmp_path_factory, data, samples):
    table = table_of(*samples)
    buckets = data.draw(st.integers(1, 3))
    bucket = np.array(data.draw(st.lists(st.integers(-1, buckets - 1), min_size=table.rows, max_size=table.rows)), int)
    names = [f"b{number}" for number in range(buckets)]
    path = tmp_path_factory.mktemp("selection")
    tokens = np.arange(table.rows) + 1
    made = write_buckets(
        path, domain="web", table=table, bucket=bucket, names=names, rule={"by": "test"}, parents={"scores": "ab"},
        made=MADE, tokens=tokens,
    )  # fmt: skip
    made.verify()
    assert made.kept == (bucket >= 0).sum()
    assert (made.tokens.before, made.tokens.after) == (tokens.sum(), tokens[bucket >= 0].sum())
    for number in range(buckets):
        assert np.array_equal(made.mask(number), bucket == number)
        assert np.array_equal(made.ordinals(number), np.flatnonzero(bucket == number))
        view = made.view(entries(samples), bucket=number)
        starts = table.start_S.tolist()
        assert seen(view) == [np.flatnonzero(bucket[a:b] == number).tolist() for a, b in itertools.pairwise(starts)]


def test_a_mask_and_ordinals_in_any_order_are_one_selection(tmp_path):
    mask = np.zeros(TABLE.rows, bool)
    mask[KEPT] = True
    one = select(tmp_path / "mask", TABLE, mask)
    other = select(
        tmp_path / "ordinals", TABLE, KEPT[::-1], made=provenance({"seed": 5}), rule={"x": 1}, domain="other"
    )
    assert one.id == other.id
    assert np.array_equal(one.ordinals(), KEPT)
    assert one.tokens is None
    assert one.rows_of(2).tolist() == [0, 1, 6]
    assert other.rule == {"x": 1}
    assert (tmp_path / "mask/rows.npy").read_bytes() == (tmp_path / "ordinals/rows.npy").read_bytes()
    assert find_artefacts(tmp_path / "mask", "selection") == {"web": tmp_path / "mask"}


def test_the_id_depends_on_rows_buckets_and_shards(tmp_path):
    ids = {
        select(tmp_path / "a", TABLE, KEPT).id,
        select(tmp_path / "b", TABLE, KEPT[1:]).id,
        select(tmp_path / "c", ShardTable.of([*SHARDS[:3], entry("z.mds", 3, 1003)]), KEPT).id,
        write_buckets(
            tmp_path / "d", domain="web", table=TABLE, bucket=np.isin(np.arange(TABLE.rows), KEPT).astype(int) - 1,
            names=["x"], rule={}, parents={}, made=MADE,
        ).id,
    }  # fmt: skip
    assert len(ids) == 4
    known = select(tmp_path / "e", TABLE.with_fingerprint(0, "f00d"), KEPT)
    assert known.id == Selection.open(tmp_path / "a").id  # a fingerprint that is not known changes no row


@pytest.mark.parametrize(
    ("kept", "fact"),
    [
        ([1, 1], "ordinal 1 is kept twice"),
        ([15], "ordinals 15 to 15, the table has 15 rows"),
        ([-1, 2], "ordinals -1 to 2"),
        ([True, False], "kept has shape"),
        ([0.5], "dtype float64"),
        ([[1]], "shape"),
    ],
)
def test_what_is_no_selection_of_these_rows_is_refused(tmp_path, kept, fact):
    with pytest.raises(ConfigError, match=fact):
        select(tmp_path, TABLE, kept)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("bucket", "names", "fact"),
    [
        (np.zeros(15, int), [], "name of its own"),
        (np.zeros(15, int), ["a", "a"], "name of its own"),
        (np.ones(15, int), ["a"], "reaches from 1 to 1, there are 1 names"),
        (np.full(15, -2), ["a"], "reaches from -2"),
        (np.zeros(15), ["a"], "dtype float64"),
        (np.zeros(3, int), ["a"], "shape"),
    ],
)
def test_what_are_no_buckets_is_refused(tmp_path, bucket, names, fact):
    with pytest.raises(ConfigError, match=fact):
        write_buckets(
            tmp_path, domain="web", table=TABLE, bucket=bucket, names=names, rule={}, parents={}, made=MADE
        )  # fmt: skip


def test_a_selection_is_replaced_only_if_asked(tmp_path):
    old = select(tmp_path, TABLE, KEPT)
    with pytest.raises(OutputExistsError):
        select(tmp_path, TABLE, [1])
    mapped = old.rows_of(2)
    assert select(tmp_path, TABLE, [1], overwrite=True).ordinals().tolist() == [1]
    assert mapped.tolist() == [0, 1, 6]


def test_a_view_follows_the_shards_wherever_they_stand(tmp_path):
    table = TABLE.with_fingerprint(2, "f00d")
    selection = select(tmp_path, table, KEPT)
    view = selection.view(SHARDS[::-1])
    assert seen(view) == [[2], [0, 1, 6], [], [0, 4]]
    assert view.id == selection.id
    assert list(view.header_S) == [None, "f00d", None, None]
    assert seen(pickle.loads(pickle.dumps(view))) == seen(view)


def test_shards_that_do_not_fit_follow_the_options(tmp_path):
    selection = select(tmp_path, TABLE, KEPT)
    changed = [SHARDS[0], SHARDS[1], entry("c.mds", 8, 1002), SHARDS[3]]
    with pytest.raises(
        SelectionError, match=r"made for shard 'c.mds' \(7 rows.*has 'c.mds' \(8 rows.*'drop' or 'keep_all'"
    ):
        selection.view(changed)
    dropped, whole = (selection.view(changed, on_mismatch=choice) for choice in ("drop", "keep_all"))
    assert seen(dropped) == [[0, 4], [], [], [2]]
    assert seen(whole) == [[0, 4], [], list(range(8)), [2]]
    added = [*SHARDS, entry("new.mds", 2)]
    with pytest.raises(SelectionError, match=r"shard 'new.mds' is not in the selection.*'drop' or 'keep'"):
        selection.view(added, on_mismatch="keep_all")
    assert seen(selection.view(added, unlisted="drop"))[-1] == []
    kept = selection.view(added, unlisted="keep")
    assert seen(kept)[-1] == [0, 1]
    with pytest.raises(SelectionError, match=r"lacks 1 shards of which the selection .* keeps rows, first 'a.mds'"):
        selection.view(SHARDS[1:])
    lacking = selection.view(SHARDS[1:], on_mismatch="drop")
    assert seen(lacking) == [[], [0, 1, 6], [2]]
    assert len({view.id for view in (selection.view(SHARDS), dropped, whole, kept, lacking)}) == 5
    with pytest.raises(ConfigError, match="choose one of 'error', 'drop', 'keep_all'"):
        selection.view(SHARDS, on_mismatch="keep")


def test_another_dataset_is_refused_whatever_the_options_say(tmp_path):
    selection = select(tmp_path, TABLE, KEPT)
    others = [entry("x.mds", 5), entry("y.mds", 7)]
    with pytest.raises(
        SelectionError,
        match=r"domain 'web' \(4 shards, first 'a.mds'.*has 2 other shards, first 'x.mds'.*select rebase",
    ):
        selection.view(others, on_mismatch="drop", unlisted="keep")


def test_a_shard_of_which_nothing_counts_may_be_gone(tmp_path):
    selection = select(tmp_path, TABLE, [5, 14])
    view = selection.view(SHARDS[2:])
    assert seen(view) == [[0], [2]]
    assert view.id == selection.id


def test_changed_bytes_are_seen_where_the_index_has_hashes(tmp_path):
    selection = select(tmp_path, ShardTable.of([entry("a.mds", 3, xxh64="aa")]), [1])
    with pytest.raises(SelectionError, match=r"\(xxh64 bb, was aa\)"):
        selection.view([entry("a.mds", 3, xxh64="bb")])


def test_buckets_have_views_of_their_own(tmp_path):
    bucket = np.arange(TABLE.rows) % 3 - 1
    selection = write_buckets(
        tmp_path, domain="web", table=TABLE, bucket=bucket, names=["low", "high"], rule={}, parents={}, made=MADE
    )
    low, high = (selection.view(SHARDS, bucket=selection.bucket(name)) for name in ("low", "high"))
    assert seen(low)[0] == [1, 4]
    assert seen(high)[0] == [2]
    assert len({low.id, high.id, selection.id}) == 3
    assert selection.kept_K.tolist() == [5, 5]
    with pytest.raises(ConfigError, match=r"no bucket 'top'; it has \['low', 'high'\]"):
        selection.bucket("top")


def test_the_manifest_says_how_it_was_made(tmp_path):
    made = provenance({"seed": 3}, note="x")
    select(tmp_path, TABLE, KEPT, made=made, parents={"scores": "ab"}, tokens=np.full(TABLE.rows, 10))
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["made"]["inputs"] == {"seed": 3}
    assert found["parents"] == {"scores": "ab"}
    assert found["rows"] == {"before": 15, "after": 6}
    assert found["tokens"] == {"before": 150, "after": 60}
    opened = Selection.open(tmp_path)
    assert (opened.made, opened.parents, opened.tokens.after) == (made, {"scores": "ab"}, 60)
