import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.plan import compiled, kernels, permutation

KEYS = st.integers(0, 2**64 - 1)


def whole(size: int, key: int) -> list[int]:
    return permutation.permute(np.arange(size, dtype=np.int64), size, key).tolist()


def test_this_machine_tests_the_compiled_loops():
    assert compiled.without() is None


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 255, 256, 257, 1000])
def test_permute_is_a_bijection(size):
    assert sorted(whole(size, 12345 + size)) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, 2000), KEYS)
def test_permute_is_a_bijection_under_any_key(size, key):
    assert sorted(whole(size, key)) == list(range(size))


def test_the_reference_permutes_many_values_as_it_permutes_few():
    index_B = np.arange(70_000, dtype=np.int64)
    got = permutation.permute_reference(index_B, 70_001, 5)
    np.testing.assert_array_equal(got, permutation.permute(index_B, 70_001, 5))
    np.testing.assert_array_equal(got[60_000:60_010], permutation.permute_reference(index_B[60_000:60_010], 70_001, 5))


@settings(deadline=None)
@given(st.integers(1, 1 << 62), KEYS, st.lists(st.integers(0, 1 << 62), min_size=1, max_size=20))
def test_permute_equals_its_reference_at_any_size(size, key, index):
    index_B = np.array([i % size for i in index], dtype=np.int64)
    got = permutation.permute(index_B, size, key)
    assert got.dtype == np.int64
    assert ((got >= 0) & (got < size)).all()
    assert len(set(got.tolist())) == len(set(index_B.tolist()))
    np.testing.assert_array_equal(got, permutation.permute_reference(index_B, size, key))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1 << 62), st.integers(0, 1 << 62), KEYS), min_size=1, max_size=9))
def test_values_of_any_sizes_and_keys_are_permuted_together(values):
    sizes, indices, keys = zip(*values)
    size_B, index_B = np.tile(np.array(sizes, dtype=np.int64), 37), np.tile(np.array(indices, dtype=np.int64), 37)
    key_B = np.tile(np.array(keys, dtype=np.uint64), 37)
    index_B %= size_B
    expected = [
        int(permutation.permute_reference(index_B[i : i + 1], int(size_B[i]), int(key_B[i]))[0])
        for i in range(len(values))
    ]
    permutation.permute_rows(index_B, size_B, key_B, index_B)  # in place
    assert index_B.tolist() == expected * 37


def test_small_sizes_reach_every_permutation_about_equally():
    counts: dict[tuple[int, ...], int] = {}
    for key in range(6000):
        at = tuple(whole(4, key * 0x9E3779B97F4A7C15 % 2**64))
        counts[at] = counts.get(at, 0) + 1
    assert len(counts) == 24
    assert max(abs(n - 250) for n in counts.values()) < 90  # 250 +- 16; some six standard deviations


@st.composite
def layouts(draw):
    """Arguments of `locate`: pieces of shards, cut into windows."""
    rows_P = np.array(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)), dtype=np.int64)
    piece_start = np.concatenate([[0], np.cumsum(rows_P)]).astype(np.int64)
    inner = draw(st.sets(st.sampled_from(range(len(rows_P)))))
    window_start = piece_start[[*sorted({0, *inner}), len(rows_P)]]
    keys = np.array([draw(KEYS) for _ in window_start[1:]], dtype=np.uint64)
    shard_P = np.array(draw(st.permutations(range(len(rows_P)))), dtype=np.int64)
    row_P = np.array([draw(st.integers(0, 5)) for _ in rows_P], dtype=np.int64)
    position_B = np.array(draw(st.lists(st.integers(0, int(piece_start[-1]) - 1), max_size=30)), dtype=np.int64)
    return position_B, window_start, keys, piece_start, shard_P, row_P, draw(st.booleans())


@settings(deadline=None)
@given(layouts())
def test_locate_equals_its_reference(arguments):
    before = arguments[0].copy()
    for got, expected in zip(kernels.locate(*arguments), kernels.locate_reference(*arguments)):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(arguments[0], before)


