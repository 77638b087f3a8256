"""A Lightning run of a small language model on real text, for `test_lightning*.py`. Not a test.

    python lightning_job.py '{"root": …, "out": …, "ranks": 2, "rank": 0, "fit": {"ckpt_path": …}, "trainer": {…}}'

Each rank writes a line for each batch to `OUT/rows-RANK.jsonl`: its step, its rows and the running epoch of Lightning.
With "kill", it kills itself (SIGKILL) in the training step of that number.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import mixstream as ms

if os.environ.get("LIGHTNING_PACKAGE") == "pytorch_lightning":
    import pytorch_lightning as L
else:
    import lightning.pytorch as L
from mixstream.integrations.lightning import MixData

WIDTH = 32
DOMAINS = {"code": "json", "prose": "LICENSE", "mail": "email"}
QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip
ADO = ms.mixers.ADO(ignore_steps=2, start_step=8, update_interval=8, window=5, subsample=1, min_points=4)


def write_text(root: Path, rows: int = 64) -> Path:
    """Write `rows` rows of bytes per domain, and 8 for validation: Python's own sources, and its licence."""
    library = Path(sysconfig.get_path("stdlib"))
    for name, package in DOMAINS.items():
        files = sorted((library / package).glob("*.py")) or [Path(__file__).parents[3] / "LICENSE"]
        text = b"".join(path.read_bytes() for path in files)
        cut = np.frombuffer(text[: (rows + 8) * WIDTH], np.uint8).astype(np.uint16).reshape(-1, WIDTH)
        for split, part in (("train", cut[:rows]), ("val", cut[rows:])):
            with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{WIDTH}"}, out=str(root / name / split)) as writer:
                for row in part:
                    writer.write({"tokens": row})
    return root


def dataset(root: Path, ranks: int = 1, *, rows: int = 16, mixer: Any = None, **options: Any) -> ms.StreamingDataset:
    """Return the corpus in global batches of `rows`: 12 steps an epoch."""
    streams = [ms.Stream(name=name, remote=str(root / name), split="train") for name in DOMAINS]
    return ms.StreamingDataset(
        streams=streams, batch_size=rows // ranks, shuffle=True, mixer=mixer, lag=4, num_canonical_nodes=1, **options
    )


class Model(L.LightningModule):
    """A bigram model that learns fast, and writes down what it reads."""

    def __init__(self, *, touch: bool = False, kill: int | None = None, out: Path | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Embedding(257, 16), torch.nn.Linear(16, 257))
        self.touch, self.kill, self.out = touch, kill, out
        self.seen: list[tuple[int, list[Any], int]] = []
        self.losses: list[float] = []

    def loss(self, batch: Any) -> torch.Tensor:
        tokens = batch["tokens"]
        return functional.cross_entropy(self.net(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        step = getattr(batch, "step", -1)
        if step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        line = (step, batch["tokens"].tolist(), self.trainer.current_epoch)
        self.seen.append(line)
        if self.out is not None:
            with (self.out / f"rows-{self.global_rank}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        loss = self.loss(batch)
        if isinstance(data := getattr(self.trainer, "datamodule", None), MixData):
            data.report(batch, loss)
        self.losses.append(loss.mean().item())
        return loss.mean()

    def configure_optimizers(self) -> Any:
        if self.touch:
            _ = self.trainer.estimated_stepping_batches
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Validated(Model):
    """A model that is validated."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch).mean(), batch_size=len(batch["tokens"]))


def steps(model: Model) -> list[int]:
    return [step for step, _, _ in model.seen]


def rows(model: Model) -> list[Any]:
    return [rows for _, rows, _ in model.seen]


def main(settings: dict[str, Any]) -> None:
    """Run one rank."""
    root, out = Path(settings["root"]), Path(settings["out"])
    data = MixData(
        lambda ranks: dataset(root, ranks, mixer=ADO if settings.get("learns", True) else None), log=out / "log"
    )
    model = Model(kill=settings.get("kill"), out=out)
    loggers = L.loggers.CSVLogger(str(out), name="csv", version=settings.get("version", 0), flush_logs_every_n_steps=1)
    saver = L.callbacks.ModelCheckpoint(str(out / "saved"), every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        **{**QUIET, "logger": loggers, "enable_checkpointing": True, "log_every_n_steps": 2, "max_steps": 20,
           "callbacks": [saver], **settings.get("trainer", {})},
    )  # fmt: skip
    trainer.fit(model, datamodule=data, **settings.get("fit", {}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
