"""Draws scenarios and runs them, two at once, each in a process of its own; prints what happened.

The n-th scenario of a run has the seed `--seed` + n: `--only NAME --seed THAT` begins with it again.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from servers import S3, seaweed  # pyright: ignore[reportMissingImports] - soak.py sets the path

from soaking.reading import run_reading
from soaking.scenarios import READING
from soaking.writing import WRITING

ELSEWHERE = {
    "trainer-torchtitan": "torchtitan is in the environment of make test-trainers",
    "trainer-composer": "Composer is in the environment of make test-trainers",
}
NEEDS = {"face-stateful": "torchdata", "trainer-hf": "transformers", "trainer-lightning": "lightning"}
SLACK = 450.0  # seconds that a scenario may take besides its own: to write, to compare, to notice that it is stuck


@dataclass(kw_only=True)
class Running:
    """A scenario that runs."""

    name: str
    seed: int
    place: Path
    process: BaseProcess
    until: float


@dataclass(kw_only=True)
class Total:
    """What all scenarios did."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    scenarios: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def names_of(only: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the scenarios that can run here, and why others cannot."""
    left_out = dict(ELSEWHERE)
    left_out |= {name: f"{package} is not installed" for name, package in NEEDS.items() if find_spec(package) is None}
    names = [name for name in [*READING, *WRITING] if name not in left_out]
    if only is not None:
        names = [name for name in names if any(fnmatchcase(name, each) for each in only.split(","))]
        left_out = {}
    return names, left_out


def drawn(names: list[str], seed: int) -> Iterator[tuple[str, int]]:
    """Yield scenarios with their seeds for ever: all of them in random order, then all again."""
    dice, number = random.Random(seed), 0
    while True:
        for name in dice.sample(names, len(names)):
            yield name, seed + number
            number += 1


def campaign(*, minutes: float, seed: int, only: str | None, jobs: int, document: Path | None) -> int:
    """Run scenarios until the minutes are over; return the exit status."""
    names, left_out = names_of(only)
    if not names:
        print(f"no scenario is called {only!r}")
        return 2
    print(f"{minutes:g} minutes, seed {seed}, {len(names)} scenarios, {jobs} at once")
    for name, why in left_out.items():
        print(f"  left out: {name}: {why}")
    place = Path(tempfile.mkdtemp(prefix="mixstream-soak-"))
    total, until = Total(), time.monotonic() + 60 * minutes
    with seaweed(place) as server:
        running = list[Running]()
        try:
            keep_running(running, drawn(names, seed), total, jobs, until, place, server.endpoint)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
            print(f"\nstopped by Ctrl-C: {len(running)} runs that had not ended are not counted")
        finally:
            for each in running:  # their readers end with them
                each.process.kill()
                each.process.join()
    close(total, place, seed, document)
    return 130 if stopped else int(bool(total.failed))


def keep_running(
    running: list[Running],
    turns: Iterator[tuple[str, int]],
    total: Total,
    jobs: int,
    until: float,
    place: Path,
    endpoint: str,
) -> None:
    """Keep `jobs` scenarios in `running` until the time is over and all have ended."""
    while True:
        while len(running) < jobs and (time.monotonic() < until or not (total.results or running)):
            running.append(start(*next(turns), place, endpoint, until))
        if not running:
            return
        time.sleep(0.2)
        for each in [each for each in running if ended(each)]:
            running.remove(each)
            told(finish(each), total)


def start(name: str, seed: int, place: Path, endpoint: str, until: float) -> Running:
    """Start a scenario."""
    seconds = random.Random(seed).uniform(30, 75)
    seconds = max(12.0, min(seconds, until - time.monotonic()))
    own = place / f"{name}-{seed}"
    own.mkdir()
    settings = {"name": name, "seed": seed, "seconds": seconds, "place": str(own), "endpoint": endpoint}
    process = multiprocessing.get_context("fork").Process(target=one, args=(settings, own / "output"))
    process.start()
    return Running(name=name, seed=seed, place=own, process=process, until=time.monotonic() + seconds + SLACK)


