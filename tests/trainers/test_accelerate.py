"""accelerate on several processes: gradients accumulate, states of two processes load on four, one process may save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import mixstream as ms


def read(out: Path, ranks: int) -> dict[int, Any]:
    """Return step -> the rows of the global batch."""
    parts = [
        dict(json.loads(line) for line in (out / f"rows-{ranks}-{rank}.jsonl").read_text().splitlines())
        for rank in range(ranks)
    ]
    assert len({len(part) for part in parts}) == 1
    return {step: [row for part in parts for row in part[step]] for step in parts[0]}


def states(out: Path, ranks: int) -> list[Any]:
    return [json.loads((out / f"state-{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


def test_two_processes_save_and_four_go_on(train, corpus, tmp_path) -> None:
    given = {"out": str(tmp_path), "shards": str(corpus)}
    train("accelerate_program.py", ranks=2, steps=8, save="all", **given)
    first, (state, other) = read(tmp_path, 2), states(tmp_path, 2)
    assert state == other
    train("accelerate_program.py", ranks=4, steps=14, load=str(tmp_path / "state"), **given)
    second = read(tmp_path, 4)
    assert (sorted(first), sorted(second)) == (list(range(8)), list(range(8, 14)))
    streams = [ms.Stream(remote=str(corpus / name), split="train") for name in ("web", "code")]
    options = {"batch_size": 8, "shuffle": True, "mixer": ms.mixers.ODM()}
    with ms.Loader(ms.StreamingDataset(streams=streams, **options)) as loader:
        loader.load_state_dict(state)
        assert next(iter(loader))["tokens"].tolist() == second[8]
    train("accelerate_program.py", ranks=2, steps=5, save="rank 0", **given)
    with ms.Loader(ms.StreamingDataset(streams=streams, **options)) as loader:
        loader.load_state_dict(torch.load(tmp_path / "loader.pt"))
        assert next(iter(loader))["tokens"].tolist() == first[5]
