"""The rows of each cluster are compared with each other, in parts; each part writes what it found.

Rules. A part has whole clusters. Its result is stored as scores, whose rows are the compared rows of the domain in the
order of `Clusters`, and whose "shards" are ranges of clusters: so a part is written, found again after a kill, and
checked as parts of scores are. The parts lie in `comparison/` of the selection's directory until that is written.

Shape suffixes: N rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.selection import Column, Scores, ScoresWriter, ShardIdentity, ShardTable
from mixstream.selection.prototypes import Clusters, duplicate_of, nearest_earlier
from mixstream.types import Int64

from ..shared.console import Console
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts
from .inputs import NEAREST, Embeddings
from .options import FEW, Variant

ROWS_AT_ONCE = 1 << 16
_DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some clusters of one domain: one part; it can be pickled.

    Attributes:
        emb: the embeddings.
        column: their column.
        clusters: the rows of these clusters.
        threshold: cosines above it are duplicates; None to find the largest cosine to an earlier member instead.
        variant: what is a duplicate of what.
        device: where to compute.
        place: directory of the results.
        domain: whose rows these are.
        table: all clusters of the domain, in ranges.
        part: (i, n).
        made: how the results are made.
        overwrite: replace results that were made otherwise.
    """

    emb: Path
    column: str
    clusters: Clusters
    threshold: float | None
    variant: Variant
    device: str
    place: Path
    domain: str
    table: ShardTable
    part: tuple[int, int]
    made: dict[str, Any]
    overwrite: bool

    def __str__(self) -> str:
        return f"part {self.part[0]}/{self.part[1]} of {self.place}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of all clusters of one domain.

    Attributes:
        place: directory of the results.
        source: directory of the embeddings.
        embeddings: the same, opened.
        clusters: the rows to compare, by cluster.
        threshold, variant, device: as in `Task`.
        made: how the results are made; `threshold` and `variant` are among its inputs.
        options: how the clusters are split, and where the parts run.
        output: where the selection goes, and whether results that were made otherwise are replaced.
    """

    place: Path
    source: Path
    embeddings: Embeddings
    clusters: Clusters
    threshold: float | None
    variant: Variant
    device: str
    made: dict[str, Any]
    options: PartOptions
    output: Output

    def run(self, console: Console) -> bool:
        """Compare the clusters of the parts that are asked for; return whether this was to be all of them."""
        rows = len(self.clusters.row_N)
        count = self.options.count(rows, per_part=ROWS_AT_ONCE)
        tasks = self._tasks(count)
        self.output.clear([self.place], options=self.options)
        left = sum(len(task.clusters.row_N) for task in tasks)
        total = left if self.options.single is not None else rows
        placed_ = self.options.placed(tasks=len(tasks), rows=left, few=FEW)
        label = f"compare {self.embeddings.scores.domain}"
        for _ in run_parts(
            compare_part, tasks, options=placed_, console=console, label=label, total=total, done=total - left,
            gpus=float(self.device == "cuda"),
        ):  # fmt: skip
            pass
        return self.options.single is None or self.options.single[1] == 1

    def found(self) -> Iterator[tuple[Int64, NDArray[Any]]]:
        """Yield (rows, what was found for each) of all parts: whether it is a duplicate, or a cosine.

        Raises:
            SelectionError: parts are missing.
        """
        name = column_of(self.threshold).name
        for begin, block in Scores.open(self.place).blocks(name):
            yield self.clusters.row_N[begin : begin + len(block[name])], block[name]

    def _tasks(self, count: int) -> list[Task]:
        """Return the parts that are to be done and were not done before."""
        ranges = self.clusters.ranges(max(1, min(ROWS_AT_ONCE, -(-len(self.clusters.row_N) // count))))
        table = _table_of(self.clusters, ranges)
        tasks = []
        for part in self.output.parts_to_do(self.place, self.made, options=self.options, count=count):
            first, end = table.part(*part)
            inside = ranges[first:end]
            clusters = self.clusters.part(inside[0][0], inside[-1][1]) if inside else self.clusters.part(0, 0)
            task = Task(
                emb=self.source.absolute(), column=self.embeddings.column, clusters=clusters, threshold=self.threshold,
                variant=self.variant, device=self.device, place=self.place.absolute(),
                domain=self.embeddings.scores.domain, table=table, part=part, made=self.made,
                overwrite=self.output.overwrite,
            )  # fmt: skip
            tasks.append(task)
        return tasks


def compare_part(task: Task, advance: Callable[[int], None]) -> None:
    """Compare the rows of some clusters, and write what was found."""
    vectors_ND = Embeddings.open(task.emb, task.column).vectors_ND
    column = column_of(task.threshold)
    writer = ScoresWriter(
        task.place, domain=task.domain, table=task.table, columns=[column], made=task.made, part=task.part,
        overwrite=task.overwrite,
    )  # fmt: skip
    with writer:
        at = writer.begin
        for first, end in task.clusters.ranges(ROWS_AT_ONCE):
            found: list[NDArray[Any]] = []
            for rows, vectors in task.clusters.vectors(vectors_ND, first, end):
                found.append(_found(vectors, task))
                advance(len(rows))
            if found:
                values = np.concatenate(found)
                writer.write(at, {column.name: values})
                at += len(values)


def column_of(threshold: float | None) -> Column:
    """Return the column of the results."""
    return Column(name=NEAREST, dtype="<f4") if threshold is None else Column(name=_DUPLICATE, dtype="|u1")


def _found(vectors_ND: NDArray[Any], task: Task) -> NDArray[Any]:
    """Return what is found for the members of one cluster."""
    if task.threshold is None:
        return nearest_earlier(vectors_ND, device=task.device)
    found = duplicate_of(vectors_ND, threshold=task.threshold, variant=task.variant, device=task.device)
    return (found >= 0).astype(np.uint8)


def _table_of(clusters: Clusters, ranges: Sequence[tuple[int, int]]) -> ShardTable:
    sizes = [int(clusters.begin_K[end] - clusters.begin_K[first]) for first, end in ranges]
    names = [f"clusters {first} to {end - 1}" for first, end in ranges]
    shards = (ShardIdentity(name=name, samples=size, raw_bytes=0) for name, size in zip(names, sizes))
    return ShardTable(shards=tuple(shards))
