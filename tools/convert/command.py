"""`mixstream convert`: its options, its help, and what it prints. The work is in job.py."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.storage import check_writable, is_local, local_path, open_store, redact

from ..console import Console, show_bytes, show_seconds, table  # noqa: TID252  # pyright cannot follow the name that it is installed under
from .job import default_workers, run_conversion
from .readers import Fields
from .recipe import Recipe
from .remote import Remote, default_work
from .sources import Choice
from .tokenizer import describe_tokenizer

_Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=", ".join)]
_Patterns = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def convert(
    *sources: Annotated[str, Parameter(name="SRC")],
    out: str,
    tokenizer: str = "bytes",
    seq_len: int = 2048,
    text_key: str = "text",
    domain_key: str | None = None,
    format: Literal["auto", "text", "jsonl"] = "auto",  # noqa: A002  # the option's name
    include: _Patterns = (),
    exclude: _Patterns = (),
    eos: str | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    on_bad_document: Literal["raise", "skip"] = "raise",
    compression: str = "none",
    hashes: _Many = ("xxh3_64",),
    size_limit: str = "64mb",
    workers: int | None = None,
    overwrite: _Flag = False,
    work: Path | None = None,
    keep_work: _Flag = False,
    as_json: _Json = False,
) -> int:
    """Turn text and JSONL into tokenised shards, one dataset for each domain.

    mixstream convert corpus/ --out shards/
    mixstream convert web=crawl/ code=src/ --out shards/ --val-fraction 0.01
    mixstream convert pile/*.zst --out shards/ --domain-key meta.pile_set_name \\
        --tokenizer llama/tokenizer.json --seq-len 4096 --workers 16

    Read one with Stream(remote="shards/web", split="train").

    SOURCES. A text file is one document; a line of .jsonl, .json or .ndjson is
    one document. Both may be .gz or .zst. Directories are walked to the bottom;
    hidden files and what is not text are passed over and counted.

    DOMAINS. Each SRC is a domain called after its last path component (a file:
    without suffixes), or NAME in NAME=PATH. One directory alone that holds only
    directories makes a domain of each. With --domain-key every line says its
    own.

    ROWS. Documents are laid end to end, each followed by the end-of-document
    token, and cut every --seq-len tokens. The last, incomplete row of each
    domain and split is dropped and counted. The order is that of the files;
    shuffling is the loader's work.

    OUTPUT. DIR/DOMAIN/train, with --val-fraction also DIR/DOMAIN/val, and
    DIR/domains.json with all counts. Not a byte of it depends on --workers.

    STORES. With --out s3://BUCKET/CORPUS (gs://, az://, or a URL that fsspec
    knows) the work is done in a local directory, --work, which needs room for
    all shards. Then the shards are uploaded, side by side; then each index;
    domains.json last. By default --work is a directory below ~/.cache (or
    $XDG_CACHE_HOME) that is the same whenever --out is. The shards in it are
    removed when all of them are uploaded, unless --keep-work; what a restart
    needs stays. AWS credentials are found as boto3 does.

    RESTARTS. Interrupted or killed, the same command goes on where it was. With
    other options or changed sources it refuses; --overwrite then makes anew the
    domains that changed. When all is done there is nothing to do. What is
    uploaded already, and has its size at the store, is not uploaded again.

    Args:
        sources: files, directories, or NAME=PATH.
        out: directory or URL for the datasets: new, empty, or one to go on with.
        tokenizer: `bytes` (ids 0-255 and 256 behind each document), or a path to a tokenizer.json.
        seq_len: tokens in a row.
        text_key: JSON field with the text; dots reach into objects.
        domain_key: JSON field with the domain, as in meta.pile_set_name.
        format: read every file as this, whatever its suffix.
        include: in directories, only files that match (`*.py`, `docs/*`); may be repeated.
        exclude: in directories, no files that match; may be repeated.
        eos: token or id that ends a document, where tokenizer.json does not show it.
        val_fraction: share of the documents set aside as split val, chosen by content.
        seed: which documents these are.
        on_bad_document: what cannot be read (UTF-8, JSON, a missing field): fail, or skip, count and report.
        compression: none, zstd, zstd:7, gz, br, …; each shard is compressed as a whole.
        hashes: of every shard, into the index; may be repeated, `none` for none.
        size_limit: largest size of a shard.
        workers: processes; default: one for each core.
        overwrite: replace what other options or sources made here.
        work: with --out URL: local directory for the work; default: one below ~/.cache for each --out.
        keep_work: with --out URL: keep the shards in --work too.
        as_json: print one JSON document, not a table.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more.")
    if workers == 1:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # this process is ours, and the tokenizer was not told yet
    console = Console(as_json=as_json)
    recipe = Recipe(
        tokenizer=describe_tokenizer(tokenizer, eos),
        seq_len=seq_len,
        fields=Fields(text=text_key, domain=domain_key),
        val_fraction=val_fraction,
        seed=seed,
        on_bad_document=on_bad_document,
        compression=None if compression == "none" else compression,
        hashes=tuple(sorted({name for name in hashes if name != "none"})),
        size_limit=size_limit,
    )
    start = time.monotonic()
    directory, remote = _place(out, work, keep_work=keep_work, console=console)
    summary = run_conversion(
        sources,
        out=directory,
        recipe=recipe,
        choice=Choice(include=include, exclude=exclude, format=format),
        workers=default_workers() if workers is None else workers,
        overwrite=overwrite,
        remote=remote,
        console=console,
    )
    seconds = time.monotonic() - start
    _report(console, summary, redact(out), seconds)
    return 1 if summary["faults"] else 0


def _place(out: str, work: Path | None, *, keep_work: bool, console: Console) -> tuple[Path, Remote | None]:
    """The directory to work in, and the store to upload to, if there is one."""
    if is_local(out):
        if work is not None or keep_work:
            option = "--keep-work" if work is None else "--work"
            raise ConfigError(f"{option} is for --out URL; --out {out} is a directory, where the work is done as well.")
        return local_path(out), None
    check_writable(out)
    directory = default_work(out) if work is None else work
    console.note(f"work directory: {directory} (choose with --work)" if work is None else f"work directory: {work}")
    return directory, Remote(store=open_store(out), keep_work=keep_work)


def _report(console: Console, summary: dict[str, Any], out: str, seconds: float) -> None:
    skipped = summary["skipped"]
    if skipped["documents"]:
        console.note(f"skipped {skipped['documents']:,} documents that cannot be read; the first of them:")
        for example in skipped["examples"]:
            console.note(f"  {example}")
    for warning in summary["warnings"]:
        console.note(f"warning: {warning}")
    for fault in summary["faults"]:
        console.note(f"fault: {fault}")
    if summary["status"] == "nothing to do":
        closing = f"nothing to do: {out} has all of it already"
    else:
        did = [(kind, size) for kind in ("converted", "uploaded") if (size := summary[f"{kind}_bytes"])]
        rate = f"{show_bytes(did[0][1] / max(seconds, 1e-9))}/s" if did else ""
        told = ", ".join(f"{kind} {show_bytes(size)}" for kind, size in did) or "converted"
        closing = f"{out}: {told} in {show_seconds(seconds)}{f' ({rate})' if rate else ''}"
    document = {**summary, "out": out, "seconds": round(seconds, 3)}
    console.result(document, _table(summary["domains"]), closing)


def _table(domains: dict[str, dict[str, dict[str, int]]]) -> Any:
    counts = ("documents", "rows", "tokens", "shards", "dropped_tokens")
    rows: list[Sequence[object]] = [
        (domain, split, *(told[count] for count in counts))
        for domain, splits in domains.items()
        for split, told in splits.items()
    ]
    if len(rows) > 1:
        rows.append(("total", "", *(sum(row[at + 2] for row in rows) for at in range(len(counts)))))  # pyright: ignore
    return table(("domain", "split", "documents", "rows", "tokens", "shards", "dropped tokens"), rows)
