"""Skill-It: a graph of how much each domain helps each group, measured beforehand, times the current losses.

Chen et al. 2023, "Skill-it! A Data-Driven Skills Framework for Understanding and Training Language Models", arXiv
2307.14430. Written from specs/mixing.md sections 2.4 and 3; the released code was not run.

Shape suffixes: K domains, V validation groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mixstream.arguments import normalise_fields, shown
from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers._targets import Targets, bind_targets
from mixstream.mixers.form import Part
from mixstream.mixers.lmo import LMO
from mixstream.mixers.protocol import State
from mixstream.types import Feedback, Float64, Int64

Graph = Mapping[str, Mapping[str, float]] | Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class SkillIt:
    """Restarted exponentiated gradient on A_ij = Lw_i S_ij (arXiv 2307.14430; as a mixing law: arXiv 2411.05735).

    S_ij = (L_i(before) - L_i(after)) / L_i(before) of a short run on domain j alone, measured beforehand and constant.
    Lw is the sum of the last `window` validation losses (their mean if `targets` are given). The first mixture is
    p_j ~ p0_j exp(eta sum_i S_ij); every `round_steps` steps it becomes p_j ~ p0_j exp(eta sum_i v_i Lw_i S_ij), each
    time from p0, the prior. Validation losses are needed at those steps.

    Args:
        graph: as stored by the authors: a row for each domain trained on, a column for each validation group, so S is
            its transpose. By names, `{"code": {"code": 0.3, "web": 0.05}}`, with 0 for names left out; or a matrix
            [K, V] in the plan's order.
        eta: step size.
        round_steps: steps between two updates.
        window: evaluations in Lw.
        relative_losses: divide losses by those before training (L_0), so that groups of high loss do not dominate. It
            needs one more evaluation, before the first step.
        targets: v, how much each validation group counts; all 1 by default. See `LMO`.

    Differences from the paper and the released code:

    - p0 is the prior of the run; for the uniform p0 of the paper, give a uniform prior.
    - A validation loss that is not finite is replaced by the last one of the group; a group without one is left out
      until it is known in every evaluation of the window.
    - Options of the released code that are missing: eta that grows as losses fall (eta L_0 / L_t: use
      `relative_losses` to balance groups instead), and edges thresholded to 0.5 (give such a graph).

    Raises:
        ConfigError: an option is out of its range, or the graph does not fit the domains.
    """

    graph: Graph
    eta: float = 0.2
    round_steps: int = 500
    window: int = 3
    relative_losses: bool = False
    targets: Targets = None

    def __post_init__(self) -> None:
        normalise_fields(self)
        for name in ("round_steps", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.graph, Mapping):
            for name, row in self.graph.items():
                if not isinstance(row, Mapping):
                    raise ConfigError(
                        f"the row of {shown(name)} in the graph is a dict from domains to numbers, got {shown(row)}"
                    )
        else:  # as tuples: a mixer is compared and printed
            object.__setattr__(self, "graph", tuple(map(tuple, _matrix(self.graph).tolist())))
        _ = self._lmo  # checks its options

    @property
    def _lmo(self) -> LMO:
        return LMO(eta=self.eta, mode="restart", normalise=False, targets=self.targets, w0="prior")

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Self:
        """Return this with graph and targets in the order of the domains `names`; sizes are not used.

        Raises:
            ConfigError: graph or targets name other domains, or the graph lacks the row of a domain.
        """
        targets = bind_targets(self.targets, names)
        if not isinstance(self.graph, Mapping):
            return replace(self, targets=targets)
        columns = {group for row in self.graph.values() for group in row}
        if unknown := sorted((set(self.graph) | columns) - set(names), key=str):
            raise ConfigError(f"the graph names {unknown}, which are not domains; the domains are {sorted(names)}")
        if missing := sorted(set(names) - set(self.graph)):
            raise ConfigError(
                f"the graph has no row for the domains {missing}: measure what training on each of them alone does, or "
                "give an empty row if it helps none"
            )
        rows = tuple(tuple(float(self.graph[train].get(group, 0.0)) for group in names) for train in names)
        return replace(self, graph=rows, targets=targets)

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback.

        Raises:
            ConfigError: the graph has not one row per domain, or is by name and has not been bound to an order.
        """
        lmo, state = self._lmo, self._lmo.begin(prior_K)
        skill_VK = self._skill(len(state["prior_K"]))
        state, _ = lmo.observe(state, skill_VK)
        return {"began": 0, "lmo": state, "window": [], "first_V": np.full(len(skill_VK), np.nan)}

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights before any feedback: those of the graph alone."""
        return self._lmo.weights(state["lmo"])

    def wants_validation(self, state: State, step: int) -> bool:
        """Return whether `step` begins a round that is not the first or, with `relative_losses`, the run."""
        if step <= state["began"]:
            return self.relative_losses and step == state["began"]
        return step % self.round_steps == 0

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Take in the validation losses, at the steps that need them.

        Raises:
            FeedbackError: the number of validation groups is not that of the graph's columns.
        """
        if feedback.validation_V is None or not self.wants_validation(state, feedback.step + 1):
            return state, self._lmo.weights(state["lmo"])
        after = dict(state)
        loss_V = self._loss(after, feedback)
        after["first_V"] = np.where(np.isnan(state["first_V"]), loss_V, state["first_V"])
        if feedback.step + 1 == state["began"]:
            return after, self._lmo.weights(state["lmo"])
        after["window"] = [*state["window"], loss_V][-self.window :]
        skill_VK = self._skill(len(state["lmo"]["prior_K"]))
        with np.errstate(over="ignore", invalid="ignore"):  # LMO ignores what is not finite
            weight_V = np.sum(after["window"], axis=0) / (1 if self.targets is None else len(after["window"]))
            if self.relative_losses:
                weight_V = weight_V / np.where(after["first_V"] > 0, after["first_V"], np.nan)
            matrix_VK = weight_V[:, None] * skill_VK
        after["lmo"], weights_K = self._lmo.observe(state["lmo"], matrix_VK)
        return after, weights_K

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"began", "lmo", "window", "first_V"})
        prior_K = self._lmo.check(at["lmo"], prior_K)
        at["began"].whole(least=0)
        groups = len(self._skill(len(prior_K)))
        at["first_V"].array(groups, unknown=True)
        if not isinstance(window := at["window"].value, list) or len(window) > self.window:
            at["window"].refuse(f"a list of at most {self.window} evaluations")
        for number, loss_V in enumerate(window):
            Part(loss_V, f"window.{number}").array(groups, unknown=True)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Carry the weights over to other domains, those of this graph, until the next round; losses are dropped."""
        fresh = dict(self.init(prior_K))
        return fresh | {"began": step, "lmo": self._lmo.adapt(state["lmo"], source_K, prior_K)}

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the weights, the scores of the domains, the number of updates, and the graph S [V, K]."""
        return self._lmo.explain(state["lmo"]) | {"matrix": self._skill(len(state["lmo"]["prior_K"]))}

    def _skill(self, domains: int) -> Float64:
        """Return S [V, K], the transpose of the stored graph."""
        if isinstance(self.graph, Mapping):
            raise ConfigError(
                "the graph is given by name, and no order of domains was set; call bind(names, samples_K)"
            )
        graph_KV = _matrix(self.graph)
        if len(graph_KV) != domains:
            raise ConfigError(
                f"the graph has {len(graph_KV)} rows and there are {domains} domains: give a row for each domain, in "
                "the plan's order (sorted by name), or give it by names"
            )
        return np.ascontiguousarray(graph_KV.T)

    def _loss(self, state: State, feedback: Feedback) -> Float64:
        """Return the losses [V], with those that are not finite replaced by the last known."""
        assert feedback.validation_V is not None
        loss_V, first_V = feedback.validation_V, state["first_V"]
        if len(loss_V) != len(first_V):
            raise FeedbackError(
                f"{len(loss_V)} validation losses were reported, and the graph has columns for {len(first_V)} groups: "
                "report one loss per column, in their order"
            )
        return np.where(np.isfinite(loss_V), loss_V, state["window"][-1] if state["window"] else first_V)


def _matrix(graph: Any) -> Float64:
    try:
        matrix = np.asarray(graph, dtype=np.float64)
    except Exception:  # of whatever kind an object's own method raises
        matrix = np.full(0, np.nan)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ConfigError(f"a graph is a matrix [domains, validation groups] of finite numbers; got {shown(graph)}")
    return matrix
