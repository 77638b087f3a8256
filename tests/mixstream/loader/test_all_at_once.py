"""All that streams of documents can do, in one run: packed token files, columns and stored rows out of an S3 server.

A selection says what is packed, a mixer learns, documents are marked, the cache is tight, and the run goes on with
another number of ranks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from packings import numbered, pack, write_rows
from selections import keep, table_of
from token_files import megatron_pair, write_files

import mixstream as ms

LENGTH, EOS = 16, 7


@pytest.fixture
def streams(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[ms.Stream]]:
    """Return a function that makes the streams as one rank of several machines has them, each with its own cache."""
    monkeypatch.setattr("mixstream.data.token_index.SHARD_BYTES", 2048)
    rng = np.random.default_rng(0)
    pair = megatron_pair(numbered(rng.integers(1, 40, 300), first=1000))
    write_files(tmp_path / "pair", pair)
    table = table_of(tmp_path / "pair/web.idx")
    keep(tmp_path / "kept", tmp_path / "pair/web.idx", rng.random(table.rows) < 0.8, table=table)
    packed = tmp_path / "packed"
    pack(packed, tmp_path / "pair/web.idx", seq_len=LENGTH, selection=tmp_path / "kept", pad_id=0)
    for name, data in pair.items():
        s3.put(f"pair/{name}", data)
    lists = [rng.integers(20_000, 30_000, n).tolist() for n in rng.integers(1, 40, 200)]
    file = io.BytesIO()
    pq.write_table(pa.table({"input_ids": lists}), file, row_group_size=50)
    s3.put("lists/part.parquet", file.getvalue())
    tokens = np.where(rng.random(LENGTH * 150) < 0.1, EOS, rng.integers(40_000, 50_000, LENGTH * 150))
    stored = write_rows(tmp_path / "rows", tokens, LENGTH, shard_bytes=2048, eos=EOS)
    for path in stored.iterdir():
        s3.put(f"rows/{path.name}", path.read_bytes())

    def made(rank: int) -> list[ms.Stream]:
        local = tmp_path / f"cache{rank}"
        return [
            ms.Stream(remote=f"{s3.url}/pair/web.idx", name="web", packing=packed, local=str(local / "web")),
            ms.Stream(remote=f"{s3.url}/lists", seq_len=LENGTH, local=str(local / "lists")),
            ms.Stream(remote=f"{s3.url}/rows", local=str(local / "rows")),
        ]

    return made


def run(loaders: Sequence[ms.Loader], steps: int) -> list[list[tuple[Any, ...]]]:
    """Take steps on all ranks, and report losses; return each step's rows with their marks, in any order."""
    found = []
    for parts in zip(*(iter(loader) for loader in loaders)):
        rows, loss_K, count_K = [], np.zeros(3), np.zeros(3)
        for part in parts:
            names = ("tokens", "position_ids", "document_ids", "labels")
            rows += list(zip(*(map(tuple, part[name].tolist()) for name in names)))
            loss_B = part["tokens"].double().mean(1).numpy() / 10_000
            np.add.at(loss_K, part.domain, loss_B)
            np.add.at(count_K, part.domain, 1.0)
            starts = torch.cat([part["position_ids"].flatten() == 0, torch.tensor([True])])
            assert part["cu_seqlens"].tolist() == torch.nonzero(starts).flatten().tolist()
        for loader in loaders:
            loader.report_sums(parts[0].step, loss_K.round(6), count_K)
        found.append(sorted(rows))
        if len(found) == steps:
            return found
    raise AssertionError("the run ended")


def test_a_run_of_all_of_it_goes_on_with_other_ranks(streams: Callable[[int], list[ms.Stream]]) -> None:
    def ranks(size: int, stack: ExitStack) -> list[ms.Loader]:
        options: dict[str, Any] = {"mixer": ms.mixers.ADO(), "lag": 4, "shuffle": True, "num_canonical_nodes": 2}
        options |= {"cache_limit": 30_000, "shuffle_block_size": 40, "batch_size": 8 // size, "world_size": size}
        return [
            stack.enter_context(
                ms.Loader(ms.StreamingDataset(streams=streams(rank), rank=rank, **options), documents=True)
            )
            for rank in range(size)
        ]

    with ExitStack() as stack:
        begun = ranks(1, stack)
        first, state = run(begun, 11), begun[0].state_dict()
        whole = first + run(begun, 19)
        resumed = ranks(2, stack)
        for loader in resumed:
            loader.load_state_dict(state)
        assert first + run(resumed, 19) == whole
    assert {row[0][0] // 10_000 for rows in whole for row in rows} >= {0, 2, 4}
