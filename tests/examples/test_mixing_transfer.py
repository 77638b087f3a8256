"""bench/mixing_transfer.py: its limits tell a matrix from its transpose and from its diagonal."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mixstream_examples.mixing_worlds import Play, Transfer, outside, small_with_sister

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import mixing_transfer as bench

CASES = [(make, name) for make in (outside, small_with_sister) for name in bench.methods(make, "right")]


@pytest.mark.parametrize(("make", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_right_matrix_keeps_the_limit_and_its_transpose_and_diagonal_miss_it(make, name):
    shares = {}
    for form in bench.FORMS:
        mixer, reported = bench.methods(make, form)[name]
        shares[form] = bench.share_of(bench.play(make, form, mixer, reported=reported), make)
    assert shares["right"] >= bench.LIMIT
    assert max(shares["transposed"], shares["diagonal"]) <= bench.WRONG


@pytest.mark.parametrize("make", [outside, small_with_sister])
def test_the_matrix_of_a_world_is_the_slope_of_its_losses(make):
    world = make()
    world.train(np.array([500, 300, 200]))
    before_V, matrix_VK = world.validate(), world.matrix()
    for domain in range(3):
        moved = make()
        moved.train(np.array([500, 300, 200]) + np.eye(3, dtype=int)[domain])
        assert before_V - moved.validate() == pytest.approx(matrix_VK[:, domain], rel=0.01, abs=1e-12)


def test_rows_of_a_small_domain_teach_less_when_they_are_repeated():
    world = Transfer(np.eye(2), np.array([100.0, 1e12]))
    world.train(np.array([1000, 1000]))
    small, large = world.validate()
    assert small == pytest.approx(2 + 20 * 1100**-0.35, abs=1e-3)
    assert large == pytest.approx(2 + 20 * 2000**-0.35, abs=1e-3)


def test_a_matrix_is_reported_with_every_50th_step():
    class Noting:
        def init(self, prior_K):
            return {}

        def update(self, state, feedback):
            seen.append(feedback.step) if feedback.matrix_VK is not None else None
            return state, np.ones(3) / 3

    seen, world = [], outside()
    Play(world, Noting(), rows=8, measure=world.matrix).run(120)
    assert seen == [0, 50, 100]
