"""Python programs that start at once: a server that has imported torch forks a process for each.

Importing torch, numba and pyarrow takes a process more than a second of CPU. `bin/python` in the directory of a server
is called like the interpreter (`-c`, `-m` or a script, with `-W`, `-u` and `-B`), and has its arguments, environment,
directory, streams, other open files, signals and exit status. `bin/mixstream` and `bin/torchrun` are the programs of
these names; torchrun starts its ranks in the same way. Where the variable PYTHON_SPAWN names such a `python`, what
`multiprocessing` spawns starts by it too.

Rules: the server imports packages of others only, and uses none, so that a process finds mixstream as a new interpreter
does: it has no threads, no locks that are held and no connections. What differs: the seed of `hash` and
OMP_NUM_THREADS=1 are those of the server, as is the parent; and a process ends after its `atexit` functions, without
taking torch apart, which costs 0.2 s. Tests of what only a new interpreter shows start one.

    python warm.py DIRECTORY SOCKET     the server: it says "ready", and ends with the process that started it
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import marshal
import multiprocessing.spawn
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = (
    "torch",
    "torch.distributed.run",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.distributed.device_mesh",
    "torch.utils.data",
    "numba",
    "pyarrow.parquet",
    "zstandard",
    "xxhash",
    "msgspec",
    "cyclopts",
    "rich.console",
)
_CLIENT = """#!{python} -IS
import marshal, os, signal, socket, sys

