"""How one conversion is split among the tasks of a job array: options, shares, and what a merge says of them.

Rules. A share is a function of the sources and of N alone: every task computes all shares and takes its own, so nobody
deals them out. A task converts its share and publishes nothing; the same command without `--part` finds the parts that
the tasks have made, converts what is missing, and publishes. So the result is that of one machine, byte for byte.

    mixstream convert SRC --out OUT --part 0/64  …  --part 63/64      on any machines, in any order, again after a kill
    mixstream convert SRC --out OUT --parts 64                        once, at the end
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError

from ...shared.console import Console
from ...shared.numbers import MaybeWorkers
from ...shared.parts import PartOptions
from ..ledger.ledger import Ledger
from ..ledger.records import PartRecord
from ..parts import Part
from ..work.rejects import MaxRejects

TASKS = "tasks"
_SHOWN = 6
_LOCK = re.compile(r"(\d+)-of-(\d+)\.lock", re.ASCII)

TOPICS = """CLUSTERS. One task of a job array: --part I/N, for each I from 0 to N-1, on
any machines, at the same time or not, each again after a kill. Then the same
command once with --parts N: it publishes, names the tasks that did not come
to their end, and converts what they left. With a local --out, all share its
disk. With --out URL they need not: parts wait in the store for that last
run. --engine ray runs all parts on a Ray cluster whose nodes share the disk
of --out or --work. The bytes are those of one machine.
"""
"""What the help of the command says of them."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ArrayOptions(PartOptions):
    """How convert splits its work. As a parameter of a command, its fields are options.

    Args:
        part: convert this share only, as in 3/64 (counted from 0), and publish nothing: for job arrays.
        parts: publish what N tasks have converted with --part I/N; says which of them did not come to their end.
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
    _one_process: ClassVar[bool] = False

    @property
    def share(self) -> Share | None:
        """The task of `--part`; None for all of the work."""
        return None if self.single is None else Share(number=self.single[0], of=self.single[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The task `number` of `of`, counted from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        """Its name on the command line."""
        return f"{self.number}/{self.of}"

    @property
    def lock(self) -> str:
        """The file below `.convert` that the task holds while it works."""
        return f"{TASKS}/{self.number}-of-{self.of}.lock"

    @property
    def workers_lock(self) -> str:
        """The file below `.convert` that its workers hold."""
        return f"{TASKS}/{self.number}-of-{self.of}.workers.lock"

    @property
    def uploads(self) -> str:
        """The file below `.convert` that says what the task has uploaded."""
        return f"{TASKS}/{self.number}-of-{self.of}.uploads.jsonl"


def deal(parts: Sequence[Part], of: int) -> list[list[Part]]:
    """Return the share of each of `of` tasks: the largest part goes to the task that has the least, and so on.

    >>> parts = [Part(group="web", number=at, slices=()) for at in range(5)]
    >>> [[part.number for part in share] for share in deal(parts, 2)]
    [[0, 2, 4], [1, 3]]
    """
    order = {id(part): at for at, part in enumerate(parts)}
    shares: list[list[Part]] = [[] for _ in range(of)]
    load = [(0, 0)] * of  # bytes and parts: parts of no size are dealt out too
    for part in sorted(parts, key=lambda part: (-part.bytes, order[id(part)])):
        least = min(range(of), key=lambda at: (*load[at], at))
        shares[least].append(part)
        load[least] = load[least][0] + part.bytes, load[least][1] + 1
    return [sorted(share, key=lambda part: order[id(part)]) for share in shares]


def tasks_begun(ledger: Ledger) -> dict[int, set[int]]:
    """Return the tasks that have begun in this directory: N to their numbers."""
    found: dict[int, set[int]] = {}
    for path in (ledger.out / ".convert" / TASKS).glob("*.lock"):
        if (name := _LOCK.fullmatch(path.name)) is not None:
            found.setdefault(int(name[2]), set()).add(int(name[1]))
    return found


def report_missing(
    ledger: Ledger,
    parts: Sequence[Part],
    records: Sequence[PartRecord | None],
    *,
    of: int | None,
    console: Console,
) -> None:
    """Say which tasks of a job array have left parts to be converted; nothing if there was no job array."""
    begun = tasks_begun(ledger)
    of = of or (max(begun) if begun else None)
    missing = {part.name + part.group for part, record in zip(parts, records) if record is None}
    if of is None or not missing:
        return
    lines = []
    for number, share in enumerate(deal(parts, of)):
        left = sum(part.name + part.group in missing for part in share)
        if left:
            never = left == len(share) and number not in begun.get(of, ())
            fact = "never ran here" if never else "did not come to its end"
            lines.append(f"--part {number}/{of} {fact} ({left:,} of its {len(share):,} parts are missing)")
    more = f"; and {len(lines) - _SHOWN:,} more tasks" if len(lines) > _SHOWN else ""
    console.note(
        f"{'; '.join(lines[:_SHOWN])}{more}. This run converts the {len(missing):,} missing parts itself; interrupt it "
        "to run these tasks again first."
    )


def forget_tasks(ledger: Ledger) -> None:
    """Remove what tasks leave in `.convert`, once all of it is published."""
    if (ledger.out / ".convert" / TASKS).is_dir():
        shutil.rmtree(ledger.out / ".convert" / TASKS, ignore_errors=True)


def refuse_in_share(*, remove: bool, train: bool, share_of_rejects: MaxRejects | None) -> None:
    """Refuse what one task of many cannot do; raises ConfigError."""
    if remove:
        raise ConfigError("--remove: a task of a job array removes nothing. Leave out --part.")
    if train:
        raise ConfigError(
            "--train-bpe: tasks of a job array need the same tokenizer before they begin. Train it by a run without "
            "--part on some of the sources, and pass its copy: --tokenizer OUT/tokenizer"
        )
    if share_of_rejects is not None and share_of_rejects.count is None:
        raise ConfigError(
            f"--max-rejects {share_of_rejects.typed}: a task of a job array does not know all documents. Give the "
            "share to the run that publishes, and --on-bad-document skip to the tasks."
        )
