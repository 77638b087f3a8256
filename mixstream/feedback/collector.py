"""The trainer's reports, collected: by row, by micro-batch, in any order, until a step is complete on this rank.

Complete steps and due evaluations go, in order, to `RankConsensus` in the feedback thread; the trainer does not wait.
Rows count once: a report of rows that were reported before is ignored with a warning. The loop knows which step or
evaluation is due next (`FeedbackLoop.due`). Any thread may report; reports are taken in one after the other.

Shape suffixes: B rows of this rank, K domains (trainers report them in the order of `streams`, all else is in the
plan's), V validation groups.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.data.batch import Batch
from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.background import Background
from mixstream.feedback.consensus import RankConsensus
from mixstream.feedback.labelled import labelled
from mixstream.feedback.loop import FeedbackLoop
from mixstream.feedback.losses import domain_sums, fetch
from mixstream.feedback.numbers import as_numbers, moved
from mixstream.records import dataclass
from mixstream.threads import OwnedLock, Owner
from mixstream.types import Float64, Int64, Rows

_STEPS_WITHOUT_MATRIX = 100
"""Steps without a matrix after which a mixer that learns from nothing else is warned about."""
_KEPT_STEPS = 1024
"""Steps that may still be reported where nothing learns."""


@dataclass(slots=True)
class _OpenStep:
    """A step that was handed out and is not complete."""

    rows_K: Float64
    covered_B: NDArray[np.bool_]
    drawn_by_K: Int64 | None = None
    sums: torch.Tensor | None = None
    over_all_ranks: bool = False
    matrix_VK: Callable[[], Float64] | None = None
    skipped: bool = False

    def cover(self, rows: slice, sums: torch.Tensor | None) -> None:
        if sums is not None:
            self.sums = sums if self.sums is None else self.sums + sums
        self.covered_B[rows] = True


class LossCollector:
    """Collects the reports of one loader from one position on.

    Args:
        consensus: concludes from complete steps. Its exchange is created here, in the trainer's thread.
        rows: rows of this rank's batches.
        listed_K: int64 [K], the place of each of the plan's domains in `streams`.
    """

    def __init__(self, consensus: RankConsensus, *, rows: int, listed_K: Int64) -> None:
        self._consensus, self._loop, self._rows, self._listed_K = consensus, consensus.loop, rows, listed_K
        self._open: dict[int, _OpenStep] = {}
        self._background = Background(name="mixstream-feedback")
        remedy = "report to it, and save its state, in the process that made it"
        self._owner = Owner("the feedback of this loader", remedy=remedy)
        self._lock = OwnedLock(self._owner)  # the feedback thread does not need it
        self._warned = self._sums_come = False  # the latter: whether the caller sums losses over ranks
        needs_matrix = getattr(self._loop and self._loop.mixer, "needs_matrix", False)
        self._without_matrix = _STEPS_WITHOUT_MATRIX if needs_matrix else 0

    def drew(self, rows: Rows) -> None:
        """Note that the rows of a step were handed out."""
        rows_K = np.bincount(rows.domain_B, minlength=len(self._listed_K)).astype(np.float64)
        mine = self._rows if rows.part is None else rows.part.stop - rows.part.start
        with self._lock:
            self._open[rows.step] = _OpenStep(rows_K, np.zeros(mine, dtype=np.bool_), rows.drawn_by_K)
            if self._loop is not None:
                self._loop.drew(rows.step, rows_K, rows.drawn_by_K)
            else:
                self._open.pop(rows.step - _KEPT_STEPS, None)

    def skip(self, rows: Rows) -> None:
        """Note that a step is left out; the mixer and the log receive no losses of it, once the steps before are over.

        An evaluation that is due before it is missed.
        """
        with self._lock:
            self._background.check()
            alone = self._sums_come or not self._consensus.channel.is_possible
            if not alone:
                _ = self._consensus.channel.exchange  # collective at the first use
            self.drew(rows)
            opened = self._open[rows.step]
            opened.skipped, opened.over_all_ranks = True, alone
            opened.cover(slice(None), None)
            self._send(rows.step)

    def collect(self, batch: Batch | Mapping[str, Any], loss: Any, *, mask: Any = None, matrix: Any = None) -> None:
        """Take in the losses of a batch or of one of its parts; see `LossReports.report`."""
        batch = _known(batch)
        with self._lock:
            if (step := self._opened(batch.step, batch.rows)) is None:
                return
            _ = self._consensus.channel.exchange  # collective at the first use
            sums = self._sums(loss, batch, mask)  # every check comes before the first change
            step.matrix_VK = step.matrix_VK if matrix is None else self._matrix(matrix)
            step.cover(batch.rows, sums)
            self._send(batch.step)

    def collect_sums(self, step: int, loss_sum_K: Any, count_K: Any) -> None:
        """Take in the losses of a step that the caller has summed over all ranks."""
        sums = _summed((loss_sum_K, count_K), len(self._listed_K))
        with self._lock:
            if (opened := self._opened(step, slice(None))) is None:
                return
            opened.cover(slice(None), sums)
            opened.over_all_ranks = self._sums_come = True
            self._send(step)

    def collect_evaluation(self, values: Any, *, means: bool) -> None:
        """Take in validation losses: means over all ranks, [V], or the sums and counts of this rank, [2, K].

        Raises:
            FeedbackError: none are due, or they have another shape.
        """
        self._background.check()
        array = _evaluation(values, len(self._listed_K), means=means)
        with self._lock:
            if self._loop is None or self._loop.due.evaluated:
                before = "" if self._loop is None else f" before step {self._loop.due.step}"
                raise FeedbackError(f"no evaluation is due{before}; ask loader.wants_validation first")
            if array.shape[-1] == len(self._listed_K):
                array = array[..., self._listed_K]
            _ = self._consensus.channel.exchange  # collective at the first use
            step = self._loop.due.step
            self._loop.accept()
            self._background.submit(partial(self._consensus.decide_evaluation, step, array, means=means))

    @property
    def wants_validation(self) -> bool:
        """Whether the model has to be evaluated now, before it trains on."""
        return self._loop is not None and not self._loop.due.evaluated

    def _opened(self, step: int, rows: slice) -> _OpenStep | None:
        """Return the record of a step that `rows` are reported of; None if all of them were reported before.

        Raises:
            FeedbackError: the step was not handed out, some of these rows were reported before, or an evaluation has
                to come first.
        """
        self._background.check()
        opened = self._open.get(step)
        passed = step < self._loop.due.step if self._loop is not None else opened is None
        if passed or (opened is not None and opened.covered_B[rows].all()):
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"step {step} was reported before, or before a state was loaded; it counts once, and this report "
                    "is ignored",
                    stacklevel=4,
                )
            return None
        if opened is None:
            raise FeedbackError(
                f"step {step} is reported and was not handed out by this loader; report its own batches, once each"
            )
        if opened.covered_B[rows].any():
            raise FeedbackError(
                f"some of rows {rows.start or 0} to {(rows.stop or self._rows) - 1} of step {step} were reported "
                "before: report each part of batch.split(n) once"
            )
        if self._loop is not None and self._loop.lacks_evaluation(step):
            raise _lacks_evaluation(self._loop, step)
        return opened

    def _sums(self, loss: Any, batch: Batch, mask: Any) -> torch.Tensor | None:
        """Return sums and counts of this rank's losses, float64 [2, K]; None where there are none."""
        domains = len(self._listed_K)
        if loss is None:
            return None
        if isinstance(loss, tuple):
            return _summed(loss, domains)
        if isinstance(loss, torch.Tensor):
            loss = as_numbers(loss, what="a loss", form="give the losses in nats per row [B] or per token [B, T]")
        loss, mask = labelled(batch, loss, mask)
        return torch.stack(domain_sums(loss, batch.domain, domains, mask=mask))

    def _matrix(self, matrix: Any) -> Callable[[], Float64]:
        """Begin to fetch `matrix`; return what waits for it, with its domains in the plan's order."""
        form = f"it has one row per validation group and one column for each of {len(self._listed_K)} domains"
        values = as_numbers(matrix, what="a matrix", form=form).double()
        if values.ndim != 2 or values.shape[1] != len(self._listed_K):
            raise ConfigError(f"a matrix of shape {tuple(values.shape)} was reported: {form}")
        order_K = moved(torch.tensor(self._listed_K), values.device)
        values = values.index_select(1, order_K)  # a copy, so the trainer may change what it reported
        return fetch(values.index_select(0, order_K) if len(values) == len(order_K) else values)

    def _send(self, reported: int) -> None:
        """Submit the complete steps: in order from the one that is due; if nothing learns, the one just reported."""
        loop = self._loop
        step = reported if loop is None else loop.due.step
        while (opened := self._open.get(step)) is not None and opened.covered_B.all():
            del self._open[step]
            if opened.skipped and loop is not None and not loop.due.evaluated:
                loop.accept()
                alone = opened.over_all_ranks
                self._background.submit(partial(self._consensus.miss_evaluation, step, over_all_ranks=alone))
            self._check_matrix(opened)
            both = fetch(opened.sums) if opened.sums is not None else partial(np.zeros, (2, len(self._listed_K)))
            if loop is not None:
                loop.accept()
            self._background.submit(partial(self._conclude, step, opened, both))
            step += 1

    def _check_matrix(self, opened: _OpenStep) -> None:
        """Warn, once, about a mixer that receives no matrix to learn from."""
        if opened.skipped:
            return
        if opened.matrix_VK is not None:
            self._without_matrix = 0
        elif self._without_matrix and self._loop is not None:
            self._without_matrix -= 1
            if not self._without_matrix:
                warnings.warn(
                    f"{type(self._loop.mixer).__name__} learns from matrices alone, and {_STEPS_WITHOUT_MATRIX} steps "
                    "were reported without one, so its weights do not move: pass matrix= to report() now and then",
                    stacklevel=5,
                )

    def _conclude(self, step: int, opened: _OpenStep, both: Callable[[], Float64]) -> None:
        """Run in the feedback thread."""
        self._consensus.decide(
            step,
            both()[:, self._listed_K],
            rows_K=opened.rows_K,
            drawn_by_K=opened.drawn_by_K,
            matrix_VK=opened.matrix_VK and opened.matrix_VK(),
            over_all_ranks=opened.over_all_ranks,
        )

    def await_weights(self, step: int) -> None:
        """Wait until the weights of `step` are known.

        Raises:
            FeedbackError: they depend on a report or an evaluation that the trainer has not made.
        """
        loop = self._loop
        assert loop is not None
        due = loop.due
        if step < due.known(loop.lag):
            self._background.wait(lambda: loop.weights(step) is not None, what=f"the weights of step {step}")
            if loop.weights(step) is not None:
                return
        self._background.check()
        if not due.evaluated:
            raise _lacks_evaluation(loop, due.step)
        opened = self._open.get(due.step)
        covered = 0 if opened is None else int(opened.covered_B.sum())
        rows = f" in full ({covered} of {self._rows} rows)" if covered else ""
        raise FeedbackError(
            f"step {due.step} has not been reported{rows}, and the weights of step {step} depend on it (lag "
            f"{loop.lag}): call loader.report(batch, loss) once for every batch, with loss=None where there is none, "
            "or use a mixer that needs no losses (Static)"
        )

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Wait until every accepted report has led to weights; no other thread's is accepted within the block."""
        with self._lock:
            self._background.drain(what="the weights that follow from the last reports")
            yield

    def close(self) -> None:
        """Finish what was reported, end the feedback thread and close the log. A later report starts them again.

        Raises:
            BaseException: the error of the feedback thread, if no call has raised it yet.
        """
        if not self._owner.here:
            return  # the thread and the log are those of the parent
        try:
            self._background.close()
        finally:
            if self._consensus.log is not None:
                self._consensus.log.close()

    def close_quietly(self) -> None:
        """Close, and drop the error of the feedback thread: for a loader that is deleted or has an error of its own."""
        with contextlib.suppress(Exception):
            self.close()


