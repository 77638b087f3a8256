"""The laws that every mixer keeps, over one table of all of them (`contract.TABLE`)."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import ENGINES, FIXED, LEARNING, REFUSED, TABLE, VALID, bound, fixed_weights, no_floor
from contract_run import PRIOR, STEPS, Run, World, run_of, state_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import by_step

from mixstream import mixers
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.json_arrays import from_json
from mixstream.mixers import Adapting, Checking, Explaining, Mixer, OpenLoop, Static
from mixstream.plan.weights import normalise, quantise

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))

from _mutate import mutated  # pyright: ignore[reportMissingImports] - the path is set above

learning = pytest.mark.parametrize("name", LEARNING)


def check_weights(name: str, weights_K: Any, prior_K: np.ndarray) -> None:
    assert isinstance(weights_K, np.ndarray)
    assert weights_K.dtype == np.float64
    assert weights_K.shape == prior_K.shape
    assert np.isfinite(weights_K).all()
    assert (weights_K >= 0).all()
    assert abs(weights_K.sum() - 1) < 1e-9
    assert TABLE[name].revives or (weights_K[prior_K == 0] == 0).all()


# --- all mixers are here ----------------------------------------------------------------------------------------------


def public_classes() -> dict[str, type]:
    """Return the classes that `mixstream.mixers` exports, without the protocols."""
    found = {name: getattr(mixers, name) for name in mixers.__all__}
    return {name: at for name, at in found.items() if isinstance(at, type) and not getattr(at, "_is_protocol", False)}


def test_every_public_mixer_is_in_the_table():
    in_table = {type(case.make(3)).__name__ for case in TABLE.values()}
    assert in_table | ENGINES == set(public_classes())
    assert set(REFUSED) == set(public_classes())


@pytest.mark.parametrize("name", TABLE)
def test_a_mixer_either_learns_or_knows_its_weights(name):
    mixer = bound(name, 3)
    assert isinstance(mixer, Mixer) == (name in LEARNING)
    assert isinstance(mixer, OpenLoop | Static) == (name in FIXED)


# --- weights ----------------------------------------------------------------------------------------------------------


@learning
@pytest.mark.parametrize(("lag", "nasty"), [(0, False), (2, True)])
def test_weights_are_on_the_simplex_and_disabled_domains_stay_at_0(name, lag, nasty):
    run = run_of(name, lag, nasty)
    assert set(run.log) == set(range(STEPS + lag + 1))
    for weights_K in run.log.values():
        check_weights(name, weights_K, PRIOR)
    assert len({weights_K.tobytes() for weights_K in run.log.values()}) > 1
    assert text_of(run.state) != run.states[0]  # something was learned


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("K", [1, 2, 5, 1000])
def test_fixed_weights_are_on_the_simplex(name, K):
    mixer = bound(name, K)
    for step in (0, 1, 19, 20, 57, 10**6):
        check_weights(name, fixed_weights(mixer, step, K), np.ones(K))


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if case.floor is not no_floor])
def test_documented_floors_hold(name):
    run, enabled_K = run_of(name), PRIOR > 0
    for step in range(1, STEPS):
        weights_K = run.log[step + run.lag]  # what led to this state led to these
        if not np.array_equal(weights_K, PRIOR):
            least = TABLE[name].floor(run.mixer, step - 1, int(enabled_K.sum()))
            assert weights_K[enabled_K].min() >= least - 1e-12


@learning
def test_steps_without_losses_do_no_harm(name):
    run = Run(name=name, prior_K=PRIOR, world=World(domains=4, silent=True)).go(60)
    for weights_K in run.log.values():
        check_weights(name, weights_K, PRIOR)


@learning
@pytest.mark.parametrize("K", [1, 2])
def test_few_domains(name, K):
    prior_K = normalise(1.0 + np.arange(K))
    run = Run(name=name, prior_K=prior_K, world=World(domains=K, nasty=True)).go(90)
    for weights_K in run.log.values():
        check_weights(name, weights_K, prior_K)


@learning
def test_many_domains(name):
    many = TABLE[name].many
    prior_K = normalise(1.0 + np.arange(many.domains) % 7)
    run, other = (
        Run(name=name, prior_K=prior_K, world=world, origin=many.origin).go(many.steps)
        for world in (World(domains=many.domains, nasty=many.nasty, turn=turn) for turn in (0, 1))
    )
    for weights_K in run.log.values():
        check_weights(name, weights_K, prior_K)
    assert run.apart(other) > 1e-12  # what the losses were makes a difference, and not by rounding


@learning
def test_a_domain_that_is_never_in_a_batch_harms_no_other(name):
    with_it, turned = (
        Run(name=name, prior_K=normalise([0.6, 0.4, 1e-9]), world=World(domains=3, absent=True, turn=turn)).go(95)
        for turn in (0, 1)
    )
    without = Run(name=name, prior_K=normalise([0.6, 0.4]), world=World(domains=2)).go(95)
    for weights_K in with_it.log.values():
        check_weights(name, weights_K, with_it.prior_K)
        assert (weights_K > 0).all()
    if TABLE[name].learns_from == "losses":  # others are about what domains teach each other, this one among them
        assert with_it.apart(turned) > 1e-4  # it matters what the losses were
        last_K = with_it.log[95][:2]
        np.testing.assert_allclose(last_K / last_K.sum(), without.log[95], atol=0.02)


# --- purity -----------------------------------------------------------------------------------------------------------


@contextmanager
def read_only(tree: Any) -> Iterator[None]:
    """Make every array in `tree` refuse to be written to."""
    arrays, todo = [], [tree]
    while todo:
        at = todo.pop()
        if isinstance(at, np.ndarray) and at.flags.writeable:
            at.flags.writeable = False
            arrays.append(at)
        elif isinstance(at, Mapping):
            todo.extend(at.values())
        elif isinstance(at, list | tuple):
            todo.extend(at)
    yield
    for array in arrays:
        array.flags.writeable = True


@learning
def test_update_is_pure(name):
    """Twice from one state gives equal results; what is passed in stays as it was; the weights are the caller's."""
    run = run_of(name)
    for step, told in run.given.items():
        state = state_of(run.states[step])
        with read_only(state):
            after, weights_K = run.mixer.update(state, told)
            again, same_K = run.mixer.update(state, told)
        assert text_of(state) == run.states[step]
        assert text_of(after) == text_of(again)
        assert weights_K.tobytes() == same_K.tobytes() == run.log[told.effective].tobytes()
        weights_K.fill(-1)
        assert text_of(after) == text_of(again)


