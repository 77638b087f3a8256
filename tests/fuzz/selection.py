"""Selections and scores, damaged: they are refused, or they are what they were."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from _stores import batches, compared, made, write_mds  # pyright: ignore[reportMissingImports]
from selections import buckets, keep, score  # pyright: ignore[reportMissingImports]
from token_files import write_files  # pyright: ignore[reportMissingImports]

import mixstream as ms


def write_kept(place: Path) -> None:
    """Write a selection beside its shards."""
    write_mds(place / "data")
    keep(place / "kept", place / "data", np.arange(40) % 3 > 0)


def write_split(place: Path) -> None:
    """Write two buckets beside their shards."""
    write_mds(place / "data")
    buckets(place / "kept", place / "data", np.arange(40) % 2, ["even", "odd"])


def write_scores(place: Path) -> None:
    """Write scores beside their shards."""
    write_mds(place / "data")
    score(place / "kept", place / "data", quality=np.linspace(0, 1, 40))


def case(seed: int, place: Path) -> str:
    """Read a dataset through a damaged selection, or in buckets of damaged scores."""
    rng = random.Random(seed)
    write = rng.choice([write_kept, write_split, write_scores])
    files = made(write)
    data = {name: content for name, content in files.items() if name.startswith("data/")}
    view = {name: content for name, content in files.items() if not name.startswith("data/")}

    def read(root: Path) -> list[bytes]:
        write_files(root, data)
        how = {"selection": f"{root}/kept"}
        if write is write_split:
            how = {"split_by": f"{root}/kept"}
        elif write is write_scores:
            how = {"split_by": f"{root}/kept/quality:2"}
        return batches([ms.Stream(name="web", remote=f"{root}/data", **how)])

    word, same, _ = compared(rng, view, read, place)
    assert same, f"{word}, and other rows"
    return word
