"""Worlds small enough to know the best mixture of, and a driver that plays a mixer in them as the library does.

    python examples/mixing_worlds.py

What a mixture gains on real text costs days to measure, and the right answer is unknown. In these worlds it costs
seconds:

- `PowerLaws`: every domain's loss falls by a power law of its own rows. The best static mixture is a formula.
- `Linear`: a step on mixture p lowers the losses by A p exactly. What a mixer measures of A can be held against A.
- `Transfer`: rows of a domain lower the losses of others too. Which domain is worth what is known.
- `Bigram`: a softmax language model over 48 tokens learns by SGD from three kinds of text, and is evaluated exactly.

A world has two methods: `train(rows_K)` takes one optimiser step on so many rows per domain and returns their mean
losses, `validate()` returns the model's. `Play` is the rest: weights -> whole rows -> losses -> mixer -> weights.
They are toys, built to test mixers: what holds here is not evidence of what holds for a real language model.

Shape suffixes: K domains, T steps, V tokens of the vocabulary; P pairs of tokens, V * V.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from mixstream.feedback import FeedbackLoop, from_json, to_json
from mixstream.mixers import ADO, Aioli, Mixer
from mixstream.plan import WEIGHT_UNIT, Plan, normalise, quantise
from mixstream.types import Cursor, Float64, Int64


class World(Protocol):
    """Something that learns from rows."""

    def train(self, rows_K: Int64) -> Float64:
        """Take one step on int64 [K] rows; return each domain's mean loss in it, float64 [K], NaN where it had none."""
        ...

    def validate(self) -> Float64:
        """Return each domain's loss as it is now, float64 [K], in nats."""
        ...


class PowerLaws:
    """L_k(n) = eps_k + beta_k n^-alpha of the rows n that domain k had so far: no domain helps another.

    The defaults are world W1 of the acceptance experiments. `noise` is the relative standard deviation of training
    losses; validation has none.
    """

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        self.eps_K, self.beta_K, self.alpha = np.array([2.0, 2.2, 1.9]), np.array([20.0, 40.0, 80.0]), 0.35
        self.seen_K = np.zeros(3)
        self.noise, self.random = noise, np.random.default_rng(seed)

    def train(self, rows_K: Int64) -> Float64:
        """Add the rows; the loss of a step is the one that its last row leads to."""
        self.seen_K += rows_K
        factor_K = 1 + self.noise * self.random.standard_normal(len(rows_K))
        return np.where(rows_K > 0, self.validate() * factor_K, np.nan)

    def validate(self) -> Float64:
        """Return the loss at the rows seen; infinite before a domain's first."""
        with np.errstate(divide="ignore"):
            return self.eps_K + self.beta_K * self.seen_K**-self.alpha

    def loss_of(self, weights_K: Float64, rows: float) -> float:
        """Return the mean loss over domains after `rows` rows, drawn by `weights_K` throughout."""
        return float(np.mean(self.eps_K + self.beta_K * (rows * weights_K) ** -self.alpha))

    def best_static(self) -> Float64:
        """Return the weights that minimise `loss_of`: p ~ (alpha beta)^(1 / (1 + alpha)), whatever the rows."""
        return normalise(self.beta_K ** (1 / (1 + self.alpha)))

    def frozen_point(self, *, s: float = 0.5, same_step: bool = False) -> Float64:
        """Return the weights at which ADO's rule, on the true curves, leaves its weights as they are.

        p ~ h^s beta n^-(1 + alpha) with h = p and n ~ p; with `same_step` the fitted curve is one of the total count,
        whose slope is beta p^-alpha N^-(1 + alpha).
        """
        return normalise(self.beta_K ** (1 / (1 + self.alpha - s + (0 if same_step else 1))))


class Linear:
    """L(t + 1) = L(t) - A p, where p is what the step's rows really were: an exact answer for who estimates A."""

    def __init__(self, effect_KK: Float64, *, loss: float = 10.0) -> None:
        self.effect_KK, self.loss_K = effect_KK, np.full(len(effect_KK), loss)

    def train(self, rows_K: Int64) -> Float64:
        """Return the losses before the step."""
        loss_K = np.where(rows_K > 0, self.loss_K, np.nan)
        self.loss_K = self.loss_K - self.effect_KK @ (rows_K / rows_K.sum())
        return loss_K

    def validate(self) -> Float64:
        """Return the losses."""
        return self.loss_K


