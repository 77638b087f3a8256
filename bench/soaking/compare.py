"""Compares what readers were handed with what an undisturbed reader of the local files gets.

A *life* is one process from its start to its end. Of each, three things are checked: it begins at the step of the
state that it was given, its steps follow each other, and its rows are those of these steps. Over all lives, every row
of every step was handed out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soaking.rows import Row


@dataclass(frozen=True, kw_only=True)
class Line:
    """One batch, as a reader noted it."""

    step: int
    rows: list[Row]
    bytes: int = 0
    problem: str | None = None


@dataclass(kw_only=True)
class Life:
    """One process.

    Attributes:
        name: of its log.
        generation: lives of one generation share the number of ranks.
        begin: the step of the state that it was given.
        changed: whether it reads with the changed streams.
        lines: the batches that it was handed.
    """

    name: str
    generation: int
    world: int
    rank: int
    begin: int
    changed: bool = False
    lines: list[Line] = field(default_factory=list)


@dataclass(kw_only=True)
class Verdict:
    """What was compared, and what differed."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    steps: int = 0
    differences: list[str] = field(default_factory=list)


def read_life(path: Path) -> Life | None:
    """Return what a process wrote down; None if it was killed before its first line. A torn last line is left out."""
    documents = [json.loads(text) for text in path.read_text().split("\n")[:-1]]
    if not documents:
        return None
    lines = [
        Line(
            step=found["step"],
            rows=[(int(k), str(h)) for k, h in found["rows"]],
            bytes=found["bytes"],
            problem=found["problem"],
        )
        for found in documents[1:]
    ]
    return Life(name=path.name, lines=lines, **documents[0])


def judge(
    lives: Sequence[Life], expected: Mapping[bool, Mapping[int, list[Row]]], *, batch: int, in_slices: bool = True
) -> Verdict:
    """Compare lives with `expected`: changed -> step -> rows of the global batch.

    Args:
        batch: rows of a global batch.
        in_slices: whether rank r has the r-th slice of it.
    """
    verdict, covered = Verdict(), defaultdict[tuple[bool, int], dict[tuple[int, int], Counter[str]]](dict)
    for life in sorted(lives, key=lambda life: (life.generation, life.rank, life.name)):
        steps = sorted(expected[life.changed])
        wanted = [step for step in steps if step >= life.begin]
        for line, step in zip(life.lines, wanted):
            if line.step != step:
                verdict.differences.append(
                    f"{life.name}: handed out step {line.step} where step {step} was due (begun at {life.begin})"
                )
                break
            rows = expected[life.changed][step]
            part = len(rows) // life.world
            mine = rows[life.rank * part : (life.rank + 1) * part] if in_slices else rows
            if (text := _difference(life, line, mine, part, expected[life.changed])) is not None:
                verdict.differences.append(text)
                break
            verdict.batches, verdict.rows = verdict.batches + 1, verdict.rows + len(line.rows)
            verdict.bytes += line.bytes
            covered[life.changed, step][life.generation, life.rank] = Counter(hash_ for _, hash_ in line.rows)
        if len(life.lines) > len(wanted):
            verdict.differences.append(f"{life.name}: {len(life.lines)} batches where {len(wanted)} were due")
    verdict.steps = len(covered)
    if not verdict.differences:
        verdict.differences += _missing(lives, expected, covered, batch=batch)
    return verdict


def _difference(life: Life, line: Line, mine: list[Row], part: int, expected: Mapping[int, list[Row]]) -> str | None:
    """Return how a batch differs from the rows that were due."""
    who = f"{life.name}: step {line.step}, rank {life.rank} of {life.world}"
    if line.problem is not None:
        return f"{who}: {line.problem}"
    if len(line.rows) != part:
        return f"{who}: {len(line.rows)} rows where {part} were due"
    left = Counter(hash_ for _, hash_ in mine)
    for i, row in enumerate(line.rows):
        due = mine[i] if len(mine) == part else next((each for each in mine if each[1] == row[1]), mine[i])
        if row[1] == due[1] and row[0] in {-1, due[0]} and left[row[1]] > 0:
            left[row[1]] -= 1
            continue
        places = [(step, at) for step, rows in expected.items() for at, each in enumerate(rows) if each[1] == row[1]]
        known = f"which is row {places[0][1]} of step {places[0][0]}" if places else "which is in no step"
        return f"{who}, row {i}: domain {due[0]}, hash {due[1]} was due; got domain {row[0]}, hash {row[1]}, {known}"
    return None


def _missing(
    lives: Sequence[Life],
    expected: Mapping[bool, Mapping[int, list[Row]]],
    covered: Mapping[tuple[bool, int], Mapping[tuple[int, int], Counter[str]]],
    *,
    batch: int,
) -> list[str]:
    """Return the steps of which rows were handed to nobody, up to where the slowest rank of the last generation is."""
    newest = max(life.generation for life in lives)
    last = [life for life in lives if life.generation == newest]
    begun = min(life.begin for life in last)  # of a rank that was killed before it wrote anything
    ends = [
        max([begun, *(line.step + 1 for life in last if life.rank == rank for line in life.lines)])
        for rank in range(last[0].world)
    ]
    found = []
    for changed, steps in expected.items():
        begins = [life.begin for life in lives if life.changed == changed]
        if not begins:
            continue
        until = min(ends) if changed == last[0].changed else min(life.begin for life in lives if life.changed)
        for step in sorted(steps):
            if not min(begins) <= step < until:
                continue
            by_generation = defaultdict[int, Counter[str]](Counter)
            for (generation, _), rows in covered.get((changed, step), {}).items():
                by_generation[generation] += rows
            due = Counter(hash_ for _, hash_ in steps[step])
            most = Counter[str]()
            for rows in by_generation.values():
                if any(rows[hash_] > due[hash_] for hash_ in rows):
                    found.append(f"step {step}: ranks of one generation were handed the same rows")
                most |= rows
            if short := due - most:
                found.append(f"step {step}: {short.total()} of {batch} rows were handed to no rank")
    return found
