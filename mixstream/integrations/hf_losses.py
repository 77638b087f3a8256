"""The part of a Hugging Face Trainer that measures losses by domain: for the mixer, and for the log.

Rules. The trainer's own loss stays as it is, whatever computes it. Losses of a step are reported micro-batch by
micro-batch; for the log they are summed over ranks where all ranks log, never elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import mixstream as ms
from mixstream.integrations.hf_steps import StepBatches, model_inputs
from mixstream.losses import LossWindow, OutputLosses


class DomainLosses:
    """Methods of a Trainer. The subclass sets the attributes.

    Attributes:
        loader: the loader that is trained on.
        losses_by_domain: whether to measure.
        window: losses by domain since the last log.
    """

    loader: Any = None
    losses_by_domain: bool
    window: LossWindow
    accelerator: Any
    args: Any
    eval_dataset: Any
    model_wrapped: Any
    _evaluated: LossWindow
    _steps: StepBatches

    def _measured(self, step: Callable[..., Any], window: LossWindow, model: Any, batch: Any, *rest: Any) -> Any:
        """Return `step(model, batch, *rest)`; add the losses of the model's outputs to `window`, and report them."""
        known = {str(name): value for name, value in batch.items() if name != "domain"}
        if not self.losses_by_domain:
            return step(model, known, *rest)
        inner, shifted = self.accelerator.unwrap_model(model), "shift_labels" in batch
        losses = OutputLosses(
            domain=batch["domain"],
            domains=len(window.names),
            targets=batch["shift_labels" if shifted else "labels"],
            shifted=shifted or (hasattr(inner, "loss_type") and not getattr(self, "_loss_shifts_labels", True)),
            model=inner,
        )
        with losses.watching(model):
            found = step(model, known, *rest)
        if batch.step >= 0:  # of training
            self._steps.report(batch, losses.sums())
        window.add(losses.sums())
        return found

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As of the Trainer; then report the losses of the micro-batch to the mixer."""
        step = partial(super().training_step, **kwargs)  # type: ignore[misc]
        loss = self._measured(step, self.window, model, inputs, *args)
        self._steps.trained = inputs
        return loss

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As of the Trainer; the losses of batches of a `ValidationSet` are summed by domain."""
        step = partial(super().prediction_step, **kwargs)  # type: ignore[misc]
        if not isinstance(inputs, ms.Batch):
            return step(model, inputs, *args)
        return self._measured(step, self._evaluated, model, inputs, *args)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """As of the Trainer; with losses by domain, such as "eval_loss/web", if a `ValidationSet` is read."""
        if not isinstance(dataloader, ms.ValidationSet):
            return super().evaluation_loop(dataloader, *args, **kwargs)  # type: ignore[misc]
        window = self._evaluated = LossWindow(dataloader.names)
        output = super().evaluation_loop(dataloader, *args, **kwargs)  # type: ignore[misc]
        if self.losses_by_domain:
            window.gather(self.accelerator.reduce, device=self.args.device)
            output.metrics.update(window.entry(prefix=f"{kwargs.get('metric_key_prefix', 'eval')}_loss/"))
        return output

    def as_evaluated(self, rows: ms.ValidationSet) -> ms.ValidationSet:
        """Return `rows` in the Trainer's batches, with the columns that the model takes."""
        transforms = (*rows.transforms, partial(model_inputs, trainer=self))
        return replace(rows, batch_size=self.args.eval_batch_size, device=self.args.device, transforms=transforms)

    @cached_property
    def _rows_for_mixer(self) -> ms.ValidationSet:
        ours = isinstance(self.eval_dataset, ms.ValidationSet)
        return self.as_evaluated(self.eval_dataset if ours else self.loader.validation())

    def evaluate_for_mixer(self) -> None:
        """Evaluate the model for a mixer that wants it before the next step."""
        if not (self.losses_by_domain and self.loader.wants_validation):
            return

        def model_loss(batch: ms.Batch) -> Any:
            window = self._evaluated = LossWindow(self.window.names)
            self.prediction_step(self.model_wrapped, batch, True)
            assert window.sums_2K is not None
            return None, *window.sums_2K

        self.loader.evaluate(model_loss, model=self.model_wrapped, validation=self._rows_for_mixer)

    def num_examples(self, dataloader: Any) -> int:
        """As of the Trainer: rows, over all ranks."""
        if isinstance(dataloader, StepBatches):
            return len(self.loader) * self.loader.dataset.batch_size * self.loader.dataset.run.run_plan.world.size
        ours = isinstance(dataloader, ms.ValidationSet)
        return dataloader.total if ours else super().num_examples(dataloader)  # type: ignore[misc]

    def gather_losses(self) -> None:
        """Sum the losses since the last log over ranks, which all call this at the same step."""
        if self.losses_by_domain:
            self.window.gather(self.accelerator.reduce, device=self.args.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As of the Trainer; add losses and weights by domain to the losses of training."""
        if "loss" in logs and self.loader is not None and self.window.gathered:
            logs |= self.window.entry(weights=self.loader.weights)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
