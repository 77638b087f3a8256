"""Keep rules: against a plain reference, the laws of the group floor, budgets, refusals, memory."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.rules import below_cut, ceil_share, keep, ordered_bits, other_side, random_rows

DTYPES = ["f2", "f4", "f8", "i4", "i8", "u1", "?"]


@st.composite
def scored(draw: st.DrawFn) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    rows = draw(st.integers(1, 60))
    levels = draw(st.sampled_from([2, 5, 1000]))  # few levels: many ties
    score = (rng.integers(levels, size=rows) - levels // 3).astype(draw(st.sampled_from(DTYPES)))
    return {
        "score_N": score if score.dtype.kind != "f" else score / 7,
        "tokens_N": rng.integers(0, 20, size=rows).astype(np.uint32),
        "group_N": rng.integers(draw(st.integers(1, 5)), size=rows) * 7 - 3,
        "allowed_N": rng.random(rows) < draw(st.sampled_from([0.5, 1.0])),
    }


def walk(order: list[int], weight: np.ndarray, budget: int) -> list[int]:
    kept: list[int] = []
    for row in order:
        if sum(int(weight[each]) for each in kept) >= budget:
            break
        kept.append(row)
    return kept


def order_of(data: dict[str, np.ndarray], side: str) -> list[int]:
    sign = -1 if side == "high" else 1
    allowed = np.flatnonzero(data["allowed_N"]).tolist()
    return sorted(allowed, key=lambda row: (sign * float(data["score_N"][row]), row))


@given(data=scored(), side=st.sampled_from(["high", "low"]), share=st.fractions(0, 1))
def test_rows_equal_a_plain_sort(data: dict, side, share: Fraction) -> None:
    order = order_of(data, side)
    budget = math.ceil(share * len(order))
    kept = keep(data["score_N"], side=side, rows=budget, allowed_N=data["allowed_N"])
    assert kept.tolist() == sorted(order[:budget])


@given(data=scored(), side=st.sampled_from(["high", "low"]), share=st.fractions(0, 1))
def test_tokens_equal_a_plain_walk(data: dict, side, share: Fraction) -> None:
    order = order_of(data, side)
    budget = math.ceil(share * int(data["tokens_N"][order].sum()))
    kept = keep(data["score_N"], side=side, tokens=budget, tokens_N=data["tokens_N"], allowed_N=data["allowed_N"])
    assert kept.tolist() == sorted(walk(order, data["tokens_N"], budget))


@given(
    data=scored(),
    side=st.sampled_from(["high", "low"]),
    share=st.fractions(0, 1),
    floor=st.sampled_from([0, 0.3, 0.5, 1]),
)
def test_floors_of_groups(data: dict, side, share: Fraction, floor: float) -> None:
    """Every group keeps its floor, the total is exact, and without a floor the rule is the plain one."""
    arguments = {"side": side, "allowed_N": data["allowed_N"]}
    rows = int(data["allowed_N"].sum())
    budget = math.ceil(share * rows)
    kept = keep(data["score_N"], rows=budget, group_N=data["group_N"], floor=floor, **arguments)
    assert len(kept) == len(set(kept.tolist())) == budget
    assert data["allowed_N"][kept].all()
    exact = {
        group: Fraction(repr(float(floor)))
        * budget
        * int((data["group_N"][data["allowed_N"]] == group).sum())
        / max(rows, 1)
        for group in set(data["group_N"][data["allowed_N"]].tolist())
    }
    ceilings = sum(math.ceil(each) for each in exact.values())
    for group, each in exact.items():
        assert (data["group_N"][kept] == group).sum() >= (math.ceil(each) if ceilings <= budget else math.floor(each))
    if floor == 0:
        assert kept.tolist() == keep(data["score_N"], rows=budget, **arguments).tolist()


@given(data=scored(), side=st.sampled_from(["high", "low"]), share=st.fractions(0, 1))
def test_floors_of_groups_in_tokens(data: dict, side, share: Fraction) -> None:
    tokens, allowed = data["tokens_N"], data["allowed_N"]
    total = int(tokens[allowed].sum())
    budget = math.ceil(share * total)
    kept = keep(
        data["score_N"],
        side=side,
        tokens=budget,
        tokens_N=tokens,
        group_N=data["group_N"],
        floor=0.5,
        allowed_N=allowed,
    )
    groups = set(data["group_N"][allowed].tolist())
    assert (
        budget <= tokens[kept].sum() < budget + 20 * (len(groups) + 1)
    )  # each walk ends with at most one row too many
    for group in groups:
        of = int(tokens[allowed & (data["group_N"] == group)].sum())
        assert tokens[kept[data["group_N"][kept] == group]].sum() >= Fraction(1, 2) * budget * of / max(total, 1)


def test_inside_a_group_the_best_are_kept() -> None:
    score = np.array([5, 4, 3, 2, 1, 0], dtype=np.float32)
    kept = keep(score, side="high", rows=3, group_N=np.array([0, 0, 0, 1, 1, 1]), floor=1.0)
    assert kept.tolist() == [0, 1, 3]  # ceilings of 1.5 would be 4 rows, so both are rounded down; rank fills the rest


@given(data=scored(), cut=st.sampled_from([0.5, 0.9, 0.995]))
@pytest.mark.parametrize("side", ["high", "low"])
def test_the_outlier_cut_drops_the_largest(side, data: dict, cut: float) -> None:
    order = order_of(data, "low")
    inside = order[: ceil_share(cut, len(order))]
    kept = keep(data["score_N"], side=side, rows=min(2, len(inside)), allowed_N=data["allowed_N"], outlier_cut=cut)
    by_side = [row for row in order_of(data, side) if row in inside]
    assert kept.tolist() == sorted(by_side[: min(2, len(inside))])


def test_the_cut_leaves_the_budget() -> None:
    score = np.arange(1000.0)
    assert keep(score, side="high", fraction=0.1, outlier_cut=0.99).tolist() == list(range(890, 990))
    with pytest.raises(
        ConfigError, match=r"995 rows are to be kept, but only 990 are eligible after .* 0.99: lower --fraction"
    ):
        keep(score, side="high", fraction=0.995, outlier_cut=0.99)
    assert keep(score, side="low", fraction=1, outlier_cut=0.99).tolist() == list(range(990))
    assert np.flatnonzero(below_cut(score, outlier_cut=0.99)).tolist() == list(range(990))


@given(share=st.decimals(0, 1, places=3), total=st.integers(0, 10**12))
def test_shares_are_decimal(share, total: int) -> None:
    assert ceil_share(float(share), total) == math.ceil(Fraction(str(share)) * total)


@pytest.mark.parametrize("by", ["rows", "tokens"])
def test_fractions(by) -> None:
    score, tokens = np.arange(10.0), np.full(10, 6)
    assert keep(score, side="high", fraction=0.3, by=by, tokens_N=tokens).tolist() == [7, 8, 9]
    assert keep(score, side="low", fraction=0.3, by=by, tokens_N=tokens).tolist() == [0, 1, 2]
    assert keep(score, side="low", fraction=0.31, by=by, tokens_N=tokens).tolist() == [0, 1, 2, 3]


@given(
    values=st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=20), dtype=st.sampled_from(["f4", "f8"])
)
def test_bits_are_ordered_as_values(values: list[float], dtype: str) -> None:
    array = np.array(values, dtype=dtype)
    bits = ordered_bits(array)
    assert np.array_equal(array[:, None] < array[None], bits[:, None] < bits[None])


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=20))
def test_bits_of_large_integers_are_ordered(values: list[int]) -> None:
    bits = ordered_bits(np.array(values, dtype=np.int64))
    assert [int(each) for each in bits] == [value + 2**63 for value in values]


@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=20))
def test_bits_of_unsigned_integers_are_ordered(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    assert np.argsort(ordered_bits(array), kind="stable").tolist() == np.argsort(array, kind="stable").tolist()


@pytest.mark.parametrize("tokens", [np.array([6, -5, 6]), np.full(3, 1 << 62), np.full(3, 1 << 63, dtype=np.uint64)])
def test_numbers_that_are_no_tokens_are_refused(tokens) -> None:
    """Their sum would be negative, or wrap around to nothing, and a budget would be met by other rows."""
    for choose in (
        lambda: keep(np.arange(3.0), side="high", fraction=0.5, by="tokens", tokens_N=tokens),
        lambda: random_rows(3, tokens=5, tokens_N=tokens, seed=0),
    ):
        with pytest.raises(ConfigError, match="tokens of 3 rows reach from"):
            choose()


@given(count=st.integers(1, 200), seed=st.integers(0, 9), share=st.floats(0, 1))
def test_random_rows(count: int, seed: int, share: float) -> None:
    allowed = np.arange(count) % 3 > 0
    rows = round(share * int(allowed.sum()))
    drawn = random_rows(count, rows=rows, seed=seed, allowed_N=allowed)
    assert len(drawn) == rows
    assert (np.diff(drawn) > 0).all()
    assert allowed[drawn].all()


def test_random_rows_by_tokens_reach_the_budget_and_no_more() -> None:
    tokens = np.arange(1, 101)
    drawn = random_rows(100, tokens=1000, tokens_N=tokens, seed=4)
    assert 1000 <= tokens[drawn].sum() < 1000 + 100
    assert len(set(drawn.tolist())) == len(drawn)


def test_random_rows_are_uniform_and_differ_by_seed() -> None:
    counts = np.bincount(np.concatenate([random_rows(30, rows=10, seed=seed) for seed in range(1500)]), minlength=30)
    assert ((counts - 500) ** 2 / (500 * 2 / 3)).sum() < 60  # chi-square with 29 degrees of freedom: p = 0.0006


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": "hard"}, 'give "high" or "low"; there is no default'),
        ({"rows": None}, "0 budgets are given"),
        ({"fraction": 0.5}, r"2 budgets are given \(rows 2, fraction 0.5\)"),
        ({"rows": None, "fraction": 0.0}, "share above 0"),
        ({"rows": None, "fraction": 1.5}, "at most 1"),
        ({"rows": 5}, "5 rows are to be kept, but only 4 are eligible"),
        ({"rows": -1}, "budget of -1"),
        ({"rows": None, "tokens": 3}, "needs the tokens of each row"),
        ({"rows": None, "fraction": 0.5, "by": "tokens"}, "needs the tokens of each row"),
        ({"floor": 1.5}, "floor 1.5"),
        ({"outlier_cut": 1.0}, "such as 0.995"),
        ({"group_N": np.zeros(3, dtype=int)}, r"group_N has the shape \(3,\), but there are 4 scores"),
        ({"group_N": np.zeros(4), "floor": 0.5}, "an integer for each row"),
        ({"score_N": np.array([0, 1, np.nan, 2])}, "the score of row 2 is nan"),
        ({"score_N": np.zeros((2, 2))}, "one number for each row"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keep(**{"score_N": np.arange(4.0), "side": "high", "rows": 2, **change})


def test_rows_without_a_score_may_be_left_out() -> None:
    score = np.array([0, np.nan, 2])
    assert keep(score, side="high", rows=2, allowed_N=np.isfinite(score)).tolist() == [0, 2]


def test_random_rows_refuse_more_than_there_are() -> None:
    with pytest.raises(ConfigError, match="5 rows are to be drawn, but only 4 are allowed"):
        random_rows(4, rows=5, seed=0)


def test_the_other_side() -> None:
    assert [other_side("high"), other_side("low")] == ["low", "high"]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"fraction": 0.3}, 24),
        ({"fraction": 0.3, "by": "tokens"}, 24),
        ({"fraction": 0.3, "outlier_cut": 0.99}, 32),
        ({"fraction": 0.3, "floor": 0.5}, 56),
    ],
)
def test_memory(options: dict, limit: int) -> None:
    rows = 1_000_000
    rng = np.random.default_rng(0)
    score, tokens = rng.random(rows, dtype=np.float32), rng.integers(1, 1000, rows).astype(np.uint32)
    group, allowed = rng.integers(1000, size=rows).astype(np.int32), np.ones(rows, dtype=bool)
    extra = {"group_N": group} if "floor" in options else {}
    tracemalloc.start()
    keep(score, side="high", tokens_N=tokens, allowed_N=allowed, **options, **extra)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= (limit + 8 * 0.3) * rows + (1 << 20)
