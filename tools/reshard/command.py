"""`mixstream reshard`: its options, its help, and what it prints. The work is in job.py."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.storage import Retry, check_writable, is_local, local_path, place_of, redact, refuse_conversion

from ..shared.console import Console, show_bytes, show_seconds, table
from ..shared.datasets import find_datasets, refuse_unfinished
from ..shared.numbers import Count, MaybeSeed, Seconds
from ..shared.options import Flag, Json, Text
from ..shared.parts import PartOptions
from .dataset import Reshard
from .job import ReshardJob
from .records import COMMAND
from .target import Target, parse_size_limit

_Hashes = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]


def reshard(
    url: Annotated[str, Parameter(name="URL")],
    *,
    out: str,
    size_limit: str = "64mb",
    compression: str = "keep",
    hashes: _Hashes = (),
    dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None,
    column: str = "tokens",
    shuffle_seed: MaybeSeed = None,
    parts: PartOptions = PartOptions(),  # noqa: B008  # frozen
    work: Text = None,
    overwrite: Flag = False,
    download_retry: Count = 2,
    download_timeout: Seconds = 60.0,
    as_json: Json = False,
) -> int:
    """Write the rows of MDS datasets into other shards: size, compression, hashes, dtype, order.

    mixstream reshard shards/ --out big/ --size-limit 256mb --compression zstd
    mixstream reshard s3://corpora/v1 --out s3://corpora/v1-shuffled --shuffle-seed 7
    mixstream reshard shards/web/train --out wide/ --dtype uint32
    mixstream reshard s3://corpora/v1 --out s3://corpora/v2 --part 3/64

    URL is a dataset, or a directory above several (DOMAIN/SPLIT); each becomes
    OUT/DOMAIN/SPLIT. Any MDS is read, also that of mosaicml-streaming. Rows stay
    as they are, sample for sample; what the index says of the domain and of the
    tokenizer stays too, and so do the sidecar of documents, the data card and the
    copy of the tokenizer; lists of rejects stay where they are. Training does not
    need this: a loader shuffles, and reads shards of any size. It is for stores
    that are slow with many small objects, for other programs, and for tokens of
    a vocabulary that grew.

    ORDER. The old one; without --shuffle-seed, the new shards are the bytes that
    MDSWriter makes of the same rows. With it, rows are permuted: an order that
    depends on the seed and the number of rows alone, made in bounded memory by
    way of a work directory, which needs room for all rows (--work; by default
    beside a local OUT, else below ~/.cache).

    DTYPE. Of the arrays in --column. A value that does not fit is refused.

    CHECKS. Old shards are checked by a hash of their index. A damaged one is
    refused, since new hashes would hide the damage.

    RESTARTS. After a kill, the same command does what is missing. Indexes are
    written last, when all shards of all datasets are there, so until then every
    reader says "unfinished". For a job array run --part I/N for each I from 0 to
    N-1, then --parts N once, which does what is missing and writes the indexes;
    not with --shuffle-seed, which needs all rows before the first shard.

    SELECTIONS and scores are bound to the old shards: move them with
    `mixstream select rebase`.

    Exit status: 0, 1 failed, 2 wrong use.

    Args:
        url: a dataset, or a directory above datasets.
        out: directory or URL: new, empty, or one to resume.
        size_limit: largest size of a shard.
        compression: `keep`, or none, zstd, zstd:7, gz, br, …; each shard is compressed as a whole.
        hashes: hashes of every shard in the index; default: those of the old shards. May be repeated, `none` for none.
        dtype: of the tokens; default: that of the old shards.
        column: the column whose dtype changes.
        shuffle_seed: permute the rows by this seed; see ORDER.
        parts: how the work is split.
        work: with --shuffle-seed: directory for the rows on their way.
        overwrite: replace what is at OUT.
        download_retry: attempts of each request.
        download_timeout: timeout of a request in seconds.
        as_json: print one JSON document, not a table.
    """
    console, start = Console(as_json=as_json), time.monotonic()
    if shuffle_seed is not None and (parts.single is not None or parts.engine == "ray"):
        what = f"--part {parts.part}" if parts.single is not None else "--engine ray"
        raise ConfigError(
            f"--shuffle-seed {shuffle_seed} and {what}: every new shard needs rows of all old ones, which lie in the "
            "work directory of one machine. Use --workers."
        )
    if work is not None and shuffle_seed is None:
        raise ConfigError(f"--work {work} is for --shuffle-seed: without it, no row is kept on its way.")
    target = Target(
        size_limit=parse_size_limit(size_limit),
        compression=None if compression == "none" else compression,
        hashes=tuple(sorted({*hashes} - {"none"})) if hashes else None,
        dtype=dtype,
        column=column,
        seed=shuffle_seed,
    )
    retry = Retry(attempts=download_retry, timeout=download_timeout)
    _check_places(url, out)
    found, notes = find_datasets([url], retry, list_files=False)
    refuse_unfinished(found)
    for dataset in found:
        if dataset.trouble is not None:
            raise dataset.trouble
    for note in notes:
        console.note(note)
    alone = len(found) == 1 and found[0].name == place_of(url)
    job = ReshardJob(
        datasets=[Reshard(name="" if alone else each.name, dataset=each, target=target, retry=retry) for each in found],
        out=out,
        work=_work(out, work),
        options=parts,
        overwrite=overwrite,
        console=console,
    )
    told = job.run()
    if told is not None and parts.single is None:
        job.write_indexes(told["datasets"])
        job.finish()
    _report(console, told, parts, out=redact(out), seconds=time.monotonic() - start)
    return 0


def _check_places(url: str, out: str) -> None:
    """Refuse an output that is the source, or lies in it or around it."""
    if not out.strip():
        raise ConfigError("--out is empty: give a directory, or a URL.")
    if not is_local(out):
        check_writable(out)
    one, other = (str(local_path(each).resolve()) if is_local(each) else each.rstrip("/") for each in (url, out))
    if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
        raise ConfigError(f"--out {redact(out)} and {redact(url)} lie in each other. Choose another place.")
    try:
        refuse_conversion(out)
    except OutputExistsError as error:
        raise ConfigError(f"--out {error}") from None


def _work(out: str, work: str | None) -> Path:
    if work is not None:
        return Path(work)
    if is_local(out):
        return local_path(out) / f".{COMMAND}" / "work"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = redact(out).rstrip("/")
    label = re.sub(r"[^\w.-]+", "-", place.rpartition("/")[2])[:40]
    return root / "mixstream" / "reshard" / f"{label}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _report(console: Console, told: dict[str, Any] | None, options: PartOptions, *, out: str, seconds: float) -> None:
    document: dict[str, Any] = {"status": "ok", "out": out, "seconds": round(seconds, 3)}
    if told is None:
        console.result({**document, "status": "nothing to do"}, f"nothing to do: {out} has all of it already")
        return
    document["written_bytes"] = told["written_bytes"]
    if options.single is not None:
        console.result({**document, "part": options.part}, f"{show_bytes(told['written_bytes'])}; {options.hint()}")
        return
    document["datasets"] = [
        {
            "name": each["name"],
            "rows": each["rows"],
            "shards_before": each["shards"][0],
            "shards": each["shards"][1],
            "bytes_before": each["bytes"][0],
            "bytes": each["bytes"][1],
        }
        for each in told["datasets"]
    ]
    rows = [
        (each["name"] or "(the dataset)", *(each[key] for key in ("rows", "shards_before", "shards")),
         show_bytes(each["bytes_before"]), show_bytes(each["bytes"]))
        for each in document["datasets"]
    ]  # fmt: skip
    view = table(("dataset", "rows", "shards before", "shards now", "bytes before", "bytes now"), rows)
    console.result(document, view, f"{out}: written in {show_seconds(seconds)}")
