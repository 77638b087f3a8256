"""Random subsets, rank correlation and the linear datamodeling score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.datamodels import lds, random_subsets, spearman


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")  # here: it takes a second, and whoever collects this file has it
    left, right = np.array(pairs, float).T
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        assert np.isnan(spearman(left, right))
        return
    assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)


def test_subsets_have_their_size_and_depend_on_the_seed_alone() -> None:
    subsets = random_subsets(101, 30, seed=4, fraction=0.3)
    assert (subsets.sum(axis=1) == 30).all()
    assert np.array_equal(random_subsets(101, 3, seed=4, fraction=0.3), subsets[:3])
    assert len(np.unique(subsets, axis=0)) == 30
    assert not np.array_equal(random_subsets(101, 30, seed=5, fraction=0.3), subsets)
    assert np.abs(random_subsets(400, 400, seed=0).mean(axis=0) - 0.5).max() < 0.12


@pytest.mark.parametrize("fraction", [0, 0.001, 1.0, 1.5, -1])
def test_subsets_that_leave_nothing_in_or_out_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="leaves rows in and out"):
        random_subsets(100, 4, seed=0, fraction=fraction)


def test_lds_of_each_target() -> None:
    generator = np.random.default_rng(0)
    effect = generator.normal(size=(2, 200))
    subsets = random_subsets(200, 60, seed=0)
    outcome = (subsets @ effect.T) + generator.normal(size=(60, 2)) * [1e-9, 5]
    perfect, noisy = lds(effect, subsets, outcome)
    assert perfect == pytest.approx(1)
    assert 0.5 < noisy < 0.95
    unrelated = lds(generator.normal(size=(2, 200)), subsets, outcome)
    assert np.abs(unrelated).max() < 0.4


@pytest.mark.parametrize(
    ("score", "subsets", "outcome"),
    [((5,), (4, 6), (4,)), ((2, 5), (4, 5), (4,)), ((5,), (4, 5), (3,)), ((5,), (2, 5), (2,))],
)
def test_arrays_that_do_not_fit_are_refused(score: tuple, subsets: tuple, outcome: tuple) -> None:
    with pytest.raises(ConfigError):
        lds(np.zeros(score), np.zeros(subsets, bool), np.zeros(outcome))
