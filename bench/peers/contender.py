"""A contender: a process of its own that delivers when asked, and is stopped in between."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")


class ContenderError(Exception):
    """A contender did not answer, or died; the text ends with the last lines that it printed."""


class Contender:
    """`serve.py` with one adapter and one setting, on `cores`; its workers are stopped and counted with it.

    Between requests the whole group of processes is stopped (SIGSTOP), so that what one prefetches takes nothing from
    the others' turns. CPU seconds are those of the process and of all its workers.
    """

    def __init__(
        self, python: str, name: str, directory: Path, given: str, *, cores: Sequence[int], timeout: float = 180
    ) -> None:
        self.name, self.timeout, self._patience = name, timeout, 5.0
        self._log = (directory / f"{name}.log").open("wb+")
        self._left = b""
        stubs = HERE.parents[1] / "tests" / "mosaic" / "stubs"  # for mosaicml-streaming; no other peer looks at it
        self._process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), python, str(HERE / "serve.py"), name, str(directory), given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            process_group=0,  # not a session: that would leave the scheduler's group of the caller
            env=os.environ | ({"PYTHONPATH": str(stubs)} if name == "mosaic" else {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self) -> dict[str, Any]:
        """Wait for the next line, then stop the processes."""
        assert self._process.stdout is not None
        fd, until = self._process.stdout.fileno(), time.monotonic() + self.timeout
        while b"\n" not in self._left:
            readable, _, _ = select.select([fd], [], [], max(until - time.monotonic(), 0))
            got = os.read(fd, 65536) if readable else b""
            if not got:
                self._patience = 0
                what = "died" if readable else f"did not answer within {self.timeout:.0f} s"
                self._log.seek(0)
                last = self._log.read().decode(errors="replace").strip().splitlines()[-4:]
                raise ContenderError(f"{self.name} {what}: " + " | ".join(last))
            self._left += got
        line, self._left = self._left.split(b"\n", 1)
        os.killpg(self._process.pid, signal.SIGSTOP)
        return json.loads(line)

    def ask(self, request: str) -> dict[str, Any]:
        """Continue the processes, send a request, return the answer with `cpu`, the CPU seconds that it took."""
        assert self._process.stdin is not None
        before = self._cpu()
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` says what happened
        return self.answer() | {"cpu": self._cpu() - before}

    def _cpu(self) -> float:
        """Return the CPU seconds of all processes of the group so far, with those that were waited for."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:
                    ticks += sum(map(int, fields[11:15]))
        return ticks / TICK

    def close(self) -> None:
        """End the processes: by the end of their input, or by force."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()
