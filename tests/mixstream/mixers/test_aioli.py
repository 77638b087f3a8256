"""Aioli: against the reference's trajectories, and against worlds whose A is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_trainer import Run, linear, told

from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers.aioli import Aioli
from mixstream.mixers.lmo import normalise_matrix

GOLDENS = sorted((Path(__file__).parents[2] / "goldens" / "mixing").glob("aioli_*.json"))


# Against the reference


class Replay(Aioli):
    """Aioli whose probes come in the order that the reference's generator happened to give."""

    def probe_order(self, number: int, sweep: int, domains: int) -> tuple[int, ...]:
        return ORDERS[self.seed][number][sweep * domains : (sweep + 1) * domains]


ORDERS: dict[int, list[tuple[int, ...]]] = {}


def golden_run(golden: Any, number: int) -> Run:
    config, simulator = golden["config"], golden["simulator"]
    ORDERS[number] = [tuple(round_["probe_order"]) for round_ in golden["rounds"]]
    ORDERS[number] += ORDERS[number][:1]  # the run ends where one more round would begin
    mixer = Replay(
        round_steps=config["update_steps"],
        sweeps=config["lp_rounds"],
        probe_steps=config["lp_steps"],
        one_hot=config["one_hot_factor"],
        eta=config["eta"],
        ema=config["ema"],
        normalise=config["aioli_normalize_A"],
        diagonal=config["aioli_diagonal"],
        prior_steps=config["prior_steps"] or 0,
        seed=number,
    )
    law, e, b, a, c = (np.array(simulator[name]) for name in ("M", "e", "b", "a", "c"))
    seen = [np.zeros(config["k"])]

    def train(share_K: Any) -> None:
        seen[0] = seen[0] + law @ share_K

    def losses() -> Any:
        return np.round(e + b * (1 + np.maximum(seen[0], 0) / c) ** (-a), 9)

    return Run(mixer, golden["prior_mixture"] or np.ones(config["k"]) / config["k"], train, losses)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_it_is_the_reference_to_1e_12(path):
    golden = json.loads(path.read_text())
    config, near = golden["config"], {"rtol": 0, "atol": 1e-12}
    run = golden_run(golden, GOLDENS.index(path))
    sweep_steps = config["lp_rounds"] * config["k"] * config["lp_steps"]
    for number, expected in enumerate(golden["rounds"]):
        begins = (config["prior_steps"] or 0) + number * config["update_steps"]
        run.run(begins + sweep_steps)
        np.testing.assert_allclose(told(run)["matrix"], expected["A_raw"], **near)
        if config["aioli_normalize_A"]:
            used_VK = normalise_matrix(np.array(expected["A_raw"]))
            np.testing.assert_allclose(used_VK, expected["A_used_after_normalisation"], **near)
        measured = np.array(run.measured[-len(expected["probe_losses"]) - 1 :])
        np.testing.assert_allclose(measured, [expected["loss_0"], *expected["probe_losses"]], **near)
        probes = [run.weights[begins + step] for step in range(0, sweep_steps, config["lp_steps"])]
        np.testing.assert_allclose(probes, expected["probe_mixtures"], **near)
        for step in (begins + sweep_steps, begins + config["update_steps"] - 1):
            np.testing.assert_allclose(run.run(step).weights[step], expected["weights"], **near)
    run.run(config["max_steps"])
    np.testing.assert_allclose(run.losses(), golden["final_losses"], **near)
    if config["prior_steps"]:
        np.testing.assert_allclose(run.weights[config["prior_steps"] - 1], golden["prior_mixture"], **near)

    # The reference evaluates where rounds meet twice, and the test split at the end.
    assert run.evaluated == sorted({batches for *_, batches in golden["eval_counters"]})
    meet = sum(step > 0 and step % config["update_steps"] == 0 for step in run.evaluated)
    assert len(run.evaluated) + meet + 1 == golden["n_evaluations"]


