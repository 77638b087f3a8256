"""Trains small models with Composer, as `torchrun composer_program.py JSON`; see test_composer.py.

`runs` are done one after the other, each with a dataset, loader and trainer of its own. The error that ends one is
written beside its rows.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from composer import Callback, ComposerModel, Trainer
from composer.core import DataSpec
from composer.loggers import InMemoryLogger
from composer.utils import dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.integrations.composer import MixState

ADO = {"window": 5, "ignore_steps": 2, "start_step": 6, "update_interval": 3, "subsample": 1, "min_points": 3}
rank = int(os.environ["RANK"])


def losses(outputs, batch):
    """Return the loss of each row, [B]."""
    loss = cross_entropy(outputs.transpose(1, 2), batch["tokens"].long()[:, 1:], reduction="none")
    return loss.mean(dim=1)


class Model(ComposerModel):
    """Predicts each byte from the one before."""

    def __init__(self, *, by_row):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Embedding(257, 16), torch.nn.Linear(16, 257))
        self.by_row = by_row

    def forward(self, batch):
        return self.net(batch["tokens"].long()[:, :-1])

    def loss(self, outputs, batch):
        loss = losses(outputs, batch)
        return loss if self.by_row else loss.mean()


class Rows(Callback):
    """Notes the rows of every batch; it may kill its process before one, or save at one."""

    def __init__(self, given, loader):
        self.given, self.loader, self.file = given, loader, Path(given["out"]) / f"rows-{rank}.jsonl"

    def batch_start(self, state, logger):
        batch = int(state.timestamp.batch)
        if batch == self.given.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch == self.given.get("save_at_start"):
            state.state_dict()
        with self.file.open("a") as file:
            file.write(json.dumps({"batch": batch, "rows": state.batch["tokens"].tolist()}) + "\n")


def made(given):
    """Return a loader over a new dataset."""
    options = {"shuffle": True, "lag": 4, "epoch_size": given["epoch_size"]}
    if given.get("mixer") == "ADO":
        options["mixer"] = ms.mixers.ADO(**ADO)
    size = given["rows"] // dist.get_world_size()
    dataset = ms.StreamingDataset(streams=ms.streams(given["corpus"]), batch_size=size, **options)
    if given.get("peek"):
        next(iter(DataLoader(dataset, batch_size=size)))
    workers = {"num_workers": given.get("workers", 0), "persistent_workers": given.get("persistent", False)}
    if given["loader"] == "Loader":
        return ms.Loader(dataset)
    kind = ms.StreamingDataLoader if given["loader"] == "StreamingDataLoader" else DataLoader
    return kind(dataset, batch_size=size, **workers)


def train(given):
    """Train once."""
    out, loader = Path(given["out"]), made(given)
    callbacks = [Rows(given, loader)]
    if given.get("mix_state", True):
        callbacks.append(MixState(losses=losses if given.get("losses", True) and not given.get("by_row") else None))
    metrics, model = InMemoryLogger(), Model(by_row=given.get("by_row", False))
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(loader) if given.get("spec") else loader,
        optimizers=torch.optim.Adam(model.parameters(), lr=0.02),
        max_duration=given["durations"][0],
        device="cpu",
        device_train_microbatch_size=given.get("micro"),
        save_folder=str(out / "checkpoints"),
        save_interval=given.get("save", "99ba"),
        save_overwrite=True,
        load_path=given.get("load"),
        load_ignore_keys=given.get("ignore"),
        spin_dataloaders=given.get("spin", True),
        progress_bar=False,
        callbacks=callbacks,
        loggers=[metrics],
    )
    try:
        trainer.fit()
        for duration in given["durations"][1:]:
            trainer.fit(duration=duration)
    finally:
        trainer.close()
    if rank == 0:
        series = {name: [float(value) for _, value in found] for name, found in metrics.data.items()}
        series = {name: values for name, values in series.items() if name.startswith(("loss/", "weight/"))}
        (out / "metrics.json").write_text(json.dumps(series))


dist.initialize_dist("cpu")
shared = json.loads(sys.argv[1])
for run in shared.pop("runs"):
    given = {**shared, **run}
    Path(given["out"]).mkdir(exist_ok=True)
    try:
        train(given)
    except Exception as error:
        (Path(given["out"]) / "error.txt").write_text(f"{type(error).__name__}: {error}")
