"""A column of scores as buckets: sizes, order, ties, and what is in none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection import (
    Column,
    Scores,
    ScoresWriter,
    ShardIdentity,
    ShardTable,
    provenance,
    split,
    write_selection,
)
from mixstream.selection.splitting import by_quantile, by_value


@pytest.fixture
def scores_of(tmp_path: Path) -> Callable[..., Scores]:
    def make(made: dict[str, Any] | None = None, flags: Any = None, **columns: np.ndarray) -> Scores:
        rows = len(next(iter(columns.values())))
        samples = [rows // 2, rows - rows // 2]
        table = ShardTable(
            shards=tuple(ShardIdentity(name=f"{at}.mds", samples=n, raw_bytes=9) for at, n in enumerate(samples))
        )
        kinds = [Column(name=name, dtype=values.dtype.str) for name, values in columns.items()]
        made = {**provenance({}), **(made or {})}
        with ScoresWriter(tmp_path / "scores", domain="web", table=table, columns=kinds, made=made) as writer:
            writer.write(0, columns, flags=flags)
        return Scores.open(tmp_path / "scores")

    return make


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.integers(1, 8), st.randoms())
def test_quantiles_have_equal_sizes_and_are_ordered(values: list[float], buckets: int, random: Any) -> None:
    value_N = np.array(values, dtype=np.float32)
    allowed_N = np.array([random.random() < 0.8 for _ in values])
    if allowed_N.sum() < buckets:
        with pytest.raises(ConfigError, match="too few"):
            by_quantile(value_N, allowed_N, buckets=buckets, name="q")
        return
    bucket_N = by_quantile(value_N, allowed_N, buckets=buckets, name="q")
    assert ((bucket_N >= 0) == allowed_N).all()
    sizes = np.bincount(bucket_N[allowed_N], minlength=buckets)
    assert sizes.max() - sizes.min() <= 1
    inside = np.flatnonzero(allowed_N)
    order = inside[np.lexsort((inside, value_N[inside]))]
    assert (np.diff(bucket_N[order]) >= 0).all()
    assert bucket_N[order].tolist() == [at * buckets // len(order) for at in range(len(order))]


def test_values_become_buckets_named_after_them(scores_of: Callable[..., Scores], tmp_path: Path) -> None:
    scores = scores_of(cluster=np.array([5, -2, 5, 9], dtype=np.int32), flags=[1, 1, 1, 4])
    made = split(scores, "cluster", out=tmp_path / "out")
    assert made.buckets == ("cluster=-2", "cluster=5")
    assert [made.ordinals(at).tolist() for at in range(2)] == [[1], [0, 2]]
    assert made.parents == {"scores": scores.id}
    made.verify()


def test_categories_give_their_names(scores_of: Callable[..., Scores], tmp_path: Path) -> None:
    made = {"categories": {"language": ["de", "en"]}}
    scores = scores_of(made, language=np.array([1, 0, 1, 1], dtype=np.int32))
    assert split(scores, "language", out=tmp_path / "out").buckets == ("language=de", "language=en")


def test_only_rows_within_a_selection_are_split(scores_of: Callable[..., Scores], tmp_path: Path) -> None:
    scores = scores_of(quality=np.array([0.1, 0.9, 0.5, 0.3], dtype=np.float32))
    within = write_selection(
        tmp_path / "in", domain="web", table=scores.table, kept=[0, 2, 3], rule={}, parents={}, made=provenance({})
    )
    made = split(scores, "quality", buckets=3, within=within, out=tmp_path / "out")
    assert made.buckets == ("quality=q0", "quality=q1", "quality=q2")
    assert [made.ordinals(at).tolist() for at in range(3)] == [[0], [3], [2]]


@pytest.mark.parametrize(
    ("column", "buckets", "expected"),
    [("quality", None, "quality:20"), ("absent", 2, "no column"), ("quality", 0, "1 to"), ("quality", 9, "too few")],
)
def test_what_cannot_be_split_is_refused(
    scores_of: Callable[..., Scores], tmp_path: Path, column: str, buckets: int | None, expected: str
) -> None:
    scores = scores_of(quality=np.array([0.1, 0.9, 0.5, 0.3], dtype=np.float32))
    with pytest.raises(ConfigError, match=expected):
        split(scores, column, buckets=buckets, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="4,096"):
        by_value(np.arange(5000), np.ones(5000, dtype=bool), name="id")


def test_large_unsigned_values_keep_their_names():
    value = np.array([2**64 - 1, 1, 2**63], dtype=np.uint64)
    bucket, values = by_value(value, np.ones(3, dtype=bool), name="hash")
    assert (bucket.tolist(), values.tolist()) == ([2, 0, 1], [1, 2**63, 2**64 - 1])
