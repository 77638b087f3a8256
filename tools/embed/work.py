"""One part of a domain: its rows become texts, the texts vectors, and these the columns of scores.

This is what a worker runs. It needs only its task, so any executor can run it, and again after a kill: nothing is
visible before the part is complete. Memory is that of a block of rows, the model, and one mapped shard; for Parquet
files of vectors it is that of the part's vectors.

Shape suffixes: N rows of a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import ShardEntry
from mixstream.selection import (
    FAILED,
    SCORED,
    Column,
    DomainRows,
    RowBlock,
    ScoresWriter,
    Selection,
    TextColumn,
    Wanted,
)
from mixstream.selection.embedders import Embedder, EmbedderSpec, ExistingVectors, unit_rows

from ..shared.console import Advance
from ..shared.executors import WORKER
from ..shared.options import Reading
from ..shared.token_texts import TokenizerFile, ToText

_BLOCK = 1024  # rows; blocks begin at shards, so they do not depend on the parts
_BLANK = 4096
RowsOf = Callable[[int], NDArray[np.integer]]
"""Shard -> rows of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counting:
    """How tokens of rows are counted.

    Attributes:
        by: `"rows"` (their own tokens), `"fixed"` (all rows have `fixed`), `"tokenizer"`, `"embedder"`, or `"nothing"`.
        fixed: tokens of each row.
        tokenizer: the one that counts.
    """

    by: str
    fixed: int = 0
    tokenizer: TokenizerFile | None = None


@dataclass(frozen=True, kw_only=True)
class EmbedTask:
    """One part of one domain, and everything that is needed to embed it; picklable.

    Attributes:
        domain: its name.
        url: of its dataset.
        out: directory of its artefact.
        part: (i, n).
        spec: the embedder.
        dimensions: of its vectors.
        dtype: of the column, `"f2"` or `"f4"`.
        column: the text; None if vectors exist and no row is read.
        tokenizer: turns token rows into text; None for rows of text.
        counting: of tokens.
        within: path of a selection: other rows are left out.
        reading: how its shards are read.
        made: provenance.
        overwrite: replace the part if it exists.
    """

    domain: str
    url: str
    out: str
    part: tuple[int, int]
    spec: EmbedderSpec
    dimensions: int
    dtype: str
    column: TextColumn | None
    tokenizer: TokenizerFile | None
    counting: Counting
    within: str | None
    reading: Reading
    made: Mapping[str, Any]
    overwrite: bool

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"part {self.part[0]}/{self.part[1]} of domain {self.domain!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDone:
    """What became of a part's rows."""

    domain: str
    part: tuple[int, int]
    embedded: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Values:
    """Values of the rows `ordinal_N`: vectors float32 [N, D], failed bool [N], tokens int64 [N] or None."""

    ordinal_N: NDArray[np.int64]
    vectors_ND: NDArray[np.float32]
    failed_N: NDArray[np.bool_]
    tokens_N: NDArray[np.int64] | None


def embed_part(task: EmbedTask, advance: Advance) -> PartDone:
    """Embed the rows of one part, and publish them. An error gets a note that names the part."""
    try:
        return _embed(task, task.reading.open(task.url, name=task.domain), advance)
    except BaseException as error:
        error.add_note(f"while embedding {task}")
        raise


def _embed(task: EmbedTask, rows: DomainRows, advance: Advance) -> PartDone:
    embedded = failed = 0
    columns = columns_of(task.dimensions, task.dtype, counted=task.counting.by != "nothing")
    with ScoresWriter(
        task.out, domain=task.domain, table=rows.table, columns=columns, made=task.made, part=task.part,
        overwrite=task.overwrite,
    ) as writer:  # fmt: skip
        written = writer.begin
        for values in _values(task, rows, writer):
            written = _write(writer, columns, values, written)
            embedded += int((~values.failed_N).sum())
            failed += int(values.failed_N.sum())
            advance(len(values.ordinal_N))
        _write_blank(writer, columns, written, writer.end)
        for shard, fingerprint in rows.fingerprints.items():
            writer.fingerprint(shard, fingerprint)
    return PartDone(domain=task.domain, part=task.part, embedded=embedded, failed=failed)


