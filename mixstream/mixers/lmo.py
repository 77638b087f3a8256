"""Exponentiated gradient on a linear mixing law, for Aioli and its family; and a mixer for any such law.

Chen et al. 2024, "Aioli: A Unified Optimization Framework for Language Model Data Mixing", arXiv 2411.05735: many
mixing methods differ only in how they find the matrix A of a linear law, loss_i(t + 1) = loss_i(t) - b sum_j A_ij p_j,
where rows i are validation groups, columns j are domains, and a positive entry means that domain j helps group i. All
take the same step with A, which is here:

    p_j  <-  p_j exp(eta sum_i v_i A_ij) / Z

`Aioli`, `SkillIt`, `DoReMi`, `DoGE` and `MatrixMixer` hold an `LMO` and supply A.
Invariants: weights are kept as logarithms, so none overflows or vanishes; a domain of prior 0 stays at 0; numbers that
are not finite never reach the weights.

Shape suffixes: K domains, V validation groups.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import normalise_fields, shown
from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers._targets import UNBOUND, Targets, bind_targets, check_groups, check_targets, weigh_groups
from mixstream.mixers.form import Part
from mixstream.mixers.protocol import State
from mixstream.plan.weights import normalise as on_simplex
from mixstream.types import Feedback, Float64, Int64

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LMO:
    """Linear mixing optimisation: matrices A in, weights out (arXiv 2411.05735; see the top of this file).

    Args:
        eta: step size, >= 0.
        mode: "accumulate" steps from the current weights, true exponentiated gradient; "restart" takes every step from
            the first weights.
        ema: share of the old matrices in the running mean, 0 <= ema < 1: Abar <- (1 - ema) A + ema Abar, from the first
            A on. None: no mean, each A counts once.
        normalise: bring A to one scale before use (`normalise_matrix`), so that eta has the same effect all the time.
        targets: v, how much each validation group counts; 0 for those that a mapping by name leaves out.
        w0: where the first step starts: at the "prior", or "uniform" over the domains whose prior is not 0. Until the
            first matrix, the weights are the prior in either case.
        smoothing: c, uniform weight added after every step, p <- (1 - c) p + c / K; as in DoReMi.

    Raises:
        ConfigError: an option is out of its range.

    One step from equal weights, with a matrix by which only the first domain helps:

        >>> lmo = LMO(eta=1.0)
        >>> state, weights_K = lmo.observe(lmo.begin(np.array([0.5, 0.5])), np.array([[1.0, 0.0], [0.0, 0.0]]))
        >>> weights_K.round(3).tolist()  # e / (e + 1), 1 / (e + 1)
        [0.731, 0.269]
    """

    eta: float = 0.2
    mode: Literal["accumulate", "restart"] = "accumulate"
    ema: float | None = None
    normalise: bool = True
    targets: Targets = None
    w0: Literal["uniform", "prior"] = "prior"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        normalise_fields(self)
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta is the step size of exponentiated gradient, a finite number >= 0; got {self.eta}")
        if self.mode not in ("accumulate", "restart"):
            raise ConfigError(f"mode {self.mode!r} is not known; choose 'accumulate' or 'restart'")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(
                f"ema is the share of the old matrices, 0 <= ema < 1, or None for no mean; got {self.ema}"
            )
        if self.w0 not in ("uniform", "prior"):
            raise ConfigError(f"w0 {self.w0!r} is not known; choose 'uniform' or 'prior'")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing is a share of uniform weight, 0 <= smoothing < 1; got {self.smoothing}")
        check_targets(self.targets)

    def bind(self, names: tuple[str, ...]) -> Self:
        """Return this with `targets` in the order of `names`; as `bind_targets`."""
        return replace(self, targets=bind_targets(self.targets, names))

    def begin(self, prior_K: Float64) -> State:
        """Return the state before any matrix; `prior_K` is float64 [K], any positive scale.

        Raises:
            ConfigError: the prior is not on the simplex, or targets by name have not been bound to an order.
        """
        if isinstance(self.targets, Mapping):
            raise ConfigError(UNBOUND)
        prior_K = on_simplex(prior_K, what="the prior")
        return {"prior_K": prior_K, "log_K": self._start(prior_K), "score_K": np.zeros(len(prior_K)), "observed": 0}

    def weights(self, state: State) -> Float64:
        """Return the weights of `state`, float64 [K], summing to 1: the prior until the first matrix."""
        if not state["observed"]:
            return state["prior_K"].copy()
        weights_K = np.exp(state["log_K"])
        return weights_K / weights_K.sum()

    def observe(self, state: State, matrix_VK: Float64) -> tuple[State, Float64]:
        """Return the state after one step of exponentiated gradient on A = `matrix_VK`, and its weights [K].

        Rows with a number that is not finite are ignored, as if their groups had not been measured; the running mean
        keeps its old rows. If nothing usable is left (no row that a target counts, or a matrix that cannot be
        normalised), the state is returned unchanged. Columns of domains of prior 0 are ignored.

        Raises:
            FeedbackError: it is no matrix of real numbers, the number of columns is not that of domains, or the number
                of rows not that of `targets`.
        """
        matrix_VK = _as_matrix(matrix_VK)
        active_K: Mask = state["prior_K"] > 0
        target_V = self._targets_of(matrix_VK, len(active_K))
        used_VK = np.where(_known(matrix_VK, active_K)[:, None] & active_K, matrix_VK, np.nan)
        if self.normalise:
            used_VK = normalise_matrix(used_VK)
        if not np.isfinite(used_VK).any():
            return state, self.weights(state)
        after = dict(state)
        if self.ema is not None:
            used_VK = after["mean_VK"] = self._averaged(state.get("mean_VK"), used_VK)
        known_V = _known(used_VK, active_K)
        with np.errstate(over="ignore", invalid="ignore"):
            score_K = target_V[known_V] @ np.where(active_K, used_VK, 0.0)[known_V]
            log_K = self._start(state["prior_K"]) if self.mode == "restart" else state["log_K"]
            log_K = np.where(active_K, log_K + self.eta * score_K, -np.inf)
        if not (target_V[known_V] > 0).any() or not np.isfinite(log_K[active_K]).all():
            return state, self.weights(state)
        after |= {"log_K": self._smoothed(_log_normalised(log_K), active_K), "score_K": score_K}
        after["observed"] = state["observed"] + 1
        return after, self.weights(after)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64) -> State:
        """Return the state for other domains, with weights carried over (`carry`) and without the running mean of A."""
        after = dict(self.begin(prior_K))
        if state["observed"]:
            after |= {"log_K": carry(state["log_K"], source_K, after["prior_K"]), "observed": state["observed"]}
        return after

    def check(self, state: State | Part, prior_K: Float64 | None = None, *, square: bool = False) -> Float64:
        """Check a loaded state; return its prior, float64 [K]. `square`: without targets, groups are domains."""
        at = state if isinstance(state, Part) else Part(state)
        mean = {"mean_VK"} if self.ema is not None else set[str]()
        found = at.keys({"prior_K", "log_K", "score_K", "observed"}, mean)
        prior_K = at["prior_K"].prior(prior_K)
        domains = len(prior_K)
        log_K = at["log_K"].array(domains, most=1.0, infinite=True)
        if ((log_K == -np.inf) & (prior_K > 0)).all() or abs(np.logaddexp.reduce(log_K)) > 1e-6:
            at["log_K"].refuse("logarithms of weights that sum to 1")
        if (np.isfinite(log_K) != (prior_K > 0)).any():
            at["log_K"].refuse("finite for the domains whose prior is not 0, and for no other")
        at["score_K"].array(domains)
        at["observed"].whole(least=0)
        if "mean_VK" in found:
            groups = len(self.targets) if self.targets is not None else domains if square else None
            at["mean_VK"].array(groups, domains, unknown=True)
        return prior_K

    def explain(self, state: State) -> dict[str, Any]:
        """Return the weights, the scores (column sums of v A as used) and the number of matrices so far."""
        return {"weights": self.weights(state), "score": state["score_K"].copy(), "matrices": state["observed"]}

    def _start(self, prior_K: Float64) -> Float64:
        start_K = prior_K if self.w0 == "prior" else (prior_K > 0) / np.count_nonzero(prior_K)
        return _log(start_K)

    def _targets_of(self, matrix_VK: Float64, domains: int) -> Float64:
        """Return v [V]; raise FeedbackError for a matrix of another shape."""
        if matrix_VK.ndim != 2 or matrix_VK.shape[1] != domains:
            raise FeedbackError(
                f"a matrix of shape {list(matrix_VK.shape)} was reported, and there are {domains} domains: give "
                f"[V, {domains}], a row for each validation group and a column for each domain in the plan's order"
            )
        return weigh_groups(self.targets, len(matrix_VK))

    def _averaged(self, mean_VK: Float64 | None, used_VK: Float64) -> Float64:
        if mean_VK is None:
            return used_VK
        if mean_VK.shape != used_VK.shape:
            raise FeedbackError(
                f"a matrix of shape {list(used_VK.shape)} was reported after ones of {list(mean_VK.shape)}: a running "
                "mean (ema) needs the same validation groups all along; report the same groups, or set ema=None"
            )
        assert self.ema is not None
        both_VK = (1 - self.ema) * used_VK + self.ema * mean_VK
        old_VK, new_VK = np.isnan(used_VK), np.isnan(mean_VK)
        both_VK = np.where(new_VK, used_VK, np.where(old_VK, mean_VK, both_VK))
        # rows of matrices with other groups do not add up to 1, and the step would have another size
        unlike = self.normalise and (old_VK != new_VK).any()
        return both_VK / np.nansum(both_VK) if unlike else both_VK

    def _smoothed(self, log_K: Float64, active_K: Mask) -> Float64:
        if not self.smoothing:
            return log_K
        share_K = _log(active_K * self.smoothing / np.count_nonzero(active_K))
        return _log_normalised(np.logaddexp(math.log1p(-self.smoothing) + log_K, share_K))


def normalise_matrix(matrix_VK: Float64) -> Float64:
    """Return the matrix with no entry below 0 and sum 1; all NaN if its entries are equal and <= 0.

    If the smallest entry is negative, it is subtracted from every entry; then all are divided by their sum. NaN entries
    (not measured) are ignored and stay NaN. Aioli's `aioli_normalize_A`, without its division 0 / 0.
    """
    known_VK = np.isfinite(matrix_VK)
    if not known_VK.any():
        return np.full_like(matrix_VK, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        lifted_VK = matrix_VK - min(float(np.nanmin(matrix_VK)), 0.0)
        total = float(np.nansum(lifted_VK))
        if not (math.isfinite(total) and total > 0):
            return np.full_like(matrix_VK, np.nan)
        return lifted_VK / total


def carry(log_K: Float64, source_K: Int64, prior_K: Float64) -> Float64:
    """Return log-weights over other domains, float64 [K], of a distribution that sums to 1.

    Domains that stay keep their weights relative to each other, and get together their share of the prior; domains that
    are new, or had weight 0, get their own share of the prior; domains of prior 0 get none.

    Args:
        log_K: log-weights over the old domains; -inf is weight 0.
        source_K: int64 [K], the place of each new domain among the old ones, -1 if it is not one of them.
        prior_K: float64 [K], prior over the new domains, summing to 1.
    """
    old_K = np.where(source_K >= 0, log_K[np.maximum(source_K, 0)], -np.inf)
    carried_K = np.isfinite(old_K) & (prior_K > 0)
    new_K = _log(prior_K)
    if carried_K.any():
        new_K[carried_K] = _log_normalised(old_K[carried_K]) + math.log(prior_K[carried_K].sum())
    return _log_normalised(new_K)


def carry_weights(weights_K: Float64, source_K: Int64, prior_K: Float64) -> Float64:
    """As `carry`, for weights instead of their logarithms."""
    return np.exp(carry(_log(weights_K), source_K, prior_K))


def _as_matrix(matrix_VK: Any) -> Float64:
    """Return numbers as float64, NaN where a numpy array is masked; raise FeedbackError if they are none."""
    try:
        array = np.asarray(matrix_VK)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype} is no real number")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # of a torch tensor, RuntimeError
        raise FeedbackError(
            f"a matrix is a numpy array [V, K] or a list of equally long lists of numbers; got a "
            f"{type(matrix_VK).__name__} ({error})"
        ) from error
    if isinstance(matrix_VK, np.ma.MaskedArray):
        array = np.where(np.ma.getmaskarray(matrix_VK), np.nan, array)
    return array.astype(np.float64, copy=False)


def _known(matrix_VK: Float64, active_K: Mask) -> Mask:
    """Return which groups [V] have been measured in all active domains."""
    return np.asarray(np.isfinite(matrix_VK[:, active_K]).all(axis=1))


def _log(weights_K: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        return np.log(weights_K)


def _log_normalised(log_K: Float64) -> Float64:
    shifted_K = log_K - log_K.max()
    return shifted_K - math.log(np.exp(shifted_K).sum())


@dataclass(frozen=True, kw_only=True)
class MatrixMixer:
    """Weights from any matrix A that the trainer measures: inner products of gradients, ablations, influence.

    Every reported `Feedback.matrix_VK` is one step of exponentiated gradient; until the first, the weights are the
    prior. It fits methods such as PiKE (arXiv 2502.06244) and R&B (2505.00358), whose matrices only the trainer can
    compute.

    Args:
        lmo: step size, running mean, normalisation and targets of the step.
    """

    needs_matrix: ClassVar[bool] = True

    lmo: LMO = LMO()

    def __post_init__(self) -> None:
        if not isinstance(self.lmo, LMO):
            raise ConfigError(f"`lmo` is a mixers.LMO, got {shown(self.lmo)}")

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Self:
        """Return this with targets in the order of the domains `names`; sizes are not used."""
        return replace(self, lmo=self.lmo.bind(names))

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback."""
        return self.lmo.begin(prior_K)

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Take in the matrix, if one was reported.

        Raises:
            FeedbackError: its shape is not [V, K], or V is not the number of targets (without targets, of domains).
        """
        if feedback.matrix_VK is None:
            return state, self.lmo.weights(state)
        if np.ndim(feedback.matrix_VK) == 2:
            check_groups(self.lmo.targets, len(feedback.matrix_VK), len(state["prior_K"]))
        return self.lmo.observe(state, feedback.matrix_VK)

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        self.lmo.check(state, prior_K, square=True)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Carry the weights over to other domains; the running mean of A is dropped."""
        return self.lmo.adapt(state, source_K, prior_K)

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the weights, the scores of the domains by the last matrix, and the number of matrices so far."""
        return self.lmo.explain(state)
