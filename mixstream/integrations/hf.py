"""The Hugging Face Trainer, and trainers made from it, over a mixstream loader.

Rules. One step of the loader is one optimiser step, cut into micro-batches. The position is the loader's, and
`trainer_state.json` keeps it; the Trainer's own skipping of batches is off (`hf_steps`). Losses by domain are measured
beside the trainer's loss (`hf_losses`). What would lose or repeat rows is refused by name (`hf_arguments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.trainer import Trainer

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.integrations.hf_arguments import check_arguments, check_evaluation, is_trl, placeholder
from mixstream.integrations.hf_losses import DomainLosses
from mixstream.integrations.hf_steps import MixPosition, StepBatches, model_inputs

__all__ = ["MixPosition", "MixTrainer", "MixTrainerMixin", "StoredRows"]


class StoredRows(Dataset):
    """All samples of a dataset by number, as the model takes them: a Trainer shards and batches them by itself.

    Args:
        dataset: whose samples, in the order of its files.
        trainer: whose `columns` and `ignore_token` hold.
    """

    def __init__(self, dataset: ms.StreamingDataset | ms.LocalDataset, trainer: Any) -> None:
        self.dataset, self._trainer = dataset, trainer

    def __len__(self) -> int:
        return self.dataset.num_samples

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        sample = self.dataset[int(number)]
        arrays = {name: np.asarray(value) for name, value in sample.items() if not isinstance(value, str | bytes)}
        wide = {name: array.astype(np.int64) if array.dtype.kind in "iu" else array for name, array in arrays.items()}
        batch = ms.Batch({name: torch.from_numpy(np.array(array)) for name, array in wide.items()})
        return {str(name): value for name, value in model_inputs(batch, self._trainer).items()}


class MixTrainerMixin(DomainLosses):
    """What `MixTrainer` adds to a Trainer; put it before another one: `class MixSFT(MixTrainerMixin, SFTTrainer)`.

    Args:
        args: as for the Trainer, like all arguments not listed here. The `batch_size` of the dataset has to be
            per_device_train_batch_size x gradient_accumulation_steps.
        train_dataset: a `StreamingDataset`; or a `Loader` or `StreamingDataLoader`, for options of these.
        eval_dataset: as for the Trainer, or a `ValidationSet`, whose losses are then logged by domain, too; or a
            `StreamingDataset` or `LocalDataset`, all samples of which the Trainer divides among ranks by itself.
        columns: column of the shards -> the model's argument.
        ignore_token: id of a token that is not predicted, such as that of padding. "labels" are the "input_ids" but
            for these tokens and those whose "loss_mask" is 0, unless batches have a column "labels".
        losses_by_domain: report losses by domain to the mixer, and log them. Needed by mixers that learn.
        strict: as in `Loader.load_state_dict`, for a checkpoint that training is resumed from; False also takes one
            without a position, and goes on at the loader's.

    Attributes:
        loader: the loader that is trained on.

    Raises:
        ConfigError: an argument would make the Trainer read other rows than the dataset's plan says.

    The loader's mean losses and weights since the last log are in the Trainer's log as "loss/web" and "weight/web".
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *rest: Any,
        columns: Mapping[str, str] | None = None,
        ignore_token: int | None = None,
        losses_by_domain: bool = True,
        strict: bool = True,
        **kwargs: Any,
    ) -> None:
        ours = isinstance(eval_dataset, ms.ValidationSet | ms.StreamingDataset | ms.LocalDataset)
        given: list[Any] = [train_dataset, eval_dataset]
        if is_trl(self):
            given = [placeholder() if train_dataset is not None else None, placeholder() if ours else eval_dataset]
        super().__init__(model, args, data_collator, *given, *rest, **kwargs)  # type: ignore[call-arg]
        self.train_dataset, self.eval_dataset = train_dataset, (eval_dataset if ours else self.eval_dataset)
        self.losses_by_domain, self.strict = losses_by_domain, strict
        self.columns, self.ignore_token = dict(columns or {"tokens": "input_ids"}), ignore_token
        if train_dataset is None:
            return
        check_arguments(self, train_dataset, data_collator)
        is_dataset = isinstance(train_dataset, ms.StreamingDataset)
        self.loader = ms.Loader(train_dataset, device=self.args.device) if is_dataset else train_dataset
        self._steps, self.window = StepBatches(self), ms.losses.LossWindow(self.loader.dataset.domain_names)
        self.add_callback(MixPosition())  # type: ignore[attr-defined]

    def get_train_dataloader(self) -> Any:
        """Return the micro-batches of the loader's steps; only `train()` can iterate over them."""
        if self.loader is None:
            raise ConfigError("there is nothing to train on: give train_dataset=mixstream.StreamingDataset(...)")
        check_arguments(self, self.loader, None)
        for callback in self.callback_handler.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, MixPosition):
                callback.batches = None  # until training begins: of an earlier train() that may have failed
        self.args.ignore_data_skip = True  # else the Trainer would skip batches that the position has passed
        self._steps.parts = self.args.gradient_accumulation_steps
        self._steps.keep = getattr(self.args, "enable_jit_checkpoint", False)
        return self._steps

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As of the Trainer; a `ValidationSet` is read as it is: each row on one rank, and once."""
        found = self.eval_dataset if eval_dataset is None else eval_dataset
        found = self.eval_dataset[found] if isinstance(found, str) else found  # type: ignore[index]
        check_evaluation(self, found)
        if isinstance(found, ms.ValidationSet):
            return self.as_evaluated(found)
        if isinstance(found, ms.StreamingDataset | ms.LocalDataset):
            return super().get_eval_dataloader(StoredRows(found, self))  # type: ignore[misc]
        return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]


class MixTrainer(MixTrainerMixin, Trainer):
    """`transformers.Trainer` over a mixstream dataset; arguments are those of both (`MixTrainerMixin`).

        trainer = MixTrainer(model, TrainingArguments(...), train_dataset=mixstream.StreamingDataset(...))
        trainer.train(resume_from_checkpoint=True)

    A resumed run goes on at the very next row, also on another number of processes.
    """
