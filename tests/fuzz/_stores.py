"""Datasets of all kinds that a stream reads, damaged, and read through the public face; no fuzzer.

A damaged file is refused by an error of ours, or it is read. Then batches are whole and the reader comes to an end.
Anything else is a finding.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _mutate import damaged, mutated, text_of  # pyright: ignore[reportMissingImports] - `_worker.py` sets the path
from column_files import saved_to_disk, token_lists, write_table  # pyright: ignore[reportMissingImports]
from token_files import write_files  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import MixstreamError

BATCHES = 40
Files = dict[str, bytes]


def files_below(place: Path) -> Files:
    """Return the files below a directory, by path."""
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@cache
def made(write: Callable[[Path], Any]) -> Files:
    """Return the files that `write` writes, once."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return files_below(Path(place))


def documents(seed: int = 0, count: int = 30) -> list[list[int]]:
    """Return documents of 0 to 40 tokens."""
    return token_lists(count, 40, seed=seed)


def write_mds(place: Path, **options: Any) -> None:
    """Write 40 rows in a few shards."""
    columns = {"tokens": "ndarray:uint16:8", "id": "int"}
    with ms.MDSWriter(out=str(place), columns=columns, size_limit=512, **options) as writer:
        for number in range(40):
            writer.write({"tokens": np.arange(number, number + 8, dtype=np.uint16), "id": number})


def write_parquet(place: Path, kind: str = "parquet") -> None:
    """Write lists of tokens in a file of columns."""
    write_table(place / "part", pa.table({"input_ids": documents()}), kind, rows=11)


def write_arrow(place: Path) -> None:
    """Write lists of tokens in a file of Arrow, compressed."""
    write_parquet(place, "file-lz4")


def write_saved(place: Path) -> None:
    """Write a folder of `save_to_disk`."""
    saved_to_disk(place / "saved", [pa.table({"input_ids": documents(seed)}) for seed in range(2)], rows=9)


def spoiled(rng: random.Random, files: Files) -> Files:
    """Return the files with one or two of them damaged, lost, emptied or exchanged; JSON as JSON most of the time."""
    files = dict(files)
    for name in rng.sample(sorted(files), rng.choice([1, 1, 1, min(2, len(files))])):
        action = rng.random()
        if action < 0.03:
            del files[name]
        elif action < 0.06:
            files[name] = b""
        elif action < 0.1:
            files[name] = files[rng.choice(sorted(files))]
        elif name.endswith(".json") and action < 0.8:
            with suppress(RecursionError):  # Python does not write what is nested so deeply
                files[name] = text_of(mutated(rng, json.loads(files[name]))[0])
        else:
            files[name] = damaged(rng, files[name])
    return files


def batches(streams: list[ms.Stream], *, marked: bool = False, **options: Any) -> list[bytes]:
    """Return the rows of a few batches; `marked` ones say where documents begin in them."""
    rows: list[bytes] = []
    dataset = ms.StreamingDataset(streams=streams, **{"batch_size": 4, "shuffle": False} | options)
    with ms.Loader(dataset, documents=marked, prefetch=0) as loader:
        for batch in loader:
            tokens = batch["tokens"]
            assert len(tokens) == 4
            rows += [row.numpy().tobytes() for row in tokens]
            if batch.step >= BATCHES:
                break
    return rows


def samples(streams: list[ms.Stream]) -> list[bytes]:
    """Return the first samples, by number."""
    dataset = ms.StreamingDataset(streams=streams, batch_size=1)
    return [np.asarray(dataset[i]["tokens"]).tobytes() for i in range(min(dataset.size, 60))]


def outcome(read: Callable[[], list[bytes]]) -> tuple[str, list[bytes]]:
    """Return what happened, and the rows."""
    try:
        return "read", read()
    except MixstreamError as error:
        return type(error).__name__, []


def compared(
    rng: random.Random, files: Files, read: Callable[[Path], list[bytes]], place: Path
) -> tuple[str, bool, list[bytes]]:
    """Read damaged files; return what happened, whether all rows are those of the whole files, and the rows."""
    write_files(place / "whole", files)
    write_files(place / "spoiled", spoiled(rng, files))
    word, rows = outcome(lambda: read(place / "spoiled"))
    return word, word != "read" or rows == read(place / "whole"), rows


with tempfile.TemporaryDirectory() as _place:  # what a process loads and compiles once belongs to no case
    write_mds(Path(_place))
    batches([ms.Stream(local=_place)])
    write_arrow(Path(_place))
