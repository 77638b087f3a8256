"""bench/soak.py: what compares batches finds rows that were skipped, repeated, swapped, changed or left out.

What measures the cache counts what was there at one instant.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from soaking.compare import Life, Line, judge, read_life  # pyright: ignore[reportMissingImports] - the path is set above
from soaking.reading import bounds  # pyright: ignore[reportMissingImports]
from soaking.rows import problem_of, rows_of  # pyright: ignore[reportMissingImports]
from soaking.scenario import Scenario  # pyright: ignore[reportMissingImports]
from soaking.supervise import Ranks  # pyright: ignore[reportMissingImports]
from soaking.watch import held_between, walk  # pyright: ignore[reportMissingImports]

EXPECTED = {step: [(i % 2, f"{step}-{i}") for i in range(4)] for step in range(8)}


def life(world: int, rank: int, steps: range, *, generation: int = 1, begin: int | None = None) -> Any:
    """Return a process that was handed what is due."""
    part = 4 // world
    lines = [Line(step=step, rows=EXPECTED[step][rank * part : (rank + 1) * part]) for step in steps]
    start = steps.start if begin is None else begin
    return Life(name=f"life-{rank}", generation=generation, world=world, rank=rank, begin=start, lines=lines)


def lives() -> list[Any]:
    """Return a run of two ranks, killed after steps 4 and 3, that goes on with one from the state behind step 2."""
    return [life(2, 0, range(5)), life(2, 1, range(4)), life(1, 0, range(3, 8), generation=2)]


def judged(change: Callable[[list[Any]], None], *, in_slices: bool = True) -> list[str]:
    run = lives()
    change(run)
    return judge(run, {False: EXPECTED}, batch=4, in_slices=in_slices).differences


def put(run: list[Any], life: int, line: int, **changes: Any) -> None:
    run[life].lines[line] = replace(run[life].lines[line], **changes)


@pytest.mark.parametrize("in_slices", [True, False])
def test_a_run_without_a_difference(in_slices: bool) -> None:
    verdict = judge(lives(), {False: EXPECTED}, batch=4, in_slices=in_slices)
    assert (verdict.differences, verdict.batches, verdict.rows, verdict.steps) == ([], 14, 38, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: put(run, 2, 1, rows=[*EXPECTED[4][:3], (1, "x")]), "row 3: domain 1, hash 4-3 was due"),
        (lambda run: put(run, 2, 1, rows=[*EXPECTED[4][:3], EXPECTED[5][3]]), "which is row 3 of step 5"),
        (lambda run: put(run, 0, 2, rows=[EXPECTED[2][0]] * 2), "row 1: domain 1, hash 2-1 was due"),
        (lambda run: put(run, 0, 2, rows=[(1, "2-0"), EXPECTED[2][1]]), "hash 2-0 was due; got domain 1"),
        (lambda run: put(run, 0, 2, rows=EXPECTED[2]), "4 rows where 2 were due"),
        (lambda run: put(run, 0, 2, problem="ends differ"), "step 2, rank 0 of 2: ends differ"),
        (lambda run: run[2].lines.pop(0), "handed out step 4 where step 3 was due"),
        (lambda run: run[0].lines.pop(1), "handed out step 2 where step 1 was due"),
        (lambda run: run[0].lines.insert(1, run[0].lines[0]), "handed out step 0 where step 1 was due"),
        (lambda run: run.__setitem__(2, life(1, 0, range(5, 8), generation=2)), "step 4: 2 of 4 rows were"),
        (lambda run: run.pop(1), "step 0: 2 of 4 rows were handed to no rank"),
    ],
)  # fmt: skip
def test_differences_are_found(change: Callable[[list[Any]], None], words: str) -> None:
    assert any(words in text for text in judged(change)), judged(change)


def test_the_same_rows_for_two_ranks_are_found_where_ranks_have_no_slices() -> None:
    found = judged(lambda run: put(run, 1, 2, rows=EXPECTED[2][:2]), in_slices=False)
    assert "step 2: ranks of one generation were handed the same rows" in found


def test_a_change_in_mid_run_is_compared_with_the_changed_run() -> None:
    changed = {step: [(0, f"new-{step}-{i}") for i in range(4)] for step in range(3, 8)}
    after = life(1, 0, range(3, 8), generation=2)
    after.changed = True
    run = [life(1, 0, range(5)), after]
    assert "which is in no step" in judge(run, {False: EXPECTED, True: changed}, batch=4).differences[0]
    after.lines = [Line(step=step, rows=changed[step]) for step in range(3, 8)]
    assert judge(run, {False: EXPECTED, True: changed}, batch=4).differences == []


def test_a_log_ends_where_its_process_was_killed(tmp_path: Path) -> None:
    about = {"begin": 3, "generation": 1, "world": 1, "rank": 0, "changed": False}
    line = json.dumps({"step": 3, "rows": [[0, "a"]], "bytes": 8, "problem": None})
    (tmp_path / "log").write_text("\n".join([json.dumps(about), line, line[:20]]))
    found = read_life(tmp_path / "log")
    assert found is not None
    assert (found.begin, found.lines) == (3, [Line(step=3, rows=[(0, "a")], bytes=8)])
    (tmp_path / "log").write_text(json.dumps(about)[:5])
    assert read_life(tmp_path / "log") is None


def test_rows_are_told_apart_by_every_column() -> None:
    batch = {"tokens": torch.tensor([[1, 2], [3, 4]]), "domain": torch.tensor([0, 1]), "mask": torch.zeros(2, 2)}
    rows, size = rows_of(batch)
    assert ([domain for domain, _ in rows], size) == ([0, 1], 48)
    assert rows_of({**batch, "tokens": batch["tokens"].to(torch.uint16)})[0] == rows
    for name in ("tokens", "mask"):
        other = batch[name].clone()
        other[1, 1] = 9
        changed = rows_of({**batch, name: other})[0]
        assert changed[0] == rows[0]
        assert changed[1] != rows[1]
    marks = {"position_ids": torch.tensor([[0, 1, 0], [0, 1, 2]]), "cu_seqlens": torch.tensor([0, 2, 3, 6])}
    assert problem_of(marks) is None
    assert "cu_seqlens [0, 3, 6]" in str(problem_of({**marks, "cu_seqlens": torch.tensor([0, 3, 6])}))


def put_shards(cache: Path, *names: str, size: int = 100) -> None:
    for name in names:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(bytes(size))


def test_what_takes_the_place_of_a_shard_in_mid_walk_is_not_counted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_shards(tmp_path, "a/shard.00000.mds", "a/shard.00001.mds")
    (tmp_path / "b").mkdir()

    def walk_and_evict(_: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        """Evict what was seen, and let others take its room, before these are seen."""
        yield str(tmp_path / "a"), [], sorted(path.name for path in (tmp_path / "a").iterdir())
        for path in (tmp_path / "a").iterdir():
            path.unlink()
            put_shards(tmp_path, f"b/.{path.name}.partial")
        yield str(tmp_path / "b"), [], sorted(path.name for path in (tmp_path / "b").iterdir())

    with monkeypatch.context() as patched:
        patched.setattr(os, "walk", walk_and_evict)
        first = walk(tmp_path)
    second = walk(tmp_path)
    assert (sum(first.values()), sum(second.values())) == (400, 200)  # there were two at every instant
    assert held_between(first, second) == held_between(second, walk(tmp_path)) == 200


def test_what_a_limit_counts_is_measured(tmp_path: Path) -> None:
    put_shards(tmp_path, "a/shard.00000.mds", "a/index.json", "b/.shard.00001.mds.partial")
    put_shards(tmp_path, "a/.mixstream-lock", "a/.mixstream-objects/0f", "a/..mixstream-original.partial")
    first = walk(tmp_path)
    (tmp_path / "b/.shard.00001.mds.partial").rename(tmp_path / "b/shard.00001.mds")
    put_shards(tmp_path, "b/.shard.00002.mds.partial")
    assert held_between(first, walk(tmp_path)) == 300
    assert held_between(walk(tmp_path), walk(tmp_path)) == 400


def test_a_byte_above_the_limit_is_a_difference() -> None:
    scenario = SimpleNamespace(memory=700)
    assert bounds(SimpleNamespace(peak=1000, memory=0), 1000, 100, scenario) == []
    assert "above its limit of 1000" in bounds(SimpleNamespace(peak=1001, memory=0), 1000, 100, scenario)[0]


def test_a_state_of_before_the_change_stays_one_if_its_readers_are_killed_before_they_save(tmp_path: Path) -> None:
    tasks: list[Any] = []

    def start(target: Callable[..., None], task: Any) -> Any:
        tasks.append(task)
        return SimpleNamespace(pid=1)

    common = {"root": "", "made": "", "cache": None, "limit": None}
    scenario = Scenario(name="changing", streams=[], changes=[], worlds=[1])
    ranks = Ranks(scenario, tmp_path / "run", common, random.Random(0), SimpleNamespace(start=start), named=False)
    for generation in range(1, 6):
        ranks.begin_generation()
        if generation in (1, 2, 4):  # the third, which was the first after the change, is killed before it saves
            Path(tasks[-1].saves).write_bytes(pickle.dumps((generation, {})))
    assert [task.changed for task in tasks] == [False, False, True, True, True]
    assert [task.changing for task in tasks] == [False, False, True, True, False]
    assert ranks.changed_at == 2
