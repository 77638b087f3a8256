"""`mixstream convert`: its options, its help, and what it prints. The work is in job.py."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.storage import check_writable, is_local, local_path, open_store, redact

from ..shared.console import Console, show_bytes, show_seconds, table
from ..shared.executors import default_workers
from .job import run_conversion
from .listing import Choice
from .readers import READERS, Fields
from .recipe import Recipe
from .remote import Remote, default_work
from .separators import unescape
from .tokenizer import SpecialTokens, describe_tokenizer

if TYPE_CHECKING:
    _Format = str  # pyright cannot evaluate the table
else:
    _Format = Literal[("auto", *READERS)]
_Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=", ".join)]
_Patterns = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_SHOWN = 6
_Separator = Annotated[str | None, Parameter(allow_leading_hyphen=True)]  # --- is a common one
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


def convert(
    *sources: Annotated[str, Parameter(name="SRC")],
    out: str,
    tokenizer: str = "bytes",
    seq_len: int = 2048,
    text_key: str = "text",
    domain_key: str | None = None,
    format: _Format = "auto",  # noqa: A002  # the option's name
    include: _Patterns = (),
    exclude: _Patterns = (),
    as_text: _Patterns = (),
    document_separator: _Separator = None,
    eos: str | None = None,
    bos: str = "none",
    special_tokens: SpecialTokens = "text",
    val_fraction: float = 0.0,
    seed: int = 0,
    on_bad_document: Literal["raise", "skip"] = "raise",
    compression: str = "none",
    hashes: _Many = ("xxh3_64",),
    size_limit: str = "64mb",
    workers: int | None = None,
    overwrite: _Flag = False,
    remove: _Patterns = (),
    work: Path | None = None,
    keep_work: _Flag = False,
    as_json: _Json = False,
) -> int:
    """Turn text and JSON into tokenised shards, one dataset for each domain.

    mixstream convert corpus/ --out shards/
    mixstream convert web=crawl/ code=src/ --out shards/ --val-fraction 0.01
    mixstream convert pile/*.zst --out shards/ --domain-key meta.pile_set_name \\
        --tokenizer llama/tokenizer.json --seq-len 4096 --workers 16

    Read one with Stream(remote="shards/web", split="train").

    SOURCES. A text file in UTF-8 is one document, or with --document-separator
    several. Of JSON, each line is one document (.jsonl, .ndjson), or each object
    of an array or of a file (.json); blank lines and comments after # or // are
    skipped. All may be .gz, .zst, .bz2 or .xz. What a file holds decides, then
    its suffix. HTML, CSV, notebooks, WARC, Parquet, archives and other known
    formats are refused before anything is converted, with a way in; --as-text
    '*.html' takes the source of such files as text. Directories are walked
    recursively. Hidden files, marks and checksums of other programs, pictures
    and programs, a README beside JSON, and links below a directory are skipped
    and counted. PATH may be a pattern: 'crawl/**/*.jsonl'.

    DOMAINS. Each SRC is a domain, named after its last path component (for a
    file: without suffixes), or NAME in NAME=PATH. Several SRC may have one NAME:
    web=a*.jsonl web=b/. A single directory that holds only directories gives one
    domain for each. With --domain-key, a field of each document names the
    domain; the directory of C# is C~23.

    TOKENS. Each document is followed by the end-of-document token. --bos TOKEN
    also puts a token before it; the default is none, whatever the tokenizer does
    by itself. Special tokens that a text spells out, such as <|endoftext|>, stay
    text and never become the token: --special-tokens parse makes them tokens,
    error refuses documents that have one. What tokenizer.json adds without
    "special": true, such as <think> in some, is always a token. Long documents
    are encoded in parts, with the tokens of the whole.

    LIMITS. A line or an object of JSON, and a document between separators, has
    at most 256 MiB. A document that cannot be read (not UTF-8, a NUL byte, no
    JSON, a missing field) is bad as a whole: see --on-bad-document. The name of
    a domain has at most 1000 characters.

    ROWS. Documents are joined end to end, each followed by the end-of-document
    token, and cut every --seq-len tokens. The last, incomplete row of each
    domain and split is dropped and counted. The order is that of the files; the
    loader shuffles.

    OUTPUT. DIR/DOMAIN/train, with --val-fraction also DIR/DOMAIN/val, and
    DIR/domains.json with all counts. The bytes do not depend on --workers.

    STORES. With --out s3://BUCKET/CORPUS (gs://, az://, or another URL that
    fsspec supports) the shards are first written to a local directory, --work,
    which needs space for all of them. Then the shards are uploaded in parallel,
    then each index, and domains.json last. The default of --work is a directory
    below ~/.cache (or $XDG_CACHE_HOME), the same for the same --out. Its shards
    are removed after the upload, unless --keep-work is given; the files that a
    restart needs stay. AWS credentials are found as boto3 finds them.

    RESTARTS. After an interruption or a kill, the same command resumes. If the
    output is complete, nothing is done. An object that the store has in its
    full size is not uploaded again. Until all is done, other commands say
    "unfinished".

    FURTHER DOMAINS. A command with other sources and the same options adds
    their domains to --out. A domain that is there, of other options or changed
    sources, is refused; --overwrite rebuilds it. Domains that no SRC names
    stay; --remove DOMAIN removes one.

    Args:
        sources: files, directories, patterns, or NAME=PATH.
        out: directory or URL for the datasets: new, empty, or one to resume.
        tokenizer: `bytes` (ids 0-255, and 256 after each document), or the path of a tokenizer.json.
        seq_len: tokens in a row.
        text_key: JSON field with the text; dots reach into objects.
        domain_key: JSON field with the domain, as in meta.pile_set_name.
        format: read every file as this format, whatever its suffix.
        include: in directories, only files that match (`*.py`, `docs/*`); may be repeated.
        exclude: no files that match; may be repeated.
        as_text: files that match are text, whatever they hold (`*.html`); may be repeated.
        document_separator: what stands between the documents of a text file, as <|endoftext|> or \\n\\n.
        eos: token or id that ends a document, if it cannot be determined from tokenizer.json.
        bos: token or id that begins a document.
        special_tokens: what special tokens spelled out in a document are: plain text, the tokens (parse), or an error.
        val_fraction: share of the documents in the split val, chosen by content.
        seed: seed of the choice of these documents.
        on_bad_document: if a document cannot be read (LIMITS): fail, or skip, count and report.
        compression: none, zstd, zstd:7, gz, br, …; each shard is compressed as a whole.
        hashes: hashes of every shard in the index; may be repeated, `none` for none.
        size_limit: maximum size of a shard.
        workers: number of processes; default: one for each core.
        overwrite: replace domains that SRC names and that other options or sources made; all others stay.
        remove: a domain to remove from --out; may be repeated, with or without SRC.
        work: with --out URL: local directory for the work; default: one below ~/.cache for each --out.
        keep_work: with --out URL: keep the shards in --work after the upload.
        as_json: print one JSON document, not a table.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more.")
    if workers == 1:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # this process is the worker; its tokenizer is not loaded yet
    console = Console(as_json=as_json)
    described = describe_tokenizer(tokenizer, eos, bos=None if bos == "none" else bos, special_tokens=special_tokens)
    recipe = Recipe(
        tokenizer=described,
        seq_len=seq_len,
        fields=Fields(
            text=text_key,
            domain=domain_key,
            separator=None if document_separator is None else unescape(document_separator),
            forbidden=described.words if special_tokens == "error" else (),
        ),
        val_fraction=val_fraction,
        seed=seed,
        on_bad_document=on_bad_document,
        compression=None if compression == "none" else compression,
        hashes=tuple(sorted({name for name in hashes if name != "none"})),
        size_limit=size_limit,
    )
    if described.puts_first is not None and described.bos is None:
        console.note(
            f"documents begin without {described.puts_first}, which {tokenizer} puts before a text; "
            f"--bos '{described.puts_first}' puts it before each document"
        )
    if described.unmarked:
        shown = ", ".join(described.unmarked[:_SHOWN]) + (" and more" if len(described.unmarked) > _SHOWN else "")
        console.note(
            f"{tokenizer} does not mark {shown} as special: where a text spells one out, it becomes that token, "
            "whatever --special-tokens says"
        )
    start = time.monotonic()
    directory, remote = _place(out, work, keep_work=keep_work, console=console)
    summary = run_conversion(
        sources,
        out=directory,
        recipe=recipe,
        choice=Choice(include=include, exclude=exclude, format=format, as_text=as_text),
        workers=default_workers() if workers is None else workers,
        overwrite=overwrite,
        remove=remove,
        remote=remote,
        console=console,
    )
    seconds = time.monotonic() - start
    _report(console, summary, redact(out), seconds)
    return 1 if summary["faults"] else 0


