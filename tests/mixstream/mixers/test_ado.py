"""ADO: the released code's trajectories, what is guarded that it does not guard, and the options."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling_world import feedbacks, golden, heard, told

from mixstream.errors import ConfigError
from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers.ado import ADO, clip, lift

SHORT = {"window": 11, "ignore_steps": 20, "start_step": 40, "update_interval": 40, "subsample": 4, "min_points": 5}
MU = (5.0, 3.0, 2.0)


def _saved(state):
    return json.dumps(to_json(state))


def _last(mixer, prior_K=MU, **world):
    return list(heard(mixer, prior_K, feedbacks(**world)))[-1]


def _replayed(mixer, document):
    """Return served, h and pibar after every step of a golden trajectory, float64 [3, T, K]."""
    pieces = (told(t, *row, row[0]) for t, row in enumerate(zip(document["counts"], document["mean_loss"])))
    states = [state for state, _ in heard(mixer, document["config"]["prior_token_counts"], pieces)]
    return np.array([[state[name] for state in states] for name in ("served_K", "credit_K", "average_K")])


def _configured(document):
    config = document["config"]
    return {
        "ignore_steps": config["ignore_steps"],
        "start_step": config["start_step"],
        "update_interval": config["update_interval"],
        "same_step": config["use_same_step_size"],
    }


# The released code


@pytest.mark.parametrize("name", ["ado_policy_k3", "ado_policy_k3_own_counts"])
def test_policies_are_the_released_codes_given_its_fits(name):
    document = golden(name)
    fits = {refit["itr"]: np.array(refit["params_log_beta_log_eps_alpha"]) for refit in document["refits"]}

    class Injected(ADO):
        def refit(self, state):
            return fits[state["step"] - 1]

    got = _replayed(Injected.reference(**_configured(document)), document)
    assert got == pytest.approx(np.array([document[key] for key in ("dist", "p_history", "p_avg")]), abs=1e-7)


@pytest.mark.parametrize("name", ["ado_policy_k3", "ado_policy_k3_own_counts"])
def test_policies_are_the_released_codes_with_our_fits(name):
    document = golden(name)
    got = _replayed(ADO.reference(**_configured(document)), document)
    assert got == pytest.approx(np.array([document[key] for key in ("dist", "p_history", "p_avg")]), abs=5e-4)


def test_mixteras_ado_is_near():
    theirs, document = golden("ado_mixtera_k3"), golden("ado_policy_k3")
    document = {**document, "counts": document["counts"][:419], "mean_loss": document["mean_loss"][:419]}
    ours = _replayed(ADO.reference(**_configured(document)), document)[0]
    assert np.abs(ours[200:] - np.array(theirs["dist"][199:418])).max() < 0.006 + 0.001


@pytest.mark.parametrize("case", golden("ado_unit")["curr_dist"], ids=lambda case: case["name"])
def test_a_policy_of_given_laws_is_the_released_codes(case):
    theta_K3, n_K, prior_K, credit_K, average_K = (
        np.array(case[name], dtype=np.float64)
        for name in ("params_log_beta_log_eps_alpha", "n", "prior", "p_history", "p_avg_before")
    )
    p_K, next_K = ADO.reference().policy(theta_K3, n_K, prior_K, credit_K, average_K, step=case["itr"])
    if case["name"] == "all_flat":  # the released code has NaN from here on
        assert p_K == pytest.approx(prior_K)
    elif case["name"] == "zero_count":
        assert np.isfinite(p_K).all()
        assert p_K[2] == pytest.approx(0.9 * average_K[2] + 0.1 * 0.01, rel=0.02)
    else:
        assert p_K == pytest.approx(np.array(case["dist"]), abs=1e-6)
        assert next_K == pytest.approx(np.array(case["p_avg_after"]), abs=1e-6)


def test_clipping_is_the_released_codes():
    for case in golden("ado_unit")["clip_min_probability"]:
        floor_K = np.full(len(case["p"]), case["min_prob"])
        assert clip(np.array(case["p"], dtype=np.float64), floor_K) == pytest.approx(np.array(case["out"]), abs=1e-6)


# Guards


@pytest.mark.parametrize("mixer", [ADO(**SHORT), ADO.reference(**SHORT), ADO(same_step=True, **SHORT)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_bad_loss_changes_little_and_is_forgotten(mixer, bad):
    def spoil(step, loss_K):
        return [bad, *loss_K[1:]] if step in (0, 55, 90) else [bad] * 3 if step == 70 else loss_K

    straight, spoilt = (
        [weights_K for _, weights_K in heard(mixer, MU, feedbacks(steps=300, **kw))] for kw in ({}, {"spoil": spoil})
    )
    assert np.isfinite(spoilt).all()
    assert spoilt[-1] == pytest.approx(straight[-1], abs=0.02)
    assert not np.allclose(spoilt[-1], np.array(MU) / 10, atol=1e-3)  # it learned, all the same


@pytest.mark.parametrize("mixer", [ADO(**SHORT), ADO.reference(**SHORT)])
def test_if_no_domain_learns_weights_stay_at_the_prior(mixer):
    state, weights_K = _last(mixer, steps=200, beta_K=(0.0, 0.0, 0.0))
    assert np.isfinite(state["theta_K3"]).all()
    assert weights_K == pytest.approx(np.array(MU) / 10)


def test_a_flat_domain_falls_to_the_floor_and_the_others_go_on():
    mixer = ADO(**SHORT)
    state, weights_K = _last(mixer, steps=400, beta_K=(0.0, 40.0, 80.0))
    assert mixer.explain(state)["speed"][0] == 0
    assert 0.01 * 0.9 < weights_K[0] < 0.15  # of a prior of 0.5; the mean over the run is slow


@pytest.mark.parametrize("level", [2.0, 3.5, 5.0, 8.0, 10.8])
def test_a_domain_absent_from_the_start_has_a_flat_curve_in_the_reference_and_speed_zero(level):
    mixer = ADO.reference(ignore_steps=50, start_step=100, update_interval=100)
    state, _ = _last(mixer, steps=101, rows_K=(9, 7, 0), eps_K=(level, level, level), beta_K=(20.0, 40.0, 0.0))
    assert np.ptp(mixer.curves(state)[1][:, 2]) == 0  # the first mean of the others, ever since
    assert (mixer.explain(state)["speed"] == 0).tolist() == [False, False, True]


@pytest.mark.parametrize("same_step", [True, False])
def test_a_domain_that_never_comes_keeps_its_prior_share(same_step):
    mixer = ADO(same_step=same_step, **SHORT)
    state, weights_K = _last(mixer, steps=200, rows_K=(40, 24, 0))
    assert np.isnan(state["theta_K3"]).any(axis=1).tolist() == [False, False, True]
    assert weights_K[2] == pytest.approx(0.2, abs=0.01)
    assert mixer.explain(state)["points"][2] == 0


def test_one_domain_without_a_fit_holds_up_the_others_only_if_all_are_asked_for():
    for accept, learned in (("each", True), ("all", False)):
        state, _ = _last(ADO(accept=accept, **SHORT), steps=200, rows_K=(40, 24, 0))
        assert np.isfinite(state["theta_K3"]).any() == learned


def test_a_prior_of_zero_leaves_a_domain_out_unless_it_is_revived():
    for mixer, least in ((ADO(**SHORT), 0.0), (ADO(revive=True, **SHORT), 5e-4)):
        weights = [weights_K for _, weights_K in heard(mixer, (1, 1, 0), feedbacks(steps=200, rows_K=(32, 32, 0)))]
        assert (weights[-1][2] == 0) == (least == 0)
        assert weights[-1][2] >= least
        assert weights[-1].sum() == pytest.approx(1)


def test_laws_wait_until_they_have_enough_points():
    mixer = ADO(**{**SHORT, "min_points": 30})  # points at 20, 24, …: 30 of them at step 136, and a fit at 160
    begun = [np.isfinite(state["theta_K3"]).all() for state, _ in heard(mixer, MU, feedbacks(steps=200))]
    assert begun.index(True) == 160


def test_a_low_entropy_domain_has_its_alpha_found_but_not_by_the_reference():
    world = {"steps": 600, "eps_K": (0.3, 2.2, 1.9), "beta_K": (4.0, 40.0, 80.0)}
    ours, released = (
        _last(mixer, **world)[0]["theta_K3"][0] for mixer in (ADO(**SHORT), ADO.reference(same_step=False, **SHORT))
    )
    assert ours == pytest.approx([math.log(4.0), math.log(0.3), 0.35], abs=0.05)
    assert abs(released[2] - 0.35) > 0.1


# What it is for


def test_laws_of_a_noiseless_world_are_found():
    state, weights_K = _last(ADO(**SHORT), prior_K=(1, 1, 1), steps=400)
    assert state["theta_K3"][:, 2] == pytest.approx(0.35, abs=0.01)
    assert np.exp(state["theta_K3"][:, 1]) == pytest.approx([2.0, 2.2, 1.9], abs=0.05)
    assert (np.diff(weights_K) > 0.02).all()  # the steeper, the more


def test_explain_tells_the_laws_and_curves_draws_them():
    mixer = ADO(**SHORT)
    state, _ = _last(mixer, steps=200)
    told_of = mixer.explain(state)
    assert {name: np.shape(value) for name, value in told_of.items()} == dict.fromkeys(told_of, (3,))
    assert {"log_beta", "log_eps", "alpha", "speed", "credit", "points"} <= set(told_of)
    n_PK, loss_PK = mixer.curves(state)
    assert n_PK.shape == loss_PK.shape == (45, 3)
    assert told_of["points"].tolist() == [45, 45, 45]


# State


@settings(max_examples=8)
@given(
    at=st.integers(0, 130),
    mixer=st.sampled_from(
        [ADO(same_step=True, **SHORT), ADO(max_points=16, **SHORT), ADO.reference(**{**SHORT, "window": 101})]
    ),
)
def test_a_run_goes_on_from_json_bit_for_bit(at, mixer):
    pieces = list(feedbacks(steps=131, noise=0.01))
    states = list(heard(mixer, MU, iter(pieces)))
    state = from_json(json.loads(_saved(states[at][0])))
    for piece, (straight, straight_K) in zip(pieces[at + 1 :], states[at + 1 :]):
        state, weights_K = mixer.update(state, piece)
        assert weights_K.tobytes() == straight_K.tobytes()
        assert piece.step < 130 or _saved(state) == _saved(straight)


def test_update_leaves_what_it_is_given_as_it_was():
    mixer = ADO(**SHORT)
    pieces = list(feedbacks(steps=122, noise=0.01))
    for state, piece in zip([s for s, _ in heard(mixer, MU, iter(pieces))], pieces[1:]):
        before = _saved(state)
        first, second = mixer.update(state, piece), mixer.update(state, piece)
        first[1][:] = 0  # who gets weights may do with them what they like
        assert _saved(state) == before
        assert _saved(first[0]) == _saved(second[0])


@pytest.mark.parametrize(("same_step", "limit"), [(True, 40_000), (False, 80_000)])
def test_the_state_stays_small_however_long_the_run(same_step, limit):
    long = {"window": 101, "start_step": 10**9, "max_points": 64, "min_points": 20, "same_step": same_step}
    mixer = ADO(**{**SHORT, **long})
    pieces = feedbacks(steps=3000, rows_K=[8] * 22, eps_K=2.0, beta_K=20.0)
    sizes = [len(_saved(state)) for state, _ in islice(heard(mixer, [1] * 22, pieces), 999, None, 2000)]
    assert sizes[1] < 1.1 * sizes[0] < limit


@pytest.mark.parametrize("mixer", [ADO(**SHORT), ADO.reference(**SHORT), ADO(floor_on="p", **SHORT)])
def test_one_domain_gets_everything(mixer):
    _, weights_K = _last(mixer, prior_K=[1.0], steps=100, rows_K=[64], eps_K=[2.0], beta_K=[20.0])
    assert weights_K.tolist() == [1.0]


# Options


def test_the_docstring_tells_all_that_the_reference_differs_in():
    ours, released = ADO(), ADO.reference()
    differs = {option.name for option in fields(ADO) if getattr(ours, option.name) != getattr(released, option.name)}
    rows = [line.split("|")[1] for line in ADO.__doc__.splitlines() if line.strip().startswith("| `")]
    assert differs == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("mixer", "first"),
    [
        (ADO(), 1000),
        (ADO(window=51, ignore_steps=60, start_step=100, update_interval=100, subsample=2), 100),
        (ADO(window=51, ignore_steps=60, start_step=100, update_interval=100, subsample=5), 200),
    ],
)
def test_first_policies_come_when_the_docstring_says(mixer, first):
    weights_TK = np.array([weights_K for _, weights_K in heard(mixer, MU, feedbacks(steps=first + 1))])
    assert (weights_TK[:first] == np.array(MU) / 10).all()
    assert np.abs(weights_TK[first] - np.array(MU) / 10).max() > 1e-3


def test_a_floor_on_p_holds_from_the_first_policy_on():
    prior_K = [0.004, 0.006, 0.99]
    world = {"steps": 120, "rows_K": (1, 1, 62), "beta_K": (20.0, 20.0, 80.0)}
    for floor_on, held in (("rho", False), ("p", True)):
        mixer = ADO(floor_on=floor_on, p_min=0.02, **SHORT)
        served = np.array([weights_K for _, weights_K in heard(mixer, prior_K, feedbacks(**world))])
        assert served[39] == pytest.approx(prior_K)
        assert (served[40:].min() >= 0.02 - 1e-15) == held
        assert served.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("revive", [False, True])
def test_the_default_floor_counts_the_domains_that_may_get_something(revive):
    """It is min(0.01, 0.25 / K) of these K: those with a prior of 0 take none of it."""
    prior_K = np.array([1.0, 1.0, 2.0] + [0.0] * 97) / 4
    theta_K3 = np.array([[math.log(20.0), math.log(2.0), 0.3]] * 2 + [[math.log(1e-9), math.log(2.0), 0.3]] * 98)
    mixer = ADO(floor_on="p", revive=revive)
    average_K = np.array([0.4, 0.6] + [0.0] * 98)
    weights_K, _ = mixer.policy(theta_K3, np.full(100, 500.0), prior_K, prior_K, average_K, step=9)
    assert weights_K.min() == pytest.approx(0.0025 if revive else 0.0)
    assert weights_K[2] == pytest.approx(0.0025 if revive else 0.01)


def test_floors_may_fill_what_the_domains_that_count_have():
    prior_K = np.array([0.2, 0.3, 0.5, 0.0, 0.0])
    assert ADO(p_min=0.3).init(prior_K)["prior_K"].tolist() == prior_K.tolist()  # 3 of 0.3, not 5
    with pytest.raises(ConfigError, match="for each of 5 domains adds up to more than 1"):
        ADO(p_min=0.3, revive=True).init(prior_K)


def test_lifting_holds_the_floor_and_keeps_what_is_above_it_in_order():
    assert lift(np.array([0.7, 0.25, 0.05]), np.full(3, 0.1)) == pytest.approx([0.66, 0.24, 0.1])
    assert lift(np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.1, 0.0])) == pytest.approx([0.5, 0.5, 0.0])


def test_credit_is_of_rows_trained_on_or_of_the_weights_they_were_drawn_by():
    piece = told(0, (10, 0, 0), (2.0, None, None), (0.2, 0.3, 0.5))
    by_rows, by_weights = (
        mixer.update(mixer.init(np.full(3, 1 / 3)), piece)[0]["credit_K"] for mixer in (ADO(), ADO(credit="weights"))
    )
    assert by_rows == pytest.approx([0.4, 0.3, 0.3])
    assert by_weights == pytest.approx([0.32, 0.33, 0.35])


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"window": 100}, "give an odd number above 3"),
        ({"window": 3}, "give an odd number above 3"),
        ({"max_points": 30}, "give 40 or more"),
        ({"gamma1": 0.0}, "gamma1=0.0 is not a weight"),
        ({"update_interval": 0}, "give 1 or more"),
        ({"s": math.nan}, "s=nan cannot be"),
        ({"p_min": 1.5}, "p_min=1.5 is not a share"),
        ({"floor_on": "pi"}, "choose one of rho, p"),
        ({"alpha_max": 0.0}, "give an alpha_max above 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(given_, said):
    with pytest.raises(ConfigError, match=said):
        ADO(**given_)


def test_floors_that_leave_nothing_to_mix_are_refused_and_the_default_adapts():
    with pytest.raises(ConfigError, match="1000 domains adds up to more than 1"):
        ADO.reference().init(np.full(1000, 1e-3))
    state, weights_K = _last(
        ADO(**SHORT), prior_K=[1] * 200, steps=60, rows_K=[1] * 200, eps_K=2.0, beta_K=np.linspace(1, 9, 200)
    )
    assert weights_K.min() > 1e-3
    assert np.isfinite(state["theta_K3"]).all()


# Other domains in mid-run


@pytest.mark.parametrize("mixer", [ADO(**SHORT), ADO(same_step=True, **SHORT), ADO.reference(**SHORT)])
def test_domains_come_and_go_in_mid_run(mixer):
    state, before_K = _last(mixer, steps=200)
    adapted = mixer.adapt(state, np.array([2, -1, 0]), np.array([0.3, 0.2, 0.5]), 200)
    opened_K = mixer.opening(adapted, 200)
    assert opened_K[1] == pytest.approx(0.2)
    assert opened_K[0] / opened_K[2] == pytest.approx(before_K[2] / before_K[0])
    assert np.array_equal(adapted["theta_K3"][[0, 2]], state["theta_K3"][[2, 0]])
    for piece in islice(feedbacks(steps=400, eps_K=(1.9, 2.0, 2.0), beta_K=(80.0, 10.0, 20.0)), 200, None):
        adapted, weights_K = mixer.update(adapted, piece)
        assert weights_K.sum() == pytest.approx(1)
        assert weights_K.min() > 0.004
    assert np.isfinite(adapted["theta_K3"]).all()


def test_before_any_policy_other_domains_begin_at_their_prior():
    mixer = ADO(**SHORT)
    state, _ = _last(mixer, steps=10)
    adapted = mixer.adapt(state, np.array([0, -1]), np.array([0.25, 0.75]), 10)
    assert mixer.opening(adapted, 10) == pytest.approx([0.25, 0.75])
    assert mixer.opening(mixer.adapt(state, np.array([-1]), np.array([1.0]), 10), 10).tolist() == [1.0]
