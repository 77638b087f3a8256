"""What the tests of `mixstream.integrations.hf` share: a tiny Llama, a trainer that notes its rows, a plain loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import joined, make_dataset, row_ids
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import mixstream as ms
from mixstream.integrations import hf


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=4096, num_key_value_heads=2, **size, **changes))


def new_llama() -> LlamaForCausalLM:
    """As `tiny_llama`; without arguments, as the Trainer wants of a `model_init`."""
    return tiny_llama()


def arguments(out: Path, **changes: Any) -> TrainingArguments:
    given = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6, "report_to": [],
        "use_cpu": True, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "learning_rate": 0.1,
        "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_only_model": False,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(out), **{**given, **changes})


def library_of(library: Path, **changes: Any) -> ms.StreamingDataset:
    return make_dataset(library, **{"drop_last": True, **changes})


@dataclass
class Notes:
    """The rows of each micro-batch."""

    rows: list[list[int]] = field(default_factory=list)

    def by_step(self, parts: int) -> list[list[int]]:
        return [joined(self.rows[at : at + parts]) for at in range(0, len(self.rows), parts)]


class NotingMixin:
    """Notes the rows of each micro-batch; `before` is called with its number."""

    notes: Notes
    before: Callable[[int], None] | None = None

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.notes = getattr(self, "notes", None) or Notes()
        if self.before is not None:
            self.before(len(self.notes.rows))
        self.notes.rows.append(inputs["input_ids"][:, 0].tolist())
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]


class Noting(NotingMixin, hf.MixTrainer):
    """A `MixTrainer` that notes its rows."""


def trainer_of(library: Path, out: Path, data: dict[str, Any] | None = None, **changes: Any) -> Noting:
    dataset = changes.pop("train_dataset", None) or library_of(library, **(data or {}))
    own = {name: changes.pop(name) for name in [*changes] if name in OWN}
    model = None if "model_init" in own else own.pop("model", None) or tiny_llama()
    return Noting(model, arguments(out, **changes), train_dataset=dataset, **own)


OWN = {
    *("model", "model_init", "eval_dataset", "columns", "ignore_token", "losses_by_domain", "strict", "callbacks"),
    *("compute_metrics", "compute_loss_func", "data_collator"),
}


def plain_rows(library: Path, steps: int, **data: Any) -> list[list[int]]:
    """Return the rows of each step, as a loop over `ms.Loader` reads them; nothing learns."""
    rows: list[list[int]] = []
    with ms.Loader(library_of(library, **data)) as loader:
        while len(rows) < steps:
            rows += [row_ids(batch) for batch in loader]
    return rows[:steps]


def plain_run(library: Path, steps: int, **data: Any) -> dict[str, Any]:
    """Train without a Trainer: the same model, SGD, the mean loss of a step's tokens."""
    model, found = tiny_llama(), {"rows": [], "loss": [], "weights": []}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ms.Loader(library_of(library, **data)) as loader:
        for _, batch in zip(range(steps), loader):
            loss_BT = token_losses(model, batch["tokens"])
            loss_BT.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            loader.report(batch, loss_BT)
            found["rows"].append(row_ids(batch))
            found["loss"].append(loss_BT.mean().item())
        found["state"] = loader.state_dict()
    return {**found, "model": model}


def token_losses(model: torch.nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    logits_BTV = model(tokens_BT).logits[:, :-1]
    return functional.cross_entropy(logits_BTV.transpose(1, 2).float(), tokens_BT[:, 1:], reduction="none")


def position(checkpoint: Path) -> Any:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["MixPosition"]["attributes"]["position"]


def logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Saving(TrainerCallback):
    """Saves a checkpoint, and stops, at some place of the loop at the fourth step; so do handlers of signals."""

    def __init__(self, place: str) -> None:
        self.trainer, self.done = None, False
        setattr(self, place, self.save)

    def save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= 3 and not self.done:
            self.done, control.should_training_stop = True, True
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
