"""The demo's five steps, one after the other: connects the other files, computes nothing."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..convert import Fields, Recipe, describe_tokenizer, run_conversion
from ..shared.console import Console
from .learned import Law, Learned, read_learned
from .picture import draw
from .proof import compare, example_file, history, parameters, read_references, read_weights
from .ranks import run_part, run_reference
from .settings import PROCESSES, ROWS, SEQ_LEN, Settings
from .show import WINDOW, View, losses_K, rate, shares_K
from .step_log import Step
from .text import gather


def run_demo(*, out: Path, steps: int, seed: int, console: Console) -> dict[str, Any]:
    """Convert, train, kill, resume, compare, draw; returns the document that `--json` prints.

    Raises:
        MixstreamError: see `mixstream.errors`; also if a training process ended in an unexpected way.
        OSError: reading or writing failed.
    """
    begun = time.monotonic()
    settings = _prepare(out, steps, seed, console)
    names, resumed, killed = list(settings.samples), settings.resume_from, settings.kill_after

    one, two = PROCESSES.values()
    console.note(f"2/5  train    on {one} process: {parameters():,} parameters, {ROWS} rows of {SEQ_LEN} bytes a step")
    with View(names=names, steps=steps, last=killed).shown() as view:
        before = run_part(settings, "before", on_step=view.add)
    console.note(f"3/5  kill -9  after step {killed}: checkpoint of step {resumed}, later batches read ahead")
    console.note(f"4/5  resume   on {two} processes, from step {resumed}")
    with View(names=names, steps=steps, last=steps, earlier=before[:resumed]).shown() as view:
        after = run_part(settings, "after", on_step=view.add)
    console.note("5/5  compare  with an uninterrupted loader that receives the same losses\n")
    run_reference(settings)
    proof = compare(read_references(settings), before, after, weights=read_weights(settings))
    learned = read_learned(settings)
    picture = out / "demo.png"
    try:
        draw(names, before, after, learned, processes=two, file=picture)
    except ImportError:
        picture.unlink(missing_ok=True)  # a picture of an earlier demo would show another run
        console.note("no picture: matplotlib is not installed. Run: pip install matplotlib\n")
    return {
        "equal": proof.equal,
        "steps": steps,
        "killed_after": killed,
        "resumed_from": resumed,
        "processes": [one, two],
        "batches_compared": proof.compared,
        "rows_compared": proof.compared * ROWS,
        "batches_differing": [{"part": part, "step": step} for part, step in proof.differing],
        "weights_differing": list(proof.weights_differing),
        "steps_trained_again": len(proof.again),
        "steps_not_once": list(proof.not_once),
        "mixer": {"name": type(settings.mixer()).__name__, **asdict(settings.mixer())},
        "weights_change_at_step": learned.changed_at,
        "domains": _domains(settings, history(before, after), learned),
        "tokens_per_second": [_number(rate(part)) for part in (before, after)],
        "waited_seconds": [round(part[-1].waited, 3) for part in (before, after)],
        "picture": str(picture) if picture.exists() else None,
        "code": str(example_file()),
        "out": str(out),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _prepare(out: Path, steps: int, seed: int, console: Console) -> Settings:
    """Gather the text, convert it, and remove the training files of an earlier demo."""
    Settings(out=str(out), steps=steps, seed=seed, samples={})  # raises for bad options before anything is written
    found = gather(out / "text")
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=SEQ_LEN, fields=Fields(text="text"))
    sources = [f"{name}={file}" for name, file in found.files.items()]
    summary = run_conversion(sources, out=out / "shards", recipe=recipe, overwrite=True, console=Console(quiet=True))
    samples = {name: int(splits["train"]["rows"]) for name, splits in sorted(summary["domains"].items())}
    settings = Settings(out=str(out.resolve()), steps=steps, seed=seed, samples=samples)
    shutil.rmtree(settings.run, ignore_errors=True)
    settings.run.mkdir(parents=True)
    sizes = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in found.sizes.items())
    again = ", as before" if summary["status"] == "nothing to do" else ""
    console.note(f"1/5  convert  {sizes} MiB{again}")
    for name, why in found.left_out.items():
        console.note(f"              without {name}: {why}")
    return settings


def _domains(settings: Settings, whole: Sequence[Step], learned: Learned) -> dict[str, dict[str, Any]]:
    """For each domain: rows, rows read; weight, share and loss at the beginning and at the end; its law."""
    ends = (whole[:WINDOW], whole[-WINDOW:])
    read = [sum(rows) for rows in zip(*(step.rows_K for step in whole))]
    return {
        name: {
            "rows": rows,
            "rows_read": read[k],
            "weight": [round(float(learned.weights_TK[at, k]), 4) for at in (0, -1)],
            "share": [round(float(shares_K(steps)[k]), 4) for steps in ends],
            "loss": [_number(losses_K(steps)[k], 4) for steps in ends],
            "law": _law(learned.law(k)),
        }
        for k, (name, rows) in enumerate(settings.samples.items())
    }


def _law(law: Law | None) -> dict[str, Any] | None:
    if law is None:
        return None
    numbers = {name: round(getattr(law, name), 4) for name in ("alpha", "beta", "eps")}
    return {**numbers, "eps_at_its_limit": law.bounded}


def _number(value: float, digits: int | None = None) -> float | None:
    """`value`, rounded to `digits`; None for nan, which JSON does not have."""
    return None if math.isnan(value) else round(float(value), digits)
