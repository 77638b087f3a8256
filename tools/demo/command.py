"""`mixstream demo`: its options, its help, and what it prints. The work is in demo_run.py, which wires the rest:

    demo_text.py      text that is here already        demo_journal.py   what each step leaves behind
    demo_settings.py  what the processes agree on      demo_show.py      the live table
    demo_child.py     a training process               demo_proof.py     equal or not
    demo_ranks.py     starts and watches them          demo_learned.py   weights and laws that came out
                                                       demo_picture.py   weights, losses, laws as a picture

What is trained, and how, is examples/train.py and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from ..shared.console import Console, show_seconds, table

_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def demo(*, out: Path = Path("runs/demo"), steps: int = 240, seed: int = 0, as_json: _Json = False) -> int:
    """Train on five kinds of text, kill the training, go on with another world size, prove the batches equal.

    mixstream demo
    mixstream demo --steps 1000 --out runs/long

    Offline, on the CPU, in a minute or two: of text that is on every machine
    with Python and torch it makes shards of five domains and trains a small
    byte-level model on them, mixed by ADO: scaling laws are fitted to the
    domains' own losses as they come in, and who is learned fastest gets more.
    It kills itself with SIGKILL half-way, goes on from the checkpoint on two
    processes instead of one, and holds every batch and every weight against
    those of a run that nothing interrupted, told the same losses.

    The training is examples/train.py. Exit status 1 if a single row differs.

    Args:
        out: directory for text, shards, checkpoint, journals and the picture.
        steps: optimiser steps.
        seed: of the model and of the order of the data.
        as_json: print one JSON document, not a table.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)  # this process is no rank of a job, even where it is started in one
    console = Console(as_json=as_json)
    console.note("mixstream demo: five kinds of text, one small model, one kill -9, no network.\n")
    from .run import run_demo  # here, so that one need not look at nothing while torch is loaded

    document = run_demo(out=out, steps=steps, seed=seed, console=console)
    console.result(document, _table(document["domains"]), _closing(document))
    return 0 if document["equal"] else 1


def _table(domains: dict[str, dict[str, Any]]) -> Table:
    rows: list[Sequence[object]] = [
        (
            name,
            told["rows"],
            told["rows_read"],
            " → ".join(f"{weight:3.0%}" for weight in told["weight"]),
            " → ".join("-" if loss is None else f"{loss:.2f}" for loss in told["loss"]),
            *_law(told["law"]),
        )
        for name, told in domains.items()
    ]
    return table(("domain", "rows", "rows read", "weight", "loss", "alpha", "eps"), rows)


def _law(law: dict[str, Any] | None) -> tuple[str, str]:
    if law is None:
        return "-", "-"
    return f"{law['alpha']:.2f}", f"{'≤ ' if law['eps_at_its_limit'] else ''}{law['eps']:.2f}"


def _about(document: dict[str, Any]) -> list[str]:
    """What the table's columns mean, as far as they do not say it."""
    first = document["weights_change_at_step"]
    fitted = [told["law"] for told in document["domains"].values() if told["law"] is not None]
    mixer = document["mixer"]["name"]
    if not fitted:
        return [f"mixer    {mixer}, which fitted no law in so few steps: the weights are the domains' sizes"]
    lines = [
        f"mixer    {mixer}: weights from loss = eps + beta n^-alpha, nats per byte after n rows, fitted on the way"
    ]
    if first is not None:
        lines.append(f"         they move from step {first} on; before, they are the domains' sizes")
    if any(law["eps_at_its_limit"] for law in fitted):
        lines.append("         eps at its lower limit (≤): so short a curve does not tell yet where it ends")
    return lines


def _closing(document: dict[str, Any]) -> str:
    compared, again, odd = (document[name] for name in ("batches_compared", "steps_trained_again", "steps_not_once"))
    first, second = document["processes"]
    if document["equal"]:
        verdict = (
            f"EQUAL: all {compared} batches, {document['rows_compared']:,} rows, each in its place, and all weights.\n"
            f"Among them is what the kill undid, {again} step{'s' if again > 1 else ''}: read by {first} process, "
            f"then by {second}."
        )
    else:
        differing = [f"{at['step']} ({at['part']})" for at in document["batches_differing"]]
        verdict = (
            f"NOT EQUAL: {len(differing)} batches differ{', the first at step ' if differing else ''}"
            f"{''.join(differing[:1])}; {len(document['weights_differing'])} of {document['steps']} steps have other "
            f"weights; {len(odd)} were not trained on exactly once.\n"
            f"This is a defect of mixstream: please report it, with the journals in {document['out']}/run."
        )
    lines = ["", *_about(document), "", verdict, ""]
    if document["picture"]:
        lines.append(f"picture  {document['picture']}")
    lines.append(f"code     {document['code']}")
    lines.append(f"next     mixstream plan {document['out']}/run")
    lines.append("         mixstream convert YOUR_TEXT/ --out shards/")
    return "\n".join([*lines, "", show_seconds(document["seconds"])])
