"""A training run with `hf.MixTrainer`, for `test_hf_runs.py`: a tiny Llama on real text, mixed by ADO. Not a test.

    torchrun --nproc-per-node N hf_program.py '{"shards": ..., "out": ..., "notes": ..., "steps": 30}'

Each rank notes the rows of each micro-batch in `notes`-RANK.jsonl: [step, domain, row].
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

import mixstream as ms
from mixstream.integrations import hf

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
ROWS = 16
WINDOWS = {"window": 5, "ignore_steps": 2, "start_step": 12, "update_interval": 4, "subsample": 1, "min_points": 5}


class Noting(hf.MixTrainer):
    """Notes the rows of each micro-batch before the model sees them."""

    notes: Any = None

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        for row, domain in zip(inputs["input_ids"], inputs["domain"].tolist()):
            known = hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16]
            self.notes.write(json.dumps([inputs.step, domain, known]) + "\n")
        self.notes.flush()
        return super().training_step(model, inputs, *args, **kwargs)


class KillAt(TrainerCallback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and RANK == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(
    *, shards: str, out: str, notes: str, steps: int, learn: bool, parts: int = 2, kill: int | None = None
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    streams = [ms.Stream(remote=f"{shards}/{name}", split="train") for name in ("web", "code")]
    dataset = ms.StreamingDataset(
        streams=streams,
        batch_size=ROWS // WORLD,
        shuffle=True,
        mixer=ms.mixers.ADO(**WINDOWS, gamma2=0.5) if learn else None,
        lag=4,
    )
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    args = TrainingArguments(
        output_dir=out, per_device_train_batch_size=ROWS // WORLD // parts, gradient_accumulation_steps=parts,
        max_steps=steps, save_steps=5, logging_steps=1, learning_rate=3e-3, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_nan_inf_filter=False,
    )  # fmt: skip
    trainer = Noting(LlamaForCausalLM(config), args, train_dataset=dataset, callbacks=[KillAt(kill)])
    with Path(f"{notes}-{RANK}.jsonl").open("w") as trainer.notes:
        trainer.train(resume_from_checkpoint=any(Path(out).glob("checkpoint-*")))
    if RANK == 0:
        Path(f"{notes}.json").write_text(json.dumps(trainer.state.log_history))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
