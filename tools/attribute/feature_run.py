"""One run of `mixstream attribute features`: which parts are to be made, making them, and the merge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mixstream.errors import ConfigError
from mixstream.selection import DomainRows, Scores, merge_scores

from ..shared.console import Console
from ..shared.domains import NamedDataset
from ..shared.options import Reading
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts
from . import show
from .features import FeatureTask, make_features
from .settings import Settings

_PER_PART, _LEAST = 5000, 256  # rows: minutes and seconds of work for a small model
_FEW = 256  # rows for which more processes would only take time to start


@dataclass(kw_only=True)
class FeatureRun:
    """One run of the command.

    Args:
        settings: how rows become features.
        output: where features go: OUT/DOMAIN.
        options: where parts run.
        reading: how shards are read.
        console: for progress and the result.

    Attributes:
        tasks: the parts that this run is responsible for.
        todo: those of them that are not there yet.
        rows: of each domain.
        sizes: rows of each task.
    """

    settings: Settings
    output: Output
    options: PartOptions
    reading: Reading
    console: Console
    tasks: list[FeatureTask] = field(default_factory=list)
    todo: list[FeatureTask] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def plan(self, urls: Sequence[str]) -> None:
        """Find the domains, and which of their parts are to be made.

        Raises:
            ConfigError: there is no domain, or one has no token rows.
            IndexCorruptError, StoreError: an index cannot be read.
            OutputExistsError: there are features that were made otherwise.
        """
        for domain in self.reading.find(urls):
            opened = self.reading.open(domain.url, name=domain.name)
            self._check_column(domain.name, opened)
            rows = self.rows[domain.name] = opened.table.rows
            count = self._parts(rows, len(domain.index.shards))
            whole = self._task(domain)
            made = whole.made(opened)
            todo = self.output.parts_to_do(whole.out, made, options=self.options, count=count)
            for part in self.options.todo(count):
                task = replace(whole, part=part)
                first, end = opened.table.part(*part)
                self.sizes[str(task)] = int(opened.table.start_S[end] - opened.table.start_S[first])
                self.tasks.append(task)
                if part in todo:
                    self.todo.append(task)

    def show_plan(self) -> None:
        """Print what would be made; the first proxy is loaded for it."""
        settings = self.settings
        row_bytes = 1 + sum(column.type.itemsize * math.prod(column.shape) for column in settings.columns())
        rows = sum(self.rows.values())
        document = {
            "status": self.output.status,
            "out": self.output.out,
            "domains": self.rows,
            "rows": rows,
            "members": settings.members,
            "parameters": settings.load(members=1)[0].projection.inputs,
            "parts": {"to_make": len(self.todo), "of": len(self.tasks)},
            "feature_bytes": row_bytes * rows,
        }
        self.console.result(document, *show.show_plan(document))

    def run(self) -> int:
        """Make the parts that are missing, merge those of each domain, and print the result; return the status."""
        start, is_single = time.monotonic(), self.options.single is not None
        self._make()
        domains = {}
        if not is_single:
            for task in self.tasks:
                if task.name not in domains:
                    merge_scores(task.out)
                    domains[task.name] = show.describe_rows(Scores.open(task.out))
        seconds = time.monotonic() - start
        document = {
            "status": self.output.status if self.todo else "nothing to do",
            "out": self.output.out,
            "parts": {"made": len(self.todo), "of": len(self.tasks)},
            "members": self.settings.members,
            "project_dim": self.settings.project_dim,
            "domains": domains,
            "seconds": round(seconds, 3),
        }
        if is_single:
            self.console.result(document, self.options.hint())
            return 0
        for name, counts in domains.items():
            if counts["failed"]:
                self.console.note(
                    f"{name}: {counts['failed']:,} rows have no features, since their gradients are not finite as "
                    f"{self.settings.dtype}: check the models, or store wider numbers with --dtype f4"
                )
        last = show.closing(self.output.out, seconds, sum(self.rows.values()))
        self.console.result(document, show.show_features(domains), last)
        return 1 if any(counts["failed"] and not counts["scored"] for counts in domains.values()) else 0

    def _make(self) -> None:
        self.output.clear((task.out for task in self.todo), options=self.options)
        total, left = sum(self.sizes.values()), sum(self.sizes[str(task)] for task in self.todo)
        for _ in run_parts(
            make_features,
            self.todo,
            options=self.options.placed(tasks=len(self.todo), rows=left, few=_FEW),
            console=self.console,
            label="features",
            total=total,
            done=total - left,
            gpus=1 if self.settings.device.startswith("cuda") else 0,
        ):
            pass

    def _parts(self, rows: int, shards: int) -> int:
        """Return the number of parts of a domain; a part is whole shards, so more parts than shards only if asked."""
        count = self.options.count(rows, per_part=_PER_PART, least=_LEAST)
        is_asked = self.options.single is not None or self.options.parts is not None
        return count if is_asked else max(min(count, shards), 1)

    def _task(self, domain: NamedDataset) -> FeatureTask:
        tokenizer: Any = domain.about.get("tokenizer")
        return FeatureTask(
            name=domain.name,
            url=domain.url,
            tokenizer=tokenizer if isinstance(tokenizer, dict) else {},
            out=self.output.place(domain.name).absolute(),
            settings=self.settings,
            part=(0, 1),
            reading=self.reading.for_workers(),
            overwrite=self.output.overwrite,
        )

    def _check_column(self, name: str, rows: DomainRows) -> None:
        column = self.settings.column
        if rows.table.rows and rows.text_column(column).kind != "tokens":
            raise ConfigError(
                f"column {column!r} of domain {name!r} holds texts: give a dataset of token rows, as `mixstream "
                "convert` writes them, or another --column"
            )
