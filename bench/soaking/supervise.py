"""Runs the readers of a scenario, kills them at random, and lets them go on with other numbers of ranks and workers."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soaking.readers import Task, run
from soaking.scenario import Scenario
from soaking.watch import processes_of
from soaking.zygote import Reader, Zygote

STUCK = 150.0  # seconds without a batch, over restarts
PATIENCE = 45.0  # seconds that a reader is mostly left alone if it has not handed out a batch yet
LEAST_KILLS, LEAST_RESUMED = 3, 2  # readers that were killed in mid-run; that went on from a state
OVERTIME = 120.0  # seconds that a scenario may last longer if there were fewer
LINGER = 60.0  # seconds that helpers and workers of a killed process may take to end
NAMED = {"StoreChangedError"}
"""Errors that a store earns that writes objects again; the run goes on from its state, as its user would let it."""


class StuckError(Exception):
    """A reader ended by itself, or has handed out nothing for too long; the message says which."""


@dataclass(kw_only=True)
class Counts:
    """What was done to the readers."""

    kills: int = 0
    reading: int = 0  # of the killed, those that had handed out batches
    resumed: int = 0  # readers that handed out batches behind a state
    stops: int = 0
    restarts: int = 0
    generations: int = 0
    named: int = 0
    worlds: set[int] = field(default_factory=set)
    workers: set[int] = field(default_factory=set)


class Ranks:
    """The processes of one run.

    Args:
        scenario: what they read.
        place: directory for states, logs and checkpoints.
        common: further fields of each `Task`.
        dice: decides.
        zygote: starts the processes.
        named: whether readers may end with an error of `NAMED`.
    """

    def __init__(
        self,
        scenario: Scenario,
        place: Path,
        common: dict[str, Any],
        dice: random.Random,
        zygote: Zygote,
        *,
        named: bool,
    ) -> None:
        self._zygote = zygote
        self.scenario, self.place, self.common, self.dice, self.named = scenario, place, common, dice, named
        self.counts, self.sessions = Counts(), list[int]()
        self.state: Path | None = None
        self.changed, self.changed_at = False, 0
        self._before_change: Path | None = None
        self._processes: dict[int, Reader] = {}
        self._lives, self._world, self._workers, self._changing = 0, 0, 0, False
        self._progress: dict[int, tuple[int, float]] = {}
        self._logs: dict[int, Path] = {}
        (place / "logs").mkdir(parents=True)
        (place / "states").mkdir()
        (place / "own").mkdir()

    # --- starting and ending --------------------------------------------------------------------------------------

    def begin_generation(self) -> None:
        """Start all ranks, with a number of ranks and workers that is drawn anew, from the state of the slowest."""
        self.state = self._slowest_state()
        self.counts.generations += 1
        self._world = self.dice.choice(self.scenario.worlds)
        self._workers = self.dice.choice(self.scenario.workers)
        if self.scenario.changes is not None and not self.changed and self.counts.generations > 2:
            self.changed, self._before_change = True, self.state
            self.changed_at = 0 if self.state is None else pickle.loads(self.state.read_bytes())[0]
        # readers that are killed before they save one leave the next generation the state of before the change
        self._changing = self.changed and self.state == self._before_change
        self.counts.worlds.add(self._world)
        self.counts.workers.add(self._workers)
        self._progress.clear()
        self._processes.clear()
        for rank in range(self._world):
            self._start(rank)

    def _slowest_state(self) -> Path | None:
        """Return the state behind the fewest steps among those that the ranks would go on from."""
        found = [path if path.exists() else self.state for path in map(self._saves, range(self._world))]
        if not found or None in found:
            return self.state
        return min((path for path in found if path), key=lambda path: pickle.loads(path.read_bytes())[0])

    def _saves(self, rank: int) -> Path:
        return self.place / "states" / f"{self.counts.generations}-{rank}"

    def _start(self, rank: int) -> None:
        saves = self._saves(rank)
        own = saves.exists() and not self.scenario.together
        state = saves if own else self.state
        self._lives += 1
        meeting = self.place / f"meeting-{self._lives - rank}"
        task = Task(
            scenario=self.scenario.as_json(),
            rank=rank,
            world=self._world,
            workers=self._workers,
            generation=self.counts.generations,
            changed=self.changed,
            changing=self._changing and not own,
            every=self.dice.choice((1, 1, 2, 7)),
            state=None if state is None else str(state),
            saves=str(saves),
            log=str(self.place / "logs" / f"{self._lives:04}-{self.counts.generations}-{rank}.jsonl"),
            place=str(self.place / "own"),
            meeting=str(meeting),
            predownload=self.dice.choice((16, 64, 200)),
            seed=self.dice.randrange(1 << 20),
            **self.common,
        )
        self._logs[rank] = Path(task.log)
        process = self._zygote.start(run, task)
        self.counts.restarts += 1
        self._processes[rank] = process
        self.sessions.append(process.pid)

    def _kill(self, rank: int) -> None:
        self.counts.reading += self._batches_of(rank) > 0
        self._end(rank, group=self.dice.random() < 0.3)
        self.counts.kills += 1

    def _end(self, rank: int, *, group: bool = False) -> None:
        """Kill a rank, perhaps with its workers and helpers."""
        process = self._processes[rank]
        self.counts.resumed += self._batches_of(rank) > 0 and self._begin_of(rank) > 0
        if group:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join(30)

    def _kill_all(self) -> None:
        for rank in self.dice.sample(range(self._world), self._world):
            self._kill(rank)

    def pids(self) -> list[int]:
        """Return the processes that run."""
        return [process.pid for process in list(self._processes.values())]

    # --- disturbing -----------------------------------------------------------------------------------------------

    def disturb(self, until: float) -> None:
        """Kill, stop and restart ranks until `until` (monotonic), and until each rank has handed out a batch since."""
        self.begin_generation()
        while True:
            early = self.dice.random() < 0.25  # perhaps before there is a batch
            if not early and self._wait_for_batches(time.monotonic() + PATIENCE, self.dice.choice((1, 4, 12, 24))):
                return
            due = time.monotonic() + (self.dice.uniform(0.2, 2.5) if early else self.dice.uniform(0.5, 6))
            while time.monotonic() < due:
                time.sleep(0.05)
                if self._look():
                    return
            enough = self.counts.reading >= LEAST_KILLS and self.counts.resumed >= LEAST_RESUMED
            if time.monotonic() > until + (0.0 if enough else OVERTIME):
                break
            self._disturb_once()
        self._wait_for_batches(float("inf"), 1)

    def _wait_for_batches(self, until: float, least: int) -> bool:
        """Wait until each rank has handed out batches since it was started; return whether the data have ended."""
        while any(self._batches_of(rank) < least for rank in range(self._world)) and time.monotonic() < until:
            time.sleep(0.05)
            if self._look():
                return True
        return False

    def _disturb_once(self) -> None:
        rank, kind = self.dice.randrange(self._world), self.dice.random()
        if kind < 0.15:
            self.counts.stops += 1
            os.kill(self._processes[rank].pid, signal.SIGSTOP)
            time.sleep(self.dice.uniform(0.5, 4))
            os.kill(self._processes[rank].pid, signal.SIGCONT)
            return
        together = self.scenario.together and self._world > 1
        if kind < 0.6 or together:
            self._kill_all()
            self.begin_generation()
        else:
            self._kill(rank)
            self._start(rank)

    def _look(self) -> bool:
        """Return whether the data have ended; raise if a reader ended otherwise, or is stuck."""
        ended = 0
        for rank, process in list(self._processes.items()):
            code = process.exitcode
            if code is None:
                self._check_progress(rank)
            elif code == 0:
                ended += 1
            else:
                self._ended_by_itself(rank, code)
        return ended == self._world

    def _ended_by_itself(self, rank: int, code: int) -> None:
        text = self._errors(rank)
        if self.named and text.strip().rpartition("\n")[2] in NAMED:
            self.counts.named += 1
            if self.scenario.together and self._world > 1:
                self._kill_all()
                self.begin_generation()
            else:
                self._start(rank)
            return
        raise StuckError(f"rank {rank} of {self._world} ended by itself with status {code}:\n{text[-3000:]}")

    def _errors(self, rank: int) -> str:
        path = self._logs[rank].with_suffix(".err")
        return path.read_text() if path.exists() else ""

    def _batches_of(self, rank: int) -> int:
        """Return how many batches a rank has handed out since it was started."""
        log = self._logs[rank]
        return max(log.read_bytes().count(b"\n") - 1, 0) if log.exists() else 0

    def _begin_of(self, rank: int) -> int:
        """Return the step at which a rank that has handed out batches began."""
        with self._logs[rank].open() as log:
            return json.loads(log.readline())["begin"]

    def _progress_of(self, rank: int) -> tuple[int, float]:
        """Return the size of a rank's newest log beyond its first line, and since when it is so."""
        log = self._logs[rank]
        size = max(log.stat().st_size - 100, 0) if log.exists() else 0
        known = self._progress.get(rank)
        if known is None or known[0] != size:
            known = (size, time.monotonic())
            self._progress[rank] = known
        return known

    def _check_progress(self, rank: int) -> None:
        size, since = self._progress_of(rank)
        if time.monotonic() - since < STUCK:
            return
        os.kill(self._processes[rank].pid, signal.SIGUSR1)  # writes its stacks
        time.sleep(2)
        text = f"rank {rank} of {self._world} handed out nothing for {STUCK:g} s ({self._logs[rank]}, {size} bytes)"
        raise StuckError(f"{text}:\n{self._errors(rank)[-6000:]}")

    def end(self) -> list[str]:
        """Kill all; return the processes that outlive their parents."""
        for rank in self._processes:
            self._end(rank)
        until = time.monotonic() + LINGER
        while (left := processes_of(self.sessions)) and time.monotonic() < until:
            time.sleep(0.2)
        for way in (signal.SIGUSR1, signal.SIGKILL) if left else ():  # the first writes its stacks
            for pid, _ in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, way)
            time.sleep(2)
        return [f"process {pid} outlived its killed parent by {LINGER:g} s: {command}" for pid, command in left]