@st.composite
def deals(draw):
    """Arguments of `deal_rows`, without the two that it fills."""
    K = draw(st.integers(1, 8))

    def per_domain(low, high):
        return np.array([draw(st.integers(low, high)) for _ in range(K)], dtype=np.int64)

    weight_K = per_domain(0, draw(st.sampled_from([1, 3, 1000, 1 << 32])))
    if not weight_K.any():
        weight_K[0] = 1
    total = int(weight_K.sum())
    credit_K = per_domain(-total, total)
    drawn_K = per_domain(0, 50)
    limit_K = drawn_K + per_domain(0, draw(st.sampled_from([3, 1 << 60])))
    last_K = drawn_K + per_domain(1, draw(st.sampled_from([6, 1 << 60])))
    return weight_K, credit_K, drawn_K, limit_K, last_K, draw(st.booleans())


@settings(deadline=None, max_examples=300)
@given(deals(), st.integers(1, 20))
def test_deal_rows_equals_its_reference_in_every_array(arguments, rows):
    results = []
    for function in (kernels.deal_rows, kernels.deal_rows_of_few, kernels.deal_rows_reference):
        weight_K, credit_K, drawn_K, limit_K, last_K, in_order = arguments
        credit_K, drawn_K = credit_K.copy(), drawn_K.copy()
        domain_B, draw_B = np.full(rows, -1, dtype=np.int32), np.full(rows, -1, dtype=np.int64)
        filled = function(weight_K, credit_K, drawn_K, limit_K, last_K, in_order, domain_B, draw_B)
        results.append([int(filled), credit_K, drawn_K, domain_B, draw_B])
    for got, quick, expected in zip(*results):
        np.testing.assert_array_equal(quick, expected)
        np.testing.assert_array_equal(got, expected)


@settings(deadline=None)
@given(deals(), st.integers(1, 20))
def test_deal_rows_keeps_its_books(arguments, rows):
    weight_K, credit_K, drawn_K, limit_K, last_K, in_order = arguments
    credit, drawn = credit_K.copy(), drawn_K.copy()
    domain_B, draw_B = np.full(rows, -1, dtype=np.int32), np.full(rows, -1, dtype=np.int64)
    filled = int(kernels.deal_rows(weight_K, credit, drawn, limit_K, last_K, in_order, domain_B, draw_B))
    assert int(credit.sum()) == int(credit_K.sum())  # what one row costs is what all are owed
    assert (weight_K[domain_B[:filled]] > 0).all()
    assert (domain_B[filled:] == -1).all()
    for k in range(len(weight_K)):
        taken = draw_B[:filled][domain_B[:filled] == k]
        assert taken.tolist() == list(range(drawn_K[k], drawn[k]))  # one after the other, none left out
    assert (drawn <= np.maximum(limit_K, drawn_K)).all()
    if filled < rows:
        assert (
            drawn[domain_B[filled - 1]] == last_K[domain_B[filled - 1]] or ((drawn >= limit_K) | (weight_K == 0)).all()
        )


def test_in_order_serves_the_first_domain_that_is_open():
    big = np.full(3, 1 << 60, dtype=np.int64)
    domain_B, draw_B = np.empty(5, dtype=np.int32), np.empty(5, dtype=np.int64)
    zero = np.zeros(3, dtype=np.int64)
    limit_K = np.array([2, 0, 9])
    kernels.deal_rows(np.array([2, 1, 9]), zero.copy(), zero.copy(), limit_K, big, True, domain_B, draw_B)
    assert domain_B.tolist() == [0, 0, 2, 2, 2]
    assert draw_B.tolist() == [0, 1, 0, 1, 2]


PLAN = """
import sys
if {blocked}:
    sys.modules["numba"] = None
import numpy as np
from mixstream.plan import compiled
from mixstream.plan.shuffle import Order
from mixstream.plan.plan import Plan
compiled.compile_at_once()
assert (compiled.without() is not None) == {blocked}
N = np.array([50, 31, 9])
plan = Plan(names=("a", "b", "c"), samples_K=N, choose_K=N, epoch_size=90, global_batch_size=8, lanes=2)
order = Order(name="a", seed=3, samples_S=np.array([30, 20]), owned_L=np.array([25, 25]), shuffle=True, block_size=9)
cursor, out = plan.start(), []
for _ in range(15):
    cursor, rows = plan.advance(cursor)
    out.append((rows.domain_B.tolist(), rows.draw_B.tolist()))
out.append([x.tolist() for x in order.locate(lane=1, draw_B=np.arange(60))])
sys.stdout.write(repr(out))
"""


def test_without_numba_the_references_give_the_same_plan(capsys):
    command = [sys.executable, "-c", PLAN.format(blocked=True)]
    without = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    exec(PLAN.format(blocked=False), {})
    assert capsys.readouterr().out == without
    assert len(without) > 1000
