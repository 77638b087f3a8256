"""Trainers that read from a mixture, with their own checkpoints: Hugging Face's Trainer and Lightning, tiny models."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from soaking.readers import Notes, Task
    from soaking.scenario import Scenario

WORDS = 4096


def read_hf(task: Task, scenario: Scenario, notes: Notes, dataset: Any) -> None:
    """`hf.MixTrainer`: goes on from its newest whole checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    from mixstream.integrations import hf

    parts = (1, 2, 4)[task.seed % 3]

    class Noting(hf.MixTrainer):
        """Notes the rows of each optimizer step, whose micro-batches follow each other."""

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            held.append(inputs["input_ids"].clone())
            if len(held) == parts:
                notes.batch(self.state.global_step, {"tokens": torch.cat(held)})
                held.clear()
            return super().training_step(model, inputs, *args, **kwargs)

    held: list[torch.Tensor] = []
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, num_key_value_heads=2, **size))
    arguments = TrainingArguments(
        output_dir=task.place,
        per_device_train_batch_size=scenario.batch // parts,
        gradient_accumulation_steps=parts,
        max_steps=100_000,
        save_steps=1 + task.seed % 8,
        save_total_limit=3,
        logging_steps=50,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        optim="sgd",
        lr_scheduler_type="constant",
    )
    found = newest_hf(Path(task.place))
    notes.begin(0 if found is None else json.loads((found / "trainer_state.json").read_text())["global_step"])
    trainer = Noting(model, arguments, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=None if found is None else str(found))


def newest_hf(place: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; the Trainer writes `trainer_state.json` last."""
    for path in sorted(place.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return path
    return None


def read_lightning(task: Task, scenario: Scenario, notes: Notes, make: Callable[[int], Any]) -> None:
    """`MixData` in Lightning: goes on from its newest checkpoint that can be read."""
    import lightning.pytorch as L  # noqa: N812 - as its users write it

    from mixstream.integrations.lightning import MixData

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Model(L.LightningModule):
        """A bigram model that notes what it reads."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Embedding(WORDS, 4), torch.nn.Linear(4, 16))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            notes.batch(batch.step, batch)
            logits = self.net(batch["tokens"][:, :-1])
            loss = functional.cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:] % 16, reduction="none")
            self.trainer.datamodule.report(batch, loss)
            return loss.mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    found, steps = newest_lightning(Path(task.place))
    notes.begin(steps)
    saver = L.pytorch.callbacks.ModelCheckpoint if hasattr(L, "pytorch") else L.callbacks.ModelCheckpoint
    callback = saver(task.place, every_n_train_steps=1 + task.seed % 8, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        max_steps=100_000,
        max_epochs=-1,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
    )
    trainer.fit(Model(), datamodule=MixData(make), ckpt_path=found)


def newest_lightning(place: Path) -> tuple[str | None, int]:
    """Return the newest checkpoint that can be read, and its step."""
    for path in sorted(place.glob("*.ckpt"), key=lambda path: -path.stat().st_mtime_ns):
        try:
            found = torch.load(path, map_location="cpu", weights_only=False)
        except Exception:
            continue
        return str(path), int(found["global_step"])
    return None, 0
