"""Choose rows by what they do for a target (DsDm), then train on them: does the target's loss fall?

    python examples/dsdm_then_train.py [--out runs/dsdm] [--steps 300] [--seeds 0 1 2]

The text is on any machine with Python and torch (that of `mixstream demo`): Python code, C++ headers, READMEs,
licences, and prose, as bytes in rows of 128. The target is prose: half of the documents of that kind are kept out of
the pool, some as target samples, the others to measure the loss.

    1  mixstream convert             the pool as shards, one domain for each kind of text
    2  three proxies                 small transformers, trained on rows of the whole pool
    3  mixstream attribute features  the gradients of the proxies on every row of the pool
    4  mixstream attribute score     every row, for the target
    5  mixstream select top          the best fifth of all rows; a random and an inverse one as controls
    6  training                      the same model and number of steps on each selection, and on everything

A selection is a small file; the shards stay as they are, and `Stream(selection=...)` reads the rows that count. It
takes minutes on two cores. What it shows is about a model of 50 thousand parameters, and a target of which
the pool has more; it is no evidence for large ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mixstream as ms
from mixstream.selection import Selection, find_artefacts
from mixstream_examples.train import Model, token_losses  # pyright: ignore[reportMissingImports]
from mixstream_tools.cli import main as command  # pyright: ignore[reportMissingImports]
from mixstream_tools.demo.text import gather  # pyright: ignore[reportMissingImports]

SEQ, ROWS, RATE = 128, 32, 4e-3
TARGET = "prose"
PLACE = "DSDM_EXAMPLE"
"""The environment variable that tells `proxies` where they are."""
KEPT = 0.2
"""The share of the pool's rows that a selection keeps."""


def proxies() -> list[Model]:
    """Return the proxies that this run has trained: what `--model MODULE:FUNCTION` calls, here and in its workers."""
    saved = sorted(Path(os.environ[PLACE]).glob("proxy-*.pt"))
    return [small(torch.load(path, weights_only=True)) for path in saved]


def small(weights: dict[str, Any] | None = None) -> Model:
    """Return the model of this example, of 50 thousand parameters."""
    model = Model(width=32, depth=2, heads=4, context=SEQ)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def mixstream(*arguments: object) -> None:
    """Run a command as a shell would, and show it."""
    print(f"\n$ mixstream {' '.join(map(str, arguments))}", flush=True)
    if status := command([str(each) for each in arguments]):
        sys.exit(status)


def prepare(out: Path, kilobytes: int, workers: int) -> None:
    """Write the pool's documents of each kind, the target samples, and the shards of the pool and of held-out prose."""
    for name, file in gather(out / "text").files.items():
        lines = first(file.read_text(encoding="utf-8").split("\n"), kilobytes << 10)
        pool = lines[::2] if name == TARGET else lines
        write(out / "pool" / f"{name}.jsonl", pool)
        if name == TARGET:
            write(out / "target.jsonl", lines[1::4])  # a quarter of the prose; the other quarter is held out
            write(out / "held-out.jsonl", lines[3::4])
    sources = [f"{path.stem}={path}" for path in sorted((out / "pool").glob("*.jsonl"))]
    options = ("--seq-len", SEQ, "--workers", workers)
    mixstream("convert", *sources, "--out", out / "shards", *options)
    mixstream("convert", f"held={out / 'held-out.jsonl'}", "--out", out / "held", *options)
    mixstream("convert", f"target={out / 'target.jsonl'}", "--out", out / "target", *options)


