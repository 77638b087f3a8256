"""Walks move one cursor; a domain that leaves is warned about once, at its step."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mixstream.plan.plan import Plan
from mixstream.plan.walk import ExhaustionWarnings, Walk


def plan(**kw) -> Plan:
    samples_K = np.array([30, 10], dtype=np.int64)
    whole = {
        "names": ("a", "b"),
        "samples_K": samples_K,
        "choose_K": samples_K,
        "epoch_size": 40,
        "global_batch_size": 8,
    }
    return Plan(**{**whole, **kw})


def test_a_walk_counts_epochs_and_the_steps_that_are_left():
    walk = Walk(plan=plan(), cursor=plan().start())
    lefts = []
    for _ in range(7):
        lefts.append((walk.cursor.epoch, walk.steps_left))
        assert walk.advance() is not None
    assert lefts == [(0, 5), (0, 4), (0, 3), (0, 2), (0, 1), (1, 5), (1, 4)]


def test_a_walk_is_ready_when_its_weights_are_known():
    known = {0: np.array([3, 1], dtype=np.int64) << 30}
    by_step = plan(choose_K=None)
    walk = Walk(plan=by_step, cursor=by_step.start(known[0]), weights=known.get)
    assert walk.ready()
    assert walk.advance() is not None
    assert not walk.ready()


def test_a_departure_is_told_once():
    limited = plan(max_epochs_K=(None, 1))
    walk = Walk(plan=limited, cursor=limited.start())
    departures = ExhaustionWarnings(limited, walk.cursor)
    told = []
    for step in range(12):
        walk.advance()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            departures.check(walk.cursor)
        told += [(step, str(warning.message)) for warning in caught]
    assert len(told) == 1
    assert "domain 'b' has been read 1 times (max_epochs) and leaves the mix after step" in told[0][1]
    with pytest.warns(UserWarning, match="'b'"):
        ExhaustionWarnings(limited, limited.start()).check(walk.cursor)
