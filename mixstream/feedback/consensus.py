"""What all ranks conclude from a step: summed losses, rank 0's weights, one line in the log.

Runs in one feedback thread per rank. Every rank asks its own mixer, so that the state is the same on all ranks and any
of them can save it; the weights of rank 0, as whole numbers, are those that count. If a rank computes different
weights, its settings, state or reports differ: all ranks raise an error that names it.

Shape suffixes: K domains in the plan's order, V validation groups.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

import numpy as np

from mixstream.distributed import Channel, Exchange
from mixstream.errors import RanksDisagreeError
from mixstream.feedback.log import MixingLog
from mixstream.feedback.loop import Agree, FeedbackLoop
from mixstream.feedback.shares import Shares
from mixstream.plan.skips import Skips
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.records import dataclass
from mixstream.types import Float64, Int64, Weights

_TOLERANCE = WEIGHT_UNIT >> 20  # what rounding may differ by between kinds of processors


def _square(step: int) -> tuple[int, int]:
    """Return the square of a step in two parts, whose sums over ranks are exact where that of the square is rounded.

    Steps whose sum and sum of squares are those of equal steps are equal.
    """
    return divmod(step**2, 1 << 24)


@dataclass(kw_only=True)
class RankConsensus:
    """Concludes from steps and evaluations, one after the other.

    Args:
        loop: the feedback loop; None if nothing learns.
        weights: step -> the weights that it is drawn by, for the log.
        facts: what all ranks must have in common, compared at the first sum.
        publish: called with (step, weights) as soon as they are known.
        channel: of the ranks, used by the trainer's thread before the first sum.
        log: the mixing log; None for none, or after it could not be written.
        skips: the steps that are left out; the loader adds to them, before it passes such a step.
    """

    loop: FeedbackLoop | None
    weights: Weights
    facts: Mapping[str, Any] | None
    publish: Callable[[int, Int64], None]
    channel: Channel
    log: MixingLog | None
    skips: Skips = Skips()  # frozen
    _odd: dict[str, Any] = field(default_factory=dict, init=False)  # in what this rank differs from rank 0
    _shares: Shares | None = field(default=None, init=False)  # from the first sum on

    def decide(
        self,
        step: int,
        sums_2K: Float64,
        *,
        rows_K: Float64,
        drawn_by_K: Int64 | None,
        matrix_VK: Float64 | None,
        over_all_ranks: bool,
    ) -> None:
        """Take in a complete step: sum its losses, publish the weights that they lead to, and log it.

        `sums_2K` are summed losses and the numbers of their terms: of this rank, or `over_all_ranks`. `rows_K` and
        `drawn_by_K` are those of `FeedbackLoop.drew`.

        Raises:
            RanksDisagreeError: the ranks' reports, settings, states or weights are not those of one run.
        """
        exchange, skipped = None if over_all_ranks else self.channel.exchange, step in self.skips
        if exchange is not None:
            sums_2K = self._summed(exchange, step, sums_2K, matrix=matrix_VK is not None, skipped=skipped)
            if matrix_VK is not None:
                matrix_VK = exchange.all_reduce(matrix_VK, what=f"the matrix of step {step}") / exchange.ranks
        given_K = self.weights(step)
        if self.loop is not None:
            found = self.loop.conclude(step, *sums_2K, matrix_VK=matrix_VK, agree=self._agree(exchange))
            if found is not None:
                self.publish(*found)
        with self._logging() as log:
            if log is not None and given_K is not None:
                log.write(
                    step,
                    weights_K=given_K if drawn_by_K is None else drawn_by_K,
                    given_K=given_K,
                    rows_K=rows_K,
                    loss_sum_K=sums_2K[0],
                    count_K=sums_2K[1],
                    explained=self.loop.explain() if self.loop is not None else None,
                    skipped=skipped,
                )

    def miss_evaluation(self, step: int, *, over_all_ranks: bool) -> None:
        """Note that there is no evaluation before `step`, which is left out; as `decide_evaluation`."""
        assert self.loop is not None
        exchange = None if over_all_ranks else self.channel.exchange
        if exchange is not None:
            nothing_2K = np.zeros((2, len(self.loop.prior_K)))
            self._summed(exchange, step, nothing_2K, evaluation=True, skipped=True)
        self.publish(*self.loop.evaluated(step, None, agree=self._agree(exchange)))

    def decide_evaluation(self, step: int, values: Float64, *, means: bool) -> None:
        """Take in the validation losses of the model before `step`; as `decide`.

        `values` are means over all ranks, float64 [V], or the sums and counts of this rank, float64 [2, K].
        """
        assert self.loop is not None
        exchange = self.channel.exchange
        sums_2K = np.zeros((2, len(self.loop.prior_K))) if means else values
        if exchange is not None:
            sums_2K = self._summed(exchange, step, sums_2K, means=means, evaluation=True)
        if not means:
            values = np.where(sums_2K[1] > 0, sums_2K[0], np.nan) / np.where(sums_2K[1] > 0, sums_2K[1], 1)
        self.publish(*self.loop.evaluated(step, values, agree=self._agree(exchange)))
        with self._logging() as log:
            if log is not None:
                log.write_validation(step - 1, values)

    @contextmanager
    def _logging(self) -> Iterator[MixingLog | None]:
        """Give the log, with the missed steps of a resumed run in it; drop it if it cannot be written."""
        try:
            if self.log is not None and self.loop is not None and self.loop.missed:
                missed, self.loop.missed = self.loop.missed, []
                for step, given_K, rows_K, drawn_by_K in missed:
                    weights_K = given_K if drawn_by_K is None else drawn_by_K
                    skipped = step in self.skips
                    self.log.write(step, weights_K=weights_K, given_K=given_K, rows_K=rows_K, skipped=skipped)
            yield self.log
        except OSError as error:
            assert self.log is not None
            warnings.warn(f"the log {self.log.file} ends here, and training goes on: {error}", stacklevel=2)
            self.log = None

    def _summed(self, exchange: Exchange, step: int, values: Float64, **kinds: bool) -> Float64:
        """Return `values`, [2, K], summed over all ranks, once all are known to report the same step and kinds."""
        if self.facts is not None:
            exchange.agree(self.facts, what="about the run")
            self.facts = None
        shares = self._shares = self._shares or Shares.of(exchange.world, ranks=exchange.ranks)
        replicated = exchange.ranks > exchange.world.size
        marks = shares.marks(values) if replicated else np.zeros(0)
        kinds = {kind: kinds.get(kind, False) for kind in ("evaluation", "means", "matrix", "skipped")}
        head = [step, *_square(step), float(bool(self._odd)), *map(float, kinds.values())]
        parts = np.concatenate([head, marks, shares.weight * values.ravel()])
        what = f"the {'evaluation before' if kinds['evaluation'] else 'losses of'} step {step}"
        total, ranks = exchange.all_reduce(parts, what=what), exchange.ranks
        same = total[:3].tolist() == [part * ranks for part in head[:3]] and set(total[4:8].tolist()) <= {0, ranks}
        if total[3] or not same:
            ours = {"step": step, **kinds, **self._odd}
            exchange.agree(ours, what=f"at step {step}")
            raise RanksDisagreeError(f"the ranks disagree at step {step}: {ours}")
        marks, total = total[8 : 8 + marks.size], total[8 + marks.size :]
        if replicated:
            ours = "a loss of {:.8g} over {:g} terms".format(*np.nan_to_num(values).sum(axis=1))
            shares.check(step, marks, lambda slot: exchange.told(ours if slot == shares.slot else ""))
            if shares.take(marks):
                total = exchange.all_reduce(shares.weight * values.ravel(), what=what)
        return total.reshape(values.shape) / shares.divisor

    def _agree(self, exchange: Exchange | None) -> Agree | None:
        """Return what turns this rank's weights into rank 0's; where they differ, the next sum raises."""
        if exchange is None:
            return None

        def agree(step: int, weights_K: Int64) -> Int64:
            theirs_K = exchange.broadcast(weights_K, what=f"the weights of step {step}")
            if np.abs(theirs_K - weights_K).max() > _TOLERANCE:
                self._odd = {f"weights of step {step}": (weights_K / WEIGHT_UNIT).round(6).tolist()}
            return theirs_K

        return agree