files = [file for file in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{{file}}")]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
environment = dict(os.environ, PYTHON_EXEC={starter!r})  # what torchrun starts its ranks with
call = marshal.dumps(({program!r} + sys.argv[1:], files, os.getcwdb(), environment))
told = (signal.SIGTERM, signal.SIGINT)
signal.pthread_sigmask(signal.SIG_BLOCK, told)  # the program may run before the handlers are there
socket.send_fds(server, [len(call).to_bytes(4, "big")], files)
server.sendall(call)
for number in told:
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
status = int.from_bytes(server.recv(4) or bytes([0, 0, 0, 70]), "big", signed=True)  # 70: the server is gone
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextmanager
def warm(directory: Path) -> Iterator[Path]:
    """Run a server; yield the directory of its programs, which is made for PATH."""
    with (
        tempfile.TemporaryDirectory(prefix="warm-") as place,  # the address of a socket has to be short
        subprocess.Popen(
            [sys.executable, __file__, str(directory), f"{place}/socket"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # read once, when torch is loaded
        ) as server,
    ):
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n", "the server of warm processes did not start"
            yield directory / "bin"
        finally:
            server.kill()  # and with it what it has forked


# --- the server -----------------------------------------------------------------------------------------------------


class _Server:
    """Forks a process for each call, tells its status to the caller, and kills it if the caller dies."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._select = selectors.DefaultSelector()
        self._select.register(listening, selectors.EVENT_READ, self._accept)
        self._running: dict[int, socket.socket] = {}

    def run(self) -> list[str]:
        """Serve for ever. Returns in a forked process alone: the words that it was called by."""
        while True:
            for key, _ in self._select.select():
                call = key.data(key.fileobj)
                if call is not None:
                    return call

    def _accept(self, listening: socket.socket) -> list[str] | None:
        caller, _ = listening.accept()
        length, files, _, _ = socket.recv_fds(caller, 4, 250)
        if len(length) < 4:
            caller.close()
            return None
        with caller.makefile("rb") as lines:
            words, numbers, place, environment = marshal.loads(lines.read(int.from_bytes(length, "big")))
        pid = os.fork()
        if pid == 0:
            _die_with_parent()
            caller.close()
            self._become(dict(zip(numbers, files, strict=True)), place, environment)
            return words
        for file in files:
            os.close(file)
        self._running[pid] = caller
        self._select.register(os.pidfd_open(pid), selectors.EVENT_READ, lambda ended: self._ended(ended, pid))
        self._select.register(caller, selectors.EVENT_READ, lambda caller: self._told(caller, pid))
        return None

    def _become(self, files: dict[int, int], place: bytes, environment: dict[str, str]) -> None:
        """Let go of the server's files, and take over the caller's."""
        self._listening.close()
        for caller in self._running.values():
            caller.close()
        for key in list(self._select.get_map().values()):
            if isinstance(key.fileobj, int) and key.fileobj > 2:
                os.close(key.fileobj)
        self._select.close()
        above = max((2, *files, *files.values())) + 1
        aside = {number: fcntl.fcntl(file, fcntl.F_DUPFD, above) for number, file in files.items()}
        for file in files.values():
            os.close(file)
        for number, file in aside.items():
            os.dup2(file, number)
            os.close(file)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if number not in files:  # the caller has closed it
                os.close(number)
                setattr(sys, name, None)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)

    def _told(self, caller: socket.socket, pid: int) -> None:
        number = caller.recv(1)
        os.kill(pid, number[0] if number else signal.SIGKILL)
        if not number:
            self._select.unregister(caller)

    def _ended(self, ended: int, pid: int) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._select.unregister(ended)
        os.close(ended)
        caller = self._running.pop(pid)
        if caller in self._select.get_map():
            self._select.unregister(caller)
        with suppress(BrokenPipeError):
            caller.send(status.to_bytes(4, "big", signed=True))
        caller.close()


def _program(words: list[str]) -> tuple[Any, dict[str, Any]]:
    """Take over `words`, a command line of the interpreter; return the code to run and its names."""
    words = list(words)
    options = os.environ.get("PYTHONWARNINGS", "").split(",") if "PYTHONWARNINGS" in os.environ else []
    while words[0][:2] in ("-u", "-W", "-B"):
        word = words.pop(0)
        if word == "-u":
            os.environ["PYTHONUNBUFFERED"] = "1"
        elif word == "-B":
            sys.dont_write_bytecode = True
        else:
            options.append(word[2:] or words.pop(0))
    sys.warnoptions[:] = options
    warnings._processoptions(options)  # type: ignore[attr-defined] - as the interpreter does
    if os.environ.get("PYTHONUNBUFFERED") and sys.stdout is not None:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if "PYTHON_SPAWN" in os.environ:
        multiprocessing.spawn.set_executable(os.environ["PYTHON_SPAWN"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        return compile(words[1], "<string>", "exec"), main.__dict__
    if words[0] == "-m":
        import runpy

        sys.path[0] = os.getcwd()  # noqa: PTH109
        sys.modules.pop(words[1], None)
        _, spec, code = runpy._get_module_details(words[1])  # type: ignore[attr-defined] - what `python -m` calls
        sys.argv = [spec.origin, *words[2:]]
        main.__dict__.update(__file__=spec.origin, __spec__=spec, __package__=spec.parent)
        return code, main.__dict__
    script = Path(words[0])
    sys.argv, sys.path[0] = words, str(script.resolve().parent)
    main.__dict__.update(__file__=words[0], __spec__=None)
    return compile(script.read_bytes(), words[0], "exec"), main.__dict__


def _write_programs(directory: Path, address: str) -> None:
    directory.mkdir()
    command = str(Path(sys.executable).with_name("mixstream"))
    programs = {"python": [], "mixstream": [command], "torchrun": ["-m", "torch.distributed.run"]}
    starter = str(directory / "python")
    for name, program in programs.items():
        path = directory / name
        path.write_text(_CLIENT.format(python=sys.executable, address=address, program=program, starter=starter))
        path.chmod(0o755)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Ending:
    """Ends a forked process when its `atexit` functions have run. Entered around its program.

    The interpreter would go on to destroy every module: 0.2 s, in which it copies most pages of the server.
    """

    def __init__(self) -> None:
        self._status: int | None = None  # None: in the server; or the interpreter has more to do, as after Ctrl-C
        atexit.register(self._end)  # the last to run of those registered later

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, SystemExit):
            said = error.code or 0
            self._status = said & 255 if isinstance(said, int) else 1
        elif error is None or isinstance(error, Exception):
            self._status = int(error is not None)

    def _end(self) -> None:
        if self._status is not None:
            with suppress(OSError, ValueError):  # a stream that cannot be written: the interpreter says so
                sys.modules["__main__"].__dict__.clear()  # files that the program left open are closed, and so written
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
                os._exit(self._status)


def _serve(directory: Path, address: str) -> list[str]:
    """Serve for ever. Returns in a forked process alone: the words that it was called by."""
    for package in PACKAGES:
        importlib.import_module(package)
    sys.modules["numba"].njit(lambda x: x)(1)  # loads what every compiled function needs, also one from the disk
    assert threading.active_count() == 1, "a package started a thread, which a forked process would not have"
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    _write_programs(directory / "bin", address)
    os.write(1, b"ready\n")
    return _Server(listening).run()


if __name__ == "__main__":
    _die_with_parent()
    ending = _Ending()
    called = _serve(Path(sys.argv[1]), sys.argv[2])
    tempfile.tempdir = None  # as it is by default, whatever TMPDIR was for the server
    with ending:
        exec(*_program(called))
