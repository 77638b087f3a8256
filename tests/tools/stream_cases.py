"""Runs `mixstream` again and again in one process, each time with the standard streams of a shell's redirections.

    python stream_cases.py < CASES > RESULTS

CASES is a JSON list of [words, kind of stdout, kind of stderr], RESULTS one of [status, stdout, stderr]. What a stream
is: "file"; "closed", as after `>&-`; "unread", a pipe whose reader has gone; "full", a disk without room.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import tempfile
from typing import Any

from mixstream_tools import cli


def stream(number: int, kind: str, file: Any) -> io.TextIOWrapper | None:
    """Open the file descriptor `number`, and return the stream that the interpreter makes of it."""
    if kind == "closed":
        os.close(number)
        return None
    if kind == "file":
        os.dup2(file.fileno(), number)
    elif kind == "full":
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, number)
        os.close(full)
    else:
        reader, writer = os.pipe()
        os.dup2(writer, number)
        os.close(reader)
        os.close(writer)
    buffer = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
    return io.TextIOWrapper(buffer, encoding="utf-8", line_buffering=number == 2)


def run(words: list[str], out: str, err: str) -> tuple[Any, str, str]:
    """Run the program; return its status, or what it raised, and what it wrote to files."""
    with tempfile.TemporaryFile() as told_out, tempfile.TemporaryFile() as told_err:
        logging.getLogger().handlers.clear()
        sys.argv = ["mixstream", *words]
        sys.stdout, sys.stderr = stream(1, out, told_out), stream(2, err, told_err)  # type: ignore[assignment]
        status: Any = "no exit"
        try:
            cli.run()
        except SystemExit as end:
            status = end.code
            for each in filter(None, (sys.stdout, sys.stderr)):
                each.flush()  # as the interpreter does at its end
        except BaseException as error:
            status = repr(error)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        texts = []
        for file in (told_out, told_err):
            file.seek(0)
            texts.append(file.read().decode())
    return status, texts[0], texts[1]


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as results:
        json.dump([run(*case) for case in json.load(sys.stdin)], results)
