"""Indexes of MDS datasets, damaged."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from _stores import batches, compared, made, write_mds  # pyright: ignore[reportMissingImports]

import mixstream as ms

KINDS = [
    partial(write_mds),
    partial(write_mds, hashes=["sha1", "xxh3_64"]),
    partial(write_mds, compression="zstd", hashes=["xxh64"]),
]


def case(seed: int, place: Path) -> str:
    """Read a dataset whose index was damaged, in place or through a cache."""
    rng = random.Random(seed)
    files = made(rng.choice(KINDS))
    cached, hashed = rng.random() < 0.5, rng.choice([{}, {"validate_hash": None}])

    def read(root: Path) -> list[bytes]:
        root.mkdir(exist_ok=True)
        for name, data in files.items():
            if name != "index.json":
                (root / name).write_bytes(data)
        where = {"remote": str(root), "local": f"{root}-cache", "download_retry": 1} if cached else {"local": str(root)}
        return batches([ms.Stream(name="web", **where)], **hashed)

    word, same, _ = compared(rng, {"index.json": files["index.json"]}, read, place)
    return word if same else "other rows"