def columns_of(dimensions: int, dtype: str, *, counted: bool) -> list[Column]:
    """Return the columns of an artefact."""
    columns = [Column(name="embedding", dtype=f"<{dtype}", shape=(dimensions,))]
    return [*columns, Column(name="n_tokens", dtype="<u4")] if counted else columns


def rows_within(path: str, domain: str, entries: Sequence[ShardEntry]) -> RowsOf:
    """Return the function shard -> rows of it that a selection keeps, in any of its buckets.

    Raises:
        SelectionError: there is none for the domain, or a shard of the dataset is not the one that it was made for.
    """
    selection = Selection.open(path, domain=domain)
    match = selection.match(entries)
    strange = [number for number, listed in enumerate(match.of_S.tolist()) if listed < 0]
    if strange or match.missing:
        name = entries[strange[0]].raw.basename if strange else selection.table.shards[match.missing[0]].name
        raise SelectionError(
            f"--within {path}: shard {name!r} of domain {domain!r} is not the one that the selection was made for, or "
            "one of the two lacks it; make the selection again for this dataset"
        )

    def wanted(shard: int) -> NDArray[np.integer]:
        listed = int(match.of_S[shard])
        kept = [selection.rows_of(listed, bucket) for bucket in range(len(selection.buckets))]
        return kept[0] if len(kept) == 1 else np.sort(np.concatenate(kept))

    return wanted


def _values(task: EmbedTask, rows: DomainRows, writer: ScoresWriter) -> Iterator[_Values]:
    """Yield the values of all rows that are wanted, in order; every block lies in one shard."""
    first, end = writer.first_shard, writer.end_shard
    wanted = rows_within(task.within, task.domain, rows.domain.shards) if task.within else None
    vectors = task.spec.vectors(rows.table, task.domain)
    if vectors is None:
        assert task.column is not None, "texts are embedded, so there is a column of texts"
        embedder = _embedder(_on_device(task.spec))
        count = _counter(task.counting)
        text_of = task.tokenizer.load() if task.tokenizer is not None else None
        blocks = rows.blocks(first, end, column=task.column.name, size=_BLOCK, wanted=wanted)
        for block in blocks:
            yield _embedded(task, embedder, block, count, text_of)
        return
    yield from _existing(task, rows, vectors, wanted, writer)


def _embedded(
    task: EmbedTask,
    embedder: Embedder,
    block: RowBlock,
    count: Callable[[list[Any]], NDArray[np.int64]] | None,
    text_of: ToText | None,
) -> _Values:
    texts = [text_of(tokens) for tokens in block.values] if text_of is not None else block.values
    found = embedder.embed(texts)
    if found.unit_ND.shape[1] != task.dimensions:
        raise ConfigError(
            f"--model {task.spec.model} returns {found.unit_ND.shape[1]} dimensions, and said {task.dimensions}: it "
            "must always return as many"
        )
    tokens_N = count(block.values) if count is not None else found.tokens_N
    return _Values(
        ordinal_N=block.ordinal_N, vectors_ND=found.unit_ND, failed_N=found.failed_N, tokens_N=tokens_N
    )  # fmt: skip


