"""What the Hugging Face Trainer iterates over, and the callback that keeps the position in its checkpoints.

Rules. A step that was begun and not finished (an error, Ctrl-C) is read once more by the next `train()` of this
process. The callback holds no position, since the Trainer may make another one of it, without arguments: it asks the
loader.
"""

from collections.abc import Iterator
from typing import Any

from transformers.trainer_callback import ExportableState, TrainerCallback

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.integrations.hf_arguments import SAVE_AFTER_STEPS, check_position, is_trl
from mixstream.integrations.packed_batches import as_transformers
from mixstream.loader import MicroBatches

_FLASH = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
_KEPT = {"domain", "labels", "shift_labels", "attention_mask", "position_ids", *_FLASH}


class StepBatches(MicroBatches):
    """The micro-batches of a loader's steps, as a Trainer's train dataloader.

    Attributes:
        missed: steps of the Trainer's running epoch that were trained before it was resumed.
        trained: the micro-batch that was trained on last.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer.loader, parts=trainer.args.gradient_accumulation_steps, remedy=SAVE_AFTER_STEPS)
        self.trainer, self.missed, self.trained = trainer, 0, ms.Batch()
        self._start = self.loader.state_dict() if trainer.model_init is not None else None

    @property
    def batch_size(self) -> int:
        """Rows of a micro-batch."""
        return self.loader.dataset.batch_size // self.parts

    def __len__(self) -> int:
        return len(self.loader) * self.parts

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: an epoch of the Trainer goes on at the loader's position."""

    def __iter__(self) -> Iterator[ms.Batch]:
        trainer = self.trainer
        if not trainer.is_in_train:
            raise ConfigError(
                "batches that are taken here would be missing from train(): look at batches by another loader, "
                "mixstream.Loader(dataset)"
            )
        self.rewind()
        steps = min(len(self.loader) - self.missed, trainer.state.max_steps - trainer.state.global_step)
        for _ in range(steps * self.parts):
            if not self.left:
                trainer.evaluate_for_mixer()
            if (part := next(self, None)) is None:  # no domain is left, of which the loader has warned
                trainer.control.should_training_stop = True
                return
            yield model_inputs(part, trainer)

    def begin(self, state: Any, saved: Any) -> None:
        """Take up the position of a checkpoint, `saved`; or go on from the loader's, as the model does from its own.

        Raises:
            StateError: the checkpoint has no position, or one of another run.
        """
        self.missed = state.global_step % len(self.loader)
        if state.global_step and saved is None:
            check_position(state.global_step, self.trainer)
        again = self._start if self.batch is not None else None  # a new model, by model_init, begins anew
        if (goal := saved if state.global_step else again) is not None:
            self.load_state_dict(goal, strict=self.trainer.strict)
            self.trainer.window.clear()


class MixPosition(TrainerCallback, ExportableState):
    """Keeps the loader's position in `trainer_state.json`, as `stateful_callbacks.MixPosition.attributes.position`."""

    batches: Any = None
    position: Any = None

    def state(self) -> dict[str, Any]:
        """Return what the Trainer writes into a checkpoint."""
        return {"args": {}, "attributes": {} if self.batches is None else {"position": self.batches.state_dict()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the position of the checkpoint that training is resumed from."""
        self.batches, name = kwargs["train_dataloader"], type(self).__name__
        saved = state.stateful_callbacks.get(name) if state.global_step else None
        self.batches.begin(state, (saved or {}).get("attributes", {}).get("position"))
        state.stateful_callbacks[name] = {"args": {}, "attributes": {}}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that a step is finished: before any checkpoint of it."""
        self.batches.finish(self.batches.trained)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Correct the epoch, which the Trainer counts from 0; sum losses over ranks if they will be logged."""
        state.epoch += self.batches.missed / len(self.batches.loader)
        if control.should_log:
            self.batches.trainer.gather_losses()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sum losses over ranks if they will be logged."""
        self.batches.missed = 0
        if control.should_log:
            self.batches.trainer.gather_losses()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for reports, and end the threads; the loader can go on later."""
        if hasattr(self.batches.loader, "close"):
            self.batches.loader.close()


def model_inputs(batch: ms.Batch, trainer: Any) -> ms.Batch:
    """Turn the columns of `batch` into what the model takes, in place; return it.

    Raises:
        ConfigError: it has no column for the model's main input.
    """
    for column, name in trainer.columns.items():
        if column in batch:
            batch[name] = batch.pop(column)
    main = getattr(trainer.model, "main_input_name", "input_ids")
    if main not in batch:
        raise ConfigError(
            f"batches have the columns {sorted(map(str, batch))}, and the model takes {main!r}: say which of them it "
            f'is, as in columns={{"tokens": "{main}"}}'
        )
    ids, ignored = batch[main], trainer.ignore_token
    if batch.segments is not None and "document_ids" in batch:
        return _without_unused(_packed(batch, trainer), trainer)
    labels = ids if ignored is None else ids.masked_fill(ids == ignored, -100)
    if "loss_mask" in batch:  # of chats, as convert writes it
        labels = labels.masked_fill(batch["loss_mask"] == 0, -100)
    batch.setdefault("labels", labels)
    if is_trl(trainer):  # which counts tokens by it
        batch.setdefault("attention_mask", ids.new_ones(ids.shape))
    return _without_unused(batch, trainer)


def _packed(batch: ms.Batch, trainer: Any) -> ms.Batch:
    """Turn marked documents into what models of transformers take, in place; return the batch.

    There is no attention_mask: with one, even of ones, they would attend across documents.
    """
    found = as_transformers(batch, joined=False)
    if trainer.ignore_token is not None:
        found["labels"] = found["labels"].masked_fill(found["input_ids"] == trainer.ignore_token, -100)
    flash = "flash" in str(getattr(getattr(trainer.model, "config", None), "_attn_implementation", ""))
    for name in ("document_ids", "cu_seqlens", "max_seqlen"):
        batch.pop(name, None)
    batch.update({name: column for name, column in dict.items(found) if flash or name not in _FLASH})
    batch.segments = found.segments
    return batch


def _without_unused(batch: ms.Batch, trainer: Any) -> ms.Batch:
    if trainer.args.remove_unused_columns:
        trainer._set_signature_columns_if_needed()
        for name in {*map(str, batch)} - _KEPT - {*trainer._signature_columns}:
            del batch[name]
    return batch
