"""Prune text by its distance to prototypes, then train on what is left: does the loss fall faster?

    python examples/prune_then_train.py [--out runs/prune] [--steps 240] [--seeds 0 1 2]

The text is on any machine with Python and torch (that of `mixstream demo`): Python code, C++ headers, READMEs,
licences, and prose, as bytes in rows of 256. Of every kind, a tenth of the documents is held out: the loss on these is
what counts, as a mean over the five kinds.

    1  mixstream convert       the documents as shards, one domain for each kind; the held-out ones as another split
    2  mixstream embed         each row becomes a vector (static: a mean over its words)
    3  mixstream prune fit     prototypes of each domain
       mixstream prune assign  the distance of each row to the nearest one
       mixstream prune dedup   one row of each group of near-duplicates
       mixstream prune keep    of these, the hard half of each domain; as control the inverse, which is the easy half
       mixstream select random as many rows at random: of these, and of all rows
    4  training                the same model and number of steps on each selection, and on everything

A selection is a small file; the shards stay as they are, and `Stream(selection=...)` reads the rows that count. All
trainings see equally many rows, as many of each kind; with the defaults none is seen twice. It takes about five minutes
on two cores.

All published evidence for pruning by prototypes is on images. What this shows is about a model of 100 thousand
parameters that reads half a megabyte of text. It is no evidence for large models, whatever comes out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import mixstream as ms
from mixstream.selection import Selection
from mixstream_examples.train import Model, token_losses  # pyright: ignore[reportMissingImports]
from mixstream_tools.cli import main as command  # pyright: ignore[reportMissingImports]
from mixstream_tools.demo.text import gather  # pyright: ignore[reportMissingImports]

SEQ, ROWS, RATE = 256, 10, 4e-3
FRACTION = 0.5
"""The share of the rows without near-duplicates that is kept."""
EPS, OUTLIER_CUT = 0.01, 0.995
CHOSEN = {
    "full": None,
    "random": "random-{seed}",
    "unique": "unique",
    "unique, hard": "kept",
    "unique, random": "kept-random-{seed}",
    "unique, easy": "kept-inverse",
}
"""What is trained on → its selection below --out; None for all rows."""


def mixstream(*arguments: object) -> None:
    """Run a command as a shell would, and show it."""
    print(f"\n$ mixstream {' '.join(map(str, arguments))}", flush=True)
    if status := command([str(each) for each in arguments]):
        sys.exit(status)


def prepare(out: Path, *, kilobytes: int, workers: int) -> None:
    """Write shards of the first documents of each kind, a tenth of them held out."""
    for name, file in gather(out / "text").files.items():
        lines = first(file.read_text(encoding="utf-8").split("\n"), kilobytes << 10)
        write(out / "chosen" / f"{name}.jsonl", lines)
    sources = [f"{path.stem}={path}" for path in sorted((out / "chosen").glob("*.jsonl"))]
    options = ("--seq-len", SEQ, "--val-fraction", 0.1, "--size-limit", "256kb", "--workers", workers)
    mixstream("convert", *sources, "--out", out / "shards", *options, "--overwrite")


def first(lines: Sequence[str], limit: int) -> list[str]:
    """Return the first lines, of about `limit` characters together; those longer than a tenth of it are skipped."""
    short = [line for line in lines if 0 < len(line) <= limit // 10]
    return short[: int(np.searchsorted(np.cumsum([len(line) for line in short]), limit)) + 1]


def write(path: Path, lines: Sequence[str]) -> None:
    """Write lines, unless they are there: `convert` then has nothing to do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def prune(out: Path, *, seeds: Sequence[int], workers: int) -> None:
    """Make all selections of `CHOSEN`."""
    emb, scores = ("--emb", out / "emb"), ("--scores", out / "scores")
    mixstream("embed", out / "shards", "--out", out / "emb", "--workers", workers, "--overwrite")
    mixstream("prune", "fit", *emb, "--out", out / "prototypes", "--overwrite")
    mixstream("prune", "assign", *emb, "--prototypes", out / "prototypes", "--out", out / "scores", "--overwrite")
    mixstream("prune", "dedup", *scores, *emb, "--eps", EPS, "--out", out / "unique", "--overwrite")
    budget = ("--fraction", FRACTION, "--outlier-cut", OUTLIER_CUT, "--within", out / "unique", "--overwrite")
    mixstream("prune", "keep", *scores, "--side", "hard", *budget, "--control", "inverse", "--out", out / "kept")
    for seed in seeds:
        control = ("select", "random", out / "scores", "--like", out / "kept", "--seed", seed, "--overwrite")
        mixstream(*control, "--out", out / f"random-{seed}")
        mixstream(*control, "--within", out / "unique", "--out", out / f"kept-random-{seed}")


def open_dataset(out: Path, *, split: str, selection: Path | None = None, seed: int = 0) -> ms.StreamingDataset:
    """Return the domains, each with an equal share of a batch; for `train` the rows that a selection keeps."""
    names = sorted(path.stem for path in (out / "chosen").glob("*.jsonl"))
    share = 1 if split == "train" else None
    streams = [
        ms.Stream(name=name, remote=str(out / "shards" / name), split=split, selection=selection, proportion=share)
        for name in names
    ]
    return ms.StreamingDataset(streams=streams, batch_size=ROWS, shuffle=split == "train", shuffle_seed=seed)