def _existing(
    task: EmbedTask, rows: DomainRows, vectors: ExistingVectors, wanted: Wanted | None, writer: ScoresWriter
) -> Iterator[_Values]:
    """Yield the values of rows whose vectors exist; rows without one are left out, as unscored."""
    begin, end = writer.begin, writer.end
    shards = writer.first_shard, writer.end_shard
    count = _counter(task.counting)
    found, key = None, vectors.key
    if vectors.at_once:
        keys = [value for block in rows.blocks(*shards, column=key) for value in block.values] if key else None
        found = vectors.range(begin, end, keys)
    reads = task.column is not None and count is not None and task.counting.by != "fixed"
    blocks = (
        rows.blocks(*shards, column=task.column.name, size=_BLOCK, wanted=wanted)
        if reads and task.column is not None
        else _unread(rows, shards, wanted)
    )
    for block in blocks:
        ordinal_N, values = block.ordinal_N, block.values
        if found is not None:
            there = np.flatnonzero(found.there_N[ordinal_N - begin])
            raw_ND = found.vectors_ND[ordinal_N[there] - begin]
            ordinal_N, values = ordinal_N[there], [values[at] for at in there] if values else []
        else:
            first = int(ordinal_N[0])
            raw_ND = vectors.range(first, int(ordinal_N[-1]) + 1).vectors_ND[ordinal_N - first]
        unit_ND, failed_N = unit_rows(raw_ND)
        tokens_N = None if count is None else count(values if reads else [None] * len(ordinal_N))
        yield _Values(ordinal_N=ordinal_N, vectors_ND=unit_ND, failed_N=failed_N, tokens_N=tokens_N)


def _unread(rows: DomainRows, shards: tuple[int, int], wanted: Wanted | None) -> Iterator[RowBlock]:
    """Yield the ordinals of blocks without reading a shard."""
    for shard in range(*shards):
        some = wanted(shard) if wanted is not None else None
        if some is None:
            some = np.arange(rows.table.shards[shard].samples, dtype=np.int64)
        for at in range(0, len(some), _BLOCK):
            ordinal_N = some[at : at + _BLOCK].astype(np.int64) + rows.table.start_S[shard]
            yield RowBlock(shard=shard, ordinal_N=ordinal_N, values=[])


def _counter(counting: Counting) -> Callable[[list[Any]], NDArray[np.int64]] | None:
    """Return the function that counts the tokens of stored values; None if the embedder counts, or nothing does."""
    if counting.by == "rows":
        return lambda values: np.array([np.size(value) for value in values], dtype=np.int64)
    if counting.by == "fixed":
        return lambda values: np.full(len(values), counting.fixed, dtype=np.int64)
    if counting.by == "tokenizer":
        assert counting.tokenizer is not None
        return counting.tokenizer.load_counter()
    return None


def _write(writer: ScoresWriter, columns: list[Column], values: _Values, written: int) -> int:
    """Write the values, and rows that were left out since the ordinal `written`; returns the next ordinal."""
    flags_N = np.where(values.failed_N, FAILED, SCORED).astype(np.uint8)
    for run in np.split(np.arange(len(values.ordinal_N)), np.flatnonzero(np.diff(values.ordinal_N) != 1) + 1):
        if not run.size:
            continue
        begin = int(values.ordinal_N[run[0]])
        _write_blank(writer, columns, written, begin)
        block: dict[str, Any] = {"embedding": values.vectors_ND[run]}
        if len(columns) > 1:
            assert values.tokens_N is not None, "a column of tokens is only declared if they are counted"
            block["n_tokens"] = values.tokens_N[run]
        writer.write(begin, block, flags=flags_N[run])
        written = begin + len(run)
    return written


def _write_blank(writer: ScoresWriter, columns: list[Column], begin: int, end: int) -> None:
    """Write rows that have no values: left out, and flagged so."""
    for at in range(begin, end, _BLANK):
        count = min(_BLANK, end - at)
        blank = {column.name: np.zeros((count, *column.shape), dtype=column.dtype) for column in columns}
        writer.write(at, blank, flags=np.zeros(count, dtype=np.uint8))


def _on_device(spec: EmbedderSpec) -> EmbedderSpec:
    """Return the spec with this worker's own GPU, if it may run on any. On Ray, a task sees only its own."""
    if spec.kind != "encoder" or spec.device != "cuda":
        return spec
    import torch

    return replace(spec, device=f"cuda:{int(os.environ.get(WORKER, '0')) % max(torch.cuda.device_count(), 1)}")


@lru_cache(maxsize=1)
def _embedder(spec: EmbedderSpec) -> Embedder:
    """Load a model once per process."""
    return spec.load()
