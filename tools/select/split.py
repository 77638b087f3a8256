"""`mixstream select split`: the values or quantiles of a column as buckets, which a stream mixes as domains."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.selection import divide, provenance
from mixstream.selection import split as split_scores

from ..shared.artefacts import is_alone, lineage, open_scores, within_of
from ..shared.console import Console, table
from ..shared.numbers import MaybePositive
from ..shared.options import Json
from ..shared.outputs import Output


def split(
    scores: Annotated[str, Parameter(name="SCORES")],
    /,
    *,
    column: str,
    buckets: MaybePositive = None,
    within: str | None = None,
    output: Output,
    as_json: Json = False,
) -> int:
    """Split domains by a column, so that a mixer can weigh each bucket.

    mixstream select split scores/edu --column score --buckets 20 --out sel/q20
    mixstream select split scores/km --column cluster --out sel/clusters

    An integer column (a cluster, a label, a language) gives one bucket for
    each value. With --buckets N, the rows are cut into N quantiles of equally
    many rows, lowest scores first. Rows without a score are in no bucket.

    A stream reads each bucket as a domain of its own, without new shards:
    Stream(remote=..., name="web", split_by="sel/q20")

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        scores: scores of one domain, or a directory above several.
        column: the column.
        buckets: number of quantiles.
        within: only rows that this selection keeps.
        as_json: print one JSON document, not tables.
    """
    console, all_scores = Console(as_json=as_json), open_scores(scores)
    places = output.places(all_scores, alone=is_alone(scores, all_scores))
    inside = within_of(scores, within)
    only = {name: inside(name) for name in all_scores}
    documents: dict[str, dict[str, Any]] = {}
    for domain, some in all_scores.items():  # before any domain is written, since one that fails would leave the others
        bucket_N, names = divide(some, column, buckets=buckets, within=only[domain])
        sizes = dict(zip(names, np.bincount(bucket_N[bucket_N >= 0], minlength=len(names)).tolist()))
        documents[domain] = {"domain": domain, "rows": some.rows, "buckets": sizes, "path": None, "id": None}
    for domain, some in {} if output.dry_run else all_scores.items():
        parents = {"scores": some.id, **({"within": each.id} if (each := only[domain]) else {})}
        made = provenance({"column": column, "buckets": buckets, "parents": parents}, **lineage(some))
        written = split_scores(
            some,
            column,
            buckets=buckets,
            within=only[domain],
            out=places[domain],
            made=made,
            overwrite=output.overwrite,
        )
        documents[domain] |= {"path": written.path, "id": written.id}
    lines = [[name, bucket, rows] for name, each in documents.items() for bucket, rows in each["buckets"].items()]
    shown = [table(["domain", "bucket", "rows"], lines), *(["dry run: nothing was written"] if output.dry_run else [])]
    console.result({"status": output.status, "domains": list(documents.values())}, *shown)
    return 0
