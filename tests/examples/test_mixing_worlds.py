"""examples/mixing_worlds.py: its formulas hold, and its driver plays a mixer as the library does."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from mixstream.mixers import ADO, ODM, Aioli
from mixstream_examples import mixing_worlds as worlds

UNIFORM = np.full(3, 1 / 3)


def simplex_grid(parts: int) -> np.ndarray:
    """All mixtures of three domains in steps of 1 / parts, none of them zero."""
    pairs = [(a, b, parts - a - b) for a in range(1, parts - 1) for b in range(1, parts - a)]
    return np.array(pairs) / parts


@dataclass
class Recording:
    """A mixer that notes what it is told and answers with weights that say which step told it."""

    validate_every: int = 0
    told: list = field(default_factory=list)

    def init(self, prior_K):
        return {"seen": 0}

    def update(self, state, feedback):
        self.told.append(feedback)
        return {"seen": state["seen"] + 1}, np.array([1.0, 2.0 + feedback.step, 1.0]) / (4.0 + feedback.step)

    def wants_validation(self, state, step):
        return bool(self.validate_every) and step % self.validate_every == 0


def test_the_best_static_mixture_of_the_power_laws_is_what_the_formula_says():
    world = worlds.PowerLaws()
    best = world.best_static()
    np.testing.assert_allclose(best, [0.183, 0.306, 0.511], atol=5e-4)
    assert world.loss_of(UNIFORM, 256_000) == pytest.approx(2.9106, abs=1e-4)
    assert world.loss_of(best, 256_000) == pytest.approx(2.8778, abs=1e-4)
    assert world.loss_of(best, 256_000) < min(world.loss_of(p, 256_000) for p in simplex_grid(40))


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("s", [0.0, 0.5])
def test_the_frozen_point_is_one_that_ados_rule_leaves_alone(s, same_step):
    world, rows = worlds.PowerLaws(), 256_000.0
    p = world.frozen_point(s=s, same_step=same_step)
    beta, n = (world.beta_K * p**-world.alpha, rows) if same_step else (world.beta_K, rows * p)
    speed = world.alpha * beta * n ** -(1 + world.alpha)
    np.testing.assert_allclose(p**s * speed / (p**s * speed).sum(), p, atol=1e-12)


def test_power_laws_reach_their_formula_by_training():
    world = worlds.PowerLaws()
    for _ in range(10):
        world.train(np.array([20, 30, 14]))
    np.testing.assert_allclose(world.validate().mean(), world.loss_of(np.array([20, 30, 14]) / 64, 640), rtol=1e-12)
    assert np.isnan(world.train(np.array([0, 1, 1]))).tolist() == [True, False, False]


def test_the_noise_of_the_power_laws_is_relative():
    world = worlds.PowerLaws(noise=0.01, seed=3)
    relative = np.array([world.train(np.array([1, 1, 1])) / world.validate() - 1 for _ in range(2000)])
    assert relative.std() == pytest.approx(0.01, rel=0.05)
    assert abs(relative.mean()) < 1e-3


def test_the_linear_world_falls_by_its_matrix():
    effect = np.array([[0.3, 0.1, 0.0], [0.0, 0.2, 0.1], [-0.1, 0.0, 0.4]])
    world = worlds.Linear(effect)
    np.testing.assert_array_equal(world.train(np.array([1, 0, 3])), [10.0, np.nan, 10.0])
    np.testing.assert_allclose(10.0 - world.validate(), effect @ [0.25, 0, 0.75], atol=1e-12)


def test_the_gradient_is_that_of_the_summed_loss():
    random = np.random.default_rng(0)
    logits, pairs = random.normal(size=(5, 5)), random.integers(0, 4, (5, 5)).astype(float)

    def log_probabilities(at):
        return at - np.log(np.exp(at).sum(axis=1, keepdims=True))

    numeric = np.empty((5, 5))
    for i, j in np.ndindex(5, 5):
        step = np.zeros((5, 5))
        step[i, j] = 1e-6
        up, down = (-(pairs * log_probabilities(logits + sign * step)).sum() for sign in (1, -1))
        numeric[i, j] = (up - down) / 2e-6
    np.testing.assert_allclose(worlds.gradient(log_probabilities(logits), pairs), numeric, atol=1e-7)


@pytest.mark.parametrize("make", [worlds.overlapping, worlds.one_unlearnable, worlds.alike])
def test_training_losses_are_samples_of_the_validation_loss(make):
    world = worlds.Bigram(make(1), learning_rate=4.0, seed=0)
    np.testing.assert_allclose(world.validate(), np.log(48), atol=1e-12)  # it knows nothing yet
    for _ in range(50):
        world.train(np.array([300, 300, 300]))
    world.learning_rate = 0.0
    sampled = np.mean([world.train(np.array([2000, 2000, 2000])) for _ in range(40)], axis=0)
    np.testing.assert_allclose(sampled, world.validate(), atol=0.03)


def test_no_model_is_better_than_the_texts_entropy_and_long_training_comes_near_it():
    text = worlds.one_unlearnable()
    assert text.floor()[2] == pytest.approx(np.log(48))
    world = worlds.Play(worlds.Bigram(text, learning_rate=4.0, seed=0), rows=512).run(1500).world
    assert (world.validate() >= text.floor() - 1e-12).all()
    assert (world.validate() < text.floor() + 0.3).all()


def test_two_mixtures_of_one_seed_read_the_same_text():
    few, many = (worlds.Bigram(worlds.alike(), learning_rate=0.0, seed=7) for _ in range(2))
    for _ in range(3):
        assert few.train(np.array([50, 1, 1]))[0] == pytest.approx(many.train(np.array([50, 40, 0]))[0], abs=1e-12)


def test_without_a_mixer_the_prior_is_drawn_exactly():
    play = worlds.Play(worlds.PowerLaws(), rows=10, prior_K=np.array([1.0, 2.0, 1.0])).run(8)
    assert np.sum(play.rows_TK, axis=0).tolist() == [20, 40, 20]
    assert all(rows_K.sum() == 10 for rows_K in play.rows_TK)


@pytest.mark.parametrize("lag", [0, 1, 5])
def test_weights_follow_from_the_losses_of_lag_steps_before(lag):
    mixer = Recording()
    play = worlds.Play(worlds.PowerLaws(), mixer, rows=64, lag=lag).run(12)
    for step, weights_K in enumerate(play.weights_TK):
        told = step - 1 - lag
        expected = UNIFORM if told < 0 else np.array([1.0, 2.0 + told, 1.0]) / (4.0 + told)
        np.testing.assert_allclose(weights_K, expected, atol=1e-9)
    assert [told.step for told in mixer.told] == list(range(12))
    assert [told.rows_K.tolist() for told in mixer.told] == [rows_K.tolist() for rows_K in play.rows_TK]


def test_the_model_is_evaluated_when_the_mixer_wants_it():
    mixer = Recording(validate_every=4)
    play = worlds.Play(worlds.Linear(np.eye(3) / 10), mixer, rows=9).run(8)
    assert [told.step for told in mixer.told if told.validation_V is not None] == [-1, 3, 7]
    np.testing.assert_array_equal(mixer.told[0].validation_V, [10.0, 10.0, 10.0])
    np.testing.assert_allclose(mixer.told[4].validation_V, 10 - np.sum(play.rows_TK[:4], axis=0) / 90, atol=1e-12)


def test_what_is_saved_goes_on_bit_for_bit():
    whole = worlds.Play(worlds.PowerLaws(noise=0.01), ODM(), rows=64, lag=2).run(60)
    half = worlds.Play(worlds.PowerLaws(noise=0.01), ODM(), rows=64, lag=2).run(30)
    rest = worlds.Play(half.world, ODM(), rows=64, lag=2).load(half.save()).run(30)
    np.testing.assert_array_equal(half.weights_TK + rest.weights_TK, whole.weights_TK)
    np.testing.assert_array_equal(half.rows_TK + rest.rows_TK, whole.rows_TK)


def test_share_of_the_gain():
    assert worlds.share(2.0, uniform=3.0, best=2.0) == 1.0
    assert worlds.share(3.5, uniform=3.0, best=2.0) == -0.5


@pytest.mark.parametrize("one_hot", [0.2, 0.6, 1.0])
def test_aioli_finds_the_matrix_of_the_linear_world_from_whole_rows(one_hot):
    effect = np.array([[0.02, 0.004, -0.003], [0.001, 0.03, 0.002], [0.006, 0.0, 0.01]])
    mixer = Aioli(round_steps=30, sweeps=2, probe_steps=5, one_hot=one_hot)
    told = worlds.Play(worlds.Linear(effect), mixer, rows=7, lag=2).run(30).explain()
    np.testing.assert_allclose(told["matrix"], 5 * effect, atol=1e-9)


@pytest.mark.parametrize("lag", [0, 100])
def test_ado_gains_most_of_what_there_is_to_gain(lag):
    world, steps, rows = worlds.PowerLaws(noise=0.01), 1500, 64
    mixer = ADO.reference(ignore_steps=100, start_step=200, update_interval=200, same_step=False)
    loss = worlds.Play(world, mixer, rows=rows, lag=lag).run(steps).world.validate().mean()
    uniform, best = (world.loss_of(p, steps * rows) for p in (UNIFORM, world.best_static()))
    assert worlds.share(loss, uniform=uniform, best=best) > 0.6


def test_aioli_takes_weight_from_what_cannot_be_learned():
    mixer = Aioli(round_steps=100, sweeps=2, probe_steps=6, one_hot=0.5, eta=3.0)
    play = worlds.Play(worlds.Bigram(worlds.one_unlearnable(), learning_rate=4.0, seed=0), mixer, rows=512).run(400)
    uniform = worlds.Play(worlds.Bigram(worlds.one_unlearnable(), learning_rate=4.0, seed=0), rows=512).run(400)
    assert play.weights_TK[-1][2] < 0.25 < play.weights_TK[-1][1]
    assert play.world.validate().mean() < uniform.world.validate().mean()
