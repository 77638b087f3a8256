"""`mixstream demo`: its options, its help, and its output. The work is in run.py, which connects the rest:

    text.py      text that is on this machine        step_log.py   what each process writes about a step
    settings.py  what the processes share            show.py       the live table
    child.py     a training process                  proof.py      compares batches and weights
    ranks.py     starts and watches processes        learned.py    weights and laws of the finished run
                                                     picture.py    weights, losses and laws as a picture

The training itself is examples/train.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from ..shared.console import Console, show_seconds, table
from ..shared.numbers import Seed, whole
from ..shared.outputs import Directory

_Steps = Annotated[int, whole(least=1, most=1_000_000)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def demo(*, out: Directory = Path("runs/demo"), steps: _Steps = 240, seed: Seed = 0, as_json: _Json = False) -> int:
    """Train on five kinds of text, kill, resume on another world size, compare.

    mixstream demo
    mixstream demo --steps 1000 --out runs/long

    The demo runs offline, on the CPU, in a minute or two. It converts text that
    comes with Python and torch into shards of five domains and trains a small
    byte-level model on them, mixed by ADO: scaling laws are fitted to the
    losses of the domains during the run, and domains that the model learns
    fastest get higher weights. Half-way the training kills itself with SIGKILL
    and resumes from the checkpoint on two processes instead of one. Then every
    batch and every weight is compared with those of an uninterrupted run that
    receives the same losses.

    The training is examples/train.py. Exit status 1 if any row differs.

    Args:
        out: directory for text, shards, checkpoint, step logs and the picture.
        steps: optimiser steps.
        seed: seed of the model and of the order of the data.
        as_json: print one JSON document, not a table.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)  # this process is not a rank, even if it is started inside a job
    console = Console(as_json=as_json)
    console.note("mixstream demo: five kinds of text, one small model, one kill -9, no network.\n")
    from .run import run_demo  # here, so that the note above is shown while torch is loaded

    document = run_demo(out=out, steps=steps, seed=seed, console=console)
    console.result(document, _table(document["domains"]), _closing(document))
    return 0 if document["equal"] else 1


def _table(domains: dict[str, dict[str, Any]]) -> Table:
    rows: list[Sequence[object]] = [
        (
            name,
            domain["rows"],
            domain["rows_read"],
            " → ".join(f"{weight:3.0%}" for weight in domain["weight"]),
            " → ".join("-" if loss is None else f"{loss:.2f}" for loss in domain["loss"]),
            *_law(domain["law"]),
        )
        for name, domain in domains.items()
    ]
    return table(("domain", "rows", "rows read", "weight", "loss", "alpha", "eps"), rows)


def _law(law: dict[str, Any] | None) -> tuple[str, str]:
    if law is None:
        return "-", "-"
    return f"{law['alpha']:.2f}", f"{'≤ ' if law['eps_at_its_limit'] else ''}{law['eps']:.2f}"


def _about(document: dict[str, Any]) -> list[str]:
    """Lines that explain the table's columns."""
    first = document["weights_change_at_step"]
    fitted = [domain["law"] for domain in document["domains"].values() if domain["law"] is not None]
    mixer = document["mixer"]["name"]
    if not fitted:
        return [f"mixer    {mixer}, which fitted no law in so few steps: the weights are the domains' sizes"]
    lines = [
        f"mixer    {mixer}: weights from loss = eps + beta n^-alpha, nats per byte after n rows, fitted in the run"
    ]
    if first is not None:
        lines.append(f"         they change from step {first} on; before, they are the domains' sizes")
    if any(law["eps_at_its_limit"] for law in fitted):
        lines.append("         eps at its lower limit (≤): the curve is too short to estimate where it ends")
    return lines


def _closing(document: dict[str, Any]) -> str:
    compared, again, odd = (document[name] for name in ("batches_compared", "steps_trained_again", "steps_not_once"))
    first, second = document["processes"]
    if document["equal"]:
        verdict = (
            f"EQUAL: all {compared} batches, {document['rows_compared']:,} rows, each in its place, and all weights.\n"
            f"They include the work that the kill undid, {again} step{'s' if again > 1 else ''}: read by {first} "
            f"process, then by {second}."
        )
    else:
        differing = [f"{at['step']} ({at['part']})" for at in document["batches_differing"]]
        verdict = (
            f"NOT EQUAL: {len(differing)} batches differ{', the first at step ' if differing else ''}"
            f"{''.join(differing[:1])}; {len(document['weights_differing'])} of {document['steps']} steps have other "
            f"weights; {len(odd)} were not trained on exactly once.\n"
            f"This is a bug in mixstream: please report it, with the step logs in {document['out']}/run."
        )
    lines = ["", *_about(document), "", verdict, ""]
    if document["picture"]:
        lines.append(f"picture  {document['picture']}")
    code, plan = f"code     {document['code']}", f"next     mixstream plan {document['out']}/run"
    convert = "         mixstream convert YOUR_TEXT/ --out shards/"
    return "\n".join([*lines, code, plan, convert, "", show_seconds(document["seconds"])])
