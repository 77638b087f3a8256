"""What Lightning's Trainer is refused or warned of, so that it reads the rows of a loader's plan, all and once."""

import warnings
from typing import Any

from mixstream.errors import ConfigError, StateError
from mixstream.loader import check_ranks

_RANKS = "Leave out rank= and world_size=, give replication= if ranks share rows, and let Lightning start all ranks"


def check_trainer(trainer: Any, dataset: Any) -> None:
    """Check that ranks and batches of the Trainer are those of the dataset.

    Raises:
        ConfigError: Lightning divides the rows otherwise, or searches for another batch size.
    """
    theirs = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
    name, rank, ranks = type(trainer.strategy).__name__, theirs["rank"], theirs["num_replicas"]
    check_ranks(dataset, rank=rank, ranks=ranks, trainer=name, remedy=_RANKS)
    if any(type(callback).__name__ == "BatchSizeFinder" for callback in trainer.callbacks):
        raise ConfigError(
            f"scale_batch_size cannot change batch_size={dataset.batch_size}, which decides the rows of each step of a "
            "run: choose it by hand, or find it with a DataLoader of random tokens"
        )
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher" and rank == 0:
        warnings.warn(
            "a second fit would read rows again: ddp_spawn and ddp_fork leave the position in the processes that they "
            "start and end, so give ckpt_path= to it, or use strategy='ddp'",
            stacklevel=2,
        )


def check_position(trainer: Any, data: Any) -> None:
    """Refuse a checkpoint that holds no position of this `MixData`, unless the user wants to begin anew.

    Raises:
        StateError: as above.
    """
    if data.strict:
        raise StateError(
            f"{trainer.ckpt_path} has no position of this data (as it has if a {type(data).__name__} was there when it "
            "was saved), and rows would be read again: fit with the data that it was saved with, or give strict=False "
            "to begin the data at its start"
        )


def is_accumulating(trainer: Any) -> bool:
    """Whether gradients of the running batch wait for those of the next."""
    taken = trainer.fit_loop.batch_idx + 1
    return taken % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch


def warn_of_gradients(trainer: Any) -> None:
    """Warn of a checkpoint within an optimizer step, which lacks gradients."""
    if trainer.state.fn != "fit" or not is_accumulating(trainer):
        return
    warnings.warn(
        f"a checkpoint within the {trainer.accumulate_grad_batches} batches of an optimizer step lacks their "
        "gradients, which Lightning does not save, and a resume reads only the rest of them: save after optimizer "
        "steps, with ModelCheckpoint(every_n_train_steps=...)",
        stacklevel=3,
    )