def one(settings: dict[str, Any], output: Path) -> None:
    """Run one scenario in this process, which ends with the campaign, and write its result to its directory."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    name, seed, place = settings["name"], settings["seed"], Path(settings["place"])
    server, seconds = S3(endpoint=settings["endpoint"]), settings["seconds"]
    if name in READING:
        result = run_reading(name, seed, seconds, place, server, READING[name])
    else:
        result = WRITING[name](name, seed, seconds, place, server)
    aside = place / "result.new"
    aside.write_text(json.dumps(result))
    aside.replace(place / "result.json")


def ended(each: Running) -> bool:
    """Return whether a scenario has ended; end it if it is late."""
    if each.process.exitcode is not None:
        return True
    if time.monotonic() > each.until:
        each.process.kill()
        each.process.join()
        return True
    return False


def finish(each: Running) -> dict[str, Any]:
    """Return the result of a scenario that has ended; remove its files if all was well."""
    path = each.place / "result.json"
    about = {"scenario": each.name, "seed": each.seed}
    if path.exists():
        result = json.loads(path.read_text())
    else:
        output = (each.place / "output").read_text(errors="replace")[-4000:]
        result = about | {"batches": 0, "differences": [f"ended with status {each.process.exitcode}:\n{output}"]}
    result["place"] = str(each.place)
    if not result["differences"]:
        shutil.rmtree(each.place, ignore_errors=True)
    return result


def told(result: dict[str, Any], total: Total) -> None:
    """Print a scenario's result, and add it to the total."""
    name, seed = result["scenario"], result["seed"]
    total.results.append(result)
    total.scenarios[name] += 1
    for key in ("batches", "rows", "bytes", "steps", "files", "requests", "evicted or replaced"):
        total.counts[key] += result.get(key, 0)
    readers = result.get("readers", {})
    for key in ("kills", "stops", "restarts", "resumed", "generations", "named"):
        total.counts[key] += readers.get(key, 0)
    faults = {kind: count for kind, count in result.get("faults", {}).items() if count}
    total.faults.update(faults)
    verdict = "same" if not result["differences"] else "DIFFERS"
    wrong, requests = sum(faults.values()), result.get("requests", 0)
    done = f"{result['batches']:6} batches" if "files" not in result else f"{result['files']:6} files  "
    ranks = f"ranks {readers.get('worlds', [])} workers {readers.get('workers', [])}"
    text = f"{name:<28} {verdict:<8} seed {seed:<7} {result.get('seconds', 0):4.0f} s  {done}"
    text += f"  {wrong:4} faults of {requests:5} requests  {readers.get('kills', 0):2} kills"
    text += f"  {readers.get('resumed', 0):2} resumed  {ranks:<26}"
    text += f"  cache {result.get('cache', 0):.2f}  {result.get('memory', 0) >> 20} MB"
    print(text, flush=True)
    if result["differences"]:
        total.failed.append(f"{name}, seed {seed}")
        for difference in result["differences"][:5]:
            print(f"  {difference}")
        print(f"  kept: {result['place']}; again: python bench/soak.py --only {name} --seed {seed}", flush=True)


def close(total: Total, place: Path, seed: int, document: Path | None) -> None:
    """Print the totals."""
    counts = total.counts
    print(f"\n{sum(total.scenarios.values())} runs of {len(total.scenarios)} scenarios")
    print(f"read and compared: {counts['batches']} batches, {counts['rows']} rows, {counts['bytes'] / 1e6:.1f} MB, "
          f"and {counts['files']} files of writers")  # fmt: skip
    print(f"processes: {counts['restarts']} started, {counts['resumed']} of them read on from a state, "
          f"{counts['kills']} killed, {counts['stops']} stopped for a while, "
          f"{counts['named']} ended by an error that says to start again")  # fmt: skip
    print(f"shards that left a cache: {counts['evicted or replaced']}")
    print(f"requests: {counts['requests']}; of these went wrong: {sum(total.faults.values())}")
    for kind, count in total.faults.most_common():
        print(f"  {count:6} {kind}")
    print(f"differences: {len(total.failed)}")
    for each in total.failed:
        print(f"  {each}")
    if document is not None:
        about = {"seed": seed, "counts": counts, "faults": total.faults, "failed": total.failed, "runs": total.results}
        document.write_text(json.dumps(about, indent=1))
    if not total.failed:
        shutil.rmtree(place, ignore_errors=True)
