"""Runs the fuzzers: random cases, on all cores, until the time is over.

    python tests/fuzz [--minutes 2] [--only NAME]... [--cases N] [--first SEED] [--seed SEED]

A fuzzer is a module of this directory with `case(seed: int, place: Path) -> str`: one case that follows from
`random.Random(seed)`, in an empty directory. It returns a word for what happened, such as "same" or "StateError".
Whatever it raises is a finding, and so is a case that takes longer than `--limit` seconds, crashes, or needs more
memory than a case may have. Each finding is shown with the command that repeats it; the exit status is 1 if there is
one. Ctrl-C ends it early. What a fuzzer prepares once (`prepare(seed: int)`, called before the case of that seed;
optional) it keeps in a temporary directory of its own, which is removed in the end. The slowest case is that of the
most time on a core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START = 600.0
"""Seconds that a worker may take to import what it tests."""


@dataclass
class Result:
    """What the cases of one fuzzer came to."""

    kind: str
    words: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    findings: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False

    def add(self, answer: dict[str, Any]) -> None:
        """Count one answer of a worker."""
        self.words[answer["word"]] += 1
        self.slowest = max(self.slowest, (answer["seconds"], answer["seed"]))
        if answer["failure"]:
            self.find(answer["seed"], answer["failure"])

    def find(self, seed: int | None, what: str) -> None:
        """Note a finding, and show it at once."""
        command = "" if seed is None else f"python tests/fuzz --only {self.kind} --seed {seed}"
        self.findings.append((command, what.strip().splitlines()[-1]))
        print(f"\nFINDING {self.kind}: {command}\n{what}", flush=True)


class Worker:
    """A process that runs one case at a time."""

    def __init__(self, kind: str, *, root: Path) -> None:
        self.notes = (root / f"notes-{time.monotonic_ns()}").open("w+b")
        environment = os.environ | {"TMPDIR": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "_worker.py"), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.notes,
            env=environment,
        )
        self.seed: int | None = None
        self.until = time.monotonic() + START

    def give(self, seed: int, *, limit: float) -> None:
        """Let it run the case of `seed`."""
        assert self.process.stdin is not None
        self.seed, self.until = seed, time.monotonic() + 1.5 * limit + 1
        self.process.stdin.write(f"{seed}\n".encode())
        self.process.stdin.flush()

    def said(self) -> str:
        """Return the end of what it wrote to standard error."""
        self.notes.seek(0)
        return self.notes.read().decode(errors="replace")[-6000:]

    def hangs(self) -> str:
        """Return where each of its threads is, and what it wrote before."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        return self.said()

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.notes):
            if pipe is not None:
                pipe.close()


def campaign(kind: str, seeds: list[int] | None, *, first: int, options: argparse.Namespace, root: Path) -> Result:
    """Run the cases of one fuzzer: those of `seeds`, or from `first` on until its time is over."""
    result, upcoming = Result(kind), iter(seeds) if seeds is not None else count(first)
    over = None if seeds is not None else time.monotonic() + 60 * options.minutes
    selector, running = selectors.DefaultSelector(), 0
    workers = min(options.jobs, len(seeds) if seeds is not None else options.jobs)

    def begin() -> None:
        worker = Worker(kind, root=root)
        assert worker.process.stdout is not None
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def stop(worker: Worker) -> None:
        selector.unregister(worker.process.stdout)  # pyright: ignore[reportArgumentType] - it is a pipe
        worker.end()

    for _ in range(workers):
        begin()
        running += 1
    try:
        while running:
            ready = {key.data for key, _ in selector.select(timeout=0.5)}
            for worker in [key.data for key in list(selector.get_map().values())]:
                if worker in ready:
                    line = worker.process.stdout.readline()
                    if not line:
                        failed = f"{worker.said()}\nthe process died: status {worker.process.wait()}"
                    else:
                        failed = ""
                        if worker.seed is not None:
                            result.add(json.loads(line))
                elif time.monotonic() > worker.until:
                    failed = f"{worker.hangs()}\nit hangs: longer than {options.limit:g} s"
                else:
                    continue
                if failed:
                    result.words["failed"] += 1
                    result.find(worker.seed, failed)
                seed = None if over is not None and time.monotonic() > over else next(upcoming, None)
                if seed is None or (failed and worker.seed is None):
                    stop(worker)
                    running -= 1
                elif failed:
                    stop(worker)
                    begin()
                    upcoming = chain([seed], upcoming)
                else:
                    worker.give(seed, limit=options.limit)
    except KeyboardInterrupt:
        result.ended = True
    finally:
        for key in list(selector.get_map().values()):
            stop(key.data)
        selector.close()
    return result


def report(result: Result, seconds: float) -> None:
    """Print what the cases of one fuzzer came to."""
    words = ", ".join(f"{word} {n}" for word, n in result.words.most_common()) or "none"
    slowest, seed = result.slowest
    print(
        f"{result.kind}: {sum(result.words.values())} cases in {seconds:.0f} s ({words}); slowest {slowest:.2f} s "
        f"(seed {seed}); {len(result.findings)} findings",
        flush=True,
    )
    for command, what in result.findings:
        print(f"  {command or 'at the start'}\n    {what}")


def main() -> int:
    """Run them all; return the exit status."""
    kinds = sorted(file.stem for file in HERE.glob("*.py") if not file.stem.startswith("_"))
    parser = argparse.ArgumentParser(
        prog="python tests/fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="minutes over all fuzzers together")
    parser.add_argument("--only", action="append", choices=kinds, help="this fuzzer; may be given more than once")
    parser.add_argument("--cases", type=int, help="so many cases of each fuzzer, instead of minutes")
    parser.add_argument("--first", type=int, help="the seed of the first case; random if not given")
    parser.add_argument("--seed", type=int, help="repeat the case of this seed")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that a case may take")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes; one for each core")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    chosen = options.only or kinds
    options.minutes /= len(chosen)
    first = random.SystemRandom().randrange(1 << 40) if options.first is None else options.first
    seeds = None if options.cases is None else list(range(first, first + options.cases))
    seeds = seeds if options.seed is None else [options.seed]
    found = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended early, it still says what it has found
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as root:
        for kind in chosen:
            begun = time.monotonic()
            result = campaign(kind, seeds, first=first, options=options, root=Path(root))
            report(result, time.monotonic() - begun)
            found += len(result.findings)
            if result.ended:
                break
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