def _summed(parts: tuple[Any, ...], domains: int) -> torch.Tensor:
    """Return (sums, counts) or (loss, sums, counts) as float64 [2, K].

    Raises:
        ConfigError: they are no numbers, or have another shape.
    """
    form = f"summed losses are a pair (sums, counts) of one number for each of {domains} domains, NaN for a missing one"
    if len(parts) not in (2, 3):
        raise ConfigError(f"a tuple of {len(parts)} was reported as a loss: {form}")
    sums, counts = (as_numbers(part, what="a summed loss or its count", form=form).double() for part in parts[-2:])
    if sums.shape != (domains,) or counts.shape != (domains,):
        raise ConfigError(
            f"summed losses of shapes {tuple(sums.shape)} and {tuple(counts.shape)} were reported: {form}"
        )
    return torch.stack([sums, moved(counts, sums.device)])


def _evaluation(values: Any, domains: int, *, means: bool) -> Float64:
    """Return validation losses as float64: means [V], or sums and counts [2, K].

    Raises:
        FeedbackError: they are no numbers, or have another shape.
    """
    form = "mean losses are a list of numbers, one per validation group"
    form = form if means else f"sums and counts are a pair of lists of one number for each of {domains} domains"
    array = as_numbers(values, what="an evaluation", form=form, error=FeedbackError).double().cpu().numpy()
    if not (array.ndim == 1 and len(array) if means else array.shape == (2, domains)):
        raise FeedbackError(f"an evaluation of shape {list(array.shape)} was reported: {form}")
    return array


def _known(batch: Any) -> Batch:
    """Return the batch that was reported; of a dict that was made of a batch's items, that batch.

    Raises:
        FeedbackError: it does not say of which step and rows it is.
    """
    found = batch if isinstance(batch, Batch) else Batch(batch) if isinstance(batch, Mapping) else None
    if found is None or found.domain is None:
        why = f" ({found.unknown})" if found is not None and found.unknown else ""
        raise FeedbackError(
            f"a {type(batch).__name__} does not say of which step and domains it is{why}: report the batch that the "
            "loader handed out, a part of it (batch.split(n)) or a dict of its items; let a collate_fn return a dict"
        )
    return found


def _lacks_evaluation(loop: FeedbackLoop, step: int) -> FeedbackError:
    return FeedbackError(
        f"{type(loop.mixer).__name__} needs an evaluation of the model before it trains on step {step}, and none was "
        "reported: call loader.evaluate(...) before each step (it does nothing unless loader.wants_validation)"
    )