@learning
def test_a_run_goes_on_bit_for_bit_from_a_saved_state(name):
    run = run_of(name)
    for saved in (0, 1, 37, 38, 71, 110):
        state = state_of(run.states[saved])
        for step in range(saved, min(saved + 45, STEPS)):
            assert text_of(state) == run.states[step]
            state, weights_K = run.mixer.update(state, run.given[step])
            assert weights_K.tobytes() == run.log[step + 1 + run.lag].tobytes()


@learning
def test_states_are_kilobytes(name):
    assert max(len(text) for text in run_of(name).states.values()) < 20_000


@learning
def test_what_a_mixer_tells_changes_nothing_and_holds_numbers(name):
    run = run_of(name)
    assert isinstance(run.mixer, Explaining)
    for text in list(run.states.values())[::13]:
        state = state_of(text)
        with read_only(state):
            told = run.mixer.explain(state)
        for what, value in told.items():
            assert isinstance(what, str)
            assert np.asarray(value).dtype.kind in "biuf"
            if isinstance(value, np.ndarray):
                value.fill(0)
        assert text_of(state) == text


@learning
@pytest.mark.parametrize("lag", [0, 9])
def test_the_first_weights_are_known_before_any_feedback(name, lag):
    """They are drawn before it: the same whatever comes."""
    calm, nasty = (
        Run(name=name, prior_K=PRIOR, world=World(domains=4, nasty=nasty), lag=lag).go(12) for nasty in (False, True)
    )
    for step in range(lag + 1):
        check_weights(name, calm.log[step], PRIOR)
        assert calm.log[step].tobytes() == nasty.log[step].tobytes()


@learning
def test_evaluations_are_known_beforehand(name):
    """They are asked for ahead of the feedback: nothing that feedback changes may matter."""
    run = run_of(name)
    if TABLE[name].learns_from != "evaluations":
        assert not any(run.wants(step) for step in range(STEPS))
        return
    due = [step for step in range(STEPS + 60) if run.wants(step)]
    assert due
    for text in list(run.states.values())[::13]:
        state = state_of(text)
        assert [step for step in range(STEPS + 60) if run.mixer.wants_validation(state, step)] == due


# --- loaded states ----------------------------------------------------------------------------------------------------


@learning
@pytest.mark.parametrize("nasty", [False, True])
def test_every_state_of_a_mixer_passes_its_check(name, nasty):
    run = run_of(name, 2, True) if nasty else run_of(name)
    assert isinstance(run.mixer, Checking)
    for text in run.states.values():
        run.mixer.check(state_of(text), PRIOR)
        run.mixer.check(state_of(text))
    adapted = run.mixer.adapt(state_of(run.states[85]), np.array([3, -1, 0, 1]), PRIOR[[3, 2, 0, 1]], 85)
    run.mixer.check(adapted, PRIOR[[3, 2, 0, 1]])


@learning
@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_a_damaged_state_is_refused_or_goes_on(name, seed):
    """Whatever is lost or changed: `check` refuses it by name, or all later updates give weights."""
    rng, run = random.Random(seed), run_of(name)
    step = rng.randrange(STEPS - 20)
    document, _ = mutated(rng, json.loads(run.states[step]))
    try:
        state = from_json(document)
        run.mixer.check(state, PRIOR)
    except StateError:
        return
    run.mixer.explain(state)
    for told in (run.given[at] for at in range(step, step + 20)):
        state, weights_K = run.mixer.update(state, told)
        check_weights(name, weights_K, PRIOR)


