"""What a trainer reports to a loader: losses, evaluations, measurements. `Loader` and `StreamingDataLoader` share it.

The methods pass everything on to the loader's `FeedbackSession`, and do nothing where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mixstream.argument_kinds import checked
from mixstream.arguments import whole
from mixstream.cached import cached_property
from mixstream.data.assemble import Transform
from mixstream.data.batch import Batch
from mixstream.feedback.session import FeedbackSession
from mixstream.lazy import later
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.place import Place
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Float64

if TYPE_CHECKING:
    from mixstream.feedback.evaluate import evaluate
    from mixstream.loader.validation import ValidationSet
else:
    (evaluate,) = later("mixstream.feedback.evaluate", "evaluate")
    (ValidationSet,) = later("mixstream.loader.validation", "ValidationSet")


class LossReports:
    """The methods of a loader that a trainer reports to. The loader sets the attributes."""

    transforms: tuple[Transform, ...]
    documents: bool
    labels: str | None
    _source: StreamingDataset | None
    _device: torch.device | None
    _place: Any  # a Place; None over another kind of dataset

    @property
    def _session(self) -> FeedbackSession | None:
        return self._place.session if self._place is not None else None

    def report(
        self, batch: Batch | Mapping[str, Any], loss: Any, *, mask: torch.Tensor | None = None, matrix: Any = None
    ) -> None:
        """Report the losses of `batch`; mixers that learn need this once for every batch, others do not.

        Returns at once: summing over ranks, the mixer and the log run in the background. With torch.distributed, every
        rank has to report. Steps may be reported in any order, and rows that are reported twice count once.

        Args:
            batch: as the loader handed it out or moved since, or a dict of its items; or a part of it (`Batch.split`),
                whose parts then add up.
            loss: in nats, per row [B] or per token [B, T] (reduction="none"); or what `domain_sums` or
                `domain_cross_entropy` returned, that is (sums, counts) or (loss, sums, counts), [K] each; or None,
                where there is no loss, such as on all stages of a pipeline but the last.
            mask: which tokens count, [B, T]; needed where targets were ignored, since their loss is 0. With
                `documents=True`, it is that of the labels if not given; losses [B, T] are those of the next tokens.
            matrix: [V, K], for mixers that take one: how much training on each domain (column) helps each validation
                group (row).

        Raises:
            FeedbackError: the batch is not one that this loader handed out, or does not say which, or an evaluation was
                due before it.
        """
        if (session := self._session) is not None:
            session.collector.collect(batch, loss, mask=mask, matrix=matrix)

    def report_sums(self, step: int, loss_sum_K: Float64, count_K: Float64) -> None:
        """Report losses that the caller summed over all ranks: float64 [K] each, in the order of `streams`."""
        if (session := self._session) is not None:
            session.collector.collect_sums(whole("step", step), loss_sum_K, count_K)

    @property
    def weights(self) -> dict[str, float]:
        """The newest weights that are known, by domain: if the mixer learns, those that the last report led to.

        Domains that have left the mix (`max_epochs`) have none; where they have left some lanes, it is the mean.
        """
        place: Place | None = self._place
        assert place is not None
        run, parts_K = place.run, place.loop.newest if place.loop is not None else None
        if parts_K is None:
            parts_K = (run.weights(None) or run.fixed)(place.cursor.step)
            assert parts_K is not None
        if (drawn_by_K := run.plan.drawn_by(run.plan.settle(place.cursor), parts_K)) is not None:
            parts_K = drawn_by_K
        return dict(zip(run.plan.names, (parts_K / WEIGHT_UNIT).tolist()))

    def explain(self) -> dict[str, Any]:
        """Return how the mixer comes to its weights now: name -> number, or array whose last axis is the domains.

        Domains stand in the order of `weights`. Empty for mixers that cannot explain themselves.
        """
        loop = self._place.loop if self._place is not None else None
        return dict(loop.explain()) if loop is not None else {}

    @property
    def wants_validation(self) -> bool:
        """Whether the mixer wants the model evaluated now, before it trains on the next unreported batch."""
        return (session := self._session) is not None and session.collector.wants_validation

    @checked
    def validation(self, *, split: str = "val", rows: int = 64, **options: Any) -> ValidationSet:
        """Return this rank's share of a small set of rows per domain, the same during the whole run.

        Args:
            split: the split of each stream that the rows are taken from.
            rows: per domain.
            options: as for `ValidationSet.open`; device, transforms, documents and labels are the loader's if not
                given.
        """
        source = self._source
        assert source is not None
        own = {
            "device": self._device,
            "transforms": self.transforms,
            "documents": self.documents,
            "labels": self.labels,
        }
        return ValidationSet.open(source, split=split, rows=rows, **{**own, **options})

    @checked
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
        """Report an evaluation that was due: this rank's summed losses and counts, [K] each; counts of 0 for none."""
        if (session := self._session) is not None:
            session.collector.collect_evaluation(sums, means=False)

    def report_validation(self, losses: Any) -> None:
        """Report an evaluation that was due: mean losses over all ranks, [V], domains in the order of `streams`."""
        if (session := self._session) is not None:
            session.collector.collect_evaluation(losses, means=True)
