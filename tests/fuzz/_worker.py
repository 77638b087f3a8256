"""Runs the cases of one fuzzer for `__main__.py`: reads a seed a line, answers what happened as a line of JSON.

It is a process of its own, so that a case that hangs, crashes or fills the memory is a finding and ends nothing else.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = 6 << 30

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]  # fuzzers have names of other modules
sys.path += [str(HERE.parent / "mixstream"), str(HERE)]


def load(kind: str) -> tuple[Callable[[int, Path], str], Callable[[int], None] | None]:
    """Return the function `case` of the fuzzer `kind`, and `prepare` if it has one."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{kind}", HERE / f"{kind}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.case, getattr(module, "prepare", None)


def run(case: Callable[[int, Path], str], seed: int, place: Path) -> dict[str, object]:
    """Return the outcome of one case: its word, the seconds it took, and a traceback if it failed."""
    begun, failure, word = time.process_time(), None, "failed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            word = case(seed, place)
    except BaseException:  # whatever it is, it is a finding
        failure = traceback.format_exc()
    seconds = time.process_time() - begun  # of this process, since others have the cores too
    return {"seed": seed, "word": word, "seconds": seconds, "failure": failure}


def main(kind: str) -> None:
    """Answer until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a case prints is no answer
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks where it hangs
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    case, prepare = load(kind)
    answers.write("ready\n")
    answers.flush()
    place = Path(tempfile.mkdtemp(prefix="case-"))
    for line in sys.stdin:
        if prepare is not None:
            prepare(int(line))
        answers.write(json.dumps(run(case, int(line), place)) + "\n")
        answers.flush()
        if any(place.iterdir()):  # many cases write nothing
            shutil.rmtree(place, ignore_errors=True)
            place = Path(tempfile.mkdtemp(prefix="case-"))


if __name__ == "__main__":
    main(sys.argv[1])
