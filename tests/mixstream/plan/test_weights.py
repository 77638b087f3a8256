import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.plan.weights import WEIGHT_UNIT, apportion, deal, normalise, quantise, rescale, resolve_choose, stagger

FLOATS = st.floats(0, 1e300, allow_nan=False)
WEIGHTS = st.lists(st.one_of(st.just(0.0), FLOATS, st.floats(0, 1)), min_size=1, max_size=9).filter(any)


@given(WEIGHTS)
def test_normalise_gives_a_point_on_the_simplex_in_the_same_proportions(weights):
    got = normalise(weights)
    assert got.dtype == np.float64
    assert got.sum() == pytest.approx(1)
    largest = int(np.argmax(weights))
    assert got / got[largest] == pytest.approx(np.asarray(weights) / weights[largest])


NO_WEIGHTS = [[], [-0.1, 1], [np.nan], [np.inf, 1], [0.0, 0.0], [[0.5, 0.5]], [1e308, 1e308]]
NO_WEIGHTS += [["a", 1], [1j, 1], [[1], 2], None]


@pytest.mark.parametrize("weights", NO_WEIGHTS)
def test_what_is_no_weight_vector_is_refused(weights):
    with pytest.raises(ConfigError, match="Static proportions"):
        normalise(weights, what="Static proportions")


@pytest.mark.parametrize(("weights", "first"), [([1e308, 1.0], 1.0), ([5e-324, 5e-324], 0.5), ([1e-320, 0.0], 1.0)])
def test_weights_of_any_scale_that_add_up_are_taken(weights, first):
    assert normalise(weights)[0] == first
    assert quantise(weights).sum() == WEIGHT_UNIT


@given(st.integers(0, 2**50), WEIGHTS)
def test_apportion_loses_no_row_and_is_less_than_one_off(amount, weights):
    parts, ideal = apportion(amount, weights), normalise(weights) * amount
    assert parts.dtype == np.int64
    assert int(parts.sum()) == amount
    assert (np.abs(parts - ideal) < 1 + 1e-9 * ideal).all()
    assert (parts[ideal == 0] == 0).all()


def test_apportion_gives_ties_to_the_lower_index():
    assert apportion(2, [1, 1, 1]).tolist() == [1, 1, 0]
    assert apportion(7, [1, 2]).tolist() == [2, 5]


@given(WEIGHTS)
def test_quantised_weights_fill_the_unit(weights):
    assert int(quantise(weights).sum()) == WEIGHT_UNIT


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=9), st.integers(1, 9))
def test_deal_splits_every_domain_and_the_lanes_evenly(counts, lanes):
    dealt_LK = deal(counts, lanes)
    assert dealt_LK.shape == (lanes, len(counts))
    assert dealt_LK.sum(axis=0).tolist() == counts
    assert int((dealt_LK.max(axis=0) - dealt_LK.min(axis=0)).max()) <= 1
    assert int(np.ptp(dealt_LK.sum(axis=1))) <= 1


PARTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any)


@given(PARTS, st.integers(1, 9))
def test_stagger_begins_lanes_apart_and_owes_nothing_on_the_whole(parts, lanes):
    weight_K = np.array(parts, dtype=np.int64)
    credit_LK = stagger(np.tile(weight_K, (lanes, 1)))
    assert (credit_LK.sum(axis=1) == 0).all()
    assert not credit_LK[0].any()
    assert not credit_LK[:, weight_K == 0].any()
    assert (np.abs(credit_LK) < weight_K.sum()).all()  # no domain begins a whole row late or early


@given(PARTS, st.data())
def test_rescaled_credits_owe_nothing_on_the_whole(parts, data):
    weight_K = np.array(parts, dtype=np.int64)
    total = data.draw(st.integers(1, 10**7))
    credit_K = np.array([data.draw(st.integers(-total, total)) for _ in parts[1:]] + [0], dtype=np.int64)
    credit_K[-1] = -credit_K.sum()
    got = rescale(credit_K, total, weight_K)
    assert int(got.sum()) == 0
    assert not got[weight_K == 0].any() or weight_K.any()
    kept = weight_K > 0
    assert not got[~kept].any()
    if kept.all() and len(parts) > 1:  # no domain left: no share of a row changes
        assert got / weight_K.sum() == pytest.approx(credit_K / total, abs=len(parts) / weight_K.sum())


def test_what_a_domain_was_owed_that_left_is_shared_in_proportion_to_the_weights():
    """24 parts of 40 are owed by the two that are left: 18 by the one of weight 30, 6 by the one of weight 10."""
    assert rescale(np.array([-60, 30, 30]), 100, np.array([0, 30, 10])).tolist() == [0, 12 - 18, 12 - 6]
    assert rescale(np.array([60, -60, 0, 0]), 100, np.array([0, 20, 60, 20])).tolist() == [0, -60 + 12, 36, 12]


def recipe(samples, proportion, epoch_size, seed):
    """specs/streaming_api.md section 1.4, line by line."""
    E = epoch_size or sum(samples)
    p = np.array(proportion if proportion is not None else samples, dtype=np.float64)
    p = p / p.sum()
    choose = (E * p).astype(np.int64)
    shortfall = E - choose.sum()
    rng = np.random.default_rng(seed)
    idx = rng.choice(len(samples), shortfall, replace=False)
    choose[idx] += 1
    return choose.tolist()


def resolve(samples, *, proportion=None, repeat=None, choose=None, epoch_size=None, seed=9176) -> list[int]:
    none = [None] * len(samples)
    return resolve_choose(
        samples=samples,
        proportion=proportion or none,
        repeat=repeat or none,
        choose=choose or none,
        epoch_size=epoch_size,
        seed=seed,
    ).tolist()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.001, 10)), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(1, 10**7)),
    st.integers(0, 2**40),
)
def test_relative_weights_follow_the_recipe_bit_by_bit(streams, epoch_size, seed):
    samples, proportion = [n for n, _ in streams], [p for _, p in streams]
    got = resolve(samples, proportion=proportion, epoch_size=epoch_size, seed=seed)
    assert got == recipe(samples, proportion, epoch_size, seed)
    assert sum(got) == (epoch_size or sum(samples))
    if epoch_size:
        assert resolve(samples, epoch_size=epoch_size, seed=seed) == recipe(samples, None, epoch_size, seed)


def test_recipe_in_numbers():
    assert resolve([300, 100, 37], proportion=[0.5, 0.3, 0.2]) == [218, 131, 88]
    assert resolve([300, 100, 37], epoch_size=100) == [68, 23, 9]


def test_absolute_weights():
    assert resolve([300, 100, 37]) == [300, 100, 37]
    assert resolve([300, 100, 37], repeat=[0.5, None, 2.03]) == [150, 100, 75]
    assert resolve([300, 100, 37], repeat=[2, None, None], choose=[None, 7, None]) == [600, 7, 37]
    assert resolve([300, 100], choose=[0, 9]) == [0, 9]


def test_weights_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="every stream or to none"):
        resolve([1, 2], proportion=[0.5, None])
    with pytest.raises(ConfigError, match="every stream or to none"):
        resolve([1, 2], proportion=[0.5, None], repeat=[None, 2])
    absolutes: list[dict] = [{"repeat": [2, None]}, {"choose": [None, 3]}]
    for absolute in absolutes:
        with pytest.raises(ConfigError, match="Only provide `choose` when weighting streams relatively"):
            resolve([1, 2], epoch_size=10, **absolute)
    with pytest.raises(ConfigError, match="proportion"):
        resolve([1, 2], proportion=[0.0, 0.0])
