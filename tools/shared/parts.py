"""Parts: the options with which a long command is split, and the one function that runs its parts.

Rules. A heavy stage is a pure function of (part i of n, inputs) that writes one file or directory under a temporary
name and renames it at the end. So a part may run anywhere, and again, and the merged result does not depend on who ran
which part. Parts are counted from 0.

    --parts 64 --workers 8      all parts in 8 processes of this machine, then the merge
    --part 3/64                 this one part and no merge: one task of a job array (Slurm: --array=0-63)
    --engine ray                all parts on a Ray cluster, then the merge
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError

from .console import Console
from .executors import Executor, Function, Result, Task, choose_executor, default_workers
from .numbers import MaybeWorkers

_MOST_PARTS = 4096
_MOST_WORKERS = 4096  # each is a process
_PARTS = 16  # of a domain that has rows enough


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class PartOptions:
    """How a command splits its work. As a parameter of a command, its fields are options.

    Args:
        part: do this part only, as in 3/64 (counted from 0), and merge nothing: for job arrays.
        parts: number of parts; default: 16, fewer for few rows and more for many. A kill loses the parts that run.
        workers: number of processes; default: one for each core (with --engine ray: the size of the cluster).
        engine: `local` processes, or a `ray` cluster.
        ray_address: a running cluster, HOST:PORT or auto; default: $RAY_ADDRESS, else one is started here.

    Raises:
        ConfigError: a value is malformed, or two of them contradict each other.
    """

    part: Annotated[str | None, Parameter(show_default=False)] = None
    parts: MaybeWorkers = None
    workers: MaybeWorkers = None
    engine: Literal["local", "ray"] = "local"
    ray_address: Annotated[str | None, Parameter(show_default=False)] = None
    _one_process: ClassVar[bool] = True
    """Whether `--part` does its part in one process."""

    def __post_init__(self) -> None:
        """Check the values, and that they go together."""
        for name, value, most in (("parts", self.parts, _MOST_PARTS), ("workers", self.workers, _MOST_WORKERS)):
            if value is not None and not 1 <= value <= (most or value):
                raise ConfigError(f"--{name} {value}: give 1 or more{f', at most {most:,}' if most else ''}.")
        if self.ray_address is not None and self.engine != "ray":
            raise ConfigError(f"--ray-address {self.ray_address} is for --engine ray: add that, or leave it out.")
        if self.part is None:
            return
        parse_part(self.part)
        if self.parts is not None:
            raise ConfigError(
                f"--part {self.part} and --parts {self.parts} contradict each other: --part I/N does one of N parts, "
                f"--parts N does all of them."
            )
        if self.engine == "ray" or (self._one_process and (self.workers or 1) > 1):
            other = "--engine ray" if self.engine == "ray" else f"--workers {self.workers}"
            raise ConfigError(f"--part {self.part} is one part in one process: leave out {other}, or give --parts N.")

    @property
    def single(self) -> tuple[int, int] | None:
        """The part and the number of parts of `--part`; None if all parts are to be done, and merged."""
        return None if self.part is None else parse_part(self.part)

    def count(self, rows: int, *, per_part: int, least: int | None = None) -> int:
        """Return the number of parts: `--parts`, N of `--part I/N`, or as many as the rows ask for.

        It never depends on the machine, so that a run which goes on elsewhere finds the same parts.

        Args:
            rows: of all parts.
            per_part: rows of a part, at most.
            least: rows that are worth a part. Then there are 16 parts where each has so many, so that a kill loses
                little; default: `per_part`.
        """
        if self.single is not None:
            return self.single[1]
        few = 0 if least is None else min(rows // least, _PARTS)
        return self.parts or min(max(-(-rows // per_part), few, 1), _MOST_PARTS)

    def placed(self, *, tasks: int, rows: int, few: int) -> PartOptions:
        """Return the same with all tasks in this process, if starting others would take longer than the work.

        Args:
            tasks: how many there are.
            rows: of all tasks.
            few: below so many rows this process does the work, unless the user says how many workers there are.
        """
        alone = tasks <= 1 or (rows < few and self.workers is None)
        return replace(self, workers=1) if alone and self.engine == "local" and self.single is None else self

    def todo(self, count: int) -> list[tuple[int, int]]:
        """Return the parts that this process is responsible for, as (i, count)."""
        return [(i, count) for i in range(count)] if self.single is None else [self.single]

    def executor(self, tasks: int, *, gpus: float = 0) -> Executor:
        """Return the place where so many tasks run; on Ray, each task asks for `gpus`."""
        if self.engine == "ray":
            from .executors.ray import RayTasks

            return RayTasks(address=self.ray_address, workers=self.workers, gpus=gpus)
        alone = self.single is not None and self._one_process
        return choose_executor(1 if alone else self.workers or default_workers(), tasks)

    def hint(self) -> str:
        """Return what to do after `--part`, as a line for people."""
        done, count = self.single or (0, 1)
        return (
            f"part {done}/{count} is done; when all are, give --parts {count} instead of --part: that run merges them"
        )


def parse_part(text: str) -> tuple[int, int]:
    """Return the part and the number of parts of a text such as `3/64`.

    Raises:
        ConfigError: it is no such text, or there is no such part.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None:
        raise ConfigError(f"--part {text}: give I/N, part I of N counted from 0, as in 3/64.")
    part, parts = int(found[1]), int(found[2])
    if not 1 <= parts <= _MOST_PARTS:
        raise ConfigError(f"--part {text}: N must be 1 to {_MOST_PARTS:,}.")
    if part >= parts:
        raise ConfigError(f"--part {text}: parts are counted from 0, so the last of {parts} is {parts - 1}/{parts}.")
    return part, parts


def run_parts(
    function: Function[Task, Result],
    tasks: Sequence[Task],
    *,
    options: PartOptions,
    console: Console,
    label: str,
    total: int | None = None,
    done: int = 0,
    unit: str = "rows",
    gpus: float = 0,
) -> Iterator[Result]:
    """Yield the results of `function(task, advance)` in any order, with a progress bar, wherever `options` says.

    Args:
        function: a top-level function, so that it can be pickled. It calls `advance(n)` when n more units are done.
        tasks: what can be pickled, with a `str` that error messages can show. Leave out what is done already.
        options: where they run.
        console: shows the progress.
        label: the verb of the progress line.
        total: units of all parts, also of those that are done; None counts finished tasks instead.
        done: units of the parts that were done before.
        unit: the word for the units; `bytes` are shown as KiB, MiB, ….
        gpus: GPUs that a task needs on a Ray cluster.

    Raises:
        WorkerDiedError: a worker was killed; on Ray, again and again.
        ConfigError: `--engine ray` without Ray, or without a cluster.
        Exception: the first error of `function`, unchanged.
    """
    count = total is None
    amount, unit = (len(tasks), "parts") if total is None else (total, unit)
    with console.progress(label, total=amount, done=done, unit=unit) as advance:
        report = (lambda _: None) if count else advance
        ended = 0
        try:
            for result in options.executor(len(tasks), gpus=gpus).run(function, tasks, report):
                ended += 1
                if count:
                    advance(1)
                yield result
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"{ended} of {len(tasks)} parts came to their end in this run; what they wrote is kept: the same "
                "command goes on from there."
            )
            raise
