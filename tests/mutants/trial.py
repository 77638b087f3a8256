"""Runs tests in private copies of the tree, each in a process that was forked with torch and others imported.

Rules: a copy belongs to one process at a time. A stale cache would hide a mistake, so nothing that was compiled from a
mistake outlives its process: byte code of mistakes is never written; a file with a mistake has a modification time of
its own, which byte code of the right text does not match; and where compiled loops are concerned numba has an empty
cache. The process that forks never imports mixstream.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from mutant_list import ROOT, Mutant

PACKAGES = (
    "boto3",
    "cyclopts",
    "msgspec",
    "numba",
    "pyarrow.parquet",
    "pytest",
    "rich.console",
    "torch",
    "torch.distributed.run",
    "torch.utils.data",
    "xxhash",
    "zstandard",
)
_MEMORY = 12 << 30  # what a mistake may allocate before it fails
_UNFAIR = re.compile(
    r"(\w+\.)*(SyntaxError|IndentationError|ImportError|ModuleNotFoundError|NameError|UnboundLocalError)\b"
)
_LATE = re.compile(r"Failed: Timeout [(>]")  # pytest-timeout
_KERNELS = re.compile(r"\bcompile_loop\b|@compiled\(")
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Tests to run, with a mistake or without one, within `limit` seconds."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None
    limit: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        kind: "passed"; "failed", by an assertion or an error; "late", by a time limit, which load alone can cause; or
            "unfair": no test ran, or the mistake is no valid code.
        by: the test and its message, or what happened.
        test: the test that failed, as pytest names it; empty if that is not known.
        seconds: how long it took.
    """

    kind: str
    by: str = ""
    test: str = ""
    seconds: float = 0.0


@dataclass
class Copy:
    """A private copy of the tree, and the process that uses it now."""

    place: Path
    kernels: frozenset[str] = frozenset()
    runs: int = 0
    trial: Trial | None = None
    process: Any = None
    started: float = 0.0
    deadline: float = 0.0
    _right: dict[Path, tuple[bytes, os.stat_result]] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        return self.place / "tree"

    def start(self, trial: Trial) -> None:
        """Apply the mistake and start the tests."""
        self.runs += 1
        fresh_loops = trial.mutant is not None and trial.mutant.file in self.kernels
        if trial.mutant is not None:
            path = self.tree / trial.mutant.file
            self._right[path] = path.read_bytes(), path.stat()
            path.write_text(trial.mutant.applied(path.read_text()))
            os.utime(path, (0, 10**9 + self.runs))  # a time that no other text of this file had
        self.trial, self.started = trial, time.monotonic()
        self.deadline = self.started + trial.limit
        self.process = _FORK.Process(target=_run_tests, args=(self.place, trial, self.runs, fresh_loops))
        self.process.start()

    def finish(self) -> tuple[Trial, Outcome]:
        """End the process if it still runs, put the right text back; return what came of the trial."""
        assert self.trial is not None
        trial, seconds = self.trial, time.monotonic() - self.started
        late = self.process.is_alive()
        self.kill()
        for path, (text, status) in self._right.items():
            path.write_bytes(text)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._right.clear()
        said = self.place / f"{self.runs}.json"
        if late:
            outcome = Outcome(kind="late", by=f"the limit of {trial.limit:.0f} s")
        elif not said.exists():
            outcome = Outcome(kind="failed", by=f"a crash (status {self.process.exitcode})")
        else:
            outcome = Outcome(**json.loads(said.read_text()))
        shutil.rmtree(self.place / f"t{self.runs}", ignore_errors=True)
        shutil.rmtree(self.place / f"n{self.runs}", ignore_errors=True)
        self.trial = None
        return trial, replace(outcome, seconds=seconds)

    def kill(self) -> None:
        """Kill what the trial has left, and the trial."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def warm_up() -> None:
    """Import what tests need of other packages, once."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "mutants"}
    for package in PACKAGES:
        importlib.import_module(package)
    sys.modules["numba"].njit(lambda x: x)(1)
    assert not any(name.partition(".")[0].startswith("mixstream") for name in sys.modules)


def copies(place: Path, count: int) -> list[Copy]:
    """Make `count` copies of the tree under `place`."""
    kernels = frozenset(_kernels(ROOT))
    made = []
    for number in range(count):
        copy = Copy(place=place / str(number), kernels=kernels)
        unused = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
        shutil.copytree(ROOT, copy.tree, ignore=unused, symlinks=True)
        for name, directory in (("mixstream_tools", "tools"), ("mixstream_examples", "examples")):
            (copy.tree / name).symlink_to(directory)  # the names that they are installed under
        made.append(copy)
    return made


def run_all(trials: Sequence[Trial], places: list[Copy]) -> Iterator[tuple[Trial, Outcome]]:
    """Run all `trials`, one at a time in each copy; yield what came of each, as they end."""
    waiting = list(reversed(trials))
    try:
        while waiting or any(copy.trial for copy in places):
            for copy in places:
                if copy.trial is None and waiting:
                    copy.start(waiting.pop())
            busy = [copy for copy in places if copy.trial]
            wait([copy.process.sentinel for copy in busy], max(0.0, min(c.deadline for c in busy) - time.monotonic()))
            for copy in busy:
                if not copy.process.is_alive() or time.monotonic() >= copy.deadline:
                    yield copy.finish()
    finally:
        for copy in places:
            if copy.trial:
                copy.kill()


def _kernels(root: Path) -> set[str]:
    """Return the files with compiled loops and those that they import: numba's cache knows the loop's own file only."""
    found = set()
    for path in (root / "mixstream").rglob("*.py"):
        text = path.read_text()
        if not _KERNELS.search(text):
            continue
        found.add(path)
        for module in re.findall(r"^from (mixstream[\w.]*) import", text, re.MULTILINE):
            found.add(root / (module.replace(".", "/") + ".py"))
    return {path.relative_to(root).as_posix() for path in found}


# --- in the forked process -----------------------------------------------------------------------------------------


class _First:
    """Remembers the first failure that pytest reports."""

    def __init__(self) -> None:
        self.test, self.message = "", ""

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.test:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.test, self.message = report.nodeid, crash.message if crash else str(report.longrepr)[-300:]


def _run_tests(place: Path, trial: Trial, run: int, fresh_loops: bool) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the runner
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    with (place / "output.txt").open("w") as output, Path(os.devnull).open() as nothing:
        for file, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(file.fileno(), number)
    tree = place / "tree"
    os.chdir(tree)
    sys.path[0] = os.environ["PYTHONPATH"] = str(tree)  # comes before the installed one, in children too
    sys.dont_write_bytecode = trial.mutant is not None
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if sys.dont_write_bytecode:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if fresh_loops:
        os.environ["NUMBA_CACHE_DIR"] = sys.modules["numba"].config.CACHE_DIR = str(place / f"n{run}")
    import pytest

    first = _First()
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={place}/t{run}"]
    status = int(pytest.main([*options, *trial.tests], plugins=[first]))
    kind = {0: "passed", 1: "failed"}.get(status, "unfair")
    if kind == "failed" and _UNFAIR.match(first.message):
        kind = "unfair"
    if kind == "failed" and _LATE.match(first.message):
        kind = "late"
    where = first.test if kind == "failed" else f"{first.test or f'pytest ended with status {status}'}: {first.message}"
    said = {"kind": kind, "by": "" if kind == "passed" else where.strip(": ").replace("\n", " ")[:300]}
    said["test"] = first.test if kind == "failed" else ""
    (place / f"{run}.json").write_text(json.dumps(said))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