class Transfer:
    """Validation losses that fall by what rows of other domains teach too, and rows that teach less when repeated.

        L_i(t) = 2 + 20 m_i^-0.35,   m_i = 1000 + sum_j T_ij s_j (1 - exp(-n_j / s_j))

    n_j are the rows of domain j so far and s_j its distinct ones. The best mixture for a group is that of a grid.

    Args:
        teaches_VK: T, what a new row of domain j is worth to group i.
        distinct_K: s; infinite if not given.
    """

    def __init__(self, teaches_VK: Float64, distinct_K: Float64 | None = None) -> None:
        self.teaches_VK, K = teaches_VK, teaches_VK.shape[1]
        self.distinct_K = np.full(K, 1e12) if distinct_K is None else distinct_K
        self.seen_K = np.zeros(K)

    def train(self, rows_K: Int64) -> Float64:
        """Add the rows; the losses of a step are 1, since nothing here learns from them."""
        self.seen_K += rows_K
        return np.where(rows_K > 0, 1.0, np.nan)

    def validate(self) -> Float64:
        """Return the loss of each group, float64 [V]."""
        return 2 + 20 * self._rows_V(self.seen_K) ** -0.35

    def matrix(self) -> Float64:
        """Return A_ij = -dL_i/dn_j, float64 [V, K]: what a row of domain j would do to group i now."""
        new_K = np.exp(-self.seen_K / self.distinct_K)
        return 7 * self._rows_V(self.seen_K)[:, None] ** -1.35 * self.teaches_VK * new_K

    def loss_of(self, weights_K: Float64, rows: float, group: int) -> float:
        """Return the loss of a group after `rows` rows, drawn by `weights_K` throughout."""
        return float(2 + 20 * self._rows_V(rows * weights_K)[group] ** -0.35)

    def _rows_V(self, seen_K: Float64) -> Float64:
        return 1000 - self.teaches_VK @ (self.distinct_K * np.expm1(-seen_K / self.distinct_K))


def outside() -> Transfer:
    """Group 0 is an exam that no domain is like: domain 2 prepares for it, and domain 0 for group 1.

    The transpose of its matrix takes what domain 0 teaches for what group 0 needs, the diagonal knows domain 0 alone.
    """
    return Transfer(np.array([[0.05, 0.1, 1.0], [1.0, 1.0, 0.1], [0.1, 0.2, 0.5]]))


def small_with_sister() -> Transfer:
    """Group 0 is domain 0, of 2000 rows; domain 1, its large sister, teaches half as much of it by a row."""
    return Transfer(np.array([[1.0, 0.5, 0.0], [0.05, 1.0, 0.0], [0.0, 0.05, 1.0]]), np.array([2e3, 1e12, 1e12]))


class Bigram:
    """The softmax model p(next | token) = softmax(logits[token]), trained by SGD on pairs of tokens.

    Args:
        text: what the domains' texts are.
        learning_rate: of plain SGD on the mean loss over the step's rows.
        seed: of the samples. Each domain has a stream of its own, so that two mixtures of one seed read the same text.
    """

    def __init__(self, text: Text, *, learning_rate: float, seed: int) -> None:
        self.text, self.learning_rate = text, learning_rate
        self.logits_VV = np.zeros(text.joint_KVV.shape[1:])
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin other streams of samples."""
        self.random_K = [np.random.default_rng([seed, k]) for k in range(len(self.text.joint_KVV))]

    def train(self, rows_K: Int64) -> Float64:
        """Draw pairs, return their mean losses, and step down the gradient of the mean over all rows."""
        pairs_KVV = np.stack([self._draw(k, int(rows)) for k, rows in enumerate(rows_K)])
        log_VV = self._log_probabilities()
        self.logits_VV -= self.learning_rate * gradient(log_VV, pairs_KVV.sum(axis=0)) / rows_K.sum()
        loss_K = -np.einsum("kij,ij->k", pairs_KVV, log_VV)
        return np.where(rows_K > 0, loss_K, np.nan) / np.maximum(rows_K, 1)

    def validate(self) -> Float64:
        """Return the expected loss on each domain: no sample, no noise."""
        return -np.einsum("kij,ij->k", self.text.joint_KVV, self._log_probabilities())

    def _log_probabilities(self) -> Float64:
        shifted_VV = self.logits_VV - self.logits_VV.max(axis=1, keepdims=True)
        return shifted_VV - np.log(np.exp(shifted_VV).sum(axis=1, keepdims=True))

    def _draw(self, k: int, rows: int) -> Float64:
        last_P = self.text.last_KP[k]
        pair_B = np.searchsorted(last_P, self.random_K[k].random(rows), side="right")
        return np.bincount(pair_B, minlength=len(last_P)).reshape(self.logits_VV.shape).astype(np.float64)


def gradient(log_VV: Float64, pairs_VV: Float64) -> Float64:
    """Return the gradient in the logits of the summed loss of `pairs_VV` [V, V] pairs: expected less seen."""
    return np.exp(log_VV) * pairs_VV.sum(axis=1, keepdims=True) - pairs_VV


class Text:
    """What pairs (token, next) three domains hold, float64 [K, V, V], each summing to 1.

    Args:
        first_KV: how often each domain shows each token, float64 [K, V], in any scale.
        next_KVV: what follows it, in any scale.
    """

    def __init__(self, first_KV: Float64, next_KVV: Float64) -> None:
        next_KVV = next_KVV / next_KVV.sum(axis=2, keepdims=True)
        self.joint_KVV = (first_KV / first_KV.sum(axis=1, keepdims=True))[:, :, None] * next_KVV
        self.last_KP = np.cumsum(self.joint_KVV.reshape(len(first_KV), -1), axis=1)
        self.last_KP /= self.last_KP[:, -1:]  # so that no draw in [0, 1) lies beyond the last pair

    def floor(self) -> Float64:
        """Return the lowest loss that a bigram model can have on each domain alone, float64 [K]: its entropy."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share_KVV = self.joint_KVV / self.joint_KVV.sum(axis=2, keepdims=True)
            return -np.nansum(self.joint_KVV * np.log(share_KVV), axis=(1, 2))


