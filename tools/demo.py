"""`mixstream demo`: its options, its help, and what it prints. The work is in demo_run.py, which wires the rest:

    demo_text.py      text that is here already        demo_journal.py   what each step leaves behind
    demo_settings.py  what the processes agree on      demo_show.py      the live table
    demo_child.py     a training process               demo_proof.py     equal or not
    demo_ranks.py     starts and watches them          demo_picture.py   shares and losses as a picture

What is trained, and how, is examples/train.py and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from .console import Console, show_seconds, table

_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def demo(*, out: Path = Path("runs/demo"), steps: int = 240, seed: int = 0, as_json: _Json = False) -> int:
    """Train on five kinds of text, kill the training, go on with another world size, prove the batches equal.

    mixstream demo
    mixstream demo --steps 1000 --out runs/long

    Offline, on the CPU, in a minute or two: of text that is on every machine
    with Python and torch it makes shards of five domains, trains a small
    byte-level model on a mixture that moves, and kills itself with SIGKILL
    half-way. It goes on from the checkpoint on two processes instead of one,
    and holds every batch against those of a run that nothing interrupted.

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
    from .demo_run import run_demo  # here, so that one need not look at nothing while torch is loaded

    document = run_demo(out=out, steps=steps, seed=seed, console=console)
    console.result(document, _table(document["domains"]), _closing(document))
    return 0 if document["equal"] else 1


def _table(domains: dict[str, dict[str, Any]]) -> Table:
    rows: list[Sequence[object]] = [
        (
            name,
            told["rows"],
            told["rows_read"],
            " → ".join(f"{share:3.0%}" for share in told["share"]),
            " → ".join("-" if loss is None else f"{loss:.2f}" for loss in told["loss"]),
        )
        for name, told in domains.items()
    ]
    return table(("domain", "rows", "rows read", "share", "loss"), rows)


def _closing(document: dict[str, Any]) -> str:
    compared, again, odd = (document[name] for name in ("batches_compared", "steps_trained_again", "steps_not_once"))
    first, second = document["processes"]
    if document["equal"]:
        verdict = (
            f"EQUAL: all {compared} batches, {document['rows_compared']:,} rows, each in its place.\n"
            f"Among them is what the kill undid, {again} step{'s' if again > 1 else ''}: read by {first} process, "
            f"then by {second}."
        )
    else:
        differing = [f"{at['step']} ({at['part']} the kill)" for at in document["batches_differing"]]
        verdict = (
            f"NOT EQUAL: {len(differing)} of {compared} batches differ{', the first at step ' if differing else ''}"
            f"{''.join(differing[:1])}; {len(odd)} of {document['steps']} steps were not trained on exactly once.\n"
            f"This is a defect of mixstream: please report it, with the journals in {document['out']}/run."
        )
    lines = ["", verdict, ""]
    if document["picture"]:
        lines.append(f"picture  {document['picture']}")
    lines.append(f"code     {document['code']}")
    lines.append("next     mixstream convert YOUR_TEXT/ --out shards/")
    return "\n".join([*lines, "", show_seconds(document["seconds"])])
