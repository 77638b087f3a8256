"""The demo's five steps, one after the other; computes nothing of its own."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .console import Advance, Console
from .convert.job import run_conversion
from .convert.readers import Fields
from .convert.recipe import Recipe
from .convert.tokenizer import describe_tokenizer
from .demo_journal import Step
from .demo_proof import Proof, compare, example_file, parameters, read_uninterrupted
from .demo_ranks import run_part
from .demo_settings import ROWS, SEQ_LEN, Settings
from .demo_show import WINDOW, View, losses_K, rate, shares_K
from .demo_text import gather

_BEFORE, _AFTER = 1, 2
"""Processes before and after the kill."""


class _Quiet(Console):
    """For the conversion, which takes a moment here and gets one line when it is done."""

    def note(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def progress(self, label: str, *, total: int, done: int = 0) -> Iterator[Advance]:
        """Show nothing."""
        del label, total, done
        yield lambda size: None


def run_demo(*, out: Path, steps: int, seed: int, console: Console) -> dict[str, Any]:
    """Convert, train, kill, resume, compare, draw; returns the document that `--json` prints.

    Raises:
        MixstreamError: see `mixstream.errors`; among them a training that ended otherwise than it had to.
        OSError: reading or writing failed.
    """
    begun = time.monotonic()
    settings = _prepare(out, steps, seed, console)
    names, resumed, killed = list(settings.samples), settings.resume_from, settings.kill_after

    console.note(
        f"2/5  train    on {_BEFORE} process: {parameters():,} parameters, {ROWS} rows of {SEQ_LEN} bytes a step"
    )
    with View(names=names, steps=steps, last=killed).shown() as view:
        before = run_part(settings, "before", ranks=_BEFORE, on_step=view.add)
    console.note(f"3/5  kill -9  after step {killed}: checkpoint of step {resumed}, later batches read ahead")
    console.note(f"4/5  resume   on {_AFTER} processes, from step {resumed}")
    with View(names=names, steps=steps, last=steps, earlier=before[:resumed]).shown() as view:
        after = run_part(settings, "after", ranks=_AFTER, on_step=view.add)
    console.note("5/5  compare  with the batches of a loader that nothing interrupts\n")
    proof = compare(read_uninterrupted(settings), before, after)
    picture = _draw(names, before, after, out / "demo.png", console)
    return {
        "equal": proof.equal,
        "steps": steps,
        "killed_after": killed,
        "resumed_from": resumed,
        "processes": [_BEFORE, _AFTER],
        **_told(proof),
        "domains": _domains(settings, [*before[:resumed], *after]),
        "tokens_per_second": [_number(rate(part)) for part in (before, after)],
        "waited_seconds": [round(part[-1].waited, 3) for part in (before, after)],
        "picture": None if picture is None else str(picture),
        "code": str(example_file()),
        "out": str(out),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _prepare(out: Path, steps: int, seed: int, console: Console) -> Settings:
    """Gather the text, convert it, and clear away what an earlier demo trained."""
    Settings(out=str(out), steps=steps, seed=seed, samples={})  # refuses what cannot be, before anything is written
    found = gather(out / "text")
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=SEQ_LEN, fields=Fields(text="text"))
    sources = [f"{name}={file}" for name, file in found.files.items()]
    quiet = _Quiet(as_json=console.as_json)
    summary = run_conversion(sources, out=out / "shards", recipe=recipe, overwrite=True, console=quiet)
    samples = {name: int(splits["train"]["rows"]) for name, splits in summary["domains"].items()}
    settings = Settings(out=str(out.resolve()), steps=steps, seed=seed, samples=samples)
    shutil.rmtree(settings.run, ignore_errors=True)
    settings.run.mkdir(parents=True)
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in found.sizes.items())
    again = ", as before" if summary["status"] == "nothing to do" else ""
    console.note(f"1/5  convert  {sizes} MB{again}")
    for name, why in found.left_out.items():
        console.note(f"              without {name}: {why}")
    return settings


def _draw(
    names: Sequence[str], before: Sequence[Step], after: Sequence[Step], file: Path, console: Console
) -> Path | None:
    from .demo_picture import draw

    try:
        return draw(names, before, after, processes=_AFTER, file=file)
    except ImportError:
        file.unlink(missing_ok=True)  # one of an earlier demo would be of another run
        console.note("no picture: matplotlib is not installed. Run: pip install 'mixstream[report]'\n")
        return None


def _told(proof: Proof) -> dict[str, Any]:
    return {
        "batches_compared": proof.compared,
        "rows_compared": proof.compared * ROWS,
        "batches_differing": [{"part": part, "step": step} for part, step in proof.differing],
        "steps_trained_again": len(proof.again),
        "steps_not_once": list(proof.not_once),
    }


def _domains(settings: Settings, whole: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Of each domain: rows there are, rows read, and its share and loss at the beginning and at the end."""
    ends = (whole[:WINDOW], whole[-WINDOW:])
    read = [sum(rows) for rows in zip(*(step.rows_K for step in whole))]
    return {
        name: {
            "rows": rows,
            "rows_read": read[k],
            "share": [round(float(shares_K(steps)[k]), 4) for steps in ends],
            "loss": [_number(losses_K(steps)[k], 4) for steps in ends],
        }
        for k, (name, rows) in enumerate(settings.samples.items())
    }


def _number(value: float, digits: int | None = None) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else round(float(value), digits)
