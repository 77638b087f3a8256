"""What Composer is about while it calls: which epoch it means, and whether it takes batches to find its place.

Composer asks a dataset for its state with a number of samples, 0 between two epochs, and does not say of which epoch.
Without a state it begins an epoch, and drops a batch, for each one that it has trained, and then drops the batches
that it has trained of the next one. All of this is known from its frames on the stack, as `callers` knows of other
libraries: by names, without importing it. A DataLoader worker that was forked has its parent's frames.
"""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

from mixstream.errors import ConfigError

_TRAINER = "composer.trainer.trainer"
_ASKS = {("composer.core.state", "_dataset_state_dict"), ("composer.checkpoint.state_dict", "get_dataset_state_dict")}
_BETWEEN = ("epoch_", "iteration_", "fit_", "eval_", "init", "before_load", "after_load")
"""How the names of the events begin at which no batch is in hand."""


def between_epochs() -> bool:
    """Return whether Composer asks for the state between two epochs, where the next `iter()` begins the next one.

    Raises:
        ConfigError: it asks while the first batch of an epoch is in hand, of which the 0 samples do not tell.
    """
    frames = list(_frames())
    if (asks := next((frame for frame in frames if _name(frame) in _ASKS), None)) is None:
        return False
    clock = asks.f_locals.get("timestamp") or getattr(asks.f_locals.get("self"), "timestamp", None)
    if clock is None or int(clock.batch_in_epoch):
        return False
    for frame in frames:
        if frame.f_globals.get("__name__") == "composer.core.engine" and frame.f_code.co_name == "run_event":
            event = str(getattr(frame.f_locals.get("event"), "value", frame.f_locals.get("event")))
            if not event.startswith(_BETWEEN):
                raise ConfigError(
                    f"Composer saves a checkpoint at {event!r} of an epoch's first batch, and counts samples as at the "
                    "end of the epoch before: rows would be read twice or never. Save at BATCH_END or later, or "
                    "between two epochs"
                )
    return True


def check_claim(claim: int, epoch: int, *, begun_here: int) -> None:
    """Check that Composer means the epoch that an `iter()` of a dataset has claimed (`workers.EpochClaims`).

    Args:
        claim: its number since the run began or a state was loaded; 0 is where Composer's own state lies.
        epoch: its epoch.
        begun_here: epochs that this process has begun; later ones of a worker have frames of the past.

    Raises:
        ConfigError: Composer drops batches of another epoch.
    """
    if claim and (get_worker_info() is None or begun_here == 1):
        check_epoch(epoch, again=True)


def check_epoch(epoch: int, *, again: bool) -> None:
    """Check that the `epoch` that an `iter()` begins is the one that Composer means.

    Args:
        epoch: counted from the dataset's first.
        again: whether the dataset was iterated before, since it was made or a state was loaded.

    Raises:
        ConfigError: it drops batches of another one.
    """
    for frame in _frames():
        module, name = _name(frame)
        if module != _TRAINER:
            continue
        if name == "_spin_dataloaders_to_cur_epoch" and "epoch" in frame.f_locals:  # of the train dataloader
            meant = int(frame.f_locals["epoch"])
        elif name == "_iter_dataloader" and str(getattr(frame.f_locals["trainer_mode"], "value", "")) == "train":
            clock = frame.f_locals["self"].state.timestamp
            if not (again and int(clock.batch_in_epoch)):
                return
            meant = int(clock.epoch)
        else:
            continue
        if epoch != meant:
            raise ConfigError(
                f"Composer looks for its place and begins its epoch {meant} anew, and this dataset begins its epoch "
                f"{epoch}: rows would be read twice or never. Train in one fit(); or use mixstream.Loader with "
                "mixstream.integrations.composer.MixState, which go on where they are; or, between two epochs, give "
                "Trainer(spin_dataloaders=False)"
            )
        return


def check_not_cut(batch: Any) -> None:
    """Check that Composer does not cut a batch by rows that has columns of the whole batch.

    Raises:
        ConfigError: it does: `cu_seqlens` of its micro-batches would be parts of the list, not those of their rows.
    """
    whole = [name for name in ("cu_seqlens", "cu_seq_lens_q") if isinstance(batch, dict) and name in batch]
    if whole and any(_name(frame)[0] == _TRAINER for frame in _frames()):
        raise ConfigError(
            f"Composer cuts each column of a batch into micro-batches by its rows, and {whole[0]!r} is of the whole "
            "batch: documents of one micro-batch would be those of another. Give the loader "
            "transforms=[mixstream.integrations.packed_batches.as_llm_foundry], whose sequence_id has a row for each "
            "sample, or a transform that leaves out cu_seqlens and max_seqlen"
        )


def check_not_spun() -> None:
    """Check that Composer does not take batches to find its place off a loader that keeps the position.

    Raises:
        ConfigError: it does.
    """
    if any(_name(frame) == (_TRAINER, "_spin_dataloaders_to_cur_epoch") for frame in _frames()):
        raise ConfigError(
            "Composer takes batches off its dataloaders to find its place in the data, and a mixstream.Loader would "
            "go on behind them: rows would be read twice or never. Pass callbacks="
            "[mixstream.integrations.composer.MixState()] to the Trainer, also in the run that saves; for evaluation, "
            "and to go on from a checkpoint without it, use mixstream.StreamingDataLoader"
        )


def _name(frame: FrameType) -> tuple[Any, str]:
    return frame.f_globals.get("__name__"), frame.f_code.co_name


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
