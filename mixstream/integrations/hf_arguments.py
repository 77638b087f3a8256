"""What the Hugging Face Trainer is refused, so that it reads the rows of a loader's plan, all of them and once.

Rules. Each error names the argument, what it would do to the rows, and what to write instead.
"""

import warnings
from typing import Any

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.loader import check_ranks

FACES = ms.StreamingDataset | ms.Loader | ms.StreamingDataLoader
SAVE_AFTER_STEPS = (
    "Save and stop after a step (on_step_end), or set enable_jit_checkpoint=True, which keeps a position for every "
    "moment"
)
_OF_TRL_DATASETS = ("packing", "padding_free", "completion_only_loss")


def is_trl(trainer: Any) -> bool:
    """Whether the trainer is one of TRL's, which take a dataset of `datasets` only and prepare its rows."""
    return any(kind.__module__.startswith("trl.") for kind in type(trainer).__mro__)


def placeholder() -> Any:
    """Return a dataset of one row that TRL accepts and that is never read."""
    from datasets import Dataset  # type: ignore[reportMissingImports] - TRL needs it

    return Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})


def check_arguments(trainer: Any, data: Any, data_collator: Any) -> None:
    """Check what a trainer, with its `args`, is to train on.

    Raises:
        ConfigError: the trainer would read other rows than the plan says, or some twice or never.
    """
    if not isinstance(data, FACES):
        raise ConfigError(
            f"train_dataset is a {type(data).__name__}: {type(trainer).__name__} trains on a "
            "mixstream.StreamingDataset, Loader or StreamingDataLoader; use the Trainer without the mixin for others"
        )
    dataset: Any = data if isinstance(data, ms.StreamingDataset) else data.dataset
    if data_collator is not None and dataset is data:
        raise ConfigError(
            "data_collator does not see the batches of a loader: leave it out, or give the dataset as "
            "train_dataset=mixstream.Loader(dataset, collate_fn=...)"
        )
    args = trainer.args
    for name in _OF_TRL_DATASETS if is_trl(trainer) else ():
        if getattr(args, name, None):
            raise ConfigError(
                f"{name}=True makes TRL prepare a dataset, and rows of a loader are read as they are stored: leave it "
                'out, and do what it does when the shards are written, or in a transform that adds "labels"'
            )
    for is_so, why in _refusals(args, dataset, getattr(trainer.accelerator, "parallelism_config", None)):
        if is_so:
            raise ConfigError(why)
    copies = trainer.get_tp_size()
    remedy = f"replication={copies}" if copies > 1 else "no rank= and world_size="
    check_ranks(
        dataset,
        rank=args.process_index // copies,
        ranks=args.world_size // copies,
        trainer="the Trainer",
        remedy=f"Give the dataset {remedy}, and make it after the TrainingArguments",
    )


def _refusals(args: Any, dataset: ms.StreamingDataset, parallel: Any) -> list[tuple[bool, str]]:
    """Return pairs (whether the arguments are so, what the error says)."""
    strategy, gpus = getattr(args, "train_sampling_strategy", "random"), args.n_gpu
    rows, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
    cp, sp = (getattr(parallel, name, 1) for name in ("cp_size", "sp_size"))
    smaller = (
        "auto_find_batch_size=True starts training again with smaller batches after a failure, and the rows read until "
        "then would be missing: leave it out; to fit memory, lower per_device_train_batch_size and raise "
        "gradient_accumulation_steps"
    )
    order = (
        f"train_sampling_strategy={strategy!r} has no effect on a loader, whose plan says the order of rows: leave it "
        "out, and set shuffle= of the dataset"
    )
    split = (
        "split_batches=True divides a batch among ranks, and the dataset gives each rank a batch of its own: leave it "
        "out, and lower batch_size"
    )
    gpu = (
        f"one process with {gpus} GPUs (nn.DataParallel) divides batches among them: start one process for each, "
        f"torchrun --nproc-per-node {gpus}, or set CUDA_VISIBLE_DEVICES=0"
    )
    batch = (
        f"the dataset's batch_size is {dataset.batch_size} rows a step and rank, and the Trainer takes "
        f"per_device_train_batch_size={rows} x gradient_accumulation_steps={parts} = {rows * parts}: give "
        f"StreamingDataset(batch_size={rows * parts}), or other arguments"
    )
    last = (
        "dataloader_drop_last=True, and the dataset fills the last batch of an epoch: give the dataset "
        "drop_last=True, or leave it out"
    )
    cut = (
        f"cp_size={cp}, sp_size={sp}: the Trainer cuts rows among ranks there, and losses by domain would be of pieces "
        "of rows; use tensor or data parallelism, or a loop of your own"
    )
    return [
        (args.auto_find_batch_size, smaller),
        (strategy != "random" or getattr(args, "group_by_length", False), order),
        (args.accelerator_config.split_batches, split),
        (gpus > 1, gpu),
        (dataset.batch_size != rows * parts, batch),
        (args.dataloader_drop_last and not dataset.drop_last, last),
        (max(cp, sp) > 1, cut),
    ]


def check_position(step: int, trainer: Any) -> None:
    """Refuse a checkpoint of `step` without a position; with strict=False, warn of what is read.

    Raises:
        StateError: as above.
    """
    fact = f"the checkpoint of step {step} holds no position in the data (it was not saved by mixstream's trainer)"
    if trainer.strict:
        raise StateError(
            f"{fact}, and going on would read from the beginning again: to want that, give strict=False; or load "
            "the model with from_pretrained(checkpoint), and call train() without resume_from_checkpoint"
        )
    warnings.warn(f"{fact}: it goes on with the loader's, {trainer.loader!r}", stacklevel=3)


def check_evaluation(trainer: Any, data: Any) -> None:
    """Check what is evaluated: data of which each evaluation would read another part is refused.

    Raises:
        ConfigError: as above; or outputs would be gathered of ranks that read different numbers of rows.
    """
    if isinstance(data, ms.Loader | ms.StreamingDataLoader):
        raise ConfigError(
            f"eval_dataset is a {type(data).__name__}, of which each evaluation would read another part: give its "
            'dataset, or eval_dataset=mixstream.ValidationSet.open(dataset, split="val", rows=64)'
        )
    if isinstance(data, ms.ValidationSet) and trainer.compute_metrics is not None and data.total % data.world.size:
        raise ConfigError(
            f"compute_metrics gathers outputs of equally many rows, and {data.total} validation rows are not divided "
            f"by {data.world.size} ranks: give ValidationSet.open(..., rows=...) another number, or leave it out"
        )
