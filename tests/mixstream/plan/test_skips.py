"""Steps that are left out, as ranges: what sets of steps say of the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mixstream.plan.skips import Skips

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6)


def steps_of(ranges) -> set[int]:
    return {step for first, end in ranges for step in range(first, end)}


@given(one=RANGES, other=RANGES, at=st.integers(0, 42), end=st.integers(0, 42))
def test_they_are_the_steps_of_all_ranges(one, other, at, end):
    skips, steps = Skips.of(one), steps_of(one)
    assert {step for step in range(45) if step in skips} == steps
    assert steps_of(skips.ranges) == steps
    assert all(first < last < following for (first, last), (following, _) in pairwise(skips.ranges))
    assert bool(skips) == bool(steps)
    assert steps_of((skips | Skips.of(other)).ranges) == steps | steps_of(other)
    assert steps_of(skips.add(at, end).ranges) == steps | set(range(at, end))
    assert steps_of(skips.since(at).ranges) == {step for step in steps if step >= at}
    assert steps_of(skips.before(at).ranges) == {step for step in steps if step < at}
    assert skips.count(at, end) == len(steps & set(range(at, end)))
    assert skips.after(at) == next(step for step in range(at, 100) if step not in steps)
    assert Skips.of(skips.document()) == skips
