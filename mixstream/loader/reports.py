"""What a trainer reports to a loader: losses, evaluations, measurements. `Loader` and `StreamingDataLoader` share it.

The methods pass everything on to the loader's `FeedbackSession`, and do nothing where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mixstream.data.assemble import Transform
from mixstream.data.batch import Batch
from mixstream.feedback.evaluate import evaluate
from mixstream.feedback.session import FeedbackSession
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.place import Place
from mixstream.loader.validation import ValidationSet
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Cursor, Float64, Int64


class LossReports:
    """The methods of a loader that a trainer reports to. The loader sets the attributes."""

    transforms: tuple[Transform, ...]
    _source: StreamingDataset | None
    _device: torch.device | None
    _log: Path | None
    _feedback: FeedbackSession | None

    def _begin_feedback(self, place: Place, publish: Callable[[int, Int64], None]) -> FeedbackSession | None:
        """Return the feedback session from `place` on; the one before ends."""
        run, cursor, loop = place.run, place.cursor, place.loop
        return FeedbackSession.begin(
            run.run_plan,
            listed_K=run.domains.listed_K,
            loop=loop,
            weights=run.weights(loop) or run.fixed,
            facts=lambda: run.facts(cursor, loop),
            publish=publish,
            log=self._log,
            header={"step": cursor.step, **run.log_header},
            previous=self._feedback,
        )

    @property
    def _cursor(self) -> Cursor:
        """The loader's place in the plan, after the last batch that was handed out."""
        raise NotImplementedError

    def report(self, batch: Batch, loss: Any, *, mask: torch.Tensor | None = None, matrix: Any = None) -> None:
        """Report the losses of `batch`; mixers that learn need this once for every batch, others do not.

        Returns at once: summing over ranks, the mixer and the log run in the background. With torch.distributed, every
        rank has to report. Steps may be reported in any order, and rows that are reported twice count once.

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
        if self._feedback is not None:
            self._feedback.collector.collect(batch, loss, mask=mask, matrix=matrix)

    def report_sums(self, step: int, loss_sum_K: Float64, count_K: Float64) -> None:
        """Report losses that the caller summed over all ranks: float64 [K] each, in the order of `streams`."""
        if self._feedback is not None:
            self._feedback.collector.collect_sums(step, loss_sum_K, count_K)

    @property
    def weights(self) -> dict[str, float]:
        """The newest weights that are known, by domain: if the mixer learns, those that the last report led to."""
        assert self._source is not None
        run, loop = self._source.run, self._feedback.consensus.loop if self._feedback is not None else None
        parts_K = loop.newest if loop is not None else None
        if parts_K is None:
            parts_K = (run.weights(None) or run.fixed)(self._cursor.step)
            assert parts_K is not None
        return dict(zip(run.plan.names, (parts_K / WEIGHT_UNIT).tolist()))

    def explain(self) -> dict[str, Any]:
        """Return how the mixer comes to its weights now: name -> number, or array whose last axis is the domains.

        Domains stand in the order of `weights`. Empty for mixers that cannot explain themselves.
        """
        loop = self._feedback.consensus.loop if self._feedback is not None else None
        return dict(loop.explain()) if loop is not None else {}

    @property
    def wants_validation(self) -> bool:
        """Whether the mixer wants the model evaluated now, before it trains on the next unreported batch."""
        return self._feedback is not None and self._feedback.collector.wants_validation

    def validation(self, *, split: str = "val", rows: int = 64, **options: Any) -> ValidationSet:
        """Return this rank's share of a small set of rows per domain, the same during the whole run.

        Args:
            split: the split of each stream that the rows are taken from.
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
        """Evaluate the model and report the result, if the mixer wants it now; return whether it did.

        Call it before each step, on every rank; it does nothing unless `wants_validation`.

        Args:
            model_loss: batch -> losses per row [B] or per token [B, T], or a pair of these and a mask.
            model: switched to eval() for the evaluation, if given.
            validation: what to evaluate on; `self.validation()` if not given.
        """
        if not self.wants_validation:
            return False
        rows = self._validation if validation is None else validation
        self.report_evaluation(evaluate(model_loss, rows, model=model))
        return True

    @cached_property
    def _validation(self) -> ValidationSet:
        return self.validation()

    def report_evaluation(self, sums: tuple[Any, Any]) -> None:
        """Report an evaluation that was due: this rank's summed losses and counts, [K] each."""
        if self._feedback is not None:
            self._feedback.collector.collect_evaluation(sums, means=False)

    def report_validation(self, losses: Any) -> None:
        """Report an evaluation that was due: mean losses over all ranks, [V], domains in the order of `streams`."""
        if self._feedback is not None:
            self._feedback.collector.collect_evaluation(losses, means=True)
