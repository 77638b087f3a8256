"""Token files of all kinds, damaged: their borders, headers and metadata decide what is a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _stores import (  # pyright: ignore[reportMissingImports]
    Files,
    batches,
    compared,
    documents,
    made,
    samples,
    write_arrow,
    write_parquet,
    write_saved,
)
from token_files import datatrove_files, llmc_file, megatron_pair, olmo_files  # pyright: ignore[reportMissingImports]

import mixstream as ms

KINDS: dict[str, tuple[Callable[[], Files], str, dict[str, Any]]] = {
    "megatron": (lambda: megatron_pair(documents()), "web.idx", {}),
    "datatrove": (lambda: datatrove_files(documents()), "", {}),
    "olmo": (lambda: olmo_files(documents()), "", {"dtype": "uint16"}),
    "llmc": (lambda: {"a.bin": llmc_file([token for one in documents() for token in one])}, "a.bin", {}),
    "parquet": (lambda: made(write_parquet), "", {}),
    "arrow": (lambda: made(write_arrow), "", {}),
    "saved": (lambda: made(write_saved), "saved", {}),
}
"""What writes each kind, the path that a stream is given, and the stream's options."""

SIZED = {"megatron", "llmc", "parquet", "arrow"}
"""Kinds whose header or index says how long the files are."""


def case(seed: int, place: Path) -> str:
    """Read token files of which some were damaged: as rows, as documents, or with what is known of documents."""
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    write, path, options = KINDS[kind]
    cached, how = rng.random() < 0.4, rng.choice(["rows", "documents", "marked"])
    overlap = rng.choice([0, 1])
    if kind == "llmc" and how == "documents":
        how = "rows"  # it does not store where documents end

    def read(root: Path) -> list[bytes]:
        local = {"local": f"{root}-cache", "download_retry": 1} if cached else {}
        stream = {"name": "web", "remote": str(root / path), **local, **options}
        if how == "documents":
            return samples([ms.Stream(**stream)])
        marked = how == "marked" and kind != "llmc"
        return batches([ms.Stream(**stream, seq_len=8, overlap=overlap)], marked=marked)

    files = write()
    word, same, _ = compared(rng, files, read, place)
    if same:
        return word
    lengths = {name: (place / "spoiled" / name).stat().st_size for name in files}
    assert kind not in SIZED or lengths == {name: len(data) for name, data in files.items()}, "files of other lengths"
    return "other rows"  # nothing has a hash of tokens
