"""Who iterates a dataset: what only the frames that call it can tell.

torch hands an `IterableDataset` neither the batch size and `drop_last` of its DataLoader nor word of a wrapper that
divides samples among ranks once more. All of them are on the stack when the dataset is iterated: in this process, in a
worker that was forked from it (the child keeps the parent's frames), and when the dataset is pickled for a worker that
is spawned. Libraries are known by the names of their modules and classes, and are never imported here.
"""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

from mixstream.errors import ConfigError, StateError
from mixstream.world import World

_DIVIDERS = {
    ("accelerate.data_loader", "DataLoaderDispatcher"): "reads on rank 0 and deals the batches to all ranks",
    ("accelerate.data_loader", "IterableDatasetShard"): "keeps a part of the samples on each rank",
    ("transformers.trainer_pt_utils", "IterableDatasetShard"): "keeps a part of the samples on each rank",
}
_SHARDING = "torch.utils.data.datapipes.iter.sharding"
_LIGHTNING = {
    f"{name}.loops.{loop}"
    for name in ("lightning.pytorch", "pytorch_lightning")
    for loop in ("fit_loop", "evaluation_loop")
}
_MODULES = {module for module, _ in _DIVIDERS} | {_SHARDING} | _LIGHTNING


class Fetching(NamedTuple):
    """How a torch DataLoader takes samples.

    Attributes:
        batch_size: samples of a batch; 1 where the DataLoader does not batch.
        drop_last: whether it drops a last batch that is not full.
        collate: its collate_fn, if that gets the samples as they are; None if something else may see them first.
    """

    batch_size: int
    drop_last: bool
    collate: Any = None


def fetching() -> Fetching | None:
    """Return how the DataLoader that now takes a sample does so, also through wrappers; None outside of one.

    Called by the generator of the samples.
    """
    taken = sys._getframe(1)
    for frame in _frames():
        if frame.f_globals.get("__name__") == "torch.utils.data._utils.fetch" and frame.f_code.co_name == "fetch":
            given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[: frame.f_code.co_argcount]]
            indices = next((value for value in given if isinstance(value, list | tuple)), None)  # whatever its name
            drop_last = any(bool(getattr(value, "drop_last", False)) for value in given)
            if indices is None:
                return Fetching(1, drop_last)
            return Fetching(len(indices), drop_last, _collate_of(frame, taken))
    return None


def _collate_of(fetch: FrameType, taken: FrameType) -> Any:
    """Return the collate_fn of the fetcher whose `fetch` calls the generator that runs as `taken`; None if not at once.

    A wrapper written in C (`map`, `islice`) has no frame, so the fetcher's iterator must be the generator itself.
    """
    fetcher = fetch.f_locals.get("self")
    at_once = getattr(getattr(fetcher, "dataset_iter", None), "gi_frame", None) is taken and taken.f_back is fetch
    return getattr(fetcher, "collate_fn", None) if at_once else None


def drops_last(dataset: object) -> bool:
    """Return whether the caller's caller is the length of a torch DataLoader of `dataset` with `drop_last`."""
    frame = sys._getframe(2)
    loader = frame.f_locals.get("self") if frame.f_code.co_name == "__len__" else None
    return getattr(loader, "dataset", None) is dataset and bool(getattr(loader, "drop_last", False))


def check_not_divided(world: World) -> None:
    """Check that no library divides among ranks what the dataset divides already.

    Args:
        world: the ranks that the dataset divides its rows among.

    Raises:
        ConfigError: one does.
    """
    for owner, module, name in _owners():
        if name == "ShardingFilterIterDataPipe" and (parts := owner.num_of_instances) > 1:
            raise ConfigError(
                f"sharding_filter() keeps one in {parts} samples of this dataset in each process, and the dataset "
                "gives each rank and DataLoader worker its own rows: rows would be divided twice, and most never "
                "read. Leave out sharding_filter()"
            )
        if world.size * world.replicas == 1:
            continue  # every process reads all rows, and the library's division is the only one
        if (what := _DIVIDERS.get((module, name))) is not None:
            raise ConfigError(
                f"this dataset gives each of {world.size} ranks its own rows (here: rank {world.rank}{_copies(world)})"
                f", and {module}.{name}, which iterates it, {what}: rows would be divided twice, and most never read. "
                "Use mixstream.StreamingDataLoader(dataset, ...) or mixstream.Loader(dataset), which "
                "accelerator.prepare() passes through as they are; with the Hugging Face Trainer, use "
                "mixstream.integrations.hf.MixTrainer, or return one from an overridden get_train_dataloader() or "
                "get_eval_dataloader()"
            )


def check_not_dealt() -> None:
    """Check that accelerate does not deal parts of a batch that has columns of the whole batch.

    Raises:
        ConfigError: it does, in one process too: `cu_seqlens` would be cut off after as many entries as there are rows.
    """
    for _, module, name in _owners():
        if (module, name) == ("accelerate.data_loader", "DataLoaderDispatcher"):
            raise ConfigError(
                f"{module}.{name} cuts each column of a batch by rows, and cu_seqlens is of the whole batch: documents "
                "would be lost. Use mixstream.StreamingDataLoader(dataset, documents=True) or mixstream.Loader, over a "
                "dataset for all processes (without rank= and world_size=), which accelerator.prepare() passes through "
                "as they are"
            )


