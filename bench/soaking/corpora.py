"""Writes what scenarios read, and what is made of it: selections, buckets, packings. All with the library itself."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import column_files  # pyright: ignore[reportMissingImports] - soak.py sets the path
import numpy as np
import packings  # pyright: ignore[reportMissingImports]
import pyarrow as pa
import selections  # pyright: ignore[reportMissingImports]
import token_files  # pyright: ignore[reportMissingImports]

import mixstream as ms

PART = 1 << 15
"""Bytes of a part of a token file."""


@dataclass(kw_only=True)
class Corpus:
    """The files of a scenario.

    Args:
        origin: directory of what is uploaded.
        made: directory of what stays on local disk.
        seed: of everything random.
    """

    origin: Path
    made: Path
    seed: int

    def __post_init__(self) -> None:
        self.dice, self.rng = random.Random(self.seed), np.random.default_rng(self.seed)
        self.origin.mkdir(parents=True, exist_ok=True)
        self.made.mkdir(parents=True, exist_ok=True)

    # --- datasets -------------------------------------------------------------------------------------------------

    def mds(
        self, name: str, rows: int, *, width: int = 256, words: int = 1 << 16, compression: str | None = None,
        shard: int = 1 << 16, number: bool = False,
    ) -> Path:  # fmt: skip
        """Write rows of random tokens; `number` adds a column that counts them."""
        columns = {"tokens": f"ndarray:uint16:{width}"} | ({"number": "int64"} if number else {})
        options: dict[str, Any] = {"compression": compression, "hashes": ["xxh3_64"], "size_limit": shard}
        with ms.MDSWriter(columns=columns, out=str(self.origin / name), **options) as writer:
            for i in range(rows):
                tokens = self.rng.integers(0, words, width).astype(np.uint16)
                writer.write({"tokens": tokens} | ({"number": i} if number else {}))
        return self.origin / name

    def three(self, **options: Any) -> list[dict[str, Any]]:
        """Write three domains of MDS, one of them compressed; return their streams."""
        scale = self.dice.uniform(0.6, 1.2)
        sizes = {"web": (int(5000 * scale), None), "code": (int(2500 * scale), "zstd"), "law": (int(900 * scale), None)}
        for name, (rows, compression) in sizes.items():
            self.mds(name, rows, compression=compression, **options)
        return [{"name": name, "remote": f"@{name}"} for name in sizes]

    def documents(self, count: int, *, words: int = 60_000, longest: int = 700) -> list[np.ndarray]:
        """Return documents of random lengths, some of them empty."""
        lengths = self.rng.integers(0, longest, count)
        return [self.rng.integers(1, words, int(n)).astype(np.uint16) for n in lengths]

    def pair(self, name: str, count: int) -> Path:
        """Write a pair of Megatron; return its .idx."""
        token_files.write_files(self.origin / name, token_files.megatron_pair(self.documents(count), name))
        return self.origin / name / f"{name}.idx"

    def datatrove(self, name: str, count: int) -> Path:
        """Write two files of datatrove."""
        for part in range(2):
            files = token_files.datatrove_files(self.documents(count // 2), f"{part:05}_{name}")
            token_files.write_files(self.origin / name, files)
        return self.origin / name

    def olmo(self, name: str, count: int) -> Path:
        """Write three files of dolma."""
        for part in range(3):
            token_files.write_files(
                self.origin / name, token_files.olmo_files(self.documents(count // 3), f"part-{part}")
            )
        return self.origin / name

    def parquet(self, name: str, count: int) -> Path:
        """Write two Parquet files of lists."""
        (self.origin / name).mkdir()
        for part in range(2):
            lists = [each.tolist() for each in self.documents(count // 2)]
            table = pa.table({"input_ids": pa.array(lists, pa.list_(pa.int32()))})
            column_files.write_table(self.origin / name / f"train-{part}", table, "parquet", rows=100)
        return self.origin / name

    def arrow(self, name: str, count: int) -> Path:
        """Write a folder as `save_to_disk` does."""
        tables = [
            pa.table(
                {"input_ids": pa.array([each.tolist() for each in self.documents(count // 2)], pa.list_(pa.int32()))}
            )
            for _ in range(2)
        ]
        return column_files.saved_to_disk(self.origin / name, tables, rows=100)

    # --- damage ---------------------------------------------------------------------------------------------------

    def damage(self, name: str, *, share: float) -> list[str]:
        """Damage some shards for good: a byte is changed, or the end is missing. Return their names."""
        place = self.origin / name
        index = json.loads((place / "index.json").read_text())
        found = [(shard["zip_data"] or shard["raw_data"])["basename"] for shard in index["shards"]]
        chosen = self.dice.sample(found, max(1, int(share * len(found))))
        for shard in chosen:
            data = bytearray((place / shard).read_bytes())
            if self.dice.random() < 0.3:
                del data[-self.dice.randrange(1, 500) :]
            else:
                data[self.dice.randrange(len(data) // 2, len(data))] ^= 0xFF
            (place / shard).write_bytes(bytes(data))
        return [f"{name}/{shard}" for shard in chosen]

    def drop_last_shard(self, name: str) -> None:
        """Leave the last shard out of an index, as somebody who removes data."""
        path = self.origin / name / "index.json"
        index = json.loads(path.read_text())
        index["shards"].pop()
        path.write_text(json.dumps(index, sort_keys=True))

    # --- views ----------------------------------------------------------------------------------------------------

    def select(self, name: str, share: float, *, out: Path, gaps: bool = True) -> None:
        """Write a selection of random rows of a dataset, which keeps nothing of some shards."""
        table = selections.table_of(self.origin / name)
        kept = self.rng.random(table.rows) < share
        if gaps:
            for _ in range(3):
                at = int(self.rng.integers(0, table.rows))
                kept[at : at + table.rows // 8] = False
        selections.keep(out, self.origin / name, kept, domain=name, table=table)

    def score(self, name: str, *, out: Path) -> None:
        """Write a score of each row."""
        rows = selections.table_of(self.origin / name).rows
        selections.score(out, self.origin / name, domain=name, quality=self.rng.random(rows).astype(np.float32))

    def pack(self, place: Path, *, out: Path, seq_len: int, domain: str, **settings: Any) -> None:
        """Write a packing."""
        packings.pack(out, place, seq_len=seq_len, domain=domain, parts=self.dice.choice((1, 2)), **settings)
