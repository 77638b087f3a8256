"""Objective, gradient and fit of scaling laws: the released code's values, and what a fit must be besides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling_world import golden

from mixstream.mixers.scaling_law import FLAT, Limits, fit, loss_at, objective, speed_at

CASES = {case["name"]: case for case in golden("ado_fit")["cases"]}
RELEASED, OURS = Limits(), Limits(log_eps_min=math.log(0.01), data="mean")
FORMS = pytest.mark.parametrize(("limits", "points"), [(RELEASED, 6), (RELEASED, 20), (OURS, 51), (OURS, 200)])
SOUND = [name for name, case in CASES.items() if case["jax_float64"]["accepted"]]


def _fit(n_P, loss_P, limits=RELEASED, **kw):
    """Fit one domain, without a warm start unless `kw` has one."""
    n_PK, loss_PK = np.asarray(n_P, dtype=np.float64)[:, None], np.asarray(loss_P, dtype=np.float64)[:, None]
    return fit(n_PK, loss_PK, limits, **{"warm_K3": np.full((1, 3), np.nan), **kw})[0]


def test_objective_and_gradient_are_the_released_codes():
    for point in golden("ado_objective")["points"]:
        case = CASES[point["case"]]
        value, gradient = objective(np.array(point["params"]), np.array(case["n"]), np.array(case["loss"]), Limits())
        assert value[0] == pytest.approx(point["value"], abs=1e-12)
        assert gradient[0] == pytest.approx(point["grad"], abs=1e-12)


@pytest.mark.parametrize("name", SOUND)
def test_a_fit_is_no_worse_than_all_512_starts_of_the_released_code(name):
    case = CASES[name]
    n_P, loss_P = np.array(case["n"]), np.array(case["loss"])
    theta = _fit(n_P, loss_P)
    assert objective(theta, n_P, loss_P, Limits())[0][0] <= case["jax_float64"]["objective"] + 2e-6
    if name in ("clean", "clean_large_n", "noisy_1pct", "outliers_3of40"):
        ours, theirs = (
            speed_at(np.array([law]), n_P[-1:], alpha_floor=0.0)[0] for law in (theta, case["jax_float64"]["params"])
        )
        assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("name", ["nan_one_point", "zero_one_point"])
def test_a_point_that_has_no_logarithm_is_left_out(name):
    case = CASES[name]
    assert _fit(case["n"], [float(loss) for loss in case["loss"]]) == pytest.approx(
        CASES["clean"]["jax_float64"]["params"], abs=1e-3
    )


@pytest.mark.parametrize("name", ["flat", "increasing", "low_entropy_eps0.8", "very_low_loss"])
def test_a_curve_without_a_slope_has_speed_zero(name):
    case = CASES[name]
    theta = _fit(case["n"], case["loss"])
    assert theta[0] == FLAT
    assert speed_at(theta[None], np.array([1e4]), alpha_floor=0.05)[0] == 0.0


def _series(points, domains=16):
    """Return n [P, K] of many beginnings, and levels [K]."""
    rng = np.random.default_rng(points)
    return 64.0 * (10 * np.arange(points)[:, None] + rng.integers(1, 600, domains)), rng.uniform(1.8, 12, domains)


@FORMS
@pytest.mark.parametrize("kind", ["constant", "rising", "as good as flat"])
def test_curves_that_do_not_fall_have_speed_zero(limits, points, kind):
    n_PK, level_K = _series(points)
    growth_PK = {
        "constant": np.zeros(n_PK.shape),
        "rising": 0.02 * np.log(n_PK / n_PK[0]),
        "as good as flat": 1e-5 * np.random.default_rng(0).standard_normal(n_PK.shape),
    }[kind]
    loss_PK = level_K * np.exp(growth_PK)
    theta_K3 = fit(n_PK, loss_PK, limits, warm_K3=np.full((len(level_K), 3), np.nan))
    assert (speed_at(theta_K3, n_PK[-1], alpha_floor=0.05) == 0).all()
    assert (loss_at(theta_K3, n_PK[0]) <= loss_PK.max(axis=0) * (1 + 1e-8)).all()  # the law drawn is near the curve
    assert (loss_at(theta_K3, n_PK[-1]) >= loss_PK.min(axis=0) * (1 - 1e-8)).all()


@FORMS
def test_a_speed_above_zero_says_that_no_constant_fits_the_noise_as_well(limits, points):
    n_PK, level_K = _series(points, domains=24)
    loss_PK = level_K * np.exp(1e-3 * np.random.default_rng(1).standard_normal(n_PK.shape))
    theta_K3 = fit(n_PK, loss_PK, limits, warm_K3=np.full((len(level_K), 3), np.nan))
    fast_K = np.flatnonzero(speed_at(theta_K3, n_PK[-1], alpha_floor=0.05))
    assert 0 < len(fast_K) < len(level_K)
    for theta_3, n_P, loss_P in zip(theta_K3[fast_K], n_PK.T[fast_K], loss_PK.T[fast_K]):
        level_S = np.quantile(np.log(loss_P), np.linspace(0, 1, 201))
        constant_S3 = np.stack([np.full(201, FLAT), level_S, np.full(201, 0.4)], axis=1)
        assert objective(theta_3, n_P, loss_P, limits)[0][0] < objective(constant_S3, n_P, loss_P, limits)[0].min()


@FORMS
@pytest.mark.parametrize("fall", [5e-4, 5e-3])
def test_a_slow_fall_without_noise_keeps_its_slope(limits, points, fall):
    n_PK, level_K = _series(points)
    alpha_K = np.linspace(0.1, 0.6, len(level_K))
    beta_K = fall * level_K / (n_PK[0] ** -alpha_K - n_PK[-1] ** -alpha_K)
    truth_K3 = np.stack([np.log(beta_K), np.log(level_K), alpha_K], axis=1)
    theta_K3 = fit(n_PK, loss_at(truth_K3, n_PK), limits, warm_K3=np.full(truth_K3.shape, np.nan))
    got_K, true_K = (speed_at(law_K3, n_PK[points // 2], alpha_floor=0.0) for law_K3 in (theta_K3, truth_K3))
    assert got_K == pytest.approx(true_K, rel=0.05)


def test_a_domain_whose_loss_ends_below_the_released_limit_is_fitted_without_it():
    n_P = np.linspace(5000, 200_000, 60)
    truth = np.array([math.log(12.0), math.log(0.3), 0.3])
    loss_P = loss_at(truth, n_P)
    assert _fit(n_P, loss_P, Limits(log_eps_min=math.log(0.01))) == pytest.approx(truth, abs=1e-3)
    assert abs(_fit(n_P, loss_P)[2] - 0.3) > 0.1


def test_limits_hold_however_many_points_there_are_if_the_data_term_is_a_mean():
    n_P = 256.0 * np.arange(1000, 60_000, 10)
    loss_P = loss_at(np.array([3.0, -0.22, 0.25]), n_P)
    assert _fit(n_P, loss_P, Limits(data="mean"))[1] == pytest.approx(0.5, abs=1e-9)
    assert _fit(n_P, loss_P, Limits(data="sum"))[1] < 0.4  # section 1.3: they leak from about 1000 points on
    assert _fit(n_P[:300], loss_P[:300], Limits(data="sum"))[1] == pytest.approx(0.5, abs=1e-9)


def test_inside_the_limits_mean_and_sum_have_the_same_minimum():
    case = CASES["noisy_1pct"]
    by_sum, by_mean = (_fit(case["n"], case["loss"], Limits(data=data)) for data in ("sum", "mean"))
    n_P = np.array([case["n"][-1]])
    assert speed_at(by_sum[None], n_P, alpha_floor=0.0) == pytest.approx(
        speed_at(by_mean[None], n_P, alpha_floor=0.0), rel=0.01
    )


def test_domains_are_fitted_independently_and_too_few_points_give_none():
    names = ["clean", "noisy_1pct", "flat", "beta_e8", "alpha_1.2"] * 8  # more than go through at once
    n_PK = np.array([CASES[name]["n"] for name in names]).T
    loss_PK = np.array([CASES[name]["loss"] for name in names]).T
    loss_PK[:35, 3] = np.nan
    theta_K3 = fit(n_PK, loss_PK, Limits(), warm_K3=np.full((len(names), 3), np.nan), min_points=6)
    assert np.isnan(theta_K3).any(axis=1).tolist() == [k == 3 for k in range(len(names))]
    for k in (0, 1, 36):
        assert theta_K3[k] == pytest.approx(_fit(n_PK[:, k], loss_PK[:, k]), abs=1e-6)


def test_a_warm_start_never_makes_a_fit_worse():
    case = CASES["outliers_3of40"]
    n_P, loss_P = np.array(case["n"]), np.array(case["loss"])
    for warm in ([3.9, 0.69, 0.4], [-1e13, 0.5, 0.8], [20.0, -15.0, 3.0]):
        theta = _fit(n_P, loss_P, warm_K3=np.array([warm]))
        assert objective(theta, n_P, loss_P, Limits())[0][0] <= case["jax_float64"]["objective"] + 2e-6


@settings(max_examples=15)
@given(
    beta=st.floats(3.0, 300.0),
    eps=st.floats(0.2, 4.0),
    alpha=st.floats(0.1, 0.75),
    points=st.sampled_from([30, 90, 450]),
    noise=st.sampled_from([0.0, 0.002]),
)
def test_the_fit_of_a_law_is_no_worse_than_the_law(beta, eps, alpha, points, noise):
    n_P = np.linspace(2e4, 2e6, points)
    truth = np.array([math.log(beta), math.log(eps), alpha])
    loss_P = loss_at(truth, n_P) * np.exp(noise * np.random.default_rng(points).standard_normal(points))
    theta = _fit(n_P, loss_P, OURS)
    assert np.isfinite(theta).all()
    assert objective(theta, n_P, loss_P, OURS)[0] <= objective(truth, n_P, loss_P, OURS)[0] + 2e-6 / points


def test_speed_is_the_slope_of_the_loss_and_guards_its_edges():
    theta_K3 = np.array([[3.0, 0.5, 0.4]] * 2 + [[FLAT, 0.5, 0.4], [np.nan] * 3, [3.0, 0.5, 0.01]])
    n_K = np.array([1e4, 0.0, 1e4, 1e4, 1e4])
    speed_K = speed_at(theta_K3, n_K, alpha_floor=0.05)
    assert speed_K[0] == pytest.approx(loss_at(theta_K3[0], 1e4 - 0.5) - loss_at(theta_K3[0], 1e4 + 0.5), rel=1e-4)
    assert speed_K[1] == speed_K[2] == 0.0
    assert np.isnan(speed_K[3])
    assert speed_K[4] == pytest.approx(5 * speed_at(theta_K3[4:], n_K[4:], alpha_floor=0.0)[0])
