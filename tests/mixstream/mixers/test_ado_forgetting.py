"""ADO where a model forgets: a domain that starves is told from one that has converged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream.mixers import ADO
from mixstream.mixers._forgetting import remembered, risen
from mixstream.mixers._history import History, Points, Sampling
from mixstream_examples import mixing_worlds as worlds

LAW_K3 = np.array([[math.log(8.0), 0.0, 0.5]])  # 1 + 8 n^-0.5: 1.8 at 100 rows, 1.4 at 400
WINDOWS = {"window": 51, "ignore_steps": 60, "start_step": 100, "update_interval": 100}


def stands(loss: float, *, n: float = 400.0, law_K3: np.ndarray = LAW_K3, first: float = 1.0) -> float:
    recent = Points(n_PK=np.full((3, 1), n), loss_PK=np.full((3, 1), loss))
    return float(remembered(law_K3, np.array([n]), recent, np.array([first]))[0])


# --- where a domain stands --------------------------------------------------------------------------------------------


def test_a_domain_that_forgot_stands_where_its_law_has_its_loss():
    assert stands(1.4) == pytest.approx(400)
    assert stands((1.4 * 1.8) ** 0.5) == pytest.approx(100)  # half of a rise, in logarithms, is in the law already
    assert stands((1.4 * 2.6) ** 0.5) == pytest.approx(25)


def test_a_loss_on_or_below_its_law_changes_nothing():
    for loss in (1.4, 1.39, 1.0, 0.5):
        assert stands(loss) == pytest.approx(400, rel=1e-12)


def test_it_stands_no_earlier_than_the_law_was_fitted():
    assert stands(50.0, first=36.0) == pytest.approx(36)
    assert stands(50.0, first=math.nan) >= 1


@pytest.mark.parametrize("law", [[math.nan] * 3, [-20.0, 0.1, 0.3]])
def test_without_a_law_that_falls_a_domain_stands_at_its_rows(law):
    assert stands(3.0, law_K3=np.array([law])) == 400


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.8])
@pytest.mark.parametrize("loss", [1e-6, 1.4, 2.0, 1e6, math.nan])
def test_where_it_stands_is_a_number_of_its_rows_whatever_the_loss(alpha, loss):
    law_K3 = np.array([[math.log(8.0), 0.0, alpha]])
    assert 1 <= stands(loss, law_K3=law_K3) <= 400


def test_points_without_a_loss_do_not_count():
    recent = Points(n_PK=np.full((2, 1), 400.0), loss_PK=np.array([[math.nan], [(1.4 * 1.8) ** 0.5]]))
    assert remembered(LAW_K3, np.array([400.0]), recent, np.ones(1))[0] == pytest.approx(100)
    nothing = Points(n_PK=np.empty((0, 1)), loss_PK=np.empty((0, 1)))
    assert remembered(LAW_K3, np.array([400.0]), nothing, np.ones(1))[0] == 400


# --- flat, falling or risen -------------------------------------------------------------------------------------------


def curves(shape_P: np.ndarray, *, noise: float, runs: int = 200) -> np.ndarray:
    return shape_P[:, None] * (1 + noise * np.random.default_rng(0).standard_normal((len(shape_P), runs)))


@pytest.mark.parametrize("points", [8, 40, 200, 512])
def test_noise_on_a_flat_or_falling_curve_is_no_rise(points):
    for shape_P in (np.full(points, 3.0), 2 + 2 * np.arange(10, 10 + points) ** -0.5):
        assert risen(curves(shape_P, noise=0.01), apart=1).mean() < 0.02


@pytest.mark.parametrize("points", [80, 512])
def test_a_rise_is_seen_and_so_is_its_end(points):
    up_P = np.r_[np.linspace(3.2, 3.0, points // 2), np.linspace(3.0, 3.1, points // 2)]
    assert risen(curves(up_P, noise=0.002), apart=1).all()
    down_P = np.r_[up_P, np.linspace(3.1, 2.9, points)]
    assert not risen(curves(down_P, noise=0.002), apart=1).any()


@pytest.mark.parametrize("points", [0, 1, 7, 12])
def test_a_short_curve_has_not_risen(points):
    assert risen(np.linspace(1, 2, points)[:, None] if points else np.empty((0, 1)), apart=5).tolist() == [False]
    assert risen(np.full((50, 1), np.nan), apart=5).tolist() == [False]


def test_rounding_is_no_rise():
    assert not risen(np.r_[np.full(40, 3.0), np.full(40, 3.0003)][:, None], apart=5).any()
    assert risen(np.r_[np.full(40, 3.0), np.full(40, 3.003)][:, None], apart=5).all()


# --- the recent points of a history -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_recent_points_are_the_last_final_ones(shared):
    sampling = Sampling(window=5, degree=1, ignore=10, every=2, most=None, seen=3)
    history = History.begin(2, sampling, shared=shared)
    for step in range(400):
        history = history.append(np.array([2.0 + step, math.nan if step < 50 else 1.0]), np.array([3.0, 1.0]), sampling)
    n_PK, loss_PK = history.points(sampling)
    final = len(history.final_loss_PK)
    recent = history.recent(8, sampling)
    at_P = range(final - 1 - 8 * 3 + 3, final, 3)  # the last eighth, 24 or 25 points, by threes
    np.testing.assert_array_equal(recent.n_PK, n_PK[at_P])
    np.testing.assert_array_equal(recent.loss_PK, loss_PK[at_P])
    first_K = [n_PK[np.flatnonzero(np.isfinite(loss_P))[0], k] for k, loss_P in enumerate(loss_PK.T)]
    assert history.first_n_K(sampling).tolist() == first_K


def test_a_history_without_points_has_no_recent_ones():
    sampling = Sampling(window=5, degree=1, ignore=10, every=2, most=None, seen=1)
    history = History.begin(2, sampling, shared=False)
    assert history.recent(8, sampling).loss_PK.shape == (0, 2)
    assert np.isnan(history.first_n_K(sampling)).all()


# --- what it is for ---------------------------------------------------------------------------------------------------


def bigram(text: worlds.Text, mixer: ADO | None, steps: int) -> worlds.Play:
    return worlds.Play(worlds.Bigram(text, learning_rate=4.0, seed=0), mixer, rows=512).run(steps)


def test_exchangeable_domains_do_not_run_away_from_each_other():
    text, steps = worlds.overlapping(), 6000
    uniform, law, ignored = (
        bigram(text, mixer, steps) for mixer in (None, ADO(), ADO(forgetting="ignore", subsample=10))
    )
    lost, was = (play.world.validate().mean() - uniform.world.validate().mean() for play in (law, ignored))
    assert lost < 0.005
    assert was > 0.01
    assert law.weights_TK[-1].min() > 0.2 > ignored.weights_TK[-1].min()


def test_a_flat_domain_that_is_forgotten_gets_its_prior_share_again_and_one_that_converged_does_not():
    """In `easy_shared`, domain 0 converges at once and domain 1 unlearns it, domain 2 is noise that nothing touches."""
    steps, text = 4000, worlds.easy_shared()
    mixers = (None, ADO(**WINDOWS), ADO(**WINDOWS, forgetting="ignore"))
    uniform, law, ignored = (bigram(text, mixer, steps).world.validate() for mixer in mixers)
    assert ignored[0] - uniform[0] > 2 * abs(law[0] - uniform[0])
    assert law.mean() < ignored.mean()


def test_a_domain_whose_flat_law_is_dropped_has_its_prior_share_of_rho_and_later_a_law_again():
    class Fits(ADO):
        def refit(self, state):
            return np.where(np.array([[True], [False]]), np.nan, [[6.0, 0.5, 0.5]] * 2)

    mixer = Fits(window=5, ignore_steps=0, start_step=0, update_interval=1, min_points=1, p_min=0.0, gamma2=1.0, s=0.0)
    play = worlds.Play(worlds.Linear(np.zeros((2, 2))), mixer, rows=64, domains=2, prior_K=np.array([0.25, 0.75])).run(
        4
    )
    assert play.weights_TK[-1] == pytest.approx([0.25, 0.75])


def test_policies_go_on_when_no_domain_has_a_valid_law():
    """After a first policy, rho is the prior while all laws are lost; the weights do not stay where they were."""
    fits = iter([[[6.0, 0.5, 0.5], [4.0, 0.5, 0.5]], *[np.full((2, 3), np.nan)] * 20])

    class Fits(ADO):
        def refit(self, state):
            return np.array(next(fits))

    mixer = Fits(window=5, ignore_steps=0, start_step=0, update_interval=1, min_points=1, gamma2=1.0)
    play = worlds.Play(worlds.Linear(np.zeros((2, 2))), mixer, rows=64, domains=2).run(10)
    assert play.weights_TK[1][0] > 0.6
    assert play.weights_TK[-1] == pytest.approx([0.5, 0.5])


def test_explain_says_where_domains_stand():
    play = bigram(worlds.overlapping(), ADO(**WINDOWS), 600)
    explained = play.explain()
    assert explained["rows"] == pytest.approx(np.sum(play.rows_TK, axis=0))
    assert (explained["remembered"] <= explained["rows"]).all()
    assert (explained["remembered"] > 0).all()


def test_the_reference_ignores_forgetting():
    assert ADO.reference().forgetting == "ignore"
    with pytest.raises(ConfigError, match="choose one of law, ignore"):
        ADO(forgetting="keep")
