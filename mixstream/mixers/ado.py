"""ADO: weights from scaling laws that are fitted to the losses of the domains while the model trains.

A domain gets rows in proportion to how fast another row still lowers its loss. `_history.py` keeps the loss curves,
`scaling_law.py` fits laws to them, `_forgetting.py` says where domains stand on these; this file makes weights of it.
`_ado_options.py` has the options.
In the paper's symbols, at step t and for domain k, with the fitted L_k(n) = eps_k + beta_k n^-alpha_k:

    speed_k  = -dL_k/dn = alpha_k beta_k n_k^-alpha_k / n_k       n_k: rows so far, less those that were forgotten
    h_k      = (1 - gamma1) h_k + gamma1 (rows of k in the step / rows of the step)           credit_K
    rho_k    ∝ mu_k h_k^s speed_k, at least delta_min                                         the preference
    pi_k     = (1 - gamma2) pibar_k + gamma2 rho_k                                            served_K, the weights
    pibar_k  = the mean of rho_k over all steps, mu_k in those before the first policy        average_K

Invariant: the weights are finite and on the simplex, whatever is reported.

Source: Jiang et al. 2024, "Adaptive Data Optimization: Dynamic Sample Selection with Scaling Laws", arXiv 2410.11820;
section 1 of specs/mixing.md describes the released code.

Shape suffixes: K domains, P points of the loss curves, 3 parameters of a law (log beta, log eps, alpha).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.mixers import scaling_law
from mixstream.mixers._ado_options import RELEASED, Options
from mixstream.mixers._floors import clip, lift
from mixstream.mixers._forgetting import RECENT, remembered, risen
from mixstream.mixers._history import History
from mixstream.mixers.form import Part
from mixstream.mixers.protocol import State
from mixstream.mixers.scaling_law import ALPHA, FLAT, LOG_BETA, LOG_EPS, Limits
from mixstream.plan.weights import normalise
from mixstream.types import Feedback, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class ADO(Options):
    """Adaptive Data Optimization.

    `ADO()` is recommended; `ADO.reference()` is the released code. They differ in:

    | | reference | here | why |
    |---|---|---|---|
    | `same_step` | yes | no | with the total as n, domains that get more rows seem to learn faster: positive feedback |
    | `log_eps_min` | 0.5 | ln 0.01 | 0.5 means that no loss can go below 1.65 nats: false for bytes and code |
    | `data_term` | sum | mean | from about 1000 points on, a sum overrides the limits of the laws |
    | `accept` | all | each | one failed fit does not stop the others for the rest of the run |
    | `min_points` | 1 | 20 | the reference's first fit has one point, which fits any law |
    | `min_seen` | 0 | 10 | a domain not seen yet has no curve; the reference gives it the mean loss of the others |
    | `ignore_steps`, `update_interval` | 1000 | 500 | the first law of more than one point: at step 1000, not 2000 |
    | `subsample` | 10 | 5 | a law is fitted to 100 steps, not 200: a run of 1000 steps has its first one earlier |
    | `max_points` | all | 512 | bounds the state and the cost of a fit; a curve of 3 parameters needs no more |
    | `p_min` | 0.01 | min(0.01, 0.25 / K) | with 100 domains, 0.01 for each would be everything |
    | `revive` | yes | no | weight 0 in the prior means that a domain is left out |
    | `forgetting` | ignore | law | a domain that starves is forgotten, its law gets flat, and it starves more |

    A law of a domain's own rows falls for ever; a model also forgets. A domain that gets few rows while others train
    has a higher loss than its law says, and fitted to such losses the law gets flat, which gives it still fewer rows.
    So with `forgetting="law"` a domain stands on its law where the law has the loss that the domain has now: rows that
    were forgotten do not count, and it learns as fast as it did when it first had this loss. There is no threshold in
    this, and where the law is right, noise apart, nothing changes. Flat laws are the one case that it leaves open: if
    the loss has not risen, the domain has converged, and its speed is 0; if it has, by four standard errors, the domain
    has no valid law, and gets its prior's share of rho until it has one.

    In three exchangeable domains (`overlapping` in bench/mixing.py, where nothing can be gained over uniform), `ADO()`
    loses at most 0.003 nat in 10,000 steps (3 seeds) and in 50,000 (2 seeds), and up to 0.056 in 10,000 with
    `forgetting="ignore"`. With 2, 6, 12 or 40 such domains it was at most 0.009 (up to 0.10), one or two seeds each.

    What it cannot know: a loss that rises because the data changed looks like one that rose by forgetting. Such a
    domain gets more rows, which is right if they can be learned, and wasted if they are noise (of power laws, 0.018 nat
    are gained instead of 0.022, where a domain's least loss rises by half a nat halfway). Where nothing is forgotten
    and one domain's losses scatter by 30 %, a tenth of the gain is lost. And with a very uneven prior (0.9, 0.09,
    0.01), small domains of exchangeable text get several times their share, as their laws credit their few rows with
    what others teach: 0.02 to 0.04 nat are lost in the mean weighted by the prior, 0.002 with `same_step=True`.

    Both handle what makes the released code fail: losses that are NaN, infinite, zero or negative count as missing,
    laws use finite points alone, a domain without rows or with a flat curve has speed 0, and if all have, rho is mu.

    `ADO()` has its first policy at step 1000; until then it serves the prior. A run of less than a few thousand steps
    has to set its windows lower. For one of 1000 steps

        ADO(window=51, ignore_steps=60, start_step=100, update_interval=100, subsample=2)

    fits its first laws at step 100, to the 21 points since step 60; `min_points` is 20. With the default subsample, 5,
    it would fit them at step 200, to 29 points.

    Args:
        s: exponent of the credit h; 0 turns it off.
        gamma1: weight of the newest step in h.
        gamma2: weight of rho in the served weights; the rest is the running mean of rho.
        p_min: delta_min, the least share of a domain; None for min(0.01, 0.25 / K).
        floor_on: "rho" raises rho to `p_min` before it is averaged, so that weights can be lower for long (as
            released); "p" raises the served weights, which are never lower from the first policy on.
        credit: what h averages: "rows" that were trained on (as released), or the "weights" they were drawn by (as in
            the paper).
        same_step: n_k is the number of all sequences (as released), not that of the domain. Of the gain that the best
            static mixture has over uniform in world W1, counts by domain recover 94 to 96 %, the total 69 to 86 %
            (specs/mixing.md section 5.2).
        start_step: first step that can lead to a policy, counted from 0; before, the weights are the prior.
        update_interval: steps between fits; there is one at each multiple that is not before `start_step`.
        ignore_steps: steps at the beginning whose losses are not fitted.
        subsample: steps between fitted points at first.
        window: steps in a smoothing window, odd. No law is fitted in the first `window` steps.
        degree: of the smoothing polynomials.
        max_points: points kept; beyond it every other point is dropped. None for all.
        min_points: points that a law needs.
        min_seen: steps with a loss that a domain needs before its points count; 0 also gives a domain without any loss
            the mean loss of the step, as released.
        accept: "each" law by itself, or a refit only if "all" domains have one (as released).
        alpha_floor: least alpha in the factor alpha of the speed; the curve keeps the fitted alpha.
        alpha_max: upper limit of alpha.
        log_beta_max: upper limit of log beta, for n in sequences (of 1024 tokens, in the paper).
        log_eps_min: lower limit of log eps, eps in nats; `-math.inf` for none.
        data_term: `scaling_law.Limits.data`.
        revive: give domains of prior 0 their `p_min` too (as released).
        forgetting: "law": see above; "ignore": laws go by the count of rows, whatever the loss is now (as released).

    Raises:
        ConfigError: an option is out of its range.
    """

    @classmethod
    def reference(cls, **overrides: Any) -> Self:
        """Return the form of the released code, with its defaults where `overrides` has no other.

        For finite positive losses its policies are those of the released code. It differs where that code fails:
        floors that add up to more than 1 raise (there, weights are about uniform); losses that are not finite or not
        positive count as missing (there, one stops all refits); curves that do not fall have speed 0, not one from the
        optimiser's last beta; and where no domain has a speed, rho is mu (there, NaN from then on).
        """
        return cls(**(RELEASED | overrides))

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback."""
        prior_K = normalise(prior_K, what="the prior")
        self._floor(prior_K)
        return {
            "step": 0,
            "prior_K": prior_K,
            "credit_K": prior_K,
            "average_K": prior_K,
            "served_K": prior_K,
            "theta_K3": np.full((len(prior_K), 3), np.nan),
            "history": History.begin(len(prior_K), self._sampling, shared=self.same_step).dump(),
        }

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights that are served until the first feedback."""
        return state["served_K"].copy()

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after one step's losses, and the weights, float64 [K], that follow."""
        if feedback.step < 0:  # a validation before any training
            return state, state["served_K"].copy()
        step, theta_K3 = int(state["step"]), state["theta_K3"]
        share_K = feedback.rows_K if self.credit == "rows" else feedback.weights_K
        credit_K, average_K, served_K = state["credit_K"], state["average_K"], state["served_K"]
        if (total := share_K.sum()) > 0:
            credit_K = (1 - self.gamma1) * credit_K + self.gamma1 * (share_K / total)
        history = History.load(state["history"]).append(feedback.loss_K, feedback.rows_K, self._sampling)
        after = {**state, "step": step + 1, "credit_K": credit_K, "history": history.dump()}
        if step >= self.start_step:
            if step % self.update_interval == 0:
                theta_K3 = self.refit(after)
            if self._begun(theta_K3, state):
                n_K = self._standing(theta_K3, history)
                served_K, average_K = self.policy(theta_K3, n_K, state["prior_K"], credit_K, average_K, step=step)
        return {**after, "theta_K3": theta_K3, "average_K": average_K, "served_K": served_K}, served_K.copy()

    def refit(self, state: State) -> Float64:
        """Return the laws, float64 [K, 3], fitted to the curves in `state`; NaN for a domain without one.

        A domain without a new law keeps its last one. With `forgetting="law"` it keeps none if its law is flat and its
        loss has risen.
        """
        before_K3, history = state["theta_K3"], History.load(state["history"])
        limits = Limits(
            log_beta_max=self.log_beta_max, log_eps_min=self.log_eps_min, alpha_max=self.alpha_max, data=self.data_term
        )
        theta_K3 = scaling_law.fit(
            *history.points(self._sampling),
            limits,
            warm_K3=before_K3,
            min_points=self.min_points,
        )
        fitted_K = _fitted(theta_K3)
        if self.accept == "all" and not fitted_K[self._enabled(state["prior_K"])].all():
            return before_K3
        theta_K3 = np.where(fitted_K[:, None], theta_K3, before_K3)
        if self.forgetting == "law":
            flat_K = np.flatnonzero(theta_K3[:, LOG_BETA] == FLAT)
            loss_PK = history.points(self._sampling).loss_PK[: len(history.final_loss_PK)]  # the last ones are noisier
            risen_K = flat_K[risen(loss_PK[:, flat_K], apart=-(-(self.window // 2) // history.every) or 1)]
            theta_K3[risen_K] = np.nan
        return theta_K3

    def policy(
        self, theta_K3: Float64, n_K: Float64, prior_K: Float64, credit_K: Float64, average_K: Float64, *, step: int
    ) -> tuple[Float64, Float64]:
        """Return pi and the next pibar, both float64 [K].

        Args:
            theta_K3: the laws; NaN for a domain without one, which gets its prior share of rho.
            n_K: the n of the laws where the domains stand, in sequences.
            prior_K: mu.
            credit_K: h.
            average_K: pibar.
            step: t, counted from 0; pibar is the mean of t values.
        """
        floor_K = self._floor(prior_K)
        rho_K = self._preference(theta_K3, n_K, prior_K, credit_K)
        if self.floor_on == "rho":
            rho_K = clip(rho_K, floor_K)
        served_K = (1 - self.gamma2) * average_K + self.gamma2 * rho_K
        if self.floor_on == "p":
            served_K = lift(served_K / served_K.sum(), floor_K)
        average_K = (1 - 1 / (step + 1)) * average_K + rho_K / (step + 1)
        return served_K / served_K.sum(), average_K

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"step", "prior_K", "credit_K", "average_K", "served_K", "theta_K3", "history"})
        prior_K = at["prior_K"].prior(prior_K)
        domains, within_K = len(prior_K), np.where(self._enabled(prior_K), 1.0, 0.0)
        step = at["step"].whole(least=0)
        at["credit_K"].simplex(domains)
        at["average_K"].simplex(domains, within=within_K)
        at["served_K"].simplex(domains, within=within_K)
        theta_K3 = at["theta_K3"].array(domains, 3, unknown=True, infinite=True)
        known_K3 = theta_K3[~np.isnan(theta_K3[:, ALPHA])]
        if np.isnan(known_K3).any() or (known_K3[:, ALPHA] < 0).any() or (known_K3 == np.inf).any():
            at["theta_K3"].refuse("a law in each row, or NaN")
        History.check(at["history"], domains, self._sampling, rows=step, shared=self.same_step)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Return the state for other domains.

        A new domain begins as all domains did: h, pibar and its weight are its prior share, and it has no law until it
        has enough points. The others keep theirs and share the rest in the same proportions.
        """
        prior_K = normalise(prior_K, what="the prior")
        self._floor(prior_K)
        fresh_K = (source_K < 0) | (state["prior_K"][source_K] == 0) | (prior_K == 0)
        new_K = np.where(fresh_K, prior_K, 0.0)

        def extended(old_K: Float64) -> Float64:
            kept_K = np.where(fresh_K, 0.0, old_K[source_K])
            total = kept_K.sum()
            return new_K + (1 - new_K.sum()) * kept_K / total if total > 0 else prior_K

        theta_K3 = np.where((source_K < 0)[:, None], np.nan, state["theta_K3"][source_K])
        begun = self._begun(state["theta_K3"], state)
        return {
            "step": state["step"],
            "prior_K": prior_K,
            "credit_K": extended(state["credit_K"]),
            "average_K": extended(state["average_K"]) if begun else prior_K,
            "served_K": extended(state["served_K"]) if begun else prior_K,
            "theta_K3": theta_K3,
            "history": History.load(state["history"]).adapt(source_K, self._sampling).dump(),
        }

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return by domain the laws, the speeds in nats per sequence, h, pibar and the number of fitted points.

        Laws and speeds are NaN for a domain without a law, so all are before the first fit: with the defaults, at step
        1000. With `forgetting="law"`, `rows` is n, and `remembered` the n at which the domain stands.
        """
        history, theta_K3 = History.load(state["history"]), state["theta_K3"].copy()
        n_K = self._standing(theta_K3, history)
        explained = {
            "log_beta": theta_K3[:, LOG_BETA],
            "log_eps": theta_K3[:, LOG_EPS],
            "alpha": theta_K3[:, ALPHA],
            "speed": scaling_law.speed_at(theta_K3, n_K, alpha_floor=self.alpha_floor),
            "credit": state["credit_K"].copy(),
            "average": state["average_K"].copy(),
            "points": np.isfinite(history.points(self._sampling).loss_PK).sum(axis=0),
        }
        return explained | ({"rows": history.n_K, "remembered": n_K} if self.forgetting == "law" else {})

    def curves(self, state: State) -> tuple[Float64, Float64]:
        """Return the points that the laws (`scaling_law.loss_at`) are fitted to: n and loss, float64 [P, K], or NaN."""
        n_PK, loss_PK = History.load(state["history"]).points(self._sampling)
        return n_PK, loss_PK

    def _begun(self, theta_K3: Float64, state: State) -> bool:
        """Return whether there has been a law; pibar is the prior before, and there may be none left."""
        lost = self.forgetting == "law" and not np.array_equal(state["average_K"], state["prior_K"])
        return bool(_fitted(theta_K3).any()) or lost

    def _standing(self, theta_K3: Float64, history: History) -> Float64:
        """Return the n at which the laws are taken, float64 [K]."""
        if self.forgetting == "ignore" or not _fitted(theta_K3).any():
            return history.n_K
        recent = history.recent(RECENT, self._sampling)
        return remembered(theta_K3, history.n_K, recent, history.first_n_K(self._sampling))

    def _preference(self, theta_K3: Float64, n_K: Float64, prior_K: Float64, credit_K: Float64) -> Float64:
        """Return rho before any floor, float64 [K] on the simplex."""
        speed_K = scaling_law.speed_at(theta_K3, n_K, alpha_floor=self.alpha_floor)
        known_K = np.isfinite(speed_K)
        rho_K = np.where(known_K, prior_K * credit_K**self.s * np.where(known_K, speed_K, 0.0), 0.0)
        total = rho_K.sum()
        if not (np.isfinite(total) and total > 0):
            return prior_K
        missing_K = np.where(known_K, 0.0, prior_K)
        return missing_K + (1 - missing_K.sum()) * (rho_K / total)


def _fitted(theta_K3: Float64) -> NDArray[np.bool_]:
    """Return which domains have a law, bool [K]."""
    return ~np.isnan(theta_K3[:, ALPHA])
