"""What a trainer tells a loader: losses, evaluations, measurements. `Loader` and `StreamingDataLoader` share it.

Nothing is computed here: rows and micro-batches are collected by `reporting`, ranks meet in `council`, weights come
from `feedback`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mixstream.data.assemble import Transform
from mixstream.data.batch import Batch
from mixstream.distributed import Channel, job
from mixstream.feedback.collector import LossCollector
from mixstream.feedback.consensus import RankConsensus
from mixstream.feedback.evaluate import evaluate
from mixstream.feedback.log import MixingLog
from mixstream.feedback.loop import FeedbackLoop
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.run import Run
from mixstream.loader.validation import ValidationSet
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Cursor, Float64, Int64


class LossReports:
    """The part of a loader that listens to the trainer."""

    _log: Path | None = None
    _reporter: LossCollector | None = None
    _council: RankConsensus | None = None
    _channel: Channel | None = None
    _validation: ValidationSet | None = None
    _source: StreamingDataset | None = None
    _device: torch.device | None = None
    transforms: tuple[Transform, ...] = ()

    def _listen(
        self, run: Run, loop: FeedbackLoop | None, cursor: Cursor, publish: Callable[[int, Int64], None]
    ) -> None:
        """Take reports from `cursor` on."""
        self._hang_up()
        if loop is None and self._log is None:
            return
        journal, (rank, ranks) = None, job(run.run_plan.world)
        if self._log is not None and rank == 0:
            journal = MixingLog(self._log, names=run.plan.names)
            journal.begin(step=cursor.step, **run.log_header)
        if ranks > 1 and (self._channel is None or self._channel.size != run.run_plan.world.size):
            self._channel = Channel(size=run.run_plan.world.size)
        council = self._council = RankConsensus(
            loop=loop,
            weights=run.weights(loop) or run.fixed,
            facts=run.facts(cursor, loop) if ranks > 1 else {},
            publish=publish,
            journal=journal,
        )
        self._reporter = LossCollector(
            council=council,
            exchange=self._channel if ranks > 1 else None,
            loop=loop,
            step=cursor.step,
            rows=run.run_plan.batch_size,
            listed_K=run.domains.listed_K,
        )
        self._end_reports = weakref.finalize(self, self._reporter.leave)

    def _hang_up(self) -> None:
        if self._reporter is not None:
            self._end_reports()
            self._reporter = self._council = None

    @property
    def _cursor(self) -> Cursor:
        """The loader's place in the plan, after the last batch that was handed out."""
        raise NotImplementedError

    def report(self, batch: Batch, loss: Any, *, mask: torch.Tensor | None = None, matrix: Any = None) -> None:
        """Report the losses of `batch`; needed once for every batch by mixers that learn, free otherwise.

        Returns at once: sums over ranks, the mixer and the log are worked on in the background. With torch.distributed,
        every rank has to report. Steps may be reported in any order, and what is reported twice counts once.

        Args:
            batch: as the loader handed it out, or a part of it (`Batch.split`), whose parts then add up.
            loss: in nats, per row [B] or per token [B, T] (reduction="none"); or what `domain_sums` or
                `domain_cross_entropy` returned, that is (sums, counts) or (loss, sums, counts), [K] each; or None,
                where there is no loss.
            mask: which tokens count, [B, T]; needed where targets were ignored, since their loss is 0.
            matrix: [V, K], for mixers that take one: how much training on each domain (column) helps each validation
                group (row).

        Raises:
            FeedbackError: the batch is not one that this loader handed out, or an evaluation was due before it.
        """
        if self._reporter is not None:
            self._reporter.report(batch, loss, mask=mask, matrix=matrix)

    def report_sums(self, step: int, loss_sum_K: Float64, count_K: Float64) -> None:
        """Report losses that are summed already, over all ranks: float64 [K] each, in the order of `streams`."""
        if self._reporter is not None:
            self._reporter.report_sums(step, loss_sum_K, count_K)

    @property
    def weights(self) -> dict[str, float]:
        """The newest weights that are known, by domain: where a mixer learns, those that the last report led to."""
        assert self._source is not None
        run, council = self._source.run, self._council
        if council is not None and council.newest is not None:
            parts_K = council.newest[1]
        else:
            parts_K = (run.weights(None) or run.fixed)(self._cursor.step)
            assert parts_K is not None
        return dict(zip(run.plan.names, (parts_K / WEIGHT_UNIT).tolist()))

    def explain(self) -> dict[str, Any]:
        """Return how the mixer comes to its weights now: name -> number, or array whose last axis is the domains.

        Domains stand in the order of `weights`. Empty for mixers that do not tell.
        """
        loop = self._council.loop if self._council is not None else None
        return dict(loop.explain()) if loop is not None else {}

    @property
    def wants_validation(self) -> bool:
        """Whether the mixer wants the model evaluated now, before it trains on the next batch that is not reported."""
        return self._reporter is not None and self._reporter.wants_validation

    def validation(self, *, split: str = "val", rows: int = 64, **options: Any) -> ValidationSet:
        """Return a small set of rows per domain that stays the same over the run; this rank's share of it.

        Args:
            split: of each stream, where its rows are.
            rows: per domain.
            options: as for `ValidationSet.open`; device and transforms are the loader's if not given.
        """
        source = self._source
        assert source is not None
        return ValidationSet.open(
            source, split=split, rows=rows, **{"device": self._device, "transforms": self.transforms, **options}
        )

    def evaluate(
        self,
        model_loss: Callable[[Batch], Any],
        *,
        model: torch.nn.Module | None = None,
        validation: ValidationSet | None = None,
    ) -> bool:
        """Evaluate the model if the mixer wants it now, and report the result; tell whether it did.

        Call it before each step, on every rank; mostly it does nothing.

        Args:
            model_loss: batch -> losses per row [B] or per token [B, T], or a pair of these and a mask.
            model: put into eval() for the while, if given.
            validation: what to evaluate on; `self.validation()` if not given.
        """
        if not self.wants_validation:
            return False
        if validation is None:
            validation = self._validation = self._validation or self.validation()
        self.report_evaluation(evaluate(model_loss, validation, model=model))
        return True

    def report_evaluation(self, sums: tuple[Any, Any]) -> None:
        """Report an evaluation that was due: this rank's summed losses and counts, [K] each."""
        if self._reporter is not None:
            self._reporter.report_validation(sums, means=False)

    def report_validation(self, losses: Any) -> None:
        """Report an evaluation that was due: mean losses over all ranks, [V], domains in the order of `streams`."""
        if self._reporter is not None:
            self._reporter.report_validation(losses, means=True)
