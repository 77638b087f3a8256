"""The loss curves that ADO keeps: smoothed as over the whole history, small, resumable at any step."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers._history import History, Sampling, smoother

SMALL = Sampling(window=7, degree=3, ignore=4, every=3, most=None, seen=0)


def _filled(loss_TK, sampling, rows_TK=None, *, shared=True):
    """Return the history of these losses, four rows of each domain a step unless told otherwise."""
    loss_TK = np.asarray(loss_TK, dtype=np.float64)
    rows_TK = np.full(loss_TK.shape, 4.0) if rows_TK is None else np.asarray(rows_TK, dtype=np.float64)
    history = History.begin(loss_TK.shape[1], sampling, shared=shared)
    for loss_K, rows_K in zip(loss_TK, rows_TK):
        history = history.append(loss_K, rows_K, sampling)
    return history


def _smoothed_whole(loss_TK, window, degree):
    """Return the Savitzky-Golay filter of whole columns, as scipy's mode "interp" defines it."""
    rows, half = len(loss_TK), window // 2
    smooth_TK = np.empty_like(loss_TK)
    for row in range(rows):
        first = min(max(row - half, 0), rows - window)
        at_W = np.arange(window) - (row - first)
        smooth_TK[row] = np.polyfit(at_W, loss_TK[first : first + window], degree)[-1]
    return smooth_TK


@settings(max_examples=60)
@given(
    rows=st.integers(1, 70),
    window=st.sampled_from([5, 7, 15]),
    ignore=st.integers(0, 20),
    every=st.integers(1, 10),
    shared=st.booleans(),
)
def test_points_are_those_of_a_filter_over_the_whole_history(rows, window, ignore, every, shared):
    rng = np.random.default_rng(rows)
    loss_TK = rng.uniform(1, 3, (rows, 2)).astype(np.float32).astype(np.float64)
    rows_TK = rng.integers(0, 9, (rows, 2)).astype(np.float64)
    sampling = Sampling(window=window, degree=3, ignore=ignore, every=every, most=None, seen=0)
    n_PK, got_PK = _filled(loss_TK, sampling, rows_TK, shared=shared).points(sampling)
    if rows < window:
        assert len(got_PK) == 0
        return
    n_TK = np.cumsum(rows_TK, axis=0)
    n_TK = n_TK.sum(axis=1, keepdims=True) + 0 * n_TK if shared else n_TK
    assert np.array_equal(n_PK, n_TK[ignore::every])
    assert got_PK == pytest.approx(_smoothed_whole(loss_TK, window, 3)[ignore::every], rel=2e-6)


