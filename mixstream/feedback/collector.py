"""What the trainer reports, collected: by row, by micro-batch, in any order.

A step is told when all of this rank's rows are, and the evaluation after it where one is due. Steps that are told go,
in order, to the `RankConsensus` on a thread of its own; the trainer waits for nothing. What is told twice counts once.

Shape suffixes: B rows of this rank, K domains (in the order of `streams` outside, in the plan's inside), V groups.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.data.batch import Batch
from mixstream.distributed import Exchange
from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.background import Background
from mixstream.feedback.consensus import Evaluation, RankConsensus, Report
from mixstream.feedback.loop import FeedbackLoop
from mixstream.feedback.losses import domain_sums, fetch
from mixstream.types import Float64, Int64, Rows

_PATIENCE = 100  # steps without a matrix after which a trainer is told that the mixer learns from nothing else
_KEPT = 1024  # steps that are remembered where nobody has to report them


@dataclass(slots=True)
class _Told:
    """What is known of one step that was handed out."""

    rows_K: Float64
    covered_B: NDArray[np.bool_]
    sums: torch.Tensor | None = None
    over_all_ranks: bool = False
    matrix_VK: Float64 | None = None

    @property
    def whole(self) -> bool:
        return bool(self.covered_B.all())

    def add(self, sums: torch.Tensor | None) -> None:
        if sums is not None:
            self.sums = sums if self.sums is None else self.sums + sums


class LossCollector:
    """Takes the reports of one loader, from one position on.

    Args:
        council: concludes from the steps that are told.
        exchange: makes the ranks' channel, in the trainer's thread at the first report, since that is collective; None
            in a run of one rank.
        loop: the feedback loop at that position; None if nothing learns, and reports are only logged.
        step: that position.
        rows: rows of this rank's batches.
        listed_K: int64 [K], the place of each of the plan's domains in the user's list, in which losses are reported.
    """

    def __init__(
        self,
        *,
        council: RankConsensus,
        exchange: Callable[[], Exchange] | None,
        loop: FeedbackLoop | None,
        step: int,
        rows: int,
        listed_K: Int64,
    ) -> None:
        self._council, self._exchange = council, exchange
        self._loop, self._rows, self._listed_K = loop, rows, listed_K
        self._next = step if loop is None else loop.reported
        self._told: dict[int, _Told] = {}
        self._evaluations: dict[int, Evaluation] = {}
        self._background = Background(name="mixstream-feedback")
        self._warned = False
        self._without_matrix = _PATIENCE if getattr(loop and loop.mixer, "needs_matrix", False) else 0
        self._evaluated = self._next - 1 if loop is not None and loop.waiting else self._next  # the last evaluation

    def drew(self, rows: Rows) -> None:
        """Note that a step's rows were handed out."""
        rows_K = np.bincount(rows.domain_B, minlength=len(self._listed_K)).astype(np.float64)
        self._told[rows.step] = _Told(rows_K, np.zeros(self._rows, dtype=np.bool_))
        if self._loop is not None:
            self._loop.drew(rows.step, rows_K)
        else:
            self._told.pop(rows.step - _KEPT, None)

    # --- what the trainer says --------------------------------------------------------------------------------------

    def report(self, batch: Batch, loss: Any, *, mask: Any = None, matrix: Any = None) -> None:
        """Take in the losses of a batch or of one of its parts; see `LossReports.report`."""
        if getattr(batch, "domain", None) is None:
            raise FeedbackError(
                f"a {type(batch).__name__} does not say of which step and domains it is: report the batch as the "
                "loader handed it out, and let a collate_fn return a dict"
            )
        if (told := self._open(batch.step, batch.rows)) is None:
            return
        self._connect()
        sums = self._sums(loss, batch, mask)  # all that may be refused comes before what is kept
        matrix_VK = self._matrix(matrix) if matrix is not None else told.matrix_VK
        told.add(sums)
        told.matrix_VK = matrix_VK
        told.covered_B[batch.rows] = True
        self._send()

    def _sums(self, loss: Any, batch: Batch, mask: Any) -> torch.Tensor | None:
        """Return sums and counts of this rank's losses, float64 [2, K]; None where there are none."""
        domains = len(self._listed_K)
        if loss is None:
            return None
        if not isinstance(loss, tuple):
            return torch.stack(domain_sums(loss, batch.domain, domains, mask=mask))
        sums, counts = (torch.as_tensor(part).detach().double() for part in loss[-2:])
        if sums.shape != (domains,) or counts.shape != (domains,):
            raise ConfigError(
                f"summed losses are a pair (sums, counts) of one number for each of {domains} domains; got shapes "
                f"{tuple(sums.shape)} and {tuple(counts.shape)}"
            )
        return torch.stack([sums, counts.to(sums.device)])

    def _connect(self) -> None:
        """Open the ranks' channel, where there are several and it is not open: in the trainer's thread."""
        if self._exchange is not None and self._council.exchange is None:
            self._council.exchange = self._exchange()

    def report_sums(self, step: int, loss_sum_K: Any, count_K: Any) -> None:
        """Take in losses that are summed already, over all ranks."""
        if (told := self._open(step, slice(None))) is None:
            return
        told.add(torch.from_numpy(np.array([loss_sum_K, count_K], dtype=np.float64)))
        told.over_all_ranks = True
        told.covered_B[:] = True
        self._send()

    def report_validation(self, values: Any, *, means: bool) -> None:
        """Take in validation losses: means over all ranks, [V], or this rank's sums and counts, [2, K]."""
        self._background.check()
        step, array = self.boundary, np.array(values, dtype=np.float64)
        if not self.wants_validation:
            raise FeedbackError(f"no evaluation is due before step {step}; ask loader.wants_validation first")
        if array.shape[-1] == len(self._listed_K):
            array = array[..., self._listed_K]
        self._connect()
        self._evaluations[step], self._evaluated = Evaluation(step, array, means), step
        self._send()

    @property
    def boundary(self) -> int:
        """The first step whose losses this rank has not reported: to evaluate now is to evaluate before that step."""
        step = self._next
        while (told := self._told.get(step)) is not None and told.whole:
            step += 1
        return step

    @property
    def wants_validation(self) -> bool:
        """Whether the model has to be evaluated now, before it trains on."""
        return self._wants(self.boundary)

    def _wants(self, step: int) -> bool:
        return self._loop is not None and step > self._evaluated and self._loop.wants_validation(step)

    def _open(self, step: int, rows: slice) -> _Told | None:
        """Return the record of a step that rows are reported of; None if they are known already.

        Raises:
            FeedbackError: the step was not handed out, was reported for some of these rows, or has to be preceded by
                an evaluation.
        """
        self._background.check()
        told = self._told.get(step)
        passed = step < self._next if self._loop is not None else told is None
        if passed or (told is not None and told.covered_B[rows].all()):
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"step {step} was reported before, or before a state was loaded; it counts once, and this report "
                    "is left out",
                    stacklevel=5,
                )
            return None
        if told is None:
            raise FeedbackError(
                f"step {step} is reported and was not handed out by this loader; report its own batches, once each"
            )
        if told.covered_B[rows].any():
            raise FeedbackError(
                f"some of rows {rows.start or 0} to {(rows.stop or self._rows) - 1} of step {step} were reported "
                "before: report each part of batch.split(n) once"
            )
        if self._wants(step):
            raise self._lacks_evaluation(step)
        return told

    def _matrix(self, matrix: Any) -> Float64:
        array = torch.as_tensor(matrix).detach().double().cpu().numpy()
        order = self._listed_K
        if array.ndim != 2 or array.shape[1] != len(order):
            raise ConfigError(
                f"a matrix has one row per validation group and one column for each of {len(order)} domains; got shape "
                f"{array.shape}"
            )
        return array[np.ix_(order, order)] if array.shape[0] == len(order) else array[:, order]

    # --- towards the weights ----------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Hand the steps that are told to the council, in order."""
        if self._loop is None:  # nothing depends on a step that nobody reports
            for step in [step for step, told in self._told.items() if told.whole]:
                self._submit(step)
            return
        while True:
            if (evaluation := self._evaluations.pop(self._next, None)) is not None:
                self._background.submit(partial(self._council.evaluated, evaluation))
            if (told := self._told.get(self._next)) is None or not told.whole:
                return
            self._submit(self._next)
            self._next += 1

    def _submit(self, step: int) -> None:
        told = self._told.pop(step)
        self._miss_matrix(told)
        both = fetch(told.sums) if told.sums is not None else partial(np.zeros, (2, len(self._listed_K)))
        self._background.submit(partial(self._conclude, step, told, both))

    def _miss_matrix(self, told: _Told) -> None:
        """Warn, once, of a mixer that gets no matrix to learn from."""
        if told.matrix_VK is not None:
            self._without_matrix = 0
        elif self._without_matrix and self._loop is not None:
            self._without_matrix -= 1
            if not self._without_matrix:
                warnings.warn(
                    f"{type(self._loop.mixer).__name__} learns from matrices alone, and {_PATIENCE} steps were "
                    "reported without one, so its weights do not move: pass matrix= to report() now and then",
                    stacklevel=6,
                )

    def _conclude(self, step: int, told: _Told, both: Callable[[], Float64]) -> None:
        """Runs on the reporter's thread."""
        self._council.conclude(
            Report(
                step=step,
                rows_K=told.rows_K,
                sums=both()[:, self._listed_K],
                over_all_ranks=told.over_all_ranks,
                matrix_VK=told.matrix_VK,
            )
        )

    def await_weights(self, step: int) -> None:
        """Wait until the weights of `step` are known.

        Raises:
            FeedbackError: they wait for the trainer; the message says for which report.
        """
        loop = self._loop
        assert loop is not None
        needed = step - 1 - loop.lag
        if self._wants(min(self._next, needed + 1)):
            raise self._lacks_evaluation(min(self._next, needed + 1))
        if self._next <= needed:
            self._background.check()
            raise self._lacks_report(step)
        self._background.wait(lambda: loop.weights(step) is not None, what=f"the weights of step {step}")
        if loop.weights(step) is None:
            raise self._lacks_report(step)

    def _lacks_report(self, step: int) -> FeedbackError:
        assert self._loop is not None
        told = self._told.get(self._next)
        known = 0 if told is None else int(told.covered_B.sum())
        rows = f" in full ({known} of {self._rows} rows)" if known else ""
        return FeedbackError(
            f"step {self._next} has not been reported{rows}, and the weights of step {step} depend on it (lag "
            f"{self._loop.lag}): call loader.report(batch, loss) once for every batch, with loss=None where there is "
            "none, or use a mixer that needs no losses (Static)"
        )

    def _lacks_evaluation(self, step: int) -> FeedbackError:
        assert self._loop is not None
        return FeedbackError(
            f"{type(self._loop.mixer).__name__} needs an evaluation of the model before it trains on step {step}, and "
            "none was reported: call loader.evaluate(...) before each step (it does nothing unless "
            "loader.wants_validation)"
        )

    def drain(self) -> None:
        """Wait until all that was reported has led to weights."""
        self._background.drain(what="the weights that follow from the last reports")

    def close(self) -> None:
        """End the reporter's thread, after what was reported, and close the log. A later report begins them again.

        Raises:
            BaseException: what a report led to, if nobody was told yet.
        """
        try:
            self._background.close()
        finally:
            self._council.close()

    def leave(self) -> None:
        """Close for an owner who is gone, or who has an error of its own to tell."""
        with contextlib.suppress(Exception):
            self.close()
