"""Trains with LLM Foundry's data and Composer's trainer, as `torchrun foundry_program.py JSON`; see test_foundry.py."""

import json
import sys
from pathlib import Path

import foundry  # noqa: F401 - before llmfoundry
import torch
import transformers
from composer import Callback, ComposerModel, Trainer
from composer.utils import dist
from llmfoundry.callbacks.curriculum_learning_callback import CurriculumLearning
from llmfoundry.data.finetuning.dataloader import build_finetuning_dataloader
from llmfoundry.data.text_data import build_text_dataloader
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from torch.nn.functional import cross_entropy

import mixstream as ms

END = 256


def tokenizer():
    """Return a tokenizer of bytes."""
    tokens = Tokenizer(models.BPE(vocab={chr(0x100 + i): i for i in range(END)} | {"<eos>": END}, merges=[]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<eos>", pad_token="<eos>")


class Model(ComposerModel):
    """Predicts each token from the one before."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Embedding(257, 16), torch.nn.Linear(16, 257))
        self.tokenizer = tokenizer()

    def forward(self, batch):
        return self.net(batch["input_ids"][:, :-1])

    def loss(self, outputs, batch):
        return cross_entropy(outputs.transpose(1, 2), batch["labels"][:, 1:])


class Rows(Callback):
    """Notes the rows of every batch."""

    def __init__(self, out):
        self.file = Path(out) / "rows.jsonl"

    def batch_start(self, state, logger):
        batch = state.batch
        line = {"batch": int(state.timestamp.batch), "rows": batch["input_ids"].tolist()}
        line["sequences"] = batch["sequence_id"].tolist() if "sequence_id" in batch else None
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def train(given):
    """Train once, with the loader that a YAML file describes."""
    config = OmegaConf.to_container(OmegaConf.create(given["yaml"]), resolve=True)
    build = build_text_dataloader if given["kind"] == "text" else build_finetuning_dataloader
    spec = build(tokenizer=tokenizer(), **config)
    assert isinstance(spec.dataloader.dataset, ms.StreamingDataset)
    Path(given["out"]).mkdir(exist_ok=True)
    callbacks = [Rows(given["out"])]
    if "curriculum" in given:
        train_config = {"train_loader": {"name": "text", **OmegaConf.to_container(OmegaConf.create(given["yaml"]))}}
        train_config |= {"device_train_batch_size": 4, "tokenizer": {}}
        callbacks.append(CurriculumLearning(train_config=train_config, **given["curriculum"]))
    model = Model()
    trainer = Trainer(
        model=model,
        train_dataloader=spec,
        optimizers=torch.optim.Adam(model.parameters(), lr=0.02),
        max_duration=given["duration"],
        device="cpu",
        save_folder=str(Path(given["out"]) / "checkpoints"),
        save_interval=given.get("save", "99ba"),
        load_path=given.get("load"),
        progress_bar=False,
        callbacks=callbacks,
    )
    trainer.fit()
    trainer.close()


dist.initialize_dist("cpu")
for run in json.loads(sys.argv[1])["runs"]:
    train(run)
