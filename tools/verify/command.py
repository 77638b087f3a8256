"""`mixstream verify`: its options, its help, and the flow of the command. It only writes its result."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import accumulate
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from mixstream.documents import DIRECTORY, Documents
from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    MixstreamError,
    ShardCorruptError,
    StoreNotFoundError,
    UnfinishedError,
)
from mixstream.formats import ShardInfo, is_hash, is_mds_encoding_safe, ndarray_dtype
from mixstream.storage import INDEX, Retry, is_local
from mixstream.units import parse_bytes

from ..shared.console import Console
from ..shared.datasets import Dataset, find_datasets
from ..shared.numbers import Count, MaybeCount, MaybePositive, Overlap, Seconds, Workers
from ..shared.options import Text, token_options
from ..shared.parallel import in_parallel
from ..shared.safe_text import printable
from ..shared.shards import memory_of, require_codecs, stored, stored_bytes
from .documents import TOKENS, check_documents, ends_of, open_documents
from .shard import TODO, UNCHECKED, Depth, Fault, Finding, Look, check_shard
from .show import Report, describe, show
from .token_files import check_borders

_Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)]
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_GIVE_UP = 16
"""After so many shards in a row that a store does not return, the remaining shards of the dataset are not requested."""


def verify(
    *urls: Annotated[str, Parameter(name="URL")],
    shard: _Many = (),
    samples: MaybeCount = None,
    quick: _Flag = False,
    workers: Workers = 8,
    memory: str = "1gb",
    allow_unsafe_types: _Flag = False,
    seq_len: MaybePositive = None,
    overlap: Overlap = 0,
    dtype: Text = None,
    token_column: Text = None,
    download_retry: Count = 2,
    download_timeout: Seconds = 60.0,
    as_json: _Json = False,
) -> int:
    """Check every shard: that it exists, is complete and matches its index.

    mixstream verify shards/
    mixstream verify s3://bucket/web/train gs://bucket/code/train
    mixstream verify s3://bucket/shards --quick
    mixstream verify /data/web --shard 17 part-00003/shard.00001.mds

    URL is a value of a Stream's `remote`: a path, file://, s3://, gs://, az://,
    http(s)://, or what fsspec supports. It names one dataset, or a directory
    above several, as `mixstream convert` writes them.

    CHECKS. The index; and of each shard its size, every hash in the index (of
    the compressed and of the raw file), the size after decompression, the
    offsets, and that every sample decodes. Of the documents that convert keeps:
    their files, their counts, and that they fill the rows and end where the
    tokens say so. Pickled columns are not decoded,
    because unpickling can run code; --allow-unsafe-types permits it. Shards are
    read from the store and not kept; --quick reads none.

    TOKEN FILES (.idx and .bin of Megatron, .ds, .npy) have no hashes: headers and
    sizes are checked, and all borders of documents. --seq-len says in which rows
    they are read; without it their documents are.

    FAULTS do not stop the check. They are listed at the end with a remedy, also
    in --json, with the files to rebuild. Files that the store did not return
    are listed apart, because they were not checked. What is unfinished (a
    conversion, or shards without an index) is a fault. Files that no index
    names are only noted.

    Exit status: 0 no faults, 1 faults, 2 wrong use.

    Args:
        urls: datasets, or directories above datasets.
        shard: check only these shards, by number (from 0, in each dataset) or by file name.
        samples: samples to decode of each shard, evenly spread; default: all. 0 checks sizes, hashes and offsets.
        quick: check only that every shard exists and has its size.
        workers: number of shards to check in parallel.
        memory: memory for the shards that are checked in parallel; a shard that needs more is checked alone.
        allow_unsafe_types: unpickle pickled columns; only for data whose origin you trust.
        seq_len: read token files as rows of this many tokens; default: as documents.
        overlap: 1 if each row begins with the last token of the one before.
        dtype: of the tokens of files that do not say it, such as uint16.
        token_column: of Parquet and Arrow files, the column of token ids; default: input_ids, else tokens.
        download_retry: attempts of each request.
        download_timeout: timeout of a request in seconds.
        as_json: print one JSON document, not tables.
    """
    if samples is not None and (samples < 0 or quick):
        raise ConfigError(f"--samples {samples}: give 0 or more, and not together with --quick, which decodes none")
    if workers < 1 or (room := parse_bytes(memory)) < 1:
        raise ConfigError(f"--workers {workers} --memory {memory}: give 1 or more")
    depth = Depth(sizes_only=quick, samples=samples, allow_unsafe_types=allow_unsafe_types)
    retry = Retry(attempts=download_retry, timeout=download_timeout)
    console, start = Console(as_json=as_json), time.monotonic()
    options = token_options(seq_len, overlap, dtype, token_column)
    datasets, search_notes = find_datasets(urls, retry, list_files=not shard, options=options)
    for dataset in datasets if not quick else ():
        require_codecs(dataset.shards)
    work = _Work(datasets, shard, retry, depth)
    try:
        work.run(console, workers=workers, room=room)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(printable(work.so_far()))
        raise
    report = Report(
        datasets=datasets,
        findings=work.findings,
        faults=work.faults,
        notes=[*search_notes, *_notes(datasets, depth)],
        quick=quick,
        seconds=time.monotonic() - start,
    )
    for note in report.notes:
        console.note(f"note: {printable(note)}")
    document = describe(report)
    console.result(document, *show(report, document))
    return 1 if work.faults else 0


class Task(NamedTuple):
    """A shard to check: its dataset, its position in the index, its entry there, the rows before it."""

    dataset: Dataset
    number: int
    info: ShardInfo
    first_row: int


class _Work:
    """The shards to check, and the findings so far."""

    def __init__(self, datasets: Sequence[Dataset], chosen: Sequence[str], retry: Retry, depth: Depth) -> None:
        self._retry, self._depth = retry, depth
        self.tasks = list(_tasks(datasets, chosen))
        self.findings: dict[str, list[Finding]] = {dataset.name: [] for dataset in datasets}
        self._order = {dataset.name: at for at, dataset in enumerate(datasets)}
        self._faults = [(d.name, -1.0, _of_index(d.trouble)) for d in datasets if d.trouble is not None]
        self._in_a_row: Counter[str] = Counter()
        self._documents: dict[str, Documents] = {}
        for dataset in () if chosen else datasets:
            documents, fault = open_documents(dataset, retry)
            if documents is not None:
                self._documents[dataset.name] = documents
            if fault is not None:
                self._faults.append((dataset.name, -1.0, fault))
        self._datasets = () if chosen else datasets
        for dataset in datasets:
            if dataset.tokens is not None:
                self._faults += [(dataset.name, -1.0, fault) for fault in check_borders(dataset.tokens)]

    @property
    def faults(self) -> list[tuple[str, Fault]]:
        """Name of the dataset and fault, in the order of the indexes."""
        ordered = sorted(self._faults, key=lambda fault: (self._order[fault[0]], fault[1]))
        return [(name, fault) for name, _, fault in ordered]

    def run(self, console: Console, *, workers: int, room: int) -> None:
        """Check all shards, and show the progress."""
        label = "sizes" if self._depth.sizes_only else "verify"
        total = sum(stored_bytes(task.info) for task in self.tasks)
        cost = (lambda _: 0) if self._depth.sizes_only else (lambda task: memory_of(task.info))
        unasked: Counter[str] = Counter()
        for dataset in self._datasets:
            documents = self._documents.get(dataset.name)
            if documents is not None and (fault := check_documents(dataset, documents, self._depth)) is not None:
                self._faults.append((dataset.name, -1.0, fault))
                del self._documents[dataset.name]  # what its shards are compared with
        with (
            console.progress(label, total=total) as advance,
            closing(in_parallel(self._check, self.tasks, workers=workers, cost=cost, room=room)) as checked,
        ):
            for task, finding in checked:
                advance(stored_bytes(task.info))
                name = task.dataset.name
                if finding is None:
                    unasked[name] += 1
                    continue
                self.findings[name].append(finding)
                unreached = finding.fault is not None and finding.fault.kind in UNCHECKED
                self._in_a_row[name] = self._in_a_row[name] + 1 if unreached else 0
                if finding.fault is not None:
                    self._faults.append((name, task.number, finding.fault))
        for name, count in unasked.items():
            what = f"{count:,} more shards were not asked for, after {_GIVE_UP} in a row that the store did not return"
            fault = Fault(kind="unreachable", file="…", what=what, todo=TODO["unreachable"])
            self._faults.append((name, math.inf, fault))

    def so_far(self) -> str:
        """Return the result so far, for an interrupted run."""
        bad = [f"{name}: {fault.file}" for name, fault in self.faults]
        done = sum(map(len, self.findings.values()))
        counts = f"{done:,} of {len(self.tasks):,} shards were checked, with {len(bad)} faults"
        return f"{counts}: {', '.join(bad[:5])}{', …' * (len(bad) > 5)}" if bad else counts

    def _check(self, task: Task) -> Finding | None:
        dataset = task.dataset
        if self._in_a_row[dataset.name] >= _GIVE_UP:
            return None
        try:
            look = self._look(task)
        except (MixstreamError, OSError, IndexError) as error:
            return Finding(fault=Fault.of_store(DIRECTORY, error))
        return check_shard(
            dataset.store,
            task.info,
            retry=self._retry,
            depth=self._depth,
            files=dataset.files,
            local=is_local(dataset.store.url),
            look=look,
        )

    def _look(self, task: Task) -> Look | None:
        """What is checked of the documents in the samples of a shard."""
        documents, made_with = self._documents.get(task.dataset.name), task.dataset.about.get("tokenizer")
        eos = made_with.get("eos") if isinstance(made_with, dict) else None
        has_tokens = ndarray_dtype(task.info.columns.get(TOKENS, "")) is not None
        if documents is None or not isinstance(eos, int) or not has_tokens or not self._depth.decodes:
            return None
        return ends_of(documents, task.first_row, task.info.samples, eos)


def _tasks(datasets: Sequence[Dataset], chosen: Sequence[str]) -> Iterator[Task]:
    """Yield the shards to check: all, or those that were chosen.

    Raises:
        ConfigError: a chosen shard is in none of the datasets.
    """
    left = set(chosen)
    for dataset in datasets:
        rows = [0, *accumulate(info.samples for info in dataset.shards)]
        for number, info in enumerate(dataset.shards):
            names = {str(number), info.raw.basename, stored(info).basename}
            if not chosen or names & set(chosen):
                left -= names
                yield Task(dataset=dataset, number=number, info=info, first_row=rows[number])
    if left and any(dataset.index is not None for dataset in datasets):
        most = max(len(dataset.shards) for dataset in datasets)
        raise ConfigError(
            f"--shard {min(left)}: no dataset has such a shard: give a number below {most}, or a basename from "
            "index.json"
        )


def _of_index(error: Exception) -> Fault:
    if isinstance(error, UnfinishedError):
        return Fault.of("unfinished", ".", error)
    if isinstance(error, IndexCorruptError):
        return Fault.of("index", INDEX, error)
    if isinstance(error, ShardCorruptError | IndexNotFoundError):
        return Fault.of("damaged", ".", error)
    if isinstance(error, StoreNotFoundError):  # domains.json names it, or its directory was listed before
        what = "it is not there, but domains.json or the store's listing names it"
        return Fault(kind="missing", file=INDEX, what=what, todo=TODO["index"])
    return Fault.of_store(INDEX, error)


def _notes(datasets: Sequence[Dataset], depth: Depth) -> Iterator[str]:
    """Yield remarks that are not faults."""
    indexes = [dataset.index for dataset in datasets if dataset.index is not None]
    shards = [info for index in indexes for info in index.shards]
    carried = {*(name for index in indexes for name in index.hashes), *(n for info in shards for n in info.raw.hashes)}
    if unknown := sorted(name for name in carried if not is_hash(name)):
        yield f"hashes of the kinds {', '.join(unknown)} are unknown to this version, and were not checked"
    if any(dataset.tokens is not None for dataset in datasets):
        yield "token files have no hashes: their headers, sizes and borders of documents were checked, not each token"
    pickled = not depth.allow_unsafe_types and not depth.sizes_only and depth.samples != 0
    if pickled and any(not is_mds_encoding_safe(code) for info in shards for code in info.column_encodings):
        yield "pickled columns were not decoded, because unpickling can run code (--allow-unsafe-types permits it)"
