"""Pretrain a small byte-level language model on several corpora at once, in a run that may be killed at any instant.

    mixstream convert corpus/ --out shards/ --seq-len 256 --val-fraction 0.02
    python examples/train.py --data shards/ --checkpoint run/model.pt --mixer ado --steps 500
    torchrun --nproc-per-node 2 examples/train.py --data shards/ --checkpoint run/model.pt --mixer ado --resume

The third line goes on to step 1000, from where the second one ended or was killed; on two processes, with the global
batches that one process would have read (if a mixer learns: from the same losses). `mixstream plan run/` prints what
was read and by which weights. What belongs to mixstream is marked (1) to (6), the rest is any PyTorch loop.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

import mixstream as ms

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # torchrun says so
MIXERS = {  # for short runs: ADO's own settings are for tens of thousands of steps
    "natural": ms.mixers.Natural(),
    "odm": ms.mixers.ODM(),
    "ado": ms.mixers.ADO(ignore_steps=50, start_step=100, update_interval=50, window=51, subsample=2),
    "aioli": ms.mixers.Aioli(),  # evaluates the model between its steps, on the split `val`
}


def open_loader(
    data: Path, *, rows: int, seed: int, mixer: Any, log: Path | None = None, state: Any = None
) -> ms.Loader:
    """Return a loader over all that `mixstream convert --out data` wrote, at the position of `state`."""
    # (1) A domain is a directory of shards. Each process takes its part of the global batch.
    domains = sorted(index.parent.parent for index in data.glob("*/train/index.json"))
    dataset = ms.StreamingDataset(
        streams=[ms.Stream(name=domain.name, remote=str(domain), split="train") for domain in domains],
        batch_size=rows // RANKS,
        shuffle=True,
        shuffle_seed=seed,
        mixer=mixer,
    )
    if state is not None:
        dataset.load_state_dict(state)  # (2) Whatever number of processes saved it, any number may load it.
    return ms.Loader(dataset, log=log)  # device="cuda" has it deliver there, if the model is there too


class Model(nn.Module):
    """A transformer over bytes (0 to 255) and the end of a document (256), with room for `context` of them."""

    def __init__(
        self, *, vocab: int = 257, width: int = 64, depth: int = 2, heads: int = 4, context: int = 1024
    ) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.near = nn.Conv1d(width, width, kernel_size=4)  # a byte says little without those before it
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [rows, time] -> logits [rows, time, vocab]."""
        x = self.token(tokens)
        near = self.near(functional.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.layers(x + near + self.place.weight[: tokens.shape[1]], mask=mask, is_causal=True))


def token_losses(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """int64 [rows, time] -> nats [rows, time - 1], of each token but the first."""
    return functional.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def show(loader: ms.Loader, batch: ms.Batch, loss: torch.Tensor) -> None:
    """Print the loss of every domain now and then; `loss` is [rows, time], of this process's rows."""
    if batch.step % 20 == 0 and RANK == 0:
        names = loader.dataset.domain_names
        sums, counts = ms.domain_sums(loss, batch.domain, len(names))
        losses = "  ".join(f"{name} {s / c:.3f}" for name, s, c in zip(names, sums, counts) if c)
        print(f"step {batch.step:6,}  {losses}  (waited {loader.stats().wait:.2f} s for data)", flush=True)


def train(
    *,
    data: Path,
    checkpoint: Path,
    steps: int,
    rows: int = 32,
    mixer: Any = None,
    resume: bool = False,
    save_every: int = 50,
    seed: int = 0,
    watch: Callable[[ms.Loader, ms.Batch, torch.Tensor], None] = show,
) -> None:
    """Train up to step `steps` of the run, on this process or on all processes of a torchrun.

    Args:
        data: directory that `mixstream convert` wrote.
        checkpoint: file to save to, and to resume from; weights and losses of every step are written beside it.
        steps: optimiser steps since the run began, not since this process did.
        rows: rows of the global batch, over all processes.
        mixer: decides the domains' shares, step by step (`ms.mixers`); if not given they are as large as the domains.
        resume: go on from `checkpoint`.
        save_every: steps between two checkpoints.
        seed: of the model's weights and of the order of the data.
        watch: sees every batch and its losses, after the step.
    """
    if RANKS > 1:
        distributed.init_process_group("gloo")
    torch.manual_seed(seed)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True) if resume else {}
    if resume:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    loader = open_loader(data, rows=rows, seed=seed, mixer=mixer, log=checkpoint.parent, state=saved.get("data"))
    forward = nn.parallel.DistributedDataParallel(model) if RANKS > 1 else model

    while loader.step < steps:
        for batch in loader:  # (3) To the end of the epoch. A batch is a dict of tensors that knows its step.
            # (4) A mixer may want validation losses now and then. If it does not, this does nothing.
            loader.evaluate(lambda held: token_losses(model, held["tokens"]), model=model)
            loss = token_losses(forward, batch["tokens"])
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            loader.report(batch, loss)  # (5) A mixer that learns gets its losses here.
            watch(loader, batch, loss.detach())
            if loader.step % save_every == 0 or loader.step == steps:
                # (6) The position in the data is a small dict, the same on every process.
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "data": loader.state_dict()}
                if RANK == 0:
                    torch.save(saved, partial := checkpoint.with_suffix(".partial"))
                    partial.replace(checkpoint)  # in one move: who is killed here leaves the last one whole
            if loader.step == steps:
                break
    loader.close()
    if RANKS > 1:
        distributed.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that `mixstream convert` wrote")
    parser.add_argument("--checkpoint", type=Path, required=True, help="file to save to, and to resume from")
    parser.add_argument("--steps", type=int, default=1000, help="steps since the run began")
    parser.add_argument("--mixer", choices=MIXERS, default="natural", help="what decides the domains' shares")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    given = vars(parser.parse_args())
    if given["checkpoint"].exists() and not given["resume"]:
        parser.error(f"{given['checkpoint']} is there: add --resume to go on from it, or name another file")
    train(**{**given, "mixer": MIXERS[given["mixer"]]})


if __name__ == "__main__":
    main()
