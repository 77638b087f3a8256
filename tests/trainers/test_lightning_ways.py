"""Ways of training with Lightning that users combine: several loaders, limits, its other entry points, manual steps."""

from __future__ import annotations

import csv
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning.pytorch")
sys.path.append(str(Path(__file__).parents[1] / "mixstream/integrations"))

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning_job import QUIET, Model, Validated, dataset, rows, steps, write_text
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.integrations.lightning import MixData

ODM = ms.mixers.ODM()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def plain(root) -> list[Any]:
    """The batches of a plain loop: three epochs of 12."""
    with ms.Loader(dataset(root)) as loader:
        return [batch["tokens"].tolist() for _ in range(3) for batch in loader]


def fit(model: Any, data: Any, ckpt: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, **options})
    given = {"datamodule": data} if isinstance(data, L.LightningDataModule) else {"train_dataloaders": data}
    trainer.fit(model, **given, ckpt_path=ckpt)
    return trainer


def saving(directory: Path, **options: Any) -> dict[str, Any]:
    options = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}", **options}
    return {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(directory, **options)]}


class Manual(Model):
    """Steps two optimizers itself, so that Lightning counts two steps a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        first, second = self.optimizers()
        self.manual_backward(loss)
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in self.net]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_manual_steps_of_two_optimizers_are_logged_every_so_many_batches(root, plain, tmp_path, every):
    model, logger = Manual(), CSVLogger(str(tmp_path), name="csv", version=0)
    fit(model, MixData(dataset(root)), max_epochs=1, logger=logger, log_every_n_steps=every, **saving(tmp_path))
    assert rows(model) == plain[:12]
    table = list(csv.DictReader((tmp_path / "csv/version_0/metrics.csv").read_text().splitlines()))
    assert len([line for line in table if line.get("loss/prose")]) == 12 // every
    again = Manual()
    fit(again, MixData(dataset(root)), tmp_path / "step=10.ckpt", max_epochs=2)
    assert rows(again) == plain[5:24]


class OfTwo(Model):
    """Reads two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["ours"], batch_idx) + self.loss(batch["other"]).mean() * 0


class Both(MixData):
    def train_dataloader(self) -> Any:
        other = DataLoader([{"tokens": torch.ones(32, dtype=torch.int64)}] * 5)
        return CombinedLoader({"ours": super().train_dataloader(), "other": other}, "max_size_cycle")


def test_data_beside_other_loaders_goes_on(root, plain, tmp_path):
    model, again = OfTwo(), OfTwo()
    fit(model, Both(dataset(root, mixer=ODM)), max_epochs=2, **saving(tmp_path))
    assert steps(model) == list(range(24))
    fit(again, Both(dataset(root, mixer=ODM)), tmp_path / "step=17.ckpt", max_epochs=2)
    assert again.seen == model.seen[17:]


@pytest.mark.parametrize("at", [3, 5, 7])
def test_limited_epochs_go_on(root, plain, tmp_path, at):
    model, again = Model(), Model()
    fit(model, MixData(dataset(root)), max_epochs=3, limit_train_batches=5, **saving(tmp_path))
    assert rows(model) == plain[:15]
    fit(again, MixData(dataset(root)), tmp_path / f"step={at}.ckpt", max_epochs=3, limit_train_batches=5)
    assert rows(again) == plain[at:15]
    other = Model()
    fit(other, MixData(dataset(root)), tmp_path / f"step={at}.ckpt", max_steps=20)  # without a limit
    assert rows(other) == plain[at:20]


class Late(Model):
    """Takes long for one batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(1.1 if batch_idx == 4 else 0)
        return super().training_step(batch, batch_idx)


def test_a_run_that_its_time_ends_goes_on(root, plain, tmp_path):
    model, again = Late(), Model()
    trainer = fit(model, MixData(dataset(root)), max_epochs=2, max_time=timedelta(seconds=1), **saving(tmp_path))
    assert 0 < trainer.global_step < 24
    done = trainer.global_step
    fit(again, MixData(dataset(root)), tmp_path / f"step={done}.ckpt", max_epochs=2)
    assert rows(model) + rows(again) == plain[:24]


class Predicting(Validated):
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch).mean()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


class WithMore(MixData):
    def predict_dataloader(self) -> Any:
        return self.loader.validation(split="val", rows=8)

    test_dataloader = predict_dataloader


def test_validation_prediction_and_tests_move_nothing(root, plain, tmp_path):
    data, model = WithMore(dataset(root), validation={"split": "val", "rows": 8}), Predicting()
    trainer = L.Trainer(**{**QUIET, "max_epochs": 1, **saving(tmp_path)})
    trainer.validate(model, datamodule=data)
    trainer.fit(model, datamodule=data)
    trainer.predict(model, datamodule=data)
    trainer.test(model, datamodule=data)
    trainer.validate(model, datamodule=data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, datamodule=data)
    assert rows(model) == plain[:24]
    # The position of a checkpoint comes with its weights, also where a model is only validated with it.
    later, again = WithMore(dataset(root), validation={"split": "val", "rows": 8}), Predicting()
    trainer = L.Trainer(**{**QUIET, "max_epochs": 1})
    trainer.validate(again, datamodule=later, ckpt_path=tmp_path / "step=5.ckpt")
    trainer.fit(again, datamodule=later)
    assert rows(again) == plain[5:17]