def _place(out: str, work: Path | None, *, keep_work: bool, console: Console) -> tuple[Path, Remote | None]:
    """The work directory, and the store to upload to, if there is one."""
    if not out.strip():
        raise ConfigError("--out is empty: give a directory, or a URL.")
    if is_local(out):
        if work is not None or keep_work:
            option = "--keep-work" if work is None else "--work"
            raise ConfigError(f"{option} is for --out URL; the local --out {out} is its own work directory.")
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
        work = [(kind, size) for kind in ("converted", "uploaded") if (size := summary[f"{kind}_bytes"])]
        rate = f" ({show_bytes(work[0][1] / max(seconds, 1e-9))}/s)" if work else ""
        amounts = ", ".join(f"{kind} {show_bytes(size)}" for kind, size in work) or "converted"
        closing = f"{out}: {amounts} in {show_seconds(seconds)}{rate}"
    document = {**summary, "out": out, "seconds": round(seconds, 3)}
    console.result(document, _table(summary["domains"]), closing)


def _table(domains: dict[str, dict[str, dict[str, int]]]) -> Any:
    counts = ("documents", "rows", "tokens", "shards", "dropped_tokens")
    rows: list[Sequence[object]] = [
        (domain, split, *(entry[count] for count in counts))
        for domain, splits in domains.items()
        for split, entry in splits.items()
    ]
    if len(rows) > 1:
        rows.append(("total", "", *(sum(row[at + 2] for row in rows) for at in range(len(counts)))))  # pyright: ignore
    return table(("domain", "split", "documents", "rows", "tokens", "shards", "dropped tokens"), rows)
