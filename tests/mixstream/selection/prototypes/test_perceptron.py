"""Pruning as theory predicts it (A1 to A6): the keep rules on a perceptron whose error is known.

The numbers of the tables are those of the specification; the theory here is derived and integrated anew.
"""

import math
from functools import cache

import numpy as np
import pytest
from perceptron import points, student, theory  # pyright: ignore[reportMissingImports]

from mixstream.selection.rules import keep, random_rows

N, SEEDS = 100, 20

# (alpha_tot, theta in degrees, f, side) -> error by theory
ROWS = {
    (2, 0, 1.0, "hard"): 0.1885,
    (8, 0, 1.0, "hard"): 0.0609,
    (2, 0, 0.5, "hard"): 0.3210,
    (2, 0, 0.5, "easy"): 0.1818,
    (8, 0, 0.5, "hard"): 0.0610,
    (8, 0, 0.5, "easy"): 0.0679,
    (8, 0, 0.25, "hard"): 0.1051,
    (8, 10, 0.25, "hard"): 0.2310,
    (8, 20, 0.5, "hard"): 0.0706,
    (4, 45, 0.5, "hard"): 0.2163,
    (20, 0, 0.2, "hard"): 0.0250,
    (20, 10, 0.2, "hard"): 0.0393,
    (10, 20, 0.4, "hard"): 0.0678,
}


@cache
def simulated(alpha_tot: float, degrees: float, f: float, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the (error, margin) of the students of all seeds, each [SEEDS]."""
    results = []
    for seed in range(SEEDS):
        x, y, z = points(N, alpha_tot, math.radians(degrees), seed)
        if side == "random":
            kept = random_rows(len(z), rows=round(f * len(z)), seed=seed)
        else:
            kept = keep(z, side="low" if side == "hard" else "high", fraction=f)
        results.append(student(x[kept], y[kept]))
    error, margin = np.array(results).T
    return error, margin


def mean(alpha_tot: float, degrees: float, f: float, side: str) -> float:
    return float(simulated(alpha_tot, degrees, f, side)[0].mean())


@pytest.mark.parametrize(("alpha_tot", "degrees", "f", "side"), ROWS)
def test_a1_students_are_as_good_as_the_theory_says(alpha_tot: float, degrees: float, f: float, side: str) -> None:
    expected, margin = theory(f * alpha_tot, math.radians(degrees), f, side)
    assert expected == pytest.approx(ROWS[alpha_tot, degrees, f, side], abs=1.5e-4)
    errors, margins = simulated(alpha_tot, degrees, f, side)
    spread = errors.std(ddof=1) / math.sqrt(SEEDS)
    assert abs(errors.mean() - expected) <= max(0.012, 3 * spread)
    assert margins.mean() == pytest.approx(margin, rel=0.08)


def test_a2_with_few_points_easy_ones_help() -> None:
    easy, random, hard = (mean(2, 0, 0.5, side) for side in ("easy", "random", "hard"))
    assert easy + 0.05 <= random
    assert random + 0.05 <= hard


def test_a3_with_many_points_hard_ones_are_as_good_as_all() -> None:
    hard, easy, random = (mean(8, 0, 0.5, side) for side in ("hard", "easy", "random"))
    assert hard < easy < random
    difference = simulated(8, 0, 0.5, "hard")[0] - simulated(8, 0, 1.0, "hard")[0]
    assert abs(difference.mean()) <= max(0.006, 3 * difference.std(ddof=1) / math.sqrt(SEEDS))


def test_a4_constants_of_the_theory() -> None:
    assert 0.495 <= 50 * theory(50)[0] <= 0.505
    below, above = (theory(alpha / 2, f=0.5, side="easy")[0] - theory(alpha / 2, f=0.5)[0] for alpha in (4.9, 5.2))
    assert below < 0 < above  # hard ones win from alpha_tot = 5.04 on


def test_a5_pruning_more_of_more_beats_the_power_law() -> None:
    pruned = [theory(alpha, math.radians(10), f)[0] for alpha, f in ((2, 0.5), (4, 0.2))]
    whole = [theory(alpha)[0] for alpha in (2, 4)]
    assert math.log2(pruned[0] / pruned[1]) >= 1.7
    assert math.log2(whole[0] / whole[1]) <= 0.8


def test_a6_hard_points_of_many_beat_as_many_random_ones() -> None:
    assert mean(20, 10, 0.2, "hard") <= 0.45 * mean(20, 10, 0.2, "random")
