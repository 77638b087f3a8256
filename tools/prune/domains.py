"""`mixstream prune domains`: clusters as buckets, so that each becomes a domain that the mixer weighs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.selection import Selection, provenance, write_buckets
from mixstream.selection.prototypes import KMeans, assign_rows, fit_rows

from ..shared.artefacts import allowed_rows, facts_of_rows, within_of
from ..shared.console import Console, table
from ..shared.numbers import Count, Positive, Seed
from ..shared.options import Json, device_of
from ..shared.outputs import Output
from .inputs import CLUSTER, Embeddings, find_embeddings, settings_of, tokens_of
from .iterations import FitOptions, Iterations
from .options import Device, KMeansEngine, Names, Steps

_MOST = 10_000


def domains(
    *,
    emb: str,
    k: Positive,
    within: str | None = None,
    sample: Count = 256,
    niter: Count = 20,
    seed: Seed = 0,
    engine_kmeans: KMeansEngine = "torch",
    column: str | None = None,
    device: Device = "auto",
    domain: Names = (),
    output: Output,
    where: FitOptions | None = None,
    as_json: Json = False,
) -> None:
    """Split each domain into k clusters that can be mixed like domains.

    mixstream prune domains --emb emb/ --k 20 --out topics/

    In training:  ms.Stream(name="web", remote="shards/web", split_by="topics/")

    Nothing is rewritten: the result says for each row which cluster it is in.
    The stream then has a domain for each cluster, web/cluster=00 and so on,
    with weights, losses and epochs of its own, so that an adaptive mixer finds
    out which topics help. Take a few tens of clusters: each needs enough rows
    for its loss to be measured in a step.

    Rows without an embedding are in no cluster and are not read. What k-means
    costs and where it runs is told by `mixstream prune fit --help`.

    Args:
        emb: embeddings, as `mixstream embed` writes them.
        k: clusters of each domain.
        within: a selection; only rows that it keeps are split.
        sample: rows to fit on, for each cluster.
        niter: iterations of k-means.
        seed: of k-means.
        engine_kmeans: `torch`, or `faiss` (pip install faiss-cpu).
        column: the column of the embeddings, if there are several.
        device: where to compute; `auto` takes a GPU if there is one.
        domain: domains to look at; default: all in EMB.
        where: see `FitOptions`.
        as_json: print one JSON document, not a table.
    """
    if not 2 <= k <= _MOST:
        raise ConfigError(f"--k {k:,}: give 2 to {_MOST:,} clusters; a few tens are usual, since each becomes a domain")
    settings = KMeans(k=k, sample=sample, iterations=niter, seed=seed, engine=engine_kmeans, device=device_of(device))
    where = where or FitOptions()
    where.require_torch(settings)
    console, places = Console(as_json=as_json), find_embeddings(emb, domain)
    opened = {name: Embeddings.open(place, column) for name, place in places.items()}
    inside = within_of(emb, within)
    records = [
        _split(
            name,
            embeddings,
            settings,
            console,
            where=where,
            within=inside(name),
            place=output.place(name),
            output=output,
        )
        for name, embeddings in opened.items()
    ]
    console.result({"status": output.status, "domains": records}, _table(records))


def _split(
    name: str,
    embeddings: Embeddings,
    settings: KMeans,
    console: Console,
    *,
    where: FitOptions,
    within: Selection | None,
    place: Path,
    output: Output,
) -> dict[str, Any]:
    scores = embeddings.scores
    parents = {"embeddings": scores.id} | ({} if within is None else {"within": within.id})
    made = provenance(
        {"parents": parents, "column": embeddings.column, "kmeans": settings_of(settings)}, **facts_of_rows(scores)
    )
    rows_E = np.flatnonzero(allowed_rows(scores, within))
    record: dict[str, Any] = {
        "domain": name, "rows": len(rows_E), "left_out": scores.rows - len(rows_E), "k": settings.k, "path": str(place)
    }  # fmt: skip
    done = output.is_done(place, "selection", made)
    if output.dry_run or done:
        return {**record, "state": "was there" if done else "to do"}
    steps = Steps(rows=len(rows_E))
    with (
        console.progress(f"cluster {name}", total=settings.iterations + 1, unit="steps") as advance,
        Iterations(where, device=settings.device, place=place) as step,
    ):

        def note(stage: str, count: int, _: int) -> None:
            advance(count if stage == "fit" else steps.of(count))

        fitted = fit_rows(embeddings.vectors_ND, rows_E, settings, note=note, step=step)
        cluster_E, _ = assign_rows(
            embeddings.vectors_ND, rows_E, fitted.centroids_KD, device=settings.device, note=note
        )
    used, bucket_E = np.unique(cluster_E, return_inverse=True)  # a cluster may be empty, a domain may not
    bucket_N = np.full(scores.rows, -1, dtype=np.int32)
    bucket_N[rows_E] = bucket_E
    digits = len(str(len(fitted.centroids_KD) - 1))
    written = write_buckets(
        place, domain=name, table=scores.table, bucket=bucket_N,
        names=[f"{CLUSTER}={number:0{digits}}" for number in used.tolist()],
        rule={"method": "k-means", "k": settings.k}, parents=parents, made=made, tokens=tokens_of(scores),
        overwrite=output.overwrite,
    )  # fmt: skip
    sizes = dict(zip(written.buckets, written.kept_K.tolist()))
    return {**record, "sizes": sizes, "id": written.id, "state": "done"}


def _table(records: Sequence[dict[str, Any]]) -> Any:
    rows = []
    for each in records:
        sizes = sorted(each["sizes"].values()) if "sizes" in each else []
        spread = f"{sizes[0]:,} / {sizes[len(sizes) // 2]:,} / {sizes[-1]:,}" if sizes else "-"
        rows.append((each["domain"], each["rows"], each["left_out"], len(sizes) or each["k"], spread, each["path"]))
    heads = ("domain", "rows", "left out", "clusters", "smallest / median / largest", "written to")
    return table(heads, rows)
