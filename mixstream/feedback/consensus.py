"""What all ranks conclude from one step: summed losses, rank 0's weights, one line in the log.

Runs on one thread per rank, off the trainer's. Every rank asks the mixer, which keeps the state the same everywhere, so
that any rank can save it; the weights that count are rank 0's, as whole numbers. A rank that comes to others has other
settings, another state or other reports: that is an error on all ranks, which names it.

Shape suffixes: K domains in the plan's order, V validation groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixstream.distributed import Exchange
from mixstream.errors import RanksDisagreeError
from mixstream.feedback.log import MixingLog
from mixstream.feedback.loop import FeedbackLoop
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Float64, Int64, Weights

_TOLERANCE = WEIGHT_UNIT >> 20  # rounding, on processors of several kinds


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Validation losses of the model before `step`: everybody's means, float64 [V], or this rank's sums and counts."""

    step: int
    values: Float64
    means: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One step as a rank reports it.

    Attributes:
        step: the step.
        rows_K: float64 [K], rows of each domain in the global batch.
        sums: float64 [2, K], summed losses and how many terms they have.
        over_all_ranks: whether `sums` are summed over ranks already.
        matrix_VK: what the trainer measured, float64 [V, K].
    """

    step: int
    rows_K: Float64
    sums: Float64
    over_all_ranks: bool = False
    matrix_VK: Float64 | None = None


@dataclass(kw_only=True)
class RankConsensus:
    """Concludes from reports, step by step.

    Args:
        loop: the feedback loop; None if nothing learns.
        weights: step -> the weights that it is drawn by, for the log.
        facts: what all ranks must have in common before the first step.
        publish: is told (step, weights) as soon as they are known.
        journal: where the log is written; None for no log.

    Attributes:
        exchange: the ranks' channel; None in a run of one rank, or while all that is reported is summed already.
        newest: the last weights that are known, and of which step they are; None where nothing learns.
    """

    loop: FeedbackLoop | None
    weights: Weights
    facts: Mapping[str, Any]
    publish: Callable[[int, Int64], None]
    journal: MixingLog | None
    exchange: Exchange | None = field(default=None, init=False)
    newest: tuple[int, Int64] | None = field(default=None, init=False)
    _agreed: bool = field(default=False, init=False)
    _odd: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.loop is not None and (weights_K := self.loop.weights(self.loop.known - 1)) is not None:
            self.newest = self.loop.known - 1, weights_K

    def close(self) -> None:
        """Close the log, until there is more to write."""
        if self.journal is not None:
            self.journal.close()

    def conclude(self, report: Report) -> None:
        """Take one step's losses to their end: to the weights that they lead to, and to the log.

        Raises:
            RanksDisagreeError: the ranks' reports, settings, states or weights are not those of one run.
        """
        sums, matrix_VK = report.sums, report.matrix_VK
        together = self.exchange is not None and not report.over_all_ranks
        if self.exchange is not None and together:
            sums = self._pool(self.exchange, report.step, sums, matrix=matrix_VK is not None)
            if matrix_VK is not None:
                matrix_VK = self.exchange.sum(matrix_VK) / self.exchange.size
        drawn_by_K = self.weights(report.step)
        if self.loop is not None:
            agree = self._of_leader if together else None
            self._serve(self.loop.report(report.step, *sums, matrix_VK=matrix_VK, agree=agree))
        with self._logging() as journal:
            if journal is not None and drawn_by_K is not None:
                journal.write(
                    report.step,
                    weights_K=drawn_by_K,
                    rows_K=report.rows_K,
                    loss_sum_K=sums[0],
                    count_K=sums[1],
                    explained=self.loop.explain() if self.loop is not None else None,
                )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Take one evaluation to its end; as `conclude`."""
        assert self.loop is not None
        values, domains = evaluation.values, len(self.loop.prior_K)
        if self.exchange is not None:
            told = np.zeros((2, domains)) if evaluation.means else values
            sums = self._pool(self.exchange, evaluation.step, told, means=evaluation.means, evaluation=True)
            values = values if evaluation.means else sums
        if not evaluation.means:
            values = np.where(values[1] > 0, values[0], np.nan) / np.where(values[1] > 0, values[1], 1)
        agree = self._of_leader if self.exchange is not None else None
        self._serve(self.loop.evaluated(evaluation.step, values, agree=agree))
        with self._logging() as journal:
            if journal is not None:
                journal.write_validation(evaluation.step - 1, values)

    @contextmanager
    def _logging(self) -> Iterator[MixingLog | None]:
        """Give the log, or give it up: training does not need it."""
        try:
            if self.journal is not None and self.loop is not None and self.loop.missed:
                missed, self.loop.missed = self.loop.missed, []
                for step, weights_K, rows_K in missed:
                    self.journal.write(step, weights_K=weights_K, rows_K=rows_K)
            yield self.journal
        except OSError as error:
            assert self.journal is not None
            warnings.warn(f"the log {self.journal.file} ends here, and training goes on: {error}", stacklevel=2)
            self.journal = None

    def _pool(self, exchange: Exchange, step: int, values: Float64, **said: bool) -> Float64:
        """Return `values`, [2, K], summed over all ranks, once it is known that all speak of the same."""
        if not self._agreed:
            exchange.agree(self.facts, what="about the run")
            self._agreed = True
        kinds = ("evaluation", "means", "matrix")
        head = [step, step**2, float(bool(self._odd)), *(float(said.get(kind, False)) for kind in kinds)]
        total, size = exchange.sum(np.concatenate([head, values.ravel()])), exchange.size
        same = total[0] == step * size and total[1] == step**2 * size and set(total[3:6].tolist()) <= {0, size}
        if total[2] or not same:
            told = {"step": step, **{kind: said.get(kind, False) for kind in kinds}, **self._odd}
            exchange.agree(told, what=f"at step {step}")
            raise RanksDisagreeError(f"the ranks disagree at step {step}: {told}")
        return total[6:].reshape(values.shape)

    def _serve(self, found: tuple[int, Int64] | None) -> None:
        """Publish the weights that were `found`."""
        if found is not None:
            self.newest = found
            self.publish(*found)

    def _of_leader(self, step: int, weights_K: Int64) -> Int64:
        """Return rank 0's weights of `step`, and remember if ours were others."""
        assert self.exchange is not None
        theirs_K = self.exchange.from_leader(weights_K)
        if np.abs(theirs_K - weights_K).max() > _TOLERANCE:
            self._odd = {f"weights of step {step}": (weights_K / WEIGHT_UNIT).round(6).tolist()}
        return theirs_K
