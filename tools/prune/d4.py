"""`mixstream prune d4`: near-duplicates go first, then k-means again, then the most typical rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.selection import provenance, write_selection
from mixstream.selection.prototypes import KMeans, prune_d4

from ..shared.artefacts import facts_of_rows
from ..shared.console import Console, table
from ..shared.numbers import Count, Seed, Share
from ..shared.options import Json, device_of
from ..shared.outputs import Output
from .inputs import Embeddings, find_embeddings, parse_k, settings_of, tokens_of
from .iterations import FitOptions, Iterations
from .options import Device, KMeansEngine, Names, Steps, Variant


def d4(
    *,
    emb: str,
    r: Share,
    r_dedup: Share = 0.75,
    variant: Variant = "official",
    k: str = "sqrt",
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
    """Remove near-duplicates, then the most typical rows (D4), as a selection.

    mixstream prune d4 --emb emb/ --r-dedup 0.75 --r 0.5 --out sel/d4

    Four steps: k-means; SemDeDup to the share --r-dedup; k-means again, on what
    is left; and the rows nearest to the new prototypes are dropped until the
    share --r of all rows is left. The second k-means is the point: duplicates
    form tight clusters, which otherwise own prototypes and make what is near
    them look typical.

    COST is that of `fit` and `assign` twice and of `dedup` once. The iterations
    of k-means run on all cores, or with --engine ray on a cluster; the rest
    runs in this process, with all its threads. Memory: 60 bytes a row and a
    sample of 256 k vectors. To spread all of it, give the steps one by one:
    fit; assign; dedup --variant official --keep-frac R-DEDUP; fit --within;
    assign; keep --within --side hard --fraction R/R-DEDUP.

    Args:
        emb: embeddings, as `mixstream embed` writes them.
        r: the share of all rows to keep in the end, at most --r-dedup.
        r_dedup: the share that the removal of duplicates leaves, as nearly as ties permit.
        variant: of the removal of duplicates; see `mixstream prune dedup --help`.
        k: prototypes of a domain: `sqrt` (the root of its rows, from 64 to 65,536) or a number.
        sample: rows to fit on, for each prototype.
        niter: iterations of k-means.
        seed: of k-means.
        engine_kmeans: `torch`, or `faiss` (pip install faiss-cpu).
        column: the column of the embeddings, if there are several.
        device: where to compute; `auto` takes a GPU if there is one.
        domain: domains to look at; default: all in EMB.
        where: see `FitOptions`.
        as_json: print one JSON document, not a table.
    """
    settings = KMeans(
        k=parse_k(k), sample=sample, iterations=niter, seed=seed, engine=engine_kmeans, device=device_of(device)
    )
    if not 0 < r <= r_dedup <= 1:
        raise ConfigError(f"--r {r:g} and --r-dedup {r_dedup:g}: give 0 < r <= r-dedup <= 1, such as 0.5 and 0.75")
    console, where = Console(as_json=as_json), where or FitOptions()
    where.require_torch(settings)
    opened = {name: Embeddings.open(place, column) for name, place in find_embeddings(emb, domain).items()}
    rule = {"method": "D4", "r": r, "r_dedup": r_dedup, "variant": variant}
    records = [
        _prune(
            name,
            embeddings,
            settings,
            rule,
            console,
            where=where,
            place=output.place(name),
            output=output,
        )
        for name, embeddings in opened.items()
    ]
    console.result({"status": output.status, "selections": records}, _table(records))


def _prune(
    name: str,
    embeddings: Embeddings,
    settings: KMeans,
    rule: dict[str, Any],
    console: Console,
    *,
    where: FitOptions,
    place: Path,
    output: Output,
) -> dict[str, Any]:
    scores = embeddings.scores
    parents = {"embeddings": scores.id}
    made = provenance(
        {"parents": parents, "column": embeddings.column, "rule": rule, "kmeans": settings_of(settings)},
        **facts_of_rows(scores),
    )
    rows_E = np.flatnonzero(scores.scored)
    record: dict[str, Any] = {
        "domain": name, "rows": {"before": len(rows_E)}, "unscored": scores.rows - len(rows_E), "path": str(place)
    }  # fmt: skip
    done = output.is_done(place, "selection", made)
    if output.dry_run or done:
        return {**record, "state": "was there" if done else "to do"}
    # k-means twice, each one pass over the rows beside its iterations, and one comparison
    steps = Steps(rows=len(rows_E))
    with (
        console.progress(f"d4 {name}", total=2 * (settings.iterations + 1) + 1, unit="steps") as advance,
        Iterations(where, device=settings.device, place=place) as step,
    ):

        def note(stage: str, count: int, _: int) -> None:
            advance(count if stage == "fit" else steps.of(count))

        result = prune_d4(
            embeddings.vectors_ND, r=rule["r"], r_dedup=rule["r_dedup"], kmeans=settings, variant=rule["variant"],
            rows_E=rows_E, note=note, step=step,
        )  # fmt: skip
    written = write_selection(
        place, domain=name, table=scores.table, kept=result.kept_E, rule={**rule, "eps": 1 - result.threshold},
        parents=parents, made=made, tokens=tokens_of(scores), overwrite=output.overwrite,
    )  # fmt: skip
    rows = {"before": len(rows_E), "without_duplicates": len(result.survivors_S), "after": written.kept}
    return {**record, "rows": rows, "eps": 1 - result.threshold, "id": written.id, "state": "done"}


def _table(records: Sequence[dict[str, Any]]) -> Any:
    rows = [
        (
            each["domain"],
            each["rows"]["before"],
            each["rows"].get("without_duplicates", "-"),
            each["rows"].get("after", "-"),
            f"{each['eps']:.4g}" if "eps" in each else "-",
            each["unscored"],
            each["state"],
            each["path"],
        )
        for each in records
    ]
    heads = ("domain", "rows before", "without duplicates", "rows after", "eps", "without score", "state", "written to")
    return table(heads, rows)