@learning
def test_a_state_that_lacks_a_part_is_refused(name):
    run = run_of(name)
    for text in list(run.states.values())[::29]:
        for key in set(state_of(text)) - {"mean_VK"}:  # of which there is none before the first matrix
            with pytest.raises(StateError, match="the state of the mixer is damaged"):
                run.mixer.check({other: part for other, part in state_of(text).items() if other != key}, PRIOR)


# --- domains that come and go -----------------------------------------------------------------------------------------

MOVES = {
    "one joins": ([0, 1, 2, -1, 3], [0.4, 0.2, 0.0, 0.2, 0.2]),
    "one leaves": ([0, 3], [0.7, 0.3]),
    "one is enabled, one disabled": ([0, 1, 2, 3], [0.5, 0.0, 0.3, 0.2]),
    "all are others": ([-1, -1, -1], [0.2, 0.3, 0.5]),
    "one is left": ([1], [1.0]),
}


@learning
@pytest.mark.parametrize("move", MOVES)
def test_domains_come_and_go_in_mid_run(name, move):
    (source, prior), at, run = MOVES[move], 85, run_of(name)
    prior_K, mixer = np.array(prior), bound(name, len(prior))
    assert isinstance(mixer, Adapting)
    before = state_of(run.states[at])
    with read_only(before):
        state = mixer.adapt(before, np.array(source), prior_K, at)
    assert text_of(before) == run.states[at]
    world = World(domains=len(prior), nasty=True)
    on = Run(name=name, prior_K=prior_K, world=world, lag=3, origin=at, state=state_of(text_of(state))).go(60)
    for weights_K in on.log.values():
        check_weights(name, weights_K, prior_K)
        assert (weights_K[prior_K > 0] > 0).all()


@learning
def test_domains_in_another_order_keep_what_was_learned_of_them(name):
    run, order, at = run_of(name), np.array([3, 2, 0, 1]), 85
    told, moved = (
        mixer.explain(mixer.adapt(state_of(run.states[at]), source, PRIOR[source], at))
        for mixer, source in ((bound(name, 4), np.arange(4)), (bound(name, 4), order))
    )
    for what, value in told.items():
        if np.shape(value) == (4,):
            np.testing.assert_allclose(moved[what], value[order], atol=1e-12, err_msg=what)


# --- hyper-parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_a_mixer_is_a_frozen_value(name):
    """Its repr is digested into the state: equal settings, equal text, and no addresses in it."""
    one, other = TABLE[name].make(3), TABLE[name].make(3)
    said = repr(one)
    assert one == other == pickle.loads(pickle.dumps(one))
    assert said == repr(other) == repr(pickle.loads(pickle.dumps(one)))
    assert " at 0x" not in said
    if name in LEARNING:
        assert repr(run_of(name).mixer) == repr(bound(name, 4))  # nor does use change it
    else:
        fixed_weights(bound(name, 3), 7, 3)
        assert repr(one) == said
    for option in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, option.name, None)


@pytest.mark.parametrize("name", REFUSED)
def test_hyper_parameters_that_cannot_be_are_refused(name):
    cls, valid = public_classes()[name], VALID.get(name, {})
    cls(**valid)
    numbers = [option.name for option in dataclasses.fields(cls) if re.fullmatch(r"float( \| None)?", str(option.type))]
    for options in [*REFUSED[name], *({number: np.nan} for number in numbers)]:
        with pytest.raises(ConfigError):  # noqa: PT012 - the second statement says what was taken
            cls(**{**valid, **options})
            pytest.fail(f"{name} takes {options}")


# --- epoch caps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_epoch_caps_hold_under_every_mixer(name):
    """Whatever the weights: a domain that was read its number of times leaves; the run ends when none is left."""
    caps, samples, share = (1.0, 1.5, 2.0), 40, 8
    mixer = bound(name, 3)
    run = Run(name=name, prior_K=np.full(3, 1 / 3), world=World(domains=3)) if name in LEARNING else None

    def weights(step: int) -> np.ndarray:
        return quantise(run.log[step] if run else fixed_weights(mixer, step, 3))

    plan = by_step(3, share=share, samples=samples, max_epochs_K=caps)
    cursor, full = plan.start(weights(0)), int(sum(caps) * samples)
    while (moved := plan.advance(cursor, weights(cursor.step))) is not None:
        if run:
            run.take(cursor.step)
        cursor = moved[0]
        assert (cursor.drawn_LK <= plan.last_LK).all()
        assert cursor.drawn_LK.sum() == share * cursor.step
    assert full - share < cursor.drawn_LK.sum() <= full
