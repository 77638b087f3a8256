"""What Composer does to a dataset or loader, by functions of its names: where it is not right, it is refused.

`tests/trainers/test_composer.py` does the same with Composer itself.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Tilt, joined, make_dataset, row_ids  # pyright: ignore[reportMissingImports]
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

TRAINER = """
def _spin_dataloaders_to_cur_epoch(self):
    for epoch in range(self.state.timestamp.epoch):
        for _ in self.loader:
            break

def _iter_dataloader(self, trainer_mode):
    yield from self.loader
"""
STATE = """
def _dataset_state_dict(self):
    return self.dataset.state_dict(self.timestamp.sample_in_epoch, True)
"""
ENGINE = """
def run_event(event, callback):
    return callback()
"""
OPTIONS: dict[str, Any] = {"epoch_size": 40}  # five steps


def module(name: str, source: str) -> SimpleNamespace:
    """Return functions whose module has this name."""
    found: dict[str, Any] = {"__name__": name}
    exec(source, found)
    return SimpleNamespace(**found)


trainer, state, engine = (
    module("composer.trainer.trainer", TRAINER),
    module("composer.core.state", STATE),
    module("composer.core.engine", ENGINE),
)


def saved(dataset: Any, *, epoch: int, batch: int, event: str = "epoch_checkpoint") -> dict[str, Any]:
    """Return the state that Composer asks for after `batch` batches of `epoch`."""
    clock = SimpleNamespace(epoch=epoch, batch_in_epoch=batch, sample_in_epoch=batch * 8)
    asking = SimpleNamespace(dataset=dataset, timestamp=clock)
    return engine.run_event(event, lambda: state._dataset_state_dict(asking))


def trained(loader: Any, *, epoch: int, batch: int = 0) -> Any:
    """Return the batches that Composer takes to train from there on."""
    clock = SimpleNamespace(epoch=epoch, batch_in_epoch=batch)
    training = SimpleNamespace(loader=loader, state=SimpleNamespace(timestamp=clock))
    return trainer._iter_dataloader(training, SimpleNamespace(value="train"))


def spun(loader: Any, *, epoch: int) -> None:
    clock = SimpleNamespace(epoch=epoch)
    trainer._spin_dataloaders_to_cur_epoch(SimpleNamespace(loader=loader, state=SimpleNamespace(timestamp=clock)))


def plain(library: Path, epochs: int) -> list[list[int]]:
    with ms.Loader(make_dataset(library, **OPTIONS)) as loader:
        return [joined(row_ids(batch) for batch in loader) for _ in range(epochs)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_between_epochs_begins_the_next_one(library: Path, workers: int) -> None:
    expected = plain(library, 2)
    loader = DataLoader(make_dataset(library, **OPTIONS), batch_size=8, num_workers=workers)
    assert joined(row_ids(batch) for batch in trained(loader, epoch=0)) == expected[0]
    resumed = make_dataset(library, **OPTIONS)
    resumed.load_state_dict(saved(loader.dataset, epoch=1, batch=0))
    assert joined(row_ids(batch) for batch in DataLoader(resumed, batch_size=8)) == expected[1]


def test_a_state_before_an_epochs_first_batch_is_trained_on_is_refused(library: Path) -> None:
    loader = DataLoader(make_dataset(library, **OPTIONS), batch_size=8)
    next(trained(loader, epoch=0))
    with pytest.raises(ConfigError, match="Save at BATCH_END or later"):
        saved(loader.dataset, epoch=0, batch=0, event="batch_start")
    assert saved(loader.dataset, epoch=0, batch=1)["step"] == 1


def test_a_streaming_data_loader_answers_for_its_dataset_with_what_was_learned(library: Path) -> None:
    loader = ms.StreamingDataLoader(make_dataset(library, mixer=Tilt(), lag=2, **OPTIONS))
    assert saved(loader.dataset, epoch=0, batch=0) == loader.state_dict()
    for number, batch in enumerate(loader):
        loader.report(batch, batch["tokens"][:, 0] / 64)
        assert saved(loader.dataset, epoch=0, batch=number + 1) == loader.state_dict()
    assert saved(loader.dataset, epoch=1, batch=0) == loader.state_dict()
    with pytest.raises(ConfigError, match=r"save loader.state_dict\(\)"):
        loader.dataset.state_dict(8, True)  # of no place that the loader has been at


def test_a_loader_that_composer_takes_batches_off_is_refused(library: Path) -> None:
    with ms.Loader(make_dataset(library, **OPTIONS)) as loader, pytest.raises(ConfigError, match="MixState"):
        spun(loader, epoch=1)


@pytest.mark.parametrize("kind", [DataLoader, ms.StreamingDataLoader])
def test_composers_search_finds_its_place_in_a_new_process_and_is_refused_later(library: Path, kind: Any) -> None:
    expected = plain(library, 3)
    loader = kind(make_dataset(library, **OPTIONS), batch_size=8)
    spun(loader, epoch=2)
    batches = trained(loader, epoch=2, batch=1)
    found = [row_ids(batch) for batch in batches]
    assert joined(found) == expected[2]
    with pytest.raises(ConfigError, match=r"Train in one fit\(\)"):
        spun(loader, epoch=3)


@pytest.mark.parametrize("order", ["mixstream", "mosaic"])
@pytest.mark.parametrize("kind", [DataLoader, ms.StreamingDataLoader])
def test_a_second_fit_in_mid_epoch_is_refused(library: Path, kind: Any, order: str) -> None:
    loader = kind(make_dataset(library, order=order, **OPTIONS), batch_size=8)
    batches = trained(loader, epoch=0)
    next(batches)
    next(batches)
    with pytest.raises(ConfigError, match=r"Train in one fit\(\)"):
        next(trained(loader, epoch=0, batch=2))


# --- columns of a whole batch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["Loader", "StreamingDataLoader", "DataLoader"])
def test_batches_with_segments_of_the_whole_batch_are_not_cut(library, face):
    """Composer would give each micro-batch a piece of `cu_seqlens`."""

    def loader(**options: Any) -> Any:
        streams = [ms.Stream(local=str(library / "web"), eos_id=0)]
        dataset = ms.StreamingDataset(streams=streams, batch_size=8, **OPTIONS)
        if face == "DataLoader":
            return DataLoader(dataset, batch_size=8, collate_fn=ms.DocumentCollate(dataset))
        return getattr(ms, face)(dataset, documents=True, **options)

    with pytest.raises(ConfigError, match=r"'cu_seqlens' is of the whole batch.*as_llm_foundry"):
        next(trained(loader(), epoch=0))
    if face != "DataLoader":
        batch = next(trained(loader(transforms=[ms.integrations.packed_batches.as_llm_foundry]), epoch=0))
        assert all(len(column) == 8 for column in batch.values())