def _copies(world: World) -> str:
    return f", which {world.replicas} processes are" if world.replicas > 1 else ""


def check_not_skipping() -> None:
    """Check that accelerate does not skip batches of a dataset whose loader keeps the position.

    Raises:
        ConfigError: it does.
    """
    for owner, _, name in _owners():
        if name == "SkipDataLoader" and getattr(owner, "skip_batches", 0):
            raise ConfigError(
                f"accelerate's skip_first_batches reads this dataset a second time to skip {owner.skip_batches} "
                "batches, and the mixstream loader does not move: its state and its next epoch would repeat rows. Load "
                "the state that the loader saved, loader.load_state_dict(state), and skip nothing (with the Hugging "
                "Face Trainer: ignore_data_skip=True)"
            )


def check_epoch_can_be_asked_for(epoch: int, *, following: int) -> None:
    """Check that accelerate, which asks for `epoch` before it iterates, is about to read just that.

    Args:
        epoch: what is asked for.
        following: the epoch that the next `iter()` of the dataset begins.

    Raises:
        ConfigError: the batches that it skips, or workers that it has started already, are those of another epoch.
    """
    for owner, module, _ in _owners():
        if module != "accelerate.data_loader":
            continue
        if (skipped := getattr(owner, "skip_batches", 0)) and epoch < following:
            raise ConfigError(
                f"accelerate's skip_first_batches would skip {skipped} batches of epoch {following}, and means epoch "
                f"{epoch}, which this dataset has begun already (a prepared StatefulDataLoader starts its workers at "
                "once): rows would be read twice or never. Call it before anything else is read; or load the state of "
                "a DataLoader prepared with use_stateful_dataloader=True, and skip nothing"
            )
        base: Any = getattr(owner, "base_dataloader", None)
        if getattr(base, "_initial_iter_for_state_dict", False) and base.num_workers and epoch >= following:
            raise ConfigError(
                f"the workers of this StatefulDataLoader began epoch {following - 1} when accelerate prepared it, and "
                f"set_epoch({epoch}) does not reach them: rows would be read twice. Load the state of the DataLoader, "
                "its load_state_dict(state); or use use_stateful_dataloader=False"
            )


def check_place_in_lightning(*, at_start: bool, at_end: bool = False, states_follow: bool = False) -> None:
    """Check that Lightning does not train again on data that it has passed.

    Args:
        at_start: whether the data is read from its beginning, and no state was loaded.
        at_end: whether nothing is left of the epoch that is read.
        states_follow: whether torchdata's StatefulDataLoader may load a state later.

    Raises:
        StateError: it goes on from a checkpoint, and the data would begin anew, or have no batches in its next epoch.
        ConfigError: it means to train on the same batches again and again, and would get others.
    """
    for owner, module, name in _owners():
        if module not in _LIGHTNING:
            continue
        if name == "_EvaluationLoop":
            return  # validation begins anew each time
        if name == "_FitLoop" and owner.trainer.overfit_batches:
            raise ConfigError(
                f"overfit_batches={owner.trainer.overfit_batches} repeats batches, and this data goes on through its "
                'epochs: leave it out, and give the dataset epoch_size=ROWS and sampling_method="fixed", for the same '
                "ROWS in each epoch"
            )
        if name == "_FitLoop" and at_start and owner.trainer.ckpt_path and not (states_follow and _is_stateful()):
            raise StateError(
                f"Lightning goes on from {owner.trainer.ckpt_path} and loaded no state into this data, which would "
                "begin anew: rows would be read again. Lightning saves no position of a plain DataLoader, and drops "
                "that of any loader if configure_optimizers used estimated_stepping_batches: train on "
                "mixstream.integrations.lightning.MixData(dataset), which keeps it; or load a state before the fit, "
                "dataset.load_state_dict(state), if only that of step 0, dataset.state_dict()"
            )
        if name == "_FitLoop" and at_end:
            raise StateError(
                "the state in this checkpoint is that of the end of an epoch, of which nothing is left, and Lightning "
                "would count that as its next epoch: use mixstream.integrations.lightning.MixData(dataset) in place of "
                "a DataLoader, or a checkpoint of mid-epoch"
            )


def _is_stateful() -> bool:
    return any(frame.f_globals.get("__name__", "").startswith("torchdata.stateful_dataloader") for frame in _frames())


def under_checkpoint() -> bool:
    """Return whether torch.distributed.checkpoint asks for a state: it takes lists and dicts apart, but no bytes."""
    return any(frame.f_globals.get("__name__", "").startswith("torch.distributed.checkpoint.") for frame in _frames())


def _owners() -> Iterator[tuple[Any, str, str]]:
    """Yield each object of the libraries above whose method is running, with its class's module and name."""
    for frame in _frames():
        if frame.f_globals.get("__name__") in _MODULES and (owner := frame.f_locals.get("self")) is not None:
            for kind in type(owner).__mro__:
                yield owner, kind.__module__, kind.__name__


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