VOCABULARY = 48


def overlapping(seed: int = 0) -> Text:
    """Three domains of all 48 tokens, exchangeable: made alike, each with its own habits on top of shared ones."""
    random, V = np.random.default_rng([seed, 1]), VOCABULARY
    shared_VV = random.dirichlet(np.full(V, 0.2), V)
    own_KVV = random.dirichlet(np.full(V, 0.2), (3, V))
    first_KV = random.dirichlet(np.full(V, 0.5), 3)
    return Text(first_KV, 0.5 * shared_VV + 0.5 * own_KVV)


def one_unlearnable(seed: int = 0) -> Text:
    """A domain of 4 easy contexts, one of 36 structured ones, and one of uniform noise in the other 8."""
    return _apart([4, 36, 8], [0.05, 0.05, None], seed=seed)


def alike(seed: int = 0) -> Text:
    """Three domains of 8, 16 and 24 contexts, equally hard: to mix them unevenly hardly pays."""
    return _apart([8, 16, 24], [0.1, 0.1, 0.1], seed=seed)


def easy_shared(seed: int = 0) -> Text:
    """A domain of 4 easy contexts, learned at once; one of 40 that uses these 4 otherwise; and one of 12 hard ones.

    What is learned of the first is unlearned by training on the second alone.
    """
    random, V = np.random.default_rng([seed, 7]), VOCABULARY
    first_KV, next_KVV = np.zeros((3, V)), np.full((3, V, V), 1 / V)
    first_KV[0, :4], first_KV[1, :40], first_KV[2, 36:] = 1, 1, 1
    next_KVV[0, :4] = random.dirichlet(np.full(V, 0.02), 4)
    next_KVV[1, :40] = random.dirichlet(np.full(V, 0.05), 40)
    next_KVV[2, 36:] = random.dirichlet(np.full(V, 0.3), 12)
    return Text(first_KV, next_KVV)


def _apart(contexts_K: list[int], concentration_K: list[float | None], *, seed: int) -> Text:
    """Return domains that share no context; what follows is Dirichlet-distributed, the flatter the higher, or noise."""
    random, V = np.random.default_rng([seed, 2]), VOCABULARY
    first_KV, next_KVV = np.zeros((3, V)), np.full((3, V, V), 1 / V)
    end = 0
    for k, (contexts, concentration) in enumerate(zip(contexts_K, concentration_K)):
        begin, end = end, end + contexts
        first_KV[k, begin:end] = 1
        if concentration is not None:
            next_KVV[k, begin:end] = random.dirichlet(np.full(V, concentration), contexts)
    return Text(first_KV, next_KVV)


