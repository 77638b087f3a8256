"""One training run on the demo's text, as `bench/mixing_text.py` compares them: the data, the model, what it lost.

Rules. Every run of a seed begins with the same weights of the model, reads a domain's rows in the same order and ends
after the same number of rows; only the mixture differs. Rows that are evaluated come from held-out documents and are
the same for every seed: of each domain the first `probe` are what Aioli steers by, of the others every second one is
for choosing between mixtures and the rest for reporting. No number crosses from one part to another.

Shape suffixes: K domains in the order of `TextData.names`, R validation rows.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import mixstream as ms
from mixstream import ValidationSet
from mixstream.mixers import Mixer
from mixstream_examples.train import Model
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
from mixstream_tools.demo.text import gather
from mixstream_tools.shared.console import Console

SEQ = 128
"""Bytes in a row."""
VAL_FRACTION = 0.8
"""Of the documents. What is left is not much more than a run reads, so that small domains are read more than once at
even weights and UniMax's caps bind; and validation is on many documents, where a tenth of the READMEs is eight."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of a comparison have in common.

    Attributes:
        steps: optimiser steps.
        rows: of a batch.
        probe: validation rows per domain that a mixer may steer by.
        judged: validation rows per domain to choose by, and as many to report.
        learning_rate: at its highest; that of examples/train.py.
        lag: steps from a loss to the first batch that it shapes, and batches that are kept ready.
    """

    steps: int
    rows: int
    probe: int
    judged: int
    learning_rate: float = 6e-3
    lag: int = 4


@dataclass(frozen=True, kw_only=True)
class TextData:
    """The converted text: where it is, its domains, and a digest of all that it was made of."""

    shards: Path
    names: tuple[str, ...]
    samples_K: tuple[int, ...]
    identity: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: `mixer` is what makes the mixture, `even_prior` whether it begins uniform instead of natural."""

    method: str
    mixer: Any
    even_prior: bool
    seed: int


def prepare(out: Path) -> TextData:
    """Gather and convert the text, or find that it is there."""
    found = gather(out / "text")
    recipe = Recipe(
        tokenizer=describe_tokenizer("bytes"), seq_len=SEQ, fields=Fields(text="text"), val_fraction=VAL_FRACTION
    )
    sources = [f"{name}={file}" for name, file in found.files.items()]
    shards = out / "shards"
    run_conversion(sources, out=shards, recipe=recipe, overwrite=True, console=Console())
    meta = json.loads((shards / "domains.json").read_text(encoding="utf-8"))
    names = tuple(sorted(meta["domains"]))
    samples = tuple(int(meta["domains"][name]["train"]["rows"]) for name in names)
    return TextData(shards=shards, names=names, samples_K=samples, identity=meta["identity"])


def open_dataset(data: TextData, setting: Setting, job: Job | None = None) -> ms.StreamingDataset:
    """Return what `job` trains on; without one, what validation sets are found beside."""
    even = 1.0 if job is not None and job.even_prior else None
    return ms.StreamingDataset(
        streams=[ms.Stream(name=name, local=str(data.shards / name / "train"), proportion=even) for name in data.names],
        batch_size=setting.rows,
        shuffle=True,
        shuffle_seed=0 if job is None else job.seed,
        mixer=None if job is None else job.mixer,
        lag=setting.lag,
    )


def validation(dataset: ms.StreamingDataset, rows: int) -> ValidationSet:
    """Return the first `rows` validation rows of each domain in an order that no seed of a run changes."""
    return ValidationSet.open(dataset, rows=rows, batch_size=64, seed=0)


def check_parts(data: TextData, setting: Setting) -> None:
    """Stop unless the rows to steer by are the first of all validation rows, and thus none of those that are judged."""
    dataset = open_dataset(data, setting)
    with validation(dataset, setting.probe) as few, validation(dataset, setting.probe + 2 * setting.judged) as all_rows:
        steered, every = ([(k, row) for b in part for k, row in zip(b.domain, b["tokens"])] for part in (few, all_rows))
        for k in range(len(data.names)):
            first = [row for at, row in every if at == k]
            mine = [row for at, row in steered if at == k]
            if not (len(mine) < len(first) and all(torch.equal(a, b) for a, b in zip(mine, first))):
                raise SystemExit(f"{data.names[k]}: the rows to steer by are not the first of its validation rows")


def byte_losses(model: torch.nn.Module, batch: ms.Batch) -> torch.Tensor:
    """Return the loss of every byte but a row's first, [rows, time], nats."""
    tokens = batch["tokens"]
    return functional.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def warmed_up(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up over a twentieth of the run, then a cosine to 0."""
    warmup = max(1, steps // 20)
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup)))


def timed(mixer: Any, took: list[float]) -> Any:
    """Return `mixer` with a clock: the CPU seconds of every update are appended to `took`."""
    kind: Any = type(mixer)

    class Timed(kind):
        def update(self, state: Any, feedback: Any) -> Any:
            began = time.thread_time()
            result = super().update(state, feedback)
            took.append(time.thread_time() - began)
            return result

    return Timed(**{field.name: getattr(mixer, field.name) for field in dataclasses.fields(mixer)})


def judge(model: torch.nn.Module, rows: ValidationSet, setting: Setting) -> tuple[list[float], list[float]]:
    """Return the mean loss of each domain, [K] each, on the rows to choose by and on those to report."""
    losses, domains = [], []
    with torch.no_grad():
        for batch in rows:
            losses.append(byte_losses(model, batch).mean(dim=1).double().numpy())
            domains.append(batch.domain)
    loss_R, domain_R = np.concatenate(losses), np.concatenate(domains)
    judged = [loss_R[domain_R == k][setting.probe :] for k in range(len(rows.names))]
    choose_K, report_K = ([float(part[first::2].mean()) for part in judged] for first in (0, 1))
    return choose_K, report_K


def train(data: TextData, setting: Setting, job: Job) -> dict[str, Any]:
    """Train once; return losses, rows read and what it cost, JSON-able."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    updating: list[float] = []
    evaluating: list[float] = []
    if isinstance(job.mixer, Mixer):
        job = dataclasses.replace(job, mixer=timed(job.mixer, updating))
    dataset = open_dataset(data, setting, job)
    probe = validation(dataset, setting.probe)
    model = Model(context=SEQ)
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_up(step, setting.steps))
    rows_TK = np.zeros((setting.steps, len(data.names)), dtype=np.int64)
    with ms.Loader(dataset, prefetch=setting.lag) as loader:
        while loader.step < setting.steps:
            for batch in loader:
                began = time.perf_counter()
                if loader.evaluate(lambda rows: byte_losses(model, rows), model=model, validation=probe):
                    evaluating.append(time.perf_counter() - began)
                loss = byte_losses(model, batch)
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()
                schedule.step()
                loader.report(batch, loss)
                rows_TK[batch.step] = np.bincount(batch.domain, minlength=len(data.names))
                if loader.step == setting.steps:
                    break
        waited = loader.stats().wait
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "waited": waited}
    with validation(dataset, setting.probe + 2 * setting.judged) as rows:
        choose_K, report_K = judge(model, rows, setting)
    probe.close()
    return {
        "choose": choose_K,
        "report": report_K,
        "rows": rows_TK.sum(axis=0).tolist(),
        "last_rows": rows_TK[-(setting.steps // 4) :].sum(axis=0).tolist(),
        **spent,
        "updates": len(updating),
        "updating": sum(updating),
        "evaluations": len(evaluating),
        "evaluating": sum(evaluating),
    }
