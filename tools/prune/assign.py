"""`mixstream prune assign`: the nearest prototype of each row, and the distance to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.selection import SCORED, Column, Scores, ScoresWriter, merge_scores, provenance
from mixstream.selection.prototypes import Prototypes
from mixstream.selection.prototypes import assign as assign_vectors

from ..shared.artefacts import facts_of_rows, find_domains_of, partner
from ..shared.console import Console, table
from ..shared.options import Json, device_of
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts
from .inputs import CLUSTER, DISTANCE, TOKENS, Embeddings, find_embeddings, require_fitting
from .options import FEW, Device, Names

_ROWS_PER_PART, _LEAST = 1 << 20, 1 << 16
_BLOCK = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of one domain; it can be pickled."""

    emb: Path
    column: str
    prototypes: tuple[Path, ...]
    place: Path
    part: tuple[int, int]
    made: dict[str, Any]
    device: str
    overwrite: bool

    def __str__(self) -> str:
        return f"part {self.part[0]}/{self.part[1]} of {self.place}"


def assign(
    *,
    emb: str,
    prototypes: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)],
    column: str | None = None,
    device: Device = "auto",
    domain: Names = (),
    output: Output,
    parts: PartOptions | None = None,
    as_json: Json = False,
) -> None:
    """Score each row by its distance to the nearest prototype.

    mixstream prune assign --emb emb/ --prototypes prototypes/ --out scores/
    mixstream prune assign --emb emb/ --prototypes prototypes/ --out scores/ \\
        --part $SLURM_ARRAY_TASK_ID/64

    Writes two columns: `cluster`, the number of the nearest prototype, and
    `proto_dist`, 1 - cosine to it, from 0 to 2. Small is typical (easy), large
    is unlike every prototype (hard). Tokens of each row are copied if the
    embeddings have them. The numbers are the same on every machine and for any
    number of parts.

    COST. One product of all vectors with all prototypes: a million rows, 384
    dimensions and 1,000 prototypes take about 20 seconds on one core.
    Memory: the prototypes, and one block of rows for each worker.

    ALONE. A row with a prototype of its own is at distance 0 from it, and counts
    as typical although nothing is like it. A note says how many there are.

    SEEDS. k-means with another seed finds other prototypes, and ranks some rows
    otherwise. --prototypes A B C, fitted with several --seed, averages the
    distances; `cluster` is that of the first.

    A run that was killed goes on where it was: give the same command again.

    Args:
        emb: embeddings, as `mixstream embed` writes them.
        prototypes: as `mixstream prune fit` writes them, of the same domains; several are averaged.
        column: the column of the embeddings, if there are several.
        device: where to compute; `auto` takes a GPU if there is one.
        domain: domains to look at; default: all in EMB.
        as_json: print one JSON document, not a table.
    """
    console, options = Console(as_json=as_json), parts or PartOptions()
    found = assign_domains(
        emb, prototypes, output, console, options=options, column=column, device=device_of(device), domain=domain
    )  # fmt: skip
    console.result({"status": output.status, "domains": found}, assign_table(found))


