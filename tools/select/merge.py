"""`mixstream select merge`: the parts that the tasks of a job array wrote become one artefact."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mixstream.selection import Scores, find_artefacts, merge_scores

from ..shared.console import Console, table
from ..shared.options import Json
from ..shared.outputs import DryRun


def merge(path: Annotated[str, Parameter(name="DIR")], /, *, dry_run: DryRun = False, as_json: Json = False) -> int:
    """Merge the parts of scores or embeddings that several processes wrote.

    mixstream select merge emb/

    A command with --part I/N writes one of N parts and merges nothing. When all
    are there, this makes one artefact of them and removes them. A missing part
    is named, and nothing changes. What is merged already stays as it is.

    Exit status: 0, 1 if parts are missing or damaged, 2 wrong use.

    Args:
        path: the artefact, or a directory with one for each domain.
        dry_run: check that all parts are there and belong together, merge nothing.
        as_json: print one JSON document, not tables.
    """
    console = Console(as_json=as_json)
    places = [place for _, place in sorted(find_artefacts(path, "scores").items())]
    merged = [Scores.open(place) if dry_run else merge_scores(place) for place in places]
    documents = [
        {"domain": each.domain, "rows": each.rows, "columns": list(each.columns), "path": each.path, "id": each.id}
        for each in merged
    ]
    rows = [[each["domain"], each["rows"], ", ".join(each["columns"]), each["path"]] for each in documents]
    console.result(
        {"status": "dry run" if dry_run else "ok", "domains": documents},
        table(["domain", "rows", "columns", "scores"], rows),
    )
    return 0
