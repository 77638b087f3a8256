"""Trains a small llama3 with torchtitan's trainer, as `torchrun torchtitan_program.py JSON`; see test_torchtitan.py."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torchtitan_on_cpu  # noqa: F401 - before torchtitan
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.models.llama3.config_registry import llama3_debugmodel
from torchtitan.tools.logging import init_logger
from torchtitan.trainer import Trainer

import mixstream as ms
from mixstream.integrations.torchtitan import MixDataLoader
from mixstream.integrations.torchtitan_trainer import MixTrainer, mixed

ADO = {"window": 5, "ignore_steps": 2, "start_step": 6, "update_interval": 3, "subsample": 1, "min_points": 3}
given = json.loads(sys.argv[1])
out = Path(given["out"])
rank = int(os.environ["RANK"])


def recorded(trainer: type[Trainer]) -> type[Trainer]:
    """Return `trainer`, noting the rows of every step; it may kill itself before a step."""

    class Recorded(trainer):
        def train_step(self, data_iterator):
            if self.step == given.get("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            super().train_step(data_iterator)
            batch, loader = self.dataloader.batch, self.dataloader.loader
            line = {"step": batch.step, "rows": batch["tokens"].tolist(), "weights": loader.weights}
            with (out / f"rows-{rank}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    return Recorded


def configured() -> Trainer.Config:
    """Return torchtitan's debug model, with one layer, over the corpus."""
    config = llama3_debugmodel()
    config.model_spec.model.layers = config.model_spec.model.layers[:1]
    if not given.get("chunked", True):
        config.loss = CrossEntropyLoss.Config()
    config.training = replace(
        config.training,
        seq_len=256,
        steps=given["steps"],
        local_batch_size=given["local"],
        global_batch_size=given.get("global", -1),
    )
    config.training.disable_cuda_graphs = True
    config.parallelism.spmd_backend = "partial_dtensor"  # torch 2.13 does not shard the plain tensors of spmd_types
    config.parallelism.tensor_parallel_degree = given.get("tp", 1)
    config.parallelism.context_parallel_degree = given.get("cp", 1)
    config.dump_folder, config.hf_assets_path = str(out), given["tokenizer"]
    config.metrics.enable_tensorboard, config.validator.enable = True, given.get("validate", False)
    config.validator.freq, config.validator.steps = 2, 2
    config.validator.dataloader = MixDataLoader.Config(dataset_path=given["corpus"], split="val")
    config.checkpoint = CheckpointManager.Config(
        enable=True, interval=given.get("interval", 2), last_save_model_only=False
    )
    return config


init_logger()
options = {"shuffle": True, "lag": 4, **given.get("options", {})}
mixer = ms.mixers.ADO(**ADO) if given.get("mixer") == "ADO" else None
rows = MixDataLoader.Config(
    dataset_path=given["corpus"],
    mixer=mixer,
    options=options,
    infinite=given.get("infinite", True),
    log=given.get("log"),
)
if given.get("plain"):
    config = replace(configured(), dataloader=rows)
    recorded(Trainer)(config).train()
else:
    config = mixed(configured(), rows)
    trainer = recorded(MixTrainer)(config)
    trainer.train()
    trainer.close()
