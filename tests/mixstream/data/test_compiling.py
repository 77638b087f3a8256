"""Numba is loaded by a thread: batches, forks and exits in the middle of that are as they are without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import hashlib, os, sys, threading, time
from pathlib import Path
import numpy as np
if {missing}:
    sys.modules["numba"] = sys.modules["llvmlite"] = None
import mixstream as ms
from mixstream.plan import compiled
from mixstream.data import compiling
sys.path.append({harness!r})
from harness import make_dataset

def read(loader, steps):
    ids = hashlib.sha256()
    for _, batch in zip(range(steps), loader):
        ids.update(batch["tokens"].numpy().tobytes() + batch["domain"].numpy().tobytes())
        yield ids.hexdigest()

def loading():
    return [thread for thread in threading.enumerate() if thread.name == "mixstream-compile"]
"""


def run(code: str, python: Path | str = sys.executable, *, missing: bool = False, **options: str) -> str:
    """Run `code` in a process of its own, and return what it has written."""
    head = HEAD.format(missing=missing, harness=str(Path(__file__).parents[1]))
    command = [str(python), "-c", head + code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


WAYS = {
    "by the loops": "compiled.compile_at_once()",
    "by the references": "compiled._WORTH = 1e9",
    "loaded in the middle": "compiled._WORTH, switch = 1e9, compiled.load",
    "loaded in the background": "compiled._WORTH, switch = 0.0, loaded",
}
READ = """
def loaded():
    while not compiled._state.started or loading():
        time.sleep(0.01)

switch = lambda: None
{way}
loader = ms.Loader(make_dataset(Path({library!r}), epoch_size=320))
for step, found in enumerate(read(loader, 40)):
    if step == 6:
        switch()
sys.stdout.write(found)
"""


@pytest.fixture(scope="module")
def expected(library, warm_programs):
    return run(READ.format(way=WAYS["by the loops"], library=str(library)), warm_programs / "python")


@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_batches_do_not_depend_on_when_numba_is_loaded(way, library, warm_programs, expected):
    assert run(READ.format(way=WAYS[way], library=str(library)), warm_programs / "python") == expected


def test_batches_without_numba_are_the_same(library, warm_programs, expected):
    code = READ.format(way=WAYS["by the loops"], library=str(library))
    assert run(code, warm_programs / "python", missing=True) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_load_numba_too(library, warm_spawn, warm_programs, method, tmp_path):
    script = tmp_path / "workers.py"
    head = HEAD.format(missing=False, harness=str(Path(__file__).parents[1]))
    script.write_text(
        head
        + f"""
from torch.utils.data import DataLoader
compiled._WORTH = 0.0
if __name__ == "__main__":
    dataset = make_dataset(Path({str(library)!r}), epoch_size=160)
    workers = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context={method!r})
    plain = DataLoader(make_dataset(Path({str(library)!r}), epoch_size=160), batch_size=8)
    for one, other in zip(workers, plain, strict=True):
        assert one["tokens"].tolist() == other["tokens"].tolist()
    sys.stdout.write("equal")
"""
    )
    done = subprocess.run(
        [str(warm_programs / "python"), str(script)], capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stdout) == (0, "equal"), done.stderr


def test_workers_that_are_started_anew_for_each_epoch_have_numba_from_the_third_on(library, warm_programs):
    code = f"""
from torch.utils.data import DataLoader
compiled._WORTH = 1e9
dataset = make_dataset(Path({str(library)!r}), epoch_size=80)
epochs = []
for epoch in range(2):
    epochs.append([batch["tokens"].tolist() for batch in DataLoader(dataset, batch_size=8, num_workers=1)])
    assert epoch or not (compiled._state.started or loading())  # one set of workers may be all there is
while loading():
    time.sleep(0.01)
assert compiled._state.started
class Asked(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield compiled._state.started
assert next(iter(DataLoader(Asked(), batch_size=None, num_workers=1)))
assert len(epochs[0]) == len(epochs[1]) == 10
"""
    run("import torch\n" + code, warm_programs / "python")


FORKS = """
import signal
loop = compiled.compile_loop(lambda x: x + 1)
both = compiled.beside(lambda x: x + 1)(lambda x: loop(x))
assert both(1) == 2
compiling.begin()
for turn in range(12):  # from the first import of numba to its first loop
    time.sleep(0.05)
    if (child := os.fork()) == 0:
        signal.alarm(100)  # for ever, if a lock of the parent's thread is held
        assert not loading()
        assert both(1) == 2
        if turn % 3 == 0:
            compiling.begin()
            while not compiled._state.started:
                time.sleep(0.01)
        elif turn % 3 == 1:
            compiled.compile_at_once()
            assert loop(1) == 2
        else:
            import scipy.linalg, numba
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_fork_in_the_middle_leaves_no_lock_to_the_child():
    run(FORKS)


def test_a_fork_waits_for_the_part_that_is_loaded():
    code = """
held, begun = threading.Lock(), threading.Event()
def part():
    with held:
        begun.set()
        time.sleep(0.3)
compiled.parts = lambda: iter([part])
compiling.begin()
assert begun.wait(20)
if (child := os.fork()) == 0:
    os._exit(held.locked())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(code)


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_an_exit_in_the_middle_is_quiet(pause):
    run(f"compiled.compile_loop(lambda x: x).__class__\ncompiling.begin()\ntime.sleep({pause})\nassert loading()")


def test_an_exit_waits_for_the_loop_that_is_compiled_and_for_no_more():
    code = """
def part(number):
    def run():
        time.sleep(0.2)
        sys.stdout.write(str(number))
    return run
compiled.parts = lambda: map(part, range(10))
compiling.begin()
time.sleep(0.05)
"""
    assert run(code) == "0"


def test_a_failure_is_logged_and_references_go_on(library, warm_programs):
    code = f"""
import logging
def fails():
    raise OSError("the cache of numba cannot be read")
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
logging.getLogger("numba").setLevel("WARNING")
compiled._import_numba, compiled._WORTH = fails, 0.0
loader = ms.Loader(make_dataset(Path({str(library)!r})))
for found in read(loader, 20):
    while loading(): time.sleep(0.01)
assert "cannot be read" in compiled.without()
"""
    lines = run(code, warm_programs / "python").splitlines()
    assert lines[0].startswith("WARNING numba failed, so numpy makes the batches")
    assert sum(line.startswith("WARNING") for line in lines) == 1
