"""Scenarios that write into a failing store, are killed, start again until they end well, and are then read whole.

Convert reads local text and uploads; `MDSWriter` writes rows. What lies in the store afterwards is compared with what
the same program writes to local disk undisturbed: the same index, the same bytes of each shard, nothing besides.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports] - soak.py sets the path
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.storage.retry import Retry
from soaking.store import Mischief
from soaking.supervise import LINGER
from soaking.watch import Watch, processes_of
from soaking.zygote import Zygote

ROWS = 12_000
SLOWEST = 180.0  # seconds that an undisturbed end may take
MOST_NAMED = 5  # times that a command may give up an outage and be started again


def write_rows(out: str, seed: int) -> int:
    """Write rows by `MDSWriter`, over what a killed writer has left."""
    import mixstream as ms

    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"compression": ("zstd", None)[seed % 2], "hashes": ["xxh3_64"], "size_limit": 1 << 15}
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:128"}, out=out, retry=24, exist_ok=True, **options) as writer:
        for _ in range(ROWS):
            writer.write({"tokens": rng.integers(0, 300, 128).astype(np.uint16)})
    return 0


def convert(out: str, seed: int) -> int:
    """Convert text by `mixstream convert`."""
    from mixstream_tools.cli import main

    source = Path(tempfile.gettempdir()) / "text"
    workers = "1" if seed % 2 else "2"
    options = ["--seq-len", "64", "--size-limit", "16kb", "--val-fraction", "0.1", "--workers", workers]
    return main(["convert", str(source), "--out", out, *options])


def write_text(place: Path, seed: int) -> None:
    """Write the text that is converted."""
    dice = random.Random(seed)
    words = [f"{''.join(dice.choices('aeioubcdlmnrst', k=dice.randrange(2, 9)))}" for _ in range(500)]
    for domain in ("web", "code"):
        (place / domain).mkdir(parents=True)
        for number in range(60):
            (place / domain / f"{number}.txt").write_text(" ".join(dice.choices(words, k=dice.randrange(50, 900))))


def child(write: Callable[[str, int], int], out: str, seed: int, errors: str) -> None:
    """Write, in a process that may be killed."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    log = Path(errors).open("a", buffering=1)  # noqa: SIM115 - for the life of the process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
    warnings.simplefilter("ignore")
    pause = Retry.pause
    Retry.pause = lambda self, number: pause(self, number) / 10
    try:
        status = write(out, seed)
    except BaseException:
        traceback.print_exc(file=log)
        status = 3
    log.flush()
    sys.stdout.flush()
    os._exit(status)


def run_writing(write: Callable[[str, int], int], name: str, seed: int, seconds: float, place: Path, server: S3) -> Any:
    """Let a writer write under faults, kill it for about `seconds`, let it end, and compare what lies in the store."""
    from soaking.reading import go_there

    begun, dice = time.monotonic(), random.Random(seed)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
    os.environ["XDG_CACHE_HOME"] = str(place / "home")  # work directories of soaks that were ended early lie elsewhere
    write_text(place / "tmp/text", seed)
    s3, problems, sessions = server.below(f"{name}-{seed}"), list[str](), list[int]()
    kills, starts, named = 0, 0, 0
    proxy = FaultProxy(server.endpoint)
    go_there(proxy.endpoint)
    zygote = Zygote()
    with proxy:
        mischief = Mischief(proxy, s3, dice, hashed=False, writes=True)
        running: list[int] = []
        watch = Watch(place / "none", lambda: running)
        mischief.begin()
        log = place / "writer.err"
        until, ended = time.monotonic() + seconds, False
        while not ended:
            process = zygote.start(child, write, s3.url, seed, str(log))
            starts, running = starts + 1, [process.pid]
            sessions += running
            last = time.monotonic() > until
            process.join(SLOWEST if last else dice.uniform(0.3, 1.0 + 3 * kills))
            if process.exitcode is None and last:
                os.kill(process.pid, signal.SIGUSR1)
                time.sleep(2)
                problems.append(f"the writer did not end within {SLOWEST:g} s:\n{log.read_text()[-4000:]}")
            elif named < MOST_NAMED and gave_up(process.exitcode, log):
                named += 1
            elif process.exitcode not in {None, 0}:
                problems.append(f"the writer ended with status {process.exitcode}:\n{log.read_text()[-4000:]}")
            ended = bool(problems) or (process.exitcode == 0 and (last or dice.random() < 0.5 or kills > 2))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
        faults = mischief.end()
        watch.stop()
        requests = proxy.count("*", "*")
        late = time.monotonic() + LINGER
        while (left := processes_of(sessions)) and time.monotonic() < late:
            time.sleep(0.2)
        problems += [f"process {pid} outlived its killed parent: {command}" for pid, command in left]
        size, files = 0, 0
        if not problems:
            size, files, found = compare_stores(write, seed, place / "undisturbed", s3)
            problems += found + verify(s3, proxy)
    for each in s3.names():
        s3.remove(each)
    readers = {"kills": kills, "restarts": starts, "named": named, "worlds": [1], "workers": []}
    return {
        "scenario": name, "seed": seed, "seconds": time.monotonic() - begun, "faults": faults, "requests": requests,
        "readers": readers, "memory": watch.memory, "batches": 0, "rows": 0, "files": files, "bytes": size,
        "differences": problems,
    }  # fmt: skip


def gave_up(status: int | None, log: Path) -> bool:
    """Return whether a command gave up a store that failed for longer than it tries, and is to be started again."""
    return status == 1 and "the same command goes on from there" in log.read_text().rstrip().rpartition("\n")[2]


def compare_stores(write: Callable[[str, int], int], seed: int, here: Path, s3: S3) -> tuple[int, int, list[str]]:
    """Write the same to local disk; return bytes and files that were compared, and how the store differs."""
    warnings.simplefilter("ignore")
    if write(str(here), seed):
        return 0, 0, ["the undisturbed writer failed"]
    ours = {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    ours = {name: data for name, data in ours.items() if not is_of_process(name)}
    theirs = {name for name in s3.names() if not is_of_process(name)}
    found = [f"{name} is missing in the store" for name in sorted(set(ours) - theirs)]
    found += [f"{name} is in the store, and no undisturbed writer writes it" for name in sorted(theirs - set(ours))]
    for name in sorted(theirs & set(ours)):
        if s3.get(name) != ours[name]:
            found.append(f"{name} differs from that of an undisturbed writer")
    return sum(map(len, ours.values())), len(ours), found


def is_of_process(name: str) -> bool:
    """Return whether a file is about the writing, not about the data."""
    return any(part.startswith(".") for part in Path(name).parts)


def verify(s3: S3, proxy: FaultProxy) -> list[str]:
    """Return what `mixstream verify` finds wrong in the store."""
    from mixstream_tools.cli import main

    del proxy  # which has no rules any more
    status = main(["verify", s3.url])
    return [f"mixstream verify {s3.url} ended with {status}"] if status else []


def _of(write: Callable[[str, int], int]) -> Callable[..., Any]:
    return lambda *arguments: run_writing(write, *arguments)


WRITING: dict[str, Callable[..., Any]] = {"writer-mds": _of(write_rows), "writer-convert": _of(convert)}
"""Scenarios that write."""