def assign_domains(
    emb: str,
    prototypes: Sequence[str],
    output: Output,
    console: Console,
    *,
    options: PartOptions,
    column: str | None = None,
    device: str = "cpu",
    domain: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Assign the rows of each domain; return what was done, a record for each."""
    places = find_embeddings(emb, domain)
    fitted = {each: find_domains_of(each, "prototypes") for each in dict.fromkeys(prototypes)}
    tasks: list[Task] = []
    records: list[dict[str, Any]] = []
    for name, place in places.items():
        embeddings = Embeddings.open(place, column)
        whole = Task(
            emb=place.absolute(), column=embeddings.column, part=(0, 1),
            place=output.apart_from(name, place, "the embeddings").absolute(),
            prototypes=tuple(partner(emb, name, found, path).absolute() for path, found in fitted.items()), made={},
            device=device, overwrite=output.overwrite,
        )  # fmt: skip
        tasks += _tasks(whole, embeddings, options, output)
        k = len(Prototypes.open(whole.prototypes[0]).centroids_KD)
        record = {"domain": name, "rows": embeddings.scores.rows, "k": k, "path": str(output.place(name))}
        records.append(record)
    if output.dry_run:
        return [{**record, "state": "to do"} for record in records]
    rows = sum(record["rows"] for record in records)
    todo = {task.place for task in tasks}
    done = sum(record["rows"] for record in records if Path(record["path"]).absolute() not in todo)
    output.clear(todo, options=options)
    for _ in run_parts(
        assign_part, tasks, options=options.placed(tasks=len(tasks), rows=rows - done, few=FEW), console=console,
        label="assign", total=rows, done=done, gpus=float(device == "cuda"),
    ):  # fmt: skip
        pass
    if options.single is not None and options.single[1] > 1:
        console.note(options.hint())
        return [{**record, "state": f"part {options.part}"} for record in records]
    found = [{**record, **_described(merge_scores(record["path"]))} for record in records]
    for each in found:
        if each["alone"]:
            console.note(
                f"note: domain {each['domain']!r}: {each['alone']:,} rows are alone with their prototype, so that they "
                "count as typical although nothing is like them; fewer prototypes (fit with a smaller --k) avoid it"
            )
    return found


def _tasks(whole: Task, embeddings: Embeddings, options: PartOptions, output: Output) -> list[Task]:
    """Return the parts of one domain that are to be done.

    Raises:
        SelectionError: prototypes do not fit the embeddings.
        OutputExistsError: there are scores that were made otherwise.
    """
    means = [Prototypes.open(each) for each in whole.prototypes]
    for each in means:
        require_fitting(embeddings, each)
    inputs = {"embeddings": embeddings.scores.id, "column": whole.column, "prototypes": [each.id for each in means]}
    inputs["embedder"] = embeddings.embedder
    made = provenance(inputs, k=[len(each.centroids_KD) for each in means], **facts_of_rows(embeddings.scores))
    count = options.count(embeddings.scores.rows, per_part=_ROWS_PER_PART, least=_LEAST)
    todo = output.parts_to_do(whole.place, made, options=options, count=count)
    return [replace(whole, part=part, made=made) for part in todo]


def assign_part(task: Task, advance: Callable[[int], None]) -> None:
    """Assign the rows of one part, and write them."""
    embeddings, means = Embeddings.open(task.emb, task.column), [Prototypes.open(each) for each in task.prototypes]
    scores, has_tokens = embeddings.scores, TOKENS in embeddings.scores.columns
    columns = [Column(name=CLUSTER, dtype="<i4"), Column(name=DISTANCE, dtype="<f4")]
    names = [task.column, "flags"]
    if has_tokens:
        columns.append(scores.columns[TOKENS])
        names.append(TOKENS)
    writer = ScoresWriter(
        task.place, domain=scores.domain, table=scores.table, columns=columns, made=task.made, part=task.part,
        overwrite=task.overwrite,
    )  # fmt: skip
    with writer:
        for begin, block in scores.blocks(*names, size=_BLOCK, begin=writer.begin, end=writer.end):
            flags = block["flags"]
            unscored = (flags & SCORED) == 0
            vectors = block[task.column]
            if unscored.any():  # any unit vector will do: what is found for these rows is stored as 0
                vectors = vectors.copy()
                vectors[unscored] = np.eye(1, vectors.shape[1])
            found = [assign_vectors(vectors, each.centroids_KD, begin=begin, device=task.device) for each in means]
            cluster = found[0][0]
            distance = np.mean([each for _, each in found], axis=0, dtype=np.float64).astype(np.float32)
            values = {CLUSTER: cluster, DISTANCE: distance}
            if has_tokens:
                values[TOKENS] = block[TOKENS]
            writer.write(begin, values, flags=flags)
            advance(len(flags))


def assign_table(found: Sequence[dict[str, Any]]) -> Any:
    """Return the table of an assignment for people."""
    rows = [
        (
            each["domain"],
            each["rows"],
            each.get("scored", "-"),
            each["k"],
            " / ".join(f"{value:.3f}" for value in each["quantiles"]) if each.get("quantiles") else "-",
            each.get("state", "done"),
            each["path"],
        )
        for each in found
    ]
    return table(("domain", "rows", "scored", "prototypes", "distance 10/50/90 %", "state", "written to"), rows)


def _described(scores: Scores) -> dict[str, Any]:
    distance = scores.column(DISTANCE)[scores.scored]
    quantiles = np.quantile(distance, [0.1, 0.5, 0.9]).tolist() if len(distance) else []
    alone = int(np.count_nonzero(np.bincount(scores.column(CLUSTER)[scores.scored]) == 1))
    return {"id": scores.id, "scored": len(distance), "alone": alone, "quantiles": quantiles, "state": "done"}
