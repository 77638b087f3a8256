"""Where the parts of a conversion run: processes of this machine, or a Ray cluster.

Rules. A worker on another node has another current directory, so its task names everything by absolute paths: the
output (or work directory), the sources and the tokenizer lie on a disk that all nodes share, or at URLs. Ray runs the
task of a killed worker again, so what the first try left of its part goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mixstream.storage import is_local

from ...shared.executors import Advance, Function
from ...shared.parts import PartOptions
from ..files.source_files import OnBytes, Slice
from ..ledger.ledger import Ledger
from ..ledger.part_files import drop_part
from ..ledger.records import PartRecord
from .work import PartTask, convert_part


def run_tasks(
    function: Function[PartTask, PartRecord], tasks: Sequence[PartTask], options: PartOptions, advance: Advance
) -> Iterator[PartRecord]:
    """Yield the records of parts in any order; see `Executor.run`."""
    executor = options.executor(len(tasks))
    if options.engine == "ray":
        yield from executor.run(convert_part_again, [_portable(task) for task in tasks], advance)
    else:
        yield from executor.run(function, tasks, advance)


def convert_part_again(task: PartTask, on_bytes: OnBytes) -> PartRecord:
    """Convert one part of which an earlier try may have left something."""
    ledger = Ledger(task.out)
    if (record := ledger.load(task.part, task.recipe)) is not None:
        return record
    drop_part(ledger, task.part)
    return convert_part(task, on_bytes)


def _portable(task: PartTask) -> PartTask:
    part = replace(task.part, slices=tuple(map(_portable_slice, task.part.slices)))
    return replace(task, out=task.out.absolute(), part=part)


def _portable_slice(piece: Slice) -> Slice:
    return replace(piece, file=replace(piece.file, path=_absolute(piece.file.path)))


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if is_local(path) else path
