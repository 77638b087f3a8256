"""The measurements: a sweep of settings, turns of all contenders, first batches in fresh processes."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from contender import Contender, ContenderError
from peer_corpus import SEQ, Corpus

BATCH = 256
WARM = 4.0  # seconds of delivery before turns are timed: what a library compiles or fills at its start is done then
SWEPT = 1.5  # the same, in sweeps


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where contenders run, and for how long.

    `pythons` has the interpreter of each contender; `seconds` is the length of a turn, `rounds` their number.
    """

    corpus: Corpus
    pythons: dict[str, str]
    cores: Sequence[int]
    seconds: float
    rounds: int
    starts: int

    def start(self, name: str, dtype: str, setting: dict[str, Any]) -> Contender:
        """Start a contender; its first answer is still to come."""
        given = json.dumps({"batch_size": BATCH, "dtype": dtype, **setting})
        return Contender(self.pythons[name], name, self.corpus.directory, given, cores=self.cores)

    def sweep(self, name: str, dtype: str, grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what each setting of a grid delivers: `setting`, `first` (seconds), `rows_per_second`, or `failed`."""
        found = []
        for setting in grid:
            try:
                with self.start(name, dtype, setting) as contender:
                    first = contender.answer()["first"]
                    contender.ask(f"go {SWEPT}")
                    rate = rows_per_second(contender.ask(f"go {self.seconds}"))
                found.append({"setting": setting, "first": first, "rows_per_second": rate})
            except ContenderError as error:
                found.append({"setting": setting, "failed": str(error)})
            note(f"{name} {dtype} {setting}: {found[-1].get('failed') or f'{rate:,.0f} rows/s'}")
        return found

    def turns(self, dtype: str, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Let all contenders take turns, each warm; return `rows_per_second` and `cpu` by turn, and the check of rows.

        `cpu` is in CPU seconds per million tokens. Who goes first changes from turn to turn.
        """
        found: dict[str, dict[str, Any]] = {name: {"rows_per_second": [], "cpu": []} for name in settings}
        with ExitStack() as stack:
            running = {}
            for name, setting in settings.items():
                running[name] = stack.enter_context(self.start(name, dtype, setting))
                found[name]["versions"] = running[name].answer()["versions"]
                found[name]["check"] = self.check(running[name])
                running[name].ask(f"go {WARM}")
            names = list(running)
            for turn in range(self.rounds):
                at = turn % len(names)
                for name in names[at:] + names[:at]:
                    answer = running[name].ask(f"go {self.seconds}")
                    found[name]["rows_per_second"].append(rows_per_second(answer))
                    found[name]["cpu"].append(answer["cpu"] / (answer["batches"] * BATCH * SEQ / 1e6))
                note(f"{dtype}: turn {turn + 1} of {self.rounds}")
        return found

    def check(self, contender: Contender) -> dict[str, float | int]:
        """Compare a quarter of an epoch, as delivered from the start, with what is stored."""
        file = self.corpus.directory / f"{contender.name}-check.npy"
        contender.ask(f"check {max(self.corpus.rows * 2 // BATCH, 4)} {file}")
        verdict = self.corpus.verdict(np.load(file))
        file.unlink()
        if verdict["foreign"]:
            raise SystemExit(f"{contender.name} delivered {verdict['foreign']} rows that are not in the corpus")
        return verdict

    def first_batches(self, settings: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
        """Return the seconds to the first batch, in fresh processes that take turns."""
        found: dict[str, list[float]] = {name: [] for name in settings}
        for _ in range(self.starts):
            for name, setting in settings.items():
                with self.start(name, "int64", setting) as contender:
                    found[name].append(contender.answer()["first"])
        return found


def rows_per_second(answer: dict[str, Any]) -> float:
    """Return the rate of a turn."""
    return answer["batches"] * BATCH / answer["wall"]


def best(swept: Sequence[dict[str, Any]], key: str) -> dict[str, Any] | None:
    """Return the setting with the most `rows_per_second`, or the least `first`; None if all failed.

    >>> best([{"setting": {"n": 0}, "first": 2.0}, {"setting": {"n": 1}, "first": 1.0}], "first")
    {'n': 1}
    """
    sign = -1 if key == "first" else 1
    ran = [each for each in swept if key in each]
    return max(ran, key=lambda each: sign * each[key])["setting"] if ran else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'least': 1.0, 'most': 3.0}
    """
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def note(text: str) -> None:
    """Say on the standard error what goes on."""
    print(text, file=sys.stderr, flush=True)
