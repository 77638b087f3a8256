"""`mixstream merge`: its options, its help, and what it prints. The work is in job.py."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.storage import Retry, check_writable, is_local, redact, refuse_conversion

from ..shared.console import Console, show_bytes, show_seconds, table
from ..shared.numbers import Count, Seconds, Workers
from ..shared.options import Flag, Json
from .job import MergeJob
from .plan import plan_merge


def merge(
    *urls: Annotated[str, Parameter(name="URL")],
    out: str,
    same_domain: Literal["refuse", "join"] = "refuse",
    without_documents: Flag = False,
    workers: Workers = 8,
    overwrite: Flag = False,
    download_retry: Count = 2,
    download_timeout: Seconds = 60.0,
    as_json: Json = False,
) -> int:
    """Join datasets, or whole outputs of `mixstream convert`, into one. No shard changes.

    mixstream merge machine0/ machine1/ --out corpus/
    mixstream merge s3://corpora/2024 s3://corpora/2025 --out s3://corpora/all --same-domain join
    mixstream merge web/a web/b web/c --out web
    mixstream merge old/web/train new/web/train --out all/web/train

    URLS are all of one kind. Datasets become one dataset at OUT, whose rows stand
    in the order of the URLs. Directories above several (DOMAIN/SPLIT) become one
    such directory, with one domains.json; a domain and split that several have
    is refused, since its documents may be the same, or joined with --same-domain
    join. Any MDS is taken, and JSON, CSV, TSV and XSV shards too.

    SHARDS of datasets in sub-directories of OUT stay where they are, and only an
    index is written (`mixstream.merge_index` does the same). All others are
    copied, each checked by a hash of its index.

    REFUSED are other columns, another tokenizer, other --seq-len, rows of
    documents beside packed rows, and what is unfinished. To make dtypes equal,
    see `mixstream reshard --dtype`.

    DOCUMENTS. The sidecars are joined too, with rows and documents renumbered. If
    some have one and some have not, --without-documents leaves all of them out.
    Data cards and the copy of the tokenizer go along; a dataset that is joined of
    several has no card.

    RESTARTS. After a kill, the same command copies what is missing. Indexes are
    written when all shards are there, domains.json last.

    Exit status: 0, 1 failed, 2 wrong use.

    Args:
        urls: datasets, or directories above datasets; in order.
        out: directory or URL: new, empty, one to resume, or the directory above the datasets.
        same_domain: what to do with a domain that several directories have.
        without_documents: write no sidecar of documents.
        workers: number of files that are copied at once.
        overwrite: replace what is at OUT.
        download_retry: attempts of each request.
        download_timeout: timeout of a request in seconds.
        as_json: print one JSON document, not a table.
    """
    if not urls:
        raise ConfigError("no URL is given: name datasets, or directories above datasets.")
    if workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more.")
    if not out.strip():
        raise ConfigError("--out is empty: give a directory, or a URL.")
    if not is_local(out):
        check_writable(out)
    try:
        refuse_conversion(out)
    except OutputExistsError as error:
        raise ConfigError(f"--out {error}") from None
    console, start = Console(as_json=as_json), time.monotonic()
    retry = Retry(attempts=download_retry, timeout=download_timeout)
    joined, notes = plan_merge(urls, retry, join=same_domain == "join")
    for note in notes:
        console.note(note)
    told = MergeJob(
        joined=joined,
        out=out,
        retry=retry,
        drop_documents=without_documents,
        overwrite=overwrite,
        workers=workers,
        console=console,
    ).run()
    _report(console, told, redact(out), time.monotonic() - start)
    return 0


def _report(console: Console, told: dict[str, Any] | None, out: str, seconds: float) -> None:
    document: dict[str, Any] = {"status": "ok", "out": out, "seconds": round(seconds, 3)}
    if told is None:
        console.result({**document, "status": "nothing to do"}, f"nothing to do: {out} has all of it already")
        return
    keys = ("members", "rows", "shards")
    rows = [(each["name"] or "(the dataset)", *(each[key] for key in keys)) for each in told["datasets"]]
    view = table(("dataset", "joined of", *keys[1:]), rows)
    copied = f"copied {show_bytes(told['copied_bytes'])}" if told["copied_bytes"] else "no shard was copied"
    console.result({**document, **told}, view, f"{out}: {copied}, in {show_seconds(seconds)}")
