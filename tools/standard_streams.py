"""Stdin, stdout and stderr of the program: a command ends in order when one of them is closed, unread or full.

Rules. No write to stdout or stderr raises: the command does its work to the end, and what could not be written is told
by its exit status (`Outputs.status`). A number that is closed at the start (`>&-`) is opened on the null device, so
that no file which the command opens gets it and receives what a library prints.

| stdout is | what is told | status, if the command has 0 |
|---|---|---|
| closed at the start (`>&-`) | nothing: no result was asked for | 0 |
| a pipe that its reader has closed (`\\| head`) | nothing | 141, as of a program that SIGPIPE ends |
| full, or failing | the error, on stderr | 1 |

A status other than 0 stays: `mixstream verify DIR | head -1` says 1 of damaged shards. What cannot be written to
stderr is dropped.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

UNREAD, UNWRITTEN = 141, 1


class Outputs:
    """Takes the place of `sys.stdout` and `sys.stderr` for the rest of the process."""

    def __init__(self) -> None:
        for number in range(3):
            _occupy(number)
        self._out, self._err = _Output(1), _Output(2)
        sys.stdout, sys.stderr = _text(sys.stdout, self._out), _text(sys.stderr, self._err)

    def status(self, status: int) -> int:
        """Write out what is buffered, and return the exit status of a command whose own is `status`."""
        sys.stdout.flush()
        failed = self._out.failed
        if failed is not None and not isinstance(failed, BrokenPipeError):
            sys.stderr.write(
                f"mixstream: error: stdout cannot be written: {failed.strerror}\n"
                "  Not all of the result is there. Files that the command wrote are complete.\n"
            )
        sys.stderr.flush()
        if status or failed is None:
            return status
        return UNREAD if isinstance(failed, BrokenPipeError) else UNWRITTEN


class _Output(io.FileIO):
    """A file descriptor, to which no write fails: the first error is kept, and what comes then is dropped."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        while self.failed is None:
            try:
                return os.write(self.fileno(), data)
            except BlockingIOError:  # another program left the terminal or pipe non-blocking
                select.select([], [self.fileno()], [])
            except OSError as error:
                self.failed = error
        return size


def _occupy(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)


def _text(stream: TextIO | None, output: _Output) -> TextIO:
    """Return a text stream to `output`, as `stream` is; None: it was closed at the start."""
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(output), encoding="utf-8", errors="backslashreplace")
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,  # names of files, and narrow locales
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
