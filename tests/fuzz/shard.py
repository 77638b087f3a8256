"""Shards of MDS datasets, damaged; one whose hash is checked gives its rows or none."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
from _stores import batches, compared, made, write_mds  # pyright: ignore[reportMissingImports]

import mixstream as ms

KINDS = {
    "": partial(write_mds),
    "xxh3_64": partial(write_mds, hashes=["xxh3_64"]),
    "sha1": partial(write_mds, compression="zstd", hashes=["sha1"]),
}
ROWS = {np.arange(number, number + 8, dtype=np.int64).tobytes() for number in range(40)}


def case(seed: int, place: Path) -> str:
    """Read a dataset whose shards were damaged, in place or through a cache."""
    rng = random.Random(seed)
    digest = rng.choice(list(KINDS))
    files = made(KINDS[digest])
    cached, checked = rng.random() < 0.5, digest and rng.random() < 0.5
    options = {"validate_hash": digest} if checked else {}
    options |= {"on_bad_sample": "quarantine"} if rng.random() < 0.3 else {}

    def read(root: Path) -> list[bytes]:
        root.mkdir(exist_ok=True)
        (root / "index.json").write_bytes(files["index.json"])
        where = {"remote": str(root), "local": f"{root}-cache", "download_retry": 1} if cached else {"local": str(root)}
        return batches([ms.Stream(name="web", **where)], **options)

    shards = {name: data for name, data in files.items() if name != "index.json"}
    word, same, rows = compared(rng, shards, read, place)
    # What arrives in a cache is compared with the hash that the index has; what lies on disk, where it is asked for.
    if digest and (cached or checked) and not same:
        assert "on_bad_sample" in options, f"{word}, and other rows"
        assert set(rows) <= ROWS, f"{word}, with a row that was never written"
        return "set aside"
    return word if same else "other rows"