def test_the_smoother_keeps_polynomials_of_its_degree():
    at_W = np.linspace(-1, 2, 101)
    values_W = 3 - at_W + 2 * at_W**3
    assert smoother(101, 3) @ values_W == pytest.approx(values_W, abs=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_a_bounded_history_drops_every_other_point_and_doubles_their_distance(shared):
    loss_TK = np.linspace(4, 2, 400)[:, None] * np.ones(2)
    every_one = _filled(loss_TK, SMALL, shared=shared)
    bounded = replace(SMALL, most=20)
    history = _filled(loss_TK, bounded, shared=shared)
    assert history.every == 24
    assert len(history.final_loss_PK) <= 20
    for ours, whole in zip(history.points(bounded), every_one.points(SMALL)):
        assert np.array_equal(ours, whole[::8])


def test_appending_leaves_the_history_as_it_was():
    history = _filled(np.full((30, 2), 2.0), SMALL)
    before = json.dumps(to_json(history.dump()))
    for loss in (1.0, 3.0):
        history.append(np.full(2, loss), np.ones(2), SMALL)
    assert json.dumps(to_json(history.dump())) == before


@settings(max_examples=20)
@given(at=st.integers(0, 60), shared=st.booleans(), most=st.sampled_from([None, 4]))
def test_a_history_goes_on_from_json_bit_for_bit(at, shared, most):
    sampling = replace(SMALL, most=most, seen=2)
    loss_TK = np.random.default_rng(0).uniform(1, 3, (61, 3))
    loss_TK[::7, 1] = np.nan
    history = _filled(loss_TK[:at], sampling, shared=shared)
    resumed = History.load(from_json(json.loads(json.dumps(to_json(history.dump())))))
    for loss_K in loss_TK[at:]:
        history, resumed = (one.append(loss_K, np.ones(3), sampling) for one in (history, resumed))
    assert to_json(history.dump()) == to_json(resumed.dump())
    for straight, again in zip(history.points(sampling), resumed.points(sampling)):
        assert np.array_equal(straight, again, equal_nan=True)


def test_a_missing_loss_is_the_one_before_and_at_first_the_mean_of_the_rows():
    loss_TK = [[2.0, 3.0, np.nan], [np.nan, 3.5, 0.0], [1.0, np.inf, 5.0], [-1.0, 2.0, np.nan]]
    rows_TK = [[3, 1, 0], [0, 4, 0], [1, 1, 1], [1, 1, 0]]
    recent_TK = _filled(loss_TK, SMALL, rows_TK).recent_loss_WK
    assert recent_TK.tolist() == [[2.0, 3.0, 2.25], [2.0, 3.5, 2.25], [1.0, 3.5, 5.0], [1.0, 2.0, 5.0]]
    unseen_TK = _filled(loss_TK, replace(SMALL, seen=1), rows_TK).recent_loss_WK
    assert np.isnan(unseen_TK[:, 2]).tolist() == [True, True, False, False]


def test_points_count_once_a_domain_was_seen_often_enough():
    loss_TK = np.full((60, 2), 2.0)
    loss_TK[:30, 1] = np.nan
    sampling = replace(SMALL, seen=5)
    _, loss_PK = _filled(loss_TK, sampling).points(sampling)
    row_P = 4 + 3 * np.arange(len(loss_PK))
    assert np.isfinite(loss_PK[:, 0]).all()
    assert np.isfinite(loss_PK[:, 1]).tolist() == (row_P >= 34).tolist()


def test_curves_move_with_their_domains():
    rng = np.random.default_rng(0)
    loss_TK = rng.uniform(1, 3, (40, 3))
    sampling = replace(SMALL, seen=1)
    moved = _filled(loss_TK, sampling, shared=False).adapt(np.array([2, -1, 0]), sampling)
    old, new = _filled(loss_TK, sampling, shared=False).points(sampling), moved.points(sampling)
    assert np.array_equal(new.loss_PK[:, [0, 2]], old.loss_PK[:, [2, 0]])
    assert np.array_equal(new.n_PK[:, [0, 2]], old.n_PK[:, [2, 0]])
    assert np.isnan(new.loss_PK[:, 1]).all()
    assert moved.n_K[1] == 0
    for _ in range(30):
        moved = moved.append(np.full(3, 2.0), np.full(3, 4.0), sampling)
    last_K = moved.points(sampling).loss_PK[-1]
    assert last_K == pytest.approx(2.0)


@pytest.mark.parametrize(("most", "limit"), [(None, 1.2e6), (512, 0.1e6)])
def test_the_state_of_a_long_run_of_22_domains_is_small(most, limit):
    sampling = Sampling(window=101, degree=3, ignore=1000, every=10, most=most, seen=0)
    history = _filled(np.full((1200, 22), 2.0), sampling)
    # 100,000 steps leave (100,000 - 1000 - 50) / 10 final points; what is not points does not grow
    points = 9895 if most is None else most
    grown = replace(history, rows=100_000, final_loss_PK=np.ones((points, 22), np.float32))
    assert len(history.final_n) == 2  # one batch size: the first point's n, and the distance of all others
    assert len(json.dumps(to_json(grown.dump()))) < limit