def train(out: Path, *, steps: int, seed: int, selection: Path | None) -> Model:
    """Train a model on the rows of a selection, or on all."""
    torch.manual_seed(seed)
    model = Model(width=48, depth=2, heads=4, context=SEQ)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, RATE / 10)
    with ms.Loader(open_dataset(out, split="train", selection=selection, seed=seed)) as loader:
        while loader.step < steps:
            for batch in loader:
                optimizer.zero_grad()
                token_losses(model, batch["tokens"]).mean().backward()
                optimizer.step()
                schedule.step()
                if loader.step == steps:
                    break
    return model.eval()


@torch.no_grad()
def losses_of(out: Path, model: Model) -> dict[str, float]:
    """Return the mean loss of each domain's held-out rows, in nats per byte."""
    with ms.Loader(dataset := open_dataset(out, split="val")) as loader:
        sums, counts = np.zeros((2, len(dataset.domain_names)))
        for batch in loader:
            more = ms.domain_sums(token_losses(model, batch["tokens"]), batch.domain, len(sums))
            sums, counts = sums + np.asarray(more[0]), counts + np.asarray(more[1])
    return dict(zip(dataset.domain_names, (sums / counts).tolist()))


def held_out_losses(out: Path, steps: int, seed: int, chosen: str) -> dict[str, float]:
    """Train one of `CHOSEN`, on one thread; returns the held-out loss of each domain."""
    torch.set_num_threads(1)  # so small a model trains faster on one thread than on two that wait for each other
    place = CHOSEN[chosen]
    selection = None if place is None else out / place.format(seed=seed)
    return losses_of(out, train(out, steps=steps, seed=seed, selection=selection))


def run(
    out: Path, *, steps: int = 240, seeds: Sequence[int] = (0, 1, 2), kilobytes: int = 512, workers: int = 2
) -> dict[str, list[dict[str, float]]]:
    """Run the whole example; returns the held-out losses of every kind of selection: one record for each seed.

    Args:
        out: directory for everything.
        steps: optimiser steps of every model.
        seeds: of the models, the order of the data and the random selections.
        kilobytes: of each kind of text.
        workers: processes that convert, embed and train; with 1, this one does it all.
    """
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    prepare(out, kilobytes=kilobytes, workers=workers)
    prune(out, seeds=seeds, workers=workers)
    print(f"\n{time.monotonic() - began:.0f} s for selections; now {len(CHOSEN) * len(seeds)} trainings", flush=True)
    losses: dict[str, list[dict[str, float]]] = {chosen: [] for chosen in CHOSEN}
    jobs = [(seed, chosen) for seed in seeds for chosen in CHOSEN]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) if workers > 1 else nullcontext() as pool:
        done = (pool.map if pool else map)(held_out_losses, *zip(*((out, steps, *job) for job in jobs)))
        for (seed, chosen), found in zip(jobs, done):
            losses[chosen].append(found)
            mean = statistics.mean(found.values())
            print(f"seed {seed}  {chosen:<15} {mean:.4f}  ({time.monotonic() - began:.0f} s so far)", flush=True)
    print(report(out, losses, steps=steps, seeds=seeds))
    (out / "losses.json").write_text(json.dumps(losses))
    return losses


def report(out: Path, losses: dict[str, list[dict[str, float]]], *, steps: int, seeds: Sequence[int]) -> str:
    """Return the table of losses and rows, and how far from the random control each is, seed by seed."""
    names = list(losses["full"][0])
    each = ROWS / len(names)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    lines = [
        "",
        f"held-out loss, nats per byte, after {steps} steps of {ROWS} rows of {SEQ} bytes, {each:g} of each kind",
        f"seeds {' '.join(map(str, seeds))}; {versions}, {platform.machine()}",
        "",
        f"{'trained on':<15}{'rows':>8}{'mean':>8}{'spread':>8}" + "".join(f"{name:>8}" for name in names),
    ]
    means = {chosen: [statistics.mean(each.values()) for each in found] for chosen, found in losses.items()}
    for chosen, found in losses.items():
        spread = statistics.stdev(means[chosen]) if len(seeds) > 1 else float("nan")
        by_domain = "".join(f"{statistics.mean(each[name] for each in found):8.3f}" for name in names)
        rows = count(out, names, CHOSEN[chosen], seeds[0])
        lines.append(f"{chosen:<15}{rows:>8,}{statistics.mean(means[chosen]):8.3f}{spread:8.3f}{by_domain}")
    lines += [
        "",
        "difference to random, by seed (below 0: better than random; hard, easy and random have equally many rows)",
    ]
    for chosen in [chosen for chosen in CHOSEN if chosen != "random"]:
        apart = np.subtract(means[chosen], means["random"])
        lines.append(f"{chosen:<15}{apart.mean():+8.3f}   ({', '.join(f'{each:+.3f}' for each in apart)})")
    return "\n".join(lines)


def count(out: Path, names: Sequence[str], place: str | None, seed: int) -> int:
    """Return how many rows there are to train on."""
    kept = [Selection.open(out / (place or "unique").format(seed=seed) / name) for name in names]
    return sum(each.kept if place else each.table.rows for each in kept)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="Prune text by prototypes, then train on it.")
    parser.add_argument("--out", type=Path, default=Path("runs/prune"))
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    run(options.out, steps=options.steps, seeds=options.seeds)


if __name__ == "__main__":
    main()
