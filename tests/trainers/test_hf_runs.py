"""`hf.MixTrainer` under torchrun on real text: killed in mid-epoch, resumed on other numbers of processes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import mixstream as ms

sys.path.append(str(Path(__file__).parents[1] / "mixstream"))
pytestmark = pytest.mark.trainers

STEPS = 30


def rows_of(notes: Path, ranks: int) -> dict[int, list[Any]]:
    """Return step -> its rows, [domain, row], rank by rank."""
    found: dict[int, list[Any]] = defaultdict(list)
    for rank in range(ranks):
        for line in Path(f"{notes}-{rank}.jsonl").read_text().splitlines():
            step, *row = json.loads(line)
            found[step].append(row)
    return found


def logged(notes: Path, name: str) -> list[float]:
    return [entry[name] for entry in json.loads(Path(f"{notes}.json").read_text()) if name in entry]


@pytest.mark.parametrize("learn", [False, True])
def test_killed_and_resumed_on_other_numbers_of_processes(train, corpus, tmp_path, learn):
    given = {"shards": str(corpus), "steps": STEPS, "learn": learn}
    whole, out = plain_rows(corpus), str(tmp_path / "out")
    if learn:
        train("hf_program.py", ranks=2, out=str(tmp_path / "whole"), notes=str(tmp_path / "whole"), **given)
        whole = rows_of(tmp_path / "whole", 2)
    train("hf_program.py", ranks=2, killed=True, kill=12, out=out, notes=str(tmp_path / "first"), **given)
    train("hf_program.py", ranks=4, killed=True, kill=22, out=out, notes=str(tmp_path / "second"), **given)
    train("hf_program.py", ranks=1, parts=4, out=out, notes=str(tmp_path / "third"), **given)
    parts = [rows_of(tmp_path / name, ranks) for name, ranks in (("first", 2), ("second", 4), ("third", 1))]
    assert [(min(part), max(part)) for part in parts] == [(0, 11), (10, 21), (20, 29)]
    trained = {**parts[0], **parts[1], **parts[2]}
    if not learn:
        assert trained == whole
    # Whatever the weights, a domain's rows come in its own order: none is missing, and none comes early again.
    for order, *seen in zip(by_domain(plain_rows(corpus, 4 * STEPS)), by_domain(trained), by_domain(whole)):
        assert all(order[: len(rows)] == rows for rows in seen)
    log = logged(tmp_path / "third", "weight/code")
    assert len(log) == STEPS
    assert (max(log) - min(log) > 0.02) == learn
    assert logged(tmp_path / "third", "loss/code")[-1] < logged(tmp_path / "third", "loss/code")[0] - 1
    if learn:
        assert logged(tmp_path / "third", "loss") == pytest.approx(logged(tmp_path / "whole", "loss"), abs=0.1)


def test_a_compiled_model_is_measured(library, tmp_path):
    from hf_world import trainer_of

    found = []
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = trainer_of(library, tmp_path, max_steps=2, **compiled)
        trainer.train()
        found.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for plain, compiled in zip(*found):
        assert {name for name in plain if "/" in name} == {name for name in compiled if "/" in name}
        assert compiled["loss/web"] == pytest.approx(plain["loss/web"], rel=1e-4)


def plain_rows(corpus: Path, steps: int = STEPS) -> dict[int, list[Any]]:
    """Return the rows of a loop on one rank, of which nothing learns."""
    streams = [ms.Stream(remote=str(corpus / name), split="train") for name in ("web", "code")]
    found: dict[int, list[Any]] = {}
    with ms.Loader(ms.StreamingDataset(streams=streams, batch_size=16, shuffle=True)) as loader:
        while len(found) < steps:
            for batch in loader:
                rows = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in batch["tokens"]]
                found[batch.step] = [[domain, row] for domain, row in zip(batch["domain"].tolist(), rows)]
    return {step: found[step] for step in range(steps)}


def by_domain(rows: dict[int, list[Any]]) -> list[list[str]]:
    """Return the rows of each domain in the order in which they were read."""
    return [[row for step in sorted(rows) for known, row in rows[step] if known == domain] for domain in range(2)]