class Play:
    """A mixer at work in a world: the library's own plan and feedback loop, with a world in the place of a model.

    Args:
        world: what is trained.
        mixer: the policy; None draws by the prior throughout.
        prior_K: weights before any feedback, float64 [K] in any scale; uniform if not given.
        domains: K.
        rows: rows of the global batch.
        lag: steps between the newest losses in a weight vector and the first step that it shapes.
        measure: what returns the matrix that is reported with every 50th step, float64 [V, K]; None for none.

    Attributes:
        step: steps trained so far.
        weights_TK: the weights of each, one float64 [K] a step.
        rows_TK: the rows of each, one int64 [K] a step.
    """

    def __init__(
        self,
        world: World,
        mixer: Mixer | None = None,
        *,
        rows: int,
        prior_K: Float64 | None = None,
        domains: int = 3,
        lag: int = 0,
        measure: Callable[[], Float64] | None = None,
    ) -> None:
        self.world, self.step, self.measure = world, 0, measure
        self.prior_K = np.full(domains, 1 / domains) if prior_K is None else normalise(prior_K)
        self.loop = None if mixer is None else FeedbackLoop(mixer=mixer, prior_K=self.prior_K, lag=lag)
        self.plan = Plan(
            names=tuple(f"domain{k}" for k in range(len(self.prior_K))),
            samples_K=np.full(len(self.prior_K), 1 << 40),
            choose_K=None,
            epoch_size=rows << 32,
            global_batch_size=rows,
        )
        self.cursor: Cursor | None = None
        self.weights_TK: list[Float64] = []
        self.rows_TK: list[Int64] = []

    def run(self, steps: int) -> Play:
        """Train for `steps` more steps."""
        self._evaluate()
        for _ in range(steps):
            self._train()
            self._evaluate()
        return self

    def _train(self) -> None:
        parts_K = quantise(self.prior_K) if self.loop is None else self.loop.weights(self.step)
        assert parts_K is not None  # every step before was reported
        planned = self.plan.advance(self.cursor or self.plan.start(parts_K), parts_K)
        assert planned is not None  # no domain has a limit on its epochs
        self.cursor, rows = planned
        rows_K = np.bincount(rows.domain_B, minlength=len(parts_K))
        loss_K = self.world.train(rows_K)
        if self.loop is not None:
            count_K = rows_K.astype(np.float64)
            self.loop.drew(self.step, count_K)
            matrix_VK = self.measure() if self.measure is not None and self.step % 50 == 0 else None
            self.loop.conclude(self.step, np.where(rows_K > 0, loss_K * count_K, 0.0), count_K, matrix_VK=matrix_VK)
        self.weights_TK.append(parts_K / WEIGHT_UNIT)
        self.rows_TK.append(rows_K)
        self.step += 1

    def _evaluate(self) -> None:
        """Report the validation losses that the mixer waits for."""
        if self.loop is not None and not self.loop.concluded.evaluated:
            self.loop.evaluated(self.step, self.world.validate())

    def explain(self) -> Mapping[str, Any]:
        """Return what the mixer goes by now, by name."""
        return {} if self.loop is None else self.loop.explain()

    def save(self) -> str:
        """Return what a resume needs, as JSON: the position in the plan, and the loop's document. No world."""
        assert self.cursor is not None
        loop = None if self.loop is None else self.loop.document(self.step)
        return json.dumps({"cursor": to_json(asdict(self.cursor)), "loop": loop})

    def load(self, saved: str) -> Play:
        """Go on where `saved` was taken; the world has to be as it was then."""
        document = json.loads(saved)
        self.cursor = Cursor(**from_json(document["cursor"]))
        self.step = self.cursor.step
        if self.loop is not None:
            self.loop.restore(document["loop"], self.step)
        return self


def share(loss: float, *, uniform: float, best: float) -> float:
    """Return what part of the gain from uniform weights to the best known `loss` recovers: 1 is all, < 0 is a loss."""
    return (uniform - loss) / (uniform - best)


def main() -> None:
    """Play mixers in two worlds and print what they gain."""
    laws, rows = PowerLaws(), 4000 * 64
    bounds = {"uniform": laws.loss_of(np.full(3, 1 / 3), rows), "best": laws.loss_of(laws.best_static(), rows)}
    print(f"Three power laws, 4000 steps of 64 rows; the best static mixture is {laws.best_static().round(3)}")
    for same_step in (True, False):
        ado = ADO(ignore_steps=200, start_step=400, update_interval=400, same_step=same_step)
        play = Play(PowerLaws(noise=0.01), ado, rows=64).run(4000)
        gained = share(play.world.validate().mean(), **bounds)
        print(
            f"  ADO(same_step={same_step}) ends at {play.weights_TK[-1].round(3)}, {gained:.0%} of the best one's gain"
        )

    print("A bigram model, 1000 steps of 512 pairs; the third domain is noise")
    for name, mixer in {"uniform": None, "Aioli(eta=1)": Aioli(probe_steps=6, one_hot=0.5, eta=1.0)}.items():
        play = Play(Bigram(one_unlearnable(), learning_rate=4.0, seed=0), mixer, rows=512).run(1000)
        loss_K = play.world.validate()
        print(f"  {name} ends at {play.weights_TK[-1].round(3)}, losses {loss_K.round(3)}, mean {loss_K.mean():.4f}")


if __name__ == "__main__":
    main()
