"""Datasets of shards as sources: to tokenise text columns again, or tokens whose text another tokenizer gives.

    a column of text    record {column: value}; its number is that of the sample in the dataset
    column `tokens`     record {"text": decoded, "id": …, "record": …, …} of each document (mds_tokens.py)

A dataset is one of tokens if it has the column `tokens` and none of text or JSON. Columns of bytes, arrays and pictures
are left out of records, and what is pickled is never unpickled.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mixstream.errors import ShardCorruptError
from mixstream.formats import ShardInfo, SplitInfo, decode_sample

from ...shared.shards import leaving_out
from ..files.source_files import OnBytes, Slice
from .mds_dataset import MdsDataset
from .mds_documents import TOKENS
from .mds_tokens import read_token_documents
from .reader import Columns, OnBad, Reader, Record, Records

_VALUES = re.compile(r"str|json|str_(int|float|decimal)|u?int(8|16|32|64)?|float(16|32|64)")
_TEXTS = frozenset({"str", "json"})


def read_mds(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the samples of a slice, or the documents of which it has the first token."""
    dataset = MdsDataset.open(source.file)
    first, end = dataset.samples_of(source)
    if _is_of_tokens(dataset):
        count = yield from read_token_documents(dataset, first, end, columns, on_bad)
    else:
        yield from _values(dataset, first, end, columns, on_bad)
        count = end - first
    on_bytes(source.stop - source.start)
    return count


def _values(dataset: MdsDataset, first: int, end: int, columns: Columns, on_bad: OnBad) -> Records:
    for number, start, low, high in dataset.parts(first, end):
        info = dataset.shards[number]
        wanted = [name for name, kind in info.columns.items() if _VALUES.fullmatch(kind)]
        names = {name for name in wanted if columns is None or name in columns}
        reduced = info if isinstance(info, SplitInfo) else _reduced(info, names)
        for row, data in dataset.rows(number, low, high, on_bad):
            where = f"{info.raw.basename}, sample {row}"
            try:
                value = decode_sample(data, reduced, where=where)
            except ShardCorruptError as error:
                on_bad(f"{dataset.file.path}: {error}", record=start + row)
                continue
            yield Record({name: _plain(value[name]) for name in value if name in names}, start + row)
    return end - first


def _reduced(info: ShardInfo, names: set[str]) -> ShardInfo:
    return leaving_out(info, lambda name, encoding: name in names)


def _plain(value: Any) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _is_of_tokens(dataset: MdsDataset) -> bool:
    kinds = {name: kind for shard in dataset.shards for name, kind in shard.columns.items()}
    return TOKENS in kinds and _TEXTS.isdisjoint(kinds.values())


def _place(source: Slice, record: Record) -> str:
    return f"sample {record.number}"


MDS = Reader(suffixes=frozenset(), records=read_mds, place=_place, divisible=True)
