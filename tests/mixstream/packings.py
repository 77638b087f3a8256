"""Documents of tokens that can be told apart, and packings of them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import mixstream as ms
from mixstream.packing import Packing, PackingSettings, document_source, merge_packing, write_part
from mixstream.selection import DomainRows, Selection, provenance

PAD = 4_000_000_000
"""No token of these documents."""


def numbered(lengths: Iterable[int], first: int = 0) -> list[np.ndarray]:
    """Return documents of these lengths, whose tokens are first, first + 1, … through all of them."""
    found, at = [], first
    for length in lengths:
        found.append(np.arange(at, at + length, dtype=np.uint32))
        at += length
    return found


def write_documents(out: Path, documents: Sequence[np.ndarray], *, shard_bytes: int = 700, **columns: str) -> Path:
    """Write a dataset of documents; `columns` are further ones, whose values are the tokens modulo 2."""
    kinds = {"tokens": "ndarray:uint32", **columns}
    with ms.MDSWriter(columns=kinds, out=str(out), size_limit=shard_bytes) as writer:
        for document in documents:
            others = {name: (document % 2).astype(kind.partition(":")[2]) for name, kind in columns.items()}
            writer.write({"tokens": document, **others})
    return out


def write_rows(out: Path, tokens: np.ndarray, length: int, *, shard_bytes: int = 300, eos: int | None = None) -> Path:
    """Write tokens as stored rows of one length; what fills none is left out."""
    kinds = {"tokens": f"ndarray:uint32:{length}"}
    about = {"mixstream": {"tokenizer": {"name": "numbers", "hash": "0", "eos": eos}}} if eos is not None else {}
    with ms.MDSWriter(columns=kinds, out=str(out), size_limit=shard_bytes) as writer:
        for row in tokens[: len(tokens) // length * length].reshape(-1, length):
            writer.write({"tokens": row.astype(np.uint32)})
    if about:
        index = out / "index.json"
        index.write_bytes(msgspec.json.encode(msgspec.json.decode(index.read_bytes()) | about))
    return out


def pack(
    out: Path,
    place: Path,
    *,
    seq_len: int = 32,
    algorithm: Any = "best-fit",
    selection: Path | None = None,
    parts: int = 1,
    domain: str = "web",
    eos_id: int | None = None,
    columns: Sequence[str] | None = None,
    **settings: Any,
) -> Packing:
    """Pack the dataset at `place`, as `mixstream pack` does."""
    rows = DomainRows.open(str(place), name=domain)
    chosen = None if selection is None else Selection.open(selection)
    kept = None if chosen is None else chosen.view(rows.domain.shards)
    source = document_source(rows.domain, kept=kept, eos_id=eos_id, columns=columns, joins=algorithm == "concat")
    made = PackingSettings(
        seq_len=seq_len,
        algorithm=algorithm,
        documents=source.kind,
        eos_id=source.eos_id,
        columns=source.columns,
        selection=None if chosen is None else chosen.id,
        **({} if algorithm == "concat" else {"pad_id": PAD}) | settings,
    )
    how = provenance(msgspec.to_builtins(made))
    for part in range(parts):
        write_part(out, source, table=rows.table, settings=made, made=how, part=(part, parts))
    return merge_packing(out, table=rows.table, parts=parts, made=how)


def batches(*streams: ms.Stream, **options: Any) -> list[Any]:
    """Return the batches of an epoch."""
    given = {"batch_size": 4, "shuffle": False, "drop_last": False, **options}
    with ms.Loader(ms.StreamingDataset(streams=list(streams), **given)) as loader:
        return list(loader)


def rows_of(packing: Path | str, place: Path, **stream: Any) -> list[list[int]]:
    """Return the tokens of all packed rows of a dataset, in order, without padding."""
    dataset = ms.StreamingDataset(streams=[ms.Stream(remote=str(place), packing=packing, **stream)], batch_size=1)
    with ms.Loader(dataset) as loader:
        return [[token for token in batch["tokens"][0].tolist() if token != PAD] for batch in loader]