# Against worlds whose A is known


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, float, Any]:
    domains = draw(st.integers(2, 5))
    one_hot = draw(st.floats(0.02, 1).filter(lambda q: abs(q * domains - 1) > 0.05))
    entries = draw(st.lists(st.floats(-1, 1), min_size=domains**2, max_size=domains**2))
    return domains, one_hot, np.array(entries).reshape(domains, domains)


@settings(max_examples=40, deadline=None)
@given(world=worlds(), sweeps=st.integers(1, 3), probe_steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_estimate_is_exact_in_a_linear_world(world, sweeps, probe_steps, seed):
    domains, one_hot, matrix_KK = world
    probing = domains * sweeps * probe_steps
    mixer = Aioli(round_steps=probing + 3, sweeps=sweeps, probe_steps=probe_steps, one_hot=one_hot, seed=seed)
    run = Run(mixer, np.ones(domains) / domains, *linear(matrix_KK, loss=10.0)[:2]).run(probing)
    np.testing.assert_allclose(told(run)["matrix"], probe_steps * matrix_KK, rtol=0, atol=1e-9)
    assert told(run)["condition"] == pytest.approx(max((domains - 1) / abs(one_hot * domains - 1), 1), abs=1e3)


@settings(max_examples=30, deadline=None)
@given(sweeps=st.integers(1, 3), probe_steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_it_goes_by_what_probes_were_made_of_not_by_what_they_should_be(sweeps, probe_steps, seed):
    """0.65 of 8 rows are no whole number: the rows are 5, 1, 1, 1 where 5.2, 0.93, 0.93, 0.93 were asked for."""
    rng = np.random.default_rng(seed)
    matrix_KK = rng.normal(size=(4, 4))
    mixer = Aioli(round_steps=60, sweeps=sweeps, probe_steps=probe_steps, one_hot=0.65, seed=seed)
    train, losses, _ = linear(matrix_KK, loss=10.0)
    run = Run(mixer, np.ones(4) / 4, train, losses, whole_rows=True).run(4 * sweeps * probe_steps)
    np.testing.assert_allclose(told(run)["matrix"], probe_steps * matrix_KK, rtol=0, atol=1e-9)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_probes_may_be_made_of_domains_unequally(gone):
    """A domain leaves in the middle of the probes: those after it lack it, and its own was made of others."""
    matrix_KK = np.array([[1.0, 0.3, -0.2], [0.1, 0.7, 0.4], [0.5, -0.6, 0.9]])
    mixer = Aioli(round_steps=30, sweeps=2, probe_steps=2, one_hot=0.7, seed=3)
    left = np.arange(3) == gone
    run = Run(mixer, np.ones(3) / 3, *linear(matrix_KK)[:2], gone=lambda step: left & (step >= 7)).run(12)
    np.testing.assert_allclose(told(run)["matrix"], 2 * matrix_KK, rtol=0, atol=1e-9)


def test_validation_groups_need_not_be_the_domains_and_targets_weigh_them():
    matrix_VK = [[1.0, 0.0, 0.0], [0.0, 0.2, 0.1]]
    mixer = Aioli(round_steps=30, sweeps=2, probe_steps=2, targets=(0, 3), normalise=False, eta=1.0)
    run = Run(mixer, np.ones(3) / 3, *linear(matrix_VK)[:2]).run(12)
    np.testing.assert_allclose(told(run)["matrix"], 2 * np.array(matrix_VK), atol=1e-9)
    expected_K = np.exp([0, 3 * 0.4, 3 * 0.2])
    np.testing.assert_allclose(run.weights[12], expected_K / expected_K.sum(), atol=1e-9)


def test_targets_by_name_are_put_into_the_plans_order():
    bound = Aioli(targets={"web": 2.0}).bind(("code", "law", "web"), np.ones(3, dtype=np.int64))
    assert bound.targets == (0.0, 0.0, 2.0)
    with pytest.raises(ConfigError, match=r"\['news'\], which are not domains"):
        Aioli(targets={"news": 1}).bind(("code", "web"), np.ones(2, dtype=np.int64))


def contrast(rounds: int, N: int, **options: Any) -> float:
    """Return the weight of a domain that helps twice as much as each other, over another's."""
    mixer = Aioli(round_steps=4 * N, sweeps=1, probe_steps=1, one_hot=1.0, **options)
    run = Run(mixer, np.ones(N) / N, *linear(np.diag([2.0] + [1.0] * (N - 1)))[:2]).run(4 * N * rounds)
    weights_K = told(run)["weights"]
    return float(weights_K[0] / weights_K[1])


@pytest.mark.parametrize("N", [2, 3, 7])
def test_the_contrast_of_weights_is_that_of_the_docstring(N):
    row = {2: ("1.40", "786"), 3: ("1.28", "148"), 7: ("1.13", "12")}[N]
    assert f"{contrast(20, N):.2f}" == row[0]
    assert f"{contrast(20, N, ema=None):.0f}" == row[1]
    for line in ("| with ema | 1.40 | 1.28 | 1.13 |", "| ema=None, 20 rounds | 786 | 148 | 12 |"):
        assert line in (Aioli.__doc__ or "")


@pytest.mark.parametrize("eta", [0.2, 1.0, 3.0])
def test_by_default_the_contrast_never_exceeds_exp_eta(eta):
    mixer = Aioli(round_steps=8, sweeps=1, probe_steps=1, one_hot=1.0, eta=eta)
    run = Run(mixer, np.ones(2) / 2, *linear(np.diag([9.0, 0.0]))[:2]).run(8 * 60)
    weights_K = told(run)["weights"]
    assert weights_K[0] / weights_K[1] <= np.exp(eta) * (1 + 1e-9)


@pytest.mark.parametrize("K", [2, 3, 7, 20])
@pytest.mark.parametrize("most", [1.0, 5.0])
def test_the_bound_holds_for_any_matrices_of_a_thousand_rounds_whatever_is_not_measured(K, most):
    random, eta = np.random.default_rng(K), 2.0
    targets = (most, *np.linspace(0, 1, K)[1:])
    lmo = Aioli(eta=eta, targets=None if most == 1 else targets)._lmo
    state, reached = lmo.begin(np.ones(K) / K), 0.0
    for _ in range(1000):
        matrix_KK = random.normal(size=(K, K)) * random.integers(0, 2, (K, K)) ** 2
        matrix_KK[:, 0] += 9  # the same domain helps all the time
        matrix_KK[random.random(K) < 0.5] = np.nan
        state, weights_K = lmo.observe(state, matrix_KK)
        reached = max(reached, weights_K.max() / weights_K.min())
    assert 1.2 < reached <= np.exp(eta * most) * (1 + 1e-9)


@pytest.mark.parametrize("groups", [1, 3])
def test_without_targets_there_is_one_group_for_each_domain(groups):
    world = linear(np.ones((groups, 2)))[:2]
    with pytest.raises(FeedbackError, match=f"{groups} validation groups were reported for 2 domains, .* targets="):
        Run(Aioli(round_steps=40), [0.5, 0.5], *world)
    Run(Aioli(round_steps=40, targets=(1,) * groups), [0.5, 0.5], *world).run(10)


def test_the_diagonal_variant_measures_only_how_a_domain_helps_itself():
    matrix_KK = np.array([[0.5, 0.3], [0.2, 0.1]])
    mixer = Aioli(round_steps=20, sweeps=1, probe_steps=2, one_hot=1.0, diagonal=True)
    run = Run(mixer, [0.5, 0.5], *linear(matrix_KK)[:2]).run(4)
    np.testing.assert_allclose(told(run)["matrix"], np.diag([1.0, 0.2]), atol=1e-9)
    with pytest.raises(FeedbackError, match="one loss per domain"):
        Run(mixer, [0.5, 0.5], *linear(np.ones((3, 2)))[:2])


def test_noise_across_sweeps_is_reported():
    rng = np.random.default_rng(5)
    matrix_KK, noise = np.array([[0.4, 0.1], [0.0, 0.3]]), 0.05
    errors = []
    for seed in range(30):
        train, losses, _ = linear(matrix_KK, loss=10.0)
        mixer = Aioli(round_steps=100, sweeps=8, probe_steps=1, seed=seed)
        run = Run(mixer, [0.5, 0.5], train, lambda at=losses: at() + rng.normal(size=2) * noise).run(16)
        errors.append(told(run)["gain_error"])
        assert (told(run)["column_sums_error"] > 0).all()
    # A gain is a difference of two losses; its mean over 8 sweeps has this standard error.
    assert np.mean(errors) == pytest.approx(noise * np.sqrt(2 / 8), rel=0.15)
    quiet = Run(Aioli(round_steps=100, sweeps=2), [0.5, 0.5], *linear(matrix_KK)[:2]).run(16)
    assert np.allclose(told(quiet)["column_sums_error"], 0, atol=1e-9)
    assert told(quiet)["probe_share"] == 16 / 100
    np.testing.assert_allclose(told(quiet)["column_sums"], 4 * matrix_KK.sum(axis=0), atol=1e-9)
    once = Run(Aioli(round_steps=100, sweeps=1), [0.5, 0.5], *linear(matrix_KK)[:2]).run(16)
    assert "gain_error" not in told(once)


# Weights from A


MATRIX = [[0.5, 0.1, 0.0], [0.0, 0.3, 0.1], [0.0, 0.2, 0.1]]


def settled(steps: int = 240, prior_K: Any = (0.2, 0.3, 0.5), **options: Any) -> Run:
    mixer = Aioli(round_steps=60, sweeps=2, probe_steps=2, **options)
    return Run(mixer, np.array(prior_K), *linear(MATRIX)[:2]).run(steps)


def test_without_a_mean_weights_accumulate_and_with_one_they_restart():
    score_K = normalise_matrix(np.array(MATRIX)).sum(axis=0)
    for ema, rounds in ((None, (1, 2, 3, 4)), (0.5, (1, 1, 1, 1))):
        run = settled(ema=ema, eta=0.7)
        for number, times in enumerate(rounds):
            expected_K = np.exp(0.7 * times * score_K)
            np.testing.assert_allclose(run.weights[60 * number + 59], expected_K / expected_K.sum(), atol=1e-9)


def test_w0_is_where_the_gradient_starts_and_the_prior_is_served_until_then():
    score_K = normalise_matrix(np.array(MATRIX)).sum(axis=0)
    for w0, start_K in (("uniform", np.ones(3)), ("prior", np.array([0.2, 0.3, 0.5]))):
        run = settled(w0=w0, prior_steps=5)
        assert run.weights[4].tolist() == [0.2, 0.3, 0.5]
        expected_K = start_K * np.exp(score_K)
        np.testing.assert_allclose(run.weights[5 + 12], expected_K / expected_K.sum(), atol=1e-9)


def test_a_domain_of_prior_zero_is_neither_probed_nor_drawn():
    run = settled(prior_K=(0.5, 0.0, 0.5))
    weights = np.array([run.weights[step] for step in range(240)])
    assert (weights[:, 1] == 0).all()
    assert np.allclose(weights.sum(axis=1), 1)
    assert run.evaluated[:10] == [0, 2, 4, 6, 8, 60, 62, 64, 66, 68]
    np.testing.assert_allclose(told(run)["matrix"][:, [0, 2]], 2 * np.array(MATRIX)[:, [0, 2]], atol=1e-9)
    assert (told(run)["matrix"][:, 1] == 0).all()


def test_a_single_domain_needs_no_probes():
    run = Run(Aioli(), [1.0], *linear([[1.0]])[:2]).run(40)
    assert not run.evaluated
    assert all(weights_K.tolist() == [1.0] for weights_K in run.weights.values())
