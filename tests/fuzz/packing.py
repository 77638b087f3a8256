"""Packings, damaged: they are refused, or they are what they were."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
from _stores import batches, compared, documents, made  # pyright: ignore[reportMissingImports]
from packings import pack, write_documents  # pyright: ignore[reportMissingImports]
from token_files import write_files  # pyright: ignore[reportMissingImports]

import mixstream as ms


def write(place: Path, algorithm: str) -> None:
    """Write documents, and a packing of them."""
    write_documents(place / "data", [np.array(one, dtype=np.uint32) for one in documents() if one])
    pack(place / "packed", place / "data", algorithm=algorithm)


KINDS = [partial(write, algorithm=name) for name in ("best-fit", "first-fit", "concat")]


def case(seed: int, place: Path) -> str:
    """Read documents through a damaged packing, at times with what is known of the documents."""
    rng = random.Random(seed)
    files = made(rng.choice(KINDS))
    data = {name: content for name, content in files.items() if name.startswith("data/")}
    view = {name: content for name, content in files.items() if not name.startswith("data/")}
    marked = rng.random() < 0.3

    def read(root: Path) -> list[bytes]:
        write_files(root, data)
        return batches([ms.Stream(name="web", remote=f"{root}/data", packing=f"{root}/packed")], marked=marked)

    word, same, _ = compared(rng, view, read, place)
    assert same, f"{word}, and other rows"
    return word
