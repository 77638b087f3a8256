"""Sums over ranks of which some read the same rows: every row counts once, whichever of them report it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import RanksDisagreeError
from mixstream.feedback.shares import Shares
from mixstream.types import Float64
from mixstream.world import World

NOTHING = np.zeros((2, 2))


class Ranks:
    """Ranks that sum their losses in lockstep, as `RankConsensus` does."""

    def __init__(self, size: int, *, parts: int = 1, copies: int = 1) -> None:
        self.where = [(d, p) for d in range(size) for p in range(parts) for _ in range(copies)]
        worlds = [World(rank=d, size=size, replicas=parts * copies, part=p, parts=parts) for d, p in self.where]
        self.shares = [Shares.of(world, ranks=len(worlds)) for world in worlds]
        self.rounds, self.step = 0, 0

    def sum(self, reports: list[Float64]) -> Float64:
        marks = sum(share.marks(report) for share, report in zip(self.shares, reports))
        total = sum(share.weight * report for share, report in zip(self.shares, reports))
        for share in self.shares:
            share.check(self.step, marks, lambda slot: f" slot {slot}")
        self.rounds, self.step = self.rounds + 1, self.step + 1
        changed = {share.take(marks) for share in self.shares}
        assert len(changed) == 1  # all ranks sum again, or none does
        if changed.pop():
            self.rounds += 1
            total = sum(share.weight * report for share, report in zip(self.shares, reports))
        return total / self.shares[0].divisor


def losses(data: int, part: int = 0) -> Float64:
    return np.array([[3.25 + data + part, 1.5 * data], [4.0, 2.0 * data]])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.data())
def test_every_row_counts_once_whichever_copies_are_reported(size, parts, copies, data):
    ranks = Ranks(size, parts=parts, copies=copies)
    for _ in range(3):
        chosen = [data.draw(st.sets(st.integers(0, copies - 1), min_size=1)) for _ in range(size * parts)]
        reports = [
            losses(d, p) if i % copies in chosen[d * parts + p] else NOTHING for i, (d, p) in enumerate(ranks.where)
        ]
        expected = sum(losses(d, p) for d in range(size) for p in range(parts))
        np.testing.assert_allclose(ranks.sum(reports), expected, rtol=1e-12)


def test_equal_numbers_of_copies_add_up_to_the_bit_and_once_they_are_known_in_one_sum():
    ranks, odd = Ranks(2, copies=3), np.array([[0.1, 0.7], [3.0, 7.0]])
    for copies in (2, 2, 2):
        reports = [odd * (1 + d) if i % 3 < copies else NOTHING for i, (d, _) in enumerate(ranks.where)]
        assert (ranks.sum(reports) == odd + odd * 2).all()
    assert ranks.rounds == 4  # the first step was summed twice
    assert (ranks.sum([NOTHING] * 6) == 0).all()  # a step without losses changes nothing
    assert ranks.rounds == 5


def test_copies_that_differ_are_refused_and_rounding_is_not():
    ranks = Ranks(2, copies=2)
    ranks.sum([losses(0), losses(0) * (1 + 1e-6), losses(1), losses(1)])
    with pytest.raises(RanksDisagreeError, match=r"disagree at step 1, about their losses: slot 1\n.*loss_parts="):
        ranks.sum([losses(0), losses(0), losses(1), losses(1) * 1.01])


def test_losses_that_are_no_numbers_are_no_disagreement():
    ranks, broken = Ranks(1, copies=2), np.array([[np.nan, np.inf], [4.0, 2.0]])
    assert np.isnan(ranks.sum([broken, broken])[0, 0])


def test_parts_that_are_copies_are_refused_unless_that_is_how_a_model_begins():
    ranks = Ranks(2, parts=2)
    same = [losses(0), losses(0), losses(1), losses(1)]
    for _ in range(7):
        ranks.sum(same)
    ranks.sum([losses(d, p) for d, p in ranks.where])
    for _ in range(7):
        ranks.sum(same)
    with pytest.raises(RanksDisagreeError, match="2 loss_parts have had the same losses for 8 steps, up to step 15"):
        ranks.sum(same)