def first(lines: Sequence[str], limit: int) -> list[str]:
    """Return the first lines, of about `limit` characters together; those longer than a tenth of it are skipped."""
    short = [line for line in lines if 0 < len(line) <= limit // 10]
    ends = np.cumsum([len(line) for line in short])
    return short[: int(np.searchsorted(ends, limit)) + 1]


def write(path: Path, lines: Sequence[str]) -> None:
    """Write lines, unless they are there: `convert` then has nothing to do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def streams(shards: Path, selection: Path | None) -> list[ms.Stream]:
    """Return the domains of the pool, each with the rows of it that a selection keeps."""
    domains = sorted(index.parent.parent for index in shards.glob("*/train/index.json"))
    kept = {} if selection is None else find_artefacts(selection, "selection")
    return [
        ms.Stream(name=domain.name, remote=str(domain), split="train", selection=kept.get(domain.name))
        for domain in domains
        if selection is None or Selection.open(kept[domain.name]).kept
    ]


def train(out: Path, *, steps: int, seed: int, selection: Path | None = None) -> Model:
    """Train a model on the rows of a selection, or on all of the pool."""
    dataset = ms.StreamingDataset(
        streams=streams(out / "shards", selection), batch_size=ROWS, shuffle=True, shuffle_seed=seed
    )
    torch.manual_seed(seed)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, RATE / 10)
    with ms.Loader(dataset) as loader:
        while loader.step < steps:
            for batch in loader:  # to the end of an epoch over the selection
                optimizer.zero_grad()
                token_losses(model, batch["tokens"]).mean().backward()
                optimizer.step()
                schedule.step()
                if loader.step == steps:
                    break
    return model.eval()


@torch.no_grad()
def loss_on(out: Path, model: Model) -> float:
    """Return the mean loss on held-out prose, in nats per byte."""
    dataset = ms.StreamingDataset(remote=str(out / "held" / "held"), split="train", batch_size=64, shuffle=False)
    with ms.Loader(dataset) as loader:
        return torch.cat([token_losses(model, batch["tokens"]).mean(1) for batch in loader]).mean().item()


def choose(out: Path, *, seeds: Sequence[int], dims: int, workers: int) -> dict[str, list[Path | None]]:
    """Score the pool for the target; returns the selection of each kind, for each seed of the training."""
    shards, features, scores = out / "shards", out / "features", out / "scores"
    model = ("--model", "mixstream_examples.dsdm_then_train:proxies")
    options = ("--project-dim", dims, "--workers", workers, "--device", "cpu", "--overwrite")
    mixstream("attribute", "features", shards, *model, *options, "--out", features)
    target = f"{TARGET}={out / 'target' / 'target' / 'train'}"
    mixstream("attribute", "score", features, "--target", target, "--out", scores, "--device", "cpu", "--overwrite")
    budget = ("--fraction", KEPT, "--overall", "--control", "random,inverse", "--overwrite")
    for seed in seeds:  # it decides the random control; the others are the same each time
        mixstream("select", "top", scores, *budget, "--seed", seed, "--out", out / f"top-{seed}")
    return {
        "top": [out / f"top-{seed}" for seed in seeds],
        "random": [out / f"top-{seed}-random" for seed in seeds],
        "inverse": [out / f"top-{seed}-inverse" for seed in seeds],
        "full": [None] * len(seeds),
    }


def shares(selection: Path) -> Iterator[str]:
    """Yield what a selection keeps of each domain."""
    for domain, path in find_artefacts(selection, "selection").items():
        found = Selection.open(path)
        yield f"{domain} {found.kept:,} of {found.table.rows:,}"


def run(
    out: Path,
    *,
    steps: int = 300,
    seeds: Sequence[int] = (0, 1, 2),
    members: int = 3,
    dims: int = 512,
    kilobytes: int = 192,
    workers: int = 2,
) -> dict[str, list[float]]:
    """Run the whole example; returns the losses on held-out prose of every selection, one for each seed.

    Args:
        out: directory for everything.
        steps: optimiser steps of every model.
        seeds: of the trainings that are compared.
        members: number of proxies.
        dims: features of a row.
        kilobytes: of each kind of text.
        workers: processes that convert and make features.
    """
    out.mkdir(parents=True, exist_ok=True)
    os.environ[PLACE] = str(out.resolve())
    for old in out.glob("proxy-*.pt"):
        old.unlink()
    prepare(out, kilobytes, workers)
    for member in range(members):
        print(f"proxy {member}: {steps} steps on the whole pool", flush=True)
        torch.save(train(out, steps=steps, seed=1000 + member).state_dict(), out / f"proxy-{member}.pt")
    selections = choose(out, seeds=seeds, dims=dims, workers=workers)
    for name in (f"top-{seeds[0]}", f"top-{seeds[0]}-inverse"):
        print(f"\n{name}: {'; '.join(shares(out / name))}")
    print(f"\nloss on held-out {TARGET}, in nats per byte, after {steps} steps of {ROWS} rows; seeds {list(seeds)}")
    losses: dict[str, list[float]] = {}
    for name, chosen in selections.items():
        losses[name] = [
            loss_on(out, train(out, steps=steps, seed=seed, selection=path)) for seed, path in zip(seeds, chosen)
        ]
        each = "  ".join(f"{loss:.3f}" for loss in losses[name])
        spread = f" +- {statistics.stdev(losses[name]):.3f}" if len(seeds) > 1 else ""
        print(f"  {name:<8} {statistics.mean(losses[name]):.3f}{spread}   ({each})", flush=True)
    difference = np.subtract(losses["random"], losses["top"])
    print(f"  random - top: {difference.mean():+.3f}, by seed {', '.join(f'{each:+.3f}' for each in difference)}")
    (out / "losses.json").write_text(json.dumps(losses))
    return losses


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="Choose rows by DsDm, then train on them.")
    parser.add_argument("--out", type=Path, default=Path("runs/dsdm"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    run(options.out, steps=options.steps, seeds=options.seeds)


if __name__ == "__main__":
    main()
