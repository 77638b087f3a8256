"""Aioli: measure by short probes during training how domains help each other, and weigh them by it.

Chen et al. 2024, "Aioli: A Unified Optimization Framework for Language Model Data Mixing", arXiv 2411.05735; code
HazyResearch/aioli. Written from specs/mixing.md section 2.

This file places the probes, collects what they measured and estimates A; `mixers.lmo` turns A into weights. Invariant:
which step probes which domain depends on the options, the seed and the step alone, so batches are planned through the
probes ahead of the feedback.

Shape suffixes: K domains, N active domains (those whose prior is not 0), R sweeps, V validation groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from mixstream.arguments import normalise_fields
from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers._probes import WORST_CONDITION, check_solution, finite, probe_order, solve
from mixstream.mixers._targets import Targets, bind_targets, check_groups, weigh_groups
from mixstream.mixers.form import Part
from mixstream.mixers.lmo import LMO
from mixstream.mixers.protocol import State
from mixstream.plan.weights import normalise as on_simplex
from mixstream.types import Feedback, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Aioli:
    """Probe, solve, exploit, in rounds of `round_steps` steps (arXiv 2411.05735).

    A round begins at step `prior_steps` + r `round_steps`. First come the probes: `sweeps` times, in random order, one
    for each of the N domains whose prior is not 0; the probe of domain j trains `probe_steps` real steps on a mixture
    of `one_hot` of j and (1 - `one_hot`) / (N - 1) of each other. Validation losses are needed before the first probe
    and after each: N R + 1 times a round. Column j of G is how much each loss fell in the probe of j, column j of P the
    actual composition of that probe, both averaged over the sweeps; A = G P^-1 goes to `LMO`. The rest of the round,
    the exploit, trains on the resulting weights.

    Only the exploit mixture waits. The last evaluation comes with the feedback of the last probe step, s - 1, and
    shapes the weights from step s + lag on. Steps s to s + lag - 1 still get the exploit weights of the round before
    (the prior, if there was none), and so does the whole round if its estimate fails. With lag 0 there are no such
    steps, and the timing is that of the reference.

    Args:
        round_steps: U (update_steps), steps of a round, probes included.
        sweeps: R (lp_rounds), probes of each domain in a round. With 2 or more, `explain` gives standard errors.
        probe_steps: m (lp_steps), steps of a probe. N R m may not exceed U.
        one_hot: q (one_hot_factor), the probed domain's share of its probe, in (0, 1] but not 1 / N. Noise of the
            measured losses is amplified by (N - 1) / (q N - 1).
        eta: step size; see "How far weights can move".
        ema: share of old matrices in the running mean of A; weights then restart from w0 each round, as in the released
            code, so they are bounded. None: no mean, and weights accumulate round by round without a bound.
        normalise: shift A to be >= 0 and scale it to sum 1 before use (aioli_normalize_A).
        diagonal: only measure how each domain helps itself: A = diag(G_jj / P_jj).
        prior_steps: steps at the prior before the first round.
        w0: where exponentiated gradient starts: "uniform", as released (the first round then leaves the prior), or at
            the "prior".
        targets: v, how much each validation group counts; all 1 by default. See `LMO`.
        seed: of the order of the probes.

    How far weights can move: `normalise` makes A >= 0 with sum 1, so a column sum of v A lies between 0 and max(v).
    With ema, the mean of such matrices is one too, and every round restarts from w0. So however many rounds there are,

        with ema: contrast (a weight over another) <= exp(eta max(v)), which is exp(eta) without targets
        ema=None: contrast <= exp(eta max(v) n) after n rounds

    times that of the prior, if `w0` is that. (A group that is not measured in a round keeps its old row in the mean,
    which is scaled to sum 1 again.) If one of N domains helps r times as much as each other, its column sum is larger
    by d = (r - 1) / (r + N - 1), and the contrast is exp(eta d) with ema and exp(eta d n) without:

    | r = 2, eta = 1 | N = 2 | N = 3 | N = 7 |
    |---|---|---|---|
    | with ema | 1.40 | 1.28 | 1.13 |
    | ema=None, 20 rounds | 786 | 148 | 12 |

    So with ema, a higher eta is what more domains need: eta = N for about the contrast of the ratio r itself. The
    defaults, eta 1 and ema 0.1, are the released setting for 7 domains. Those for 2 and 3 (eta 0.2 and 0.1) hardly
    leave uniform.

    Differences from the paper and the released code:

    - A is solved with the actual composition of the probes' batches (`Feedback.rows_K`), which whole rows only
      approximate to the requested one. The released batches are far from it with many domains (max(1, floor(p B)) rows,
      the remainder on the last domain, which can be negative) and their probe sets run out early, but P is the
      requested one.
    - A round whose P is ill-conditioned (above 1e6), that lacks an evaluation or the feedback of a step, or whose A is
      constant, does not change the weights; the reference divides 0 by 0. A validation loss that is not finite drops
      the row of its group from A, not the round.
    - Probe order comes from (seed, round, sweep), not from numpy's global generator.
    - A boundary between two rounds is evaluated once; the reference evaluates it twice.
    - Rounds begin at prior_steps + r U. The released loop continues to multiples of U, which is the same if U divides
      prior_steps, and does not end if prior_steps is 0, which here is a run without that phase.
    - Domains of prior 0 are neither probed nor drawn; their validation losses, if reported, count as groups. A domain
      that has left the mix (`max_epochs`) gets the mean effect of the others.
    - Bugs that are not reproduced: options that are read and never parsed, steps subtracted from sequences, arrays
      normalised in place (the A in `explain` is raw).

    Raises:
        ConfigError: an option is out of its range; or, from `init`, the probes do not fit into a round.
    """

    round_steps: int = 250
    sweeps: int = 4
    probe_steps: int = 4
    one_hot: float = 0.75
    eta: float = 1.0
    ema: float | None = field(default=0.1, metadata={"formerly": None})
    normalise: bool = True
    diagonal: bool = False
    prior_steps: int = 0
    w0: Literal["uniform", "prior"] = "uniform"
    targets: Targets = None
    seed: int = 0

    def __post_init__(self) -> None:
        normalise_fields(self)
        for name, least in (("round_steps", 1), ("sweeps", 1), ("probe_steps", 1), ("prior_steps", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.one_hot <= 1:
            raise ConfigError(f"one_hot is the probed domain's share of its probe, 0 < q <= 1; got {self.one_hot}")
        _ = self._lmo  # checks its options

    @property
    def _lmo(self) -> LMO:
        mode = "accumulate" if self.ema is None else "restart"
        return LMO(eta=self.eta, mode=mode, ema=self.ema, normalise=self.normalise, targets=self.targets, w0=self.w0)

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Self:
        """Return this with `targets` in the order of the domains `names`; sizes are not used."""
        return replace(self, targets=bind_targets(self.targets, names))

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback.

        Raises:
            ConfigError: the probes of so many domains do not fit into a round, or cannot tell the domains apart.
        """
        prior_K = on_simplex(prior_K, what="the prior")
        self._check(int(np.count_nonzero(prior_K)))
        law = self._lmo.begin(prior_K)
        return {"began": 0, "prior_K": prior_K, "lmo": law, "probing": {}, "estimate": {}, "solved": 0, "failed": 0}

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights of a `step` that no feedback can reach: the mixture of its probe, or the prior."""
        return self._weights(state, step)

    def wants_validation(self, state: State, step: int) -> bool:
        """Return whether `step` is the first of a probe, or the first after the probes of a round."""
        if (place := self._place(state, step)) is None:
            return False
        return place[1] % self.probe_steps == 0 and place[1] <= self._probing_steps(_active(state))

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after `feedback` and the weights of step `feedback.effective`.

        Raises:
            FeedbackError: the number of validation groups has changed, or is not that of `targets` (without targets, of
                domains).
        """
        after = dict(state)
        if after["probing"]:
            after |= self._watch(after, feedback)
        place = self._place(after, feedback.step + 1)
        if place is not None and place[1] == 0:
            after |= self._open(after, feedback)
        return after, self._weights(after, feedback.effective)

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"began", "prior_K", "lmo", "probing", "estimate", "solved", "failed"})
        prior_K = at["prior_K"].prior(prior_K)
        self._lmo.check(at["lmo"], prior_K, square=True)
        for name in ("began", "solved", "failed"):
            at[name].whole(least=0)
        groups = len(prior_K) if self.targets is None else len(self.targets)
        if at["probing"].keys(set(), _PROBING):
            self._check_probing(at["probing"], state, groups)
        check_solution(at["estimate"], groups=groups, domains=len(prior_K))

    def _check_probing(self, at: Part, state: State, groups: int) -> None:
        """Check a round in progress: it stands at the step whose feedback comes next."""
        domains = _active(state)
        at.keys(_PROBING)
        steps = at["steps"].whole(least=0, most=self.probe_steps - 1)
        done = at["done"].whole(least=0, most=max(self.sweeps * domains - 1, 0))
        place = self._place(state, at["next"].whole(least=0))
        if place is None or place[1] != done * self.probe_steps + steps:
            at["next"].refuse(f"a step after {done} probes and {steps} steps of a round")
        at["loss_V"].array(groups, unknown=True)
        at["gain_RVN"].array(self.sweeps, groups, domains, unknown=True)
        at["made_N"].array(domains, least=0.0)
        at["made_NN"].array(domains, domains, least=0.0)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Carry the weights over to other domains and begin a round at `step` or later; as `init`.

        The round in progress and the running mean of A are dropped.
        """
        fresh, law = dict(self.init(prior_K)), self._lmo.adapt(state["lmo"], source_K, prior_K)
        return fresh | {"began": step, "lmo": law, "solved": state["solved"], "failed": state["failed"]}

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the weights and the measurements behind them.

        - `weights`, `score`: the exploit weights [K], and the column sums of v A [K] as used for them;
        - `probe_share`: delta = N R m / U, the share of steps that are probes;
        - `rounds_solved`, `rounds_failed`: rounds that moved the weights, and rounds that did not;
        - of the last round with all its evaluations: `condition` of P; unless it was too large, `matrix` A [V, K] and
          `column_sums` of v A [K] before normalisation; with two sweeps or more `gain_error` [V, K] and
          `column_sums_error` [K], standard errors of G and of the column sums over the sweeps.
        """
        domains = _active(state)
        law = self._lmo.explain(state["lmo"])
        explained = {
            "weights": law["weights"],
            "score": law["score"],
            "probe_share": self._probing_steps(domains) / self.round_steps if domains > 1 else 0.0,
            "rounds_solved": state["solved"],
            "rounds_failed": state["failed"],
        }
        return explained | {name: np.array(value) for name, value in state["estimate"].items()}

    def probe_order(self, number: int, sweep: int, domains: int) -> tuple[int, ...]:
        """Return the order in which round `number` probes its domains in `sweep`: a permutation of range(`domains`)."""
        return probe_order(self.seed, number, sweep, domains)

    # The place of a step, from the options, the seed and the step at which the state began, never from feedback.

    def _check(self, domains: int) -> None:
        if domains < 2:
            return  # a single domain is not probed
        if (steps := self._probing_steps(domains)) > self.round_steps:
            raise ConfigError(
                f"the probes of {domains} domains take {domains} x {self.sweeps} sweeps x {self.probe_steps} steps = "
                f"{steps} steps and a round has {self.round_steps}: set round_steps to {steps} or more (several times "
                "that leaves steps to exploit), or lower sweeps or probe_steps"
            )
        if not self.diagonal and abs(self.one_hot * domains - 1) * WORST_CONDITION < domains - 1:
            raise ConfigError(
                f"one_hot = {self.one_hot} of {domains} domains makes all probes the same uniform mixture, from which "
                f"nothing can be learned; set one_hot well above {1 / domains:.3g}, such as 0.75"
            )

    def _probing_steps(self, domains: int) -> int:
        return domains * self.sweeps * self.probe_steps

    def _place(self, state: State, step: int) -> tuple[int, int] | None:
        """Return (round, step within it).

        None before the first round, in a round that began before the state, and for a single domain, which has no
        rounds.
        """
        number, at = divmod(step - self.prior_steps, self.round_steps)
        return None if number < 0 or step - at < state["began"] or _active(state) < 2 else (number, at)

    def _probed(self, state: State, step: int) -> int | None:
        """Return which of the N active domains `step` probes."""
        domains, place = _active(state), self._place(state, step)
        if place is None or place[1] >= self._probing_steps(domains):
            return None
        sweep, turn = divmod(place[1] // self.probe_steps, domains)
        return self.probe_order(place[0], sweep, domains)[turn]

    def _weights(self, state: State, step: int) -> Float64:
        if (probed := self._probed(state, step)) is None:
            return self._lmo.weights(state["lmo"])
        active_N = np.flatnonzero(state["prior_K"])
        weights_K = np.zeros(len(state["prior_K"]))
        weights_K[active_N] = (1 - self.one_hot) / (len(active_N) - 1)
        weights_K[active_N[probed]] = self.one_hot
        return weights_K

    # Measurements. `probing` is the round in progress, empty between rounds and after one that failed:
    #   next: the step whose feedback must come next · steps: of the current probe with feedback · done: complete probes
    #   loss_V: at the last boundary · gain_RVN: fall of losses per probe · made_N: composition of the current probe,
    #   summed over its steps · made_NN: column j, compositions of the probes of j, summed over the sweeps

    def _open(self, state: State, feedback: Feedback) -> dict[str, Any]:
        """Begin a round with the losses before its first probe."""
        if feedback.validation_V is None:
            return {"failed": state["failed"] + 1}
        loss_V, domains = finite(feedback.validation_V), _active(state)
        if self.diagonal and len(loss_V) != len(state["prior_K"]):
            raise FeedbackError(
                f"{len(loss_V)} validation losses were reported for {len(state['prior_K'])} domains, and diagonal=True "
                "measures how each domain helps itself: report one loss per domain, in the plan's order"
            )
        check_groups(self.targets, len(loss_V), len(state["prior_K"]))  # now, not at the end of the probes
        probing = {
            "next": feedback.step + 1,
            "steps": 0,
            "done": 0,
            "loss_V": loss_V,
            "gain_RVN": np.zeros((self.sweeps, len(loss_V), domains)),
            "made_N": np.zeros(domains),
            "made_NN": np.zeros((domains, domains)),
        }
        return {"probing": probing}

    def _watch(self, state: State, feedback: Feedback) -> dict[str, Any]:
        """Take in one step of a probe; at the end of the probe, the fall of losses; after the last probe, solve."""
        at, broken = dict(state["probing"]), {"probing": {}, "failed": state["failed"] + 1}
        if feedback.step != at["next"]:
            return broken
        probed = self._probed(state, feedback.step)
        assert probed is not None
        rows_N = np.where(np.isfinite(feedback.rows_K), feedback.rows_K, 0.0)[state["prior_K"] > 0]
        at["made_N"] = at["made_N"] + (rows_N / rows_N.sum() if rows_N.sum() > 0 else rows_N)
        at |= {"next": at["next"] + 1, "steps": at["steps"] + 1}
        if at["steps"] < self.probe_steps:
            return {"probing": at}
        if feedback.validation_V is None:
            return broken
        loss_V = finite(feedback.validation_V)
        if len(loss_V) != len(at["loss_V"]):
            raise FeedbackError(
                f"{len(loss_V)} validation losses were reported with step {feedback.step}, and {len(at['loss_V'])} "
                "before: report the same groups, in the same order, all through a round"
            )
        at["gain_RVN"], at["made_NN"] = at["gain_RVN"].copy(), at["made_NN"].copy()
        at["gain_RVN"][at["done"] // len(rows_N), :, probed] = at["loss_V"] - loss_V
        at["made_NN"][:, probed] += at["made_N"] / self.probe_steps
        at |= {"loss_V": loss_V, "made_N": np.zeros(len(rows_N)), "steps": 0, "done": at["done"] + 1}
        return {"probing": at} if at["done"] < self.sweeps * len(rows_N) else self._solve(state, at)

    def _solve(self, state: State, probing: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the probes of a round into A, and A into weights."""
        made_NN, active_N = probing["made_NN"] / self.sweeps, np.flatnonzero(state["prior_K"])
        gain_RVN, domains = probing["gain_RVN"], len(state["prior_K"])
        target_V = weigh_groups(self.targets, gain_RVN.shape[1])
        estimate = solve(gain_RVN, made_NN, target_V, active_N=active_N, domains=domains, diagonal=self.diagonal)
        law = state["lmo"]
        if "matrix" in estimate:
            law, _ = self._lmo.observe(law, estimate["matrix"])
        moved = law["observed"] > state["lmo"]["observed"]
        counts = {"solved": state["solved"] + moved, "failed": state["failed"] + (not moved)}
        return {"probing": {}, "estimate": estimate, "lmo": law, **counts}


_PROBING = {"next", "steps", "done", "loss_V", "gain_RVN", "made_N", "made_NN"}


def _active(state: State) -> int:
    return int(np.count_nonzero(state["prior_K"]))
