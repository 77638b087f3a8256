"""`mixstream prune fit`: prototypes of each domain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.selection import Selection, provenance
from mixstream.selection.prototypes import KMeans, Prototypes, default_k, fit_rows, write_prototypes

from ..shared.artefacts import allowed_rows, within_of
from ..shared.console import Console, show_seconds, table
from ..shared.numbers import Count, Seed
from ..shared.options import Json, device_of
from ..shared.outputs import Output
from .inputs import Embeddings, find_embeddings, parse_k, settings_of
from .iterations import FitOptions, Iterations
from .options import Device, KMeansEngine, Names

_FEW = 8  # rows for each prototype, below which distances say little


def fit(
    *,
    emb: str,
    k: str = "sqrt",
    sample: Count = 256,
    niter: Count = 20,
    seed: Seed = 0,
    engine_kmeans: KMeansEngine = "torch",
    column: str | None = None,
    within: str | None = None,
    device: Device = "auto",
    domain: Names = (),
    output: Output,
    where: FitOptions | None = None,
    as_json: Json = False,
) -> None:
    """Find the prototypes of each domain: k-means over its embeddings.

    mixstream embed shards/ --out emb/
    mixstream prune fit --emb emb/ --out prototypes/
    mixstream prune assign --emb emb/ --prototypes prototypes/ --out scores/

    A prototype is the middle of a group of similar rows. The distance of a row
    to the nearest one says how typical it is: that is what `assign` writes and
    `keep` prunes by. Each domain gets prototypes of its own, because among
    those of all domains every row of a rare domain would look unusual.

    HOW MANY. --k sqrt takes at least 64, of which a domain of a few thousand
    rows gives some to single rows. Such a row is at distance 0 and counts as
    most typical although nothing is like it: --side hard drops it, and what it
    nearly repeats may be in another cluster. Take 30 rows or more for each.

    COST. k-means is fitted on a uniform sample, 256 rows for each prototype: a
    million rows of 384 dimensions and k = 1,000 take about two minutes on one
    core, and ten million about half an hour. Memory is that of the sample:
    256 k vectors.

    PARTS. Each iteration runs on all cores, or with --engine ray on a cluster,
    and the sample is written below OUT until the end, for the workers to map; a
    small one is fitted in this process. There is no --part I/N: an iteration
    needs the sums of all parts of the one before. A fit that is killed begins
    again; domains that are done stay done.

    The prototypes are the same to the last bit on every machine, for any number
    of workers, and on a GPU. --engine-kmeans faiss is often faster, but gives
    no such promise, and runs in this process; which one ran is written into the
    result.

    Args:
        emb: embeddings, as `mixstream embed` writes them.
        k: prototypes of a domain: `sqrt` (the root of its rows, from 64 to 65,536) or a number.
        sample: rows to fit on, for each prototype.
        niter: iterations.
        seed: of the sample and of the first prototypes.
        engine_kmeans: `torch`, or `faiss` (pip install faiss-cpu).
        column: the column of the embeddings, if there are several.
        within: a selection: fit on the rows that it keeps, such as those without duplicates.
        device: where to compute; `auto` takes a GPU if there is one.
        domain: domains to look at; default: all in EMB.
        where: see `FitOptions`.
        as_json: print one JSON document, not a table.
    """
    settings = KMeans(
        k=parse_k(k), sample=sample, iterations=niter, seed=seed, engine=engine_kmeans, device=device_of(device)
    )
    console, where = Console(as_json=as_json), where or FitOptions()
    where.require_torch(settings)
    found = fit_domains(emb, output, settings, console, where=where, column=column, within=within, domain=domain)
    console.result({"status": output.status, "domains": found}, fit_table(found))


def fit_domains(
    emb: str,
    output: Output,
    settings: KMeans,
    console: Console,
    *,
    where: FitOptions,
    column: str | None = None,
    within: str | None = None,
    domain: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Fit and write the prototypes of each domain; return what was done, a record for each."""
    places, inside = find_embeddings(emb, domain), within_of(emb, within)
    embeddings = {name: Embeddings.open(place, column) for name, place in places.items()}
    chosen = {name: inside(name) for name in places}
    return [
        _fit_one(
            name,
            embeddings[name],
            settings,
            console,
            where=where,
            place=output.place(name),
            within=chosen[name],
            output=output,
        )
        for name in places
    ]


def _fit_one(
    name: str,
    embeddings: Embeddings,
    settings: KMeans,
    console: Console,
    *,
    where: FitOptions,
    place: Path,
    within: Selection | None,
    output: Output,
) -> dict[str, Any]:
    inputs = {"embeddings": embeddings.scores.id, "column": embeddings.column, **settings_of(settings)}
    if within is not None:
        inputs["within"] = within.id
    made = provenance(inputs)
    rows_E = np.flatnonzero(allowed_rows(embeddings.scores, within))
    if not len(rows_E):
        raise ConfigError(f"domain {name!r}: no row has an embedding, so there is nothing to fit on")
    count = default_k(len(rows_E)) if settings.k is None else settings.k
    record = {
        "domain": name, "rows": len(rows_E), "k": count, "sample": min(len(rows_E), settings.sample * count),
        "dimensions": embeddings.dimensions, "engine": settings.engine, "path": str(place),
    }  # fmt: skip
    if output.is_done(place, "prototypes", made):
        known = Prototypes.open(place)
        return {
            **record,
            "id": known.id,
            "mean_cosine": known.made["mean_cosines"],
            "seconds": 0.0,
            "state": "was there",
        }
    if output.dry_run:
        return {**record, "state": "to do"}
    if len(rows_E) < _FEW * count:
        console.note(
            f"note: domain {name!r} has {len(rows_E):,} rows for {count:,} prototypes: a row that is nearly a "
            "prototype of its own says little about what is typical; a smaller --k, such as "
            f"{max(len(rows_E) // 32, 1)}, says more"
        )
    begin = time.monotonic()
    with (
        console.progress(f"fit {name}", total=settings.iterations, unit="iterations") as advance,
        Iterations(where, device=settings.device, place=place) as step,
    ):
        fitted = fit_rows(embeddings.vectors_ND, rows_E, settings, note=lambda _, count, __: advance(count), step=step)
    written = write_prototypes(
        place, domain=name, centroids_KD=fitted.centroids_KD, embedder=embeddings.embedder,
        made={**made, "mean_cosines": list(fitted.mean_cosines), "sample": record["sample"]},
        overwrite=output.overwrite,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    return {**record, "id": written.id, "mean_cosine": list(fitted.mean_cosines), "seconds": seconds, "state": "done"}


def fit_table(found: Sequence[dict[str, Any]]) -> Any:
    """Return the table of a fit for people."""
    rows = [
        (
            each["domain"],
            each["rows"],
            each["k"],
            each["sample"],
            each["engine"],
            f"{each['mean_cosine'][0]:.3f} → {each['mean_cosine'][-1]:.3f}" if each.get("mean_cosine") else "-",
            show_seconds(each["seconds"]) if "seconds" in each else each["state"],
            each["path"],
        )
        for each in found
    ]
    return table(("domain", "rows", "prototypes", "fitted on", "engine", "mean cosine", "time", "written to"), rows)
