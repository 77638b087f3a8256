"""The command line: the list of commands, and how every command ends.

A command is a function: its signature is its options, its docstring is its `--help`, and it returns its exit status
(None is 0). Its module is imported only when it is called, so `mixstream --help` stays fast. To add a command, add a
line to `COMMANDS`.

Exit status: 0 done · 1 found a fault or failed · 2 wrong use · 130 interrupted. A failure is reported in plain lines on
stderr, without a traceback; with `--json` also as one JSON document on stdout. A traceback is a bug in mixstream.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from cyclopts import App, CycloptsError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("mixstream_tools.demo.command:demo", "Train, kill -9, resume on two processes, prove the batches equal."),
    "convert": ("mixstream_tools.convert.command:convert", "Turn text and JSONL into tokenised shards, by domain."),
    "verify": ("mixstream_tools.verify.command:verify", "Check that every shard is complete and matches its index."),
    "inspect": ("mixstream_tools.inspect.command:inspect", "Show datasets: shards, tokens, columns, samples."),
    "plan": ("mixstream_tools.plan.command:plan", "Show what a mixture reads: epochs, tokens, weights by step."),
}
"""Command → (module and name of its function, one line for `mixstream --help`)."""

_HELP = """Stream sharded corpora and mix them while the model learns.

Start here:  mixstream demo

Every command has --help with an example, and --json. Exit status: 0 done, 1 found a fault or failed, 2 wrong use.
"""
_WRONG_USE, _FAILED, _INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mixstream` with `arguments` (default: the command line); returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    level = logging.getLevelNamesMapping().get(os.environ.get("MIXSTREAM_LOG", "").upper(), logging.WARNING)
    logging.basicConfig(stream=sys.stderr, level=level)
    as_json = "--json" in arguments
    try:
        return _app(arguments)(arguments, exit_on_error=False, print_error=False) or 0
    except KeyboardInterrupt as error:
        return _fail(error, as_json=as_json, status=_INTERRUPTED)
    except CycloptsError as error:
        command = f"mixstream {arguments[0]}" if arguments and arguments[0] in COMMANDS else "mixstream"
        error.add_note(f"See `{command} --help`.")
        return _fail(error, as_json=as_json, status=_WRONG_USE)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        return _fail(error, as_json=as_json, status=status)


def run() -> NoReturn:
    """The program `mixstream`: run the command line and exit."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == _INTERRUPTED:
        os._exit(status)  # threads with running requests, and locks that they hold, do not delay the exit
    sys.exit(status)


def _status(error: Exception) -> int | None:
    """The exit status of a foreseen failure; None for a bug."""
    from mixstream.errors import ConfigError, MixstreamError  # here, so that --help does not load the library

    if isinstance(error, ConfigError):
        return _WRONG_USE
    return _FAILED if isinstance(error, MixstreamError | OSError) else None


def _app(arguments: Sequence[str]) -> App:
    app = App(
        name="mixstream",
        help=_HELP,
        help_format="plaintext",
        version=lambda: metadata.version("mixstream-data"),  # the distribution; it installs the package `mixstream`
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, (target, summary) in COMMANDS.items():
        # The called command has its own, longer help; the others are listed with a summary and not imported.
        app.command(target, name=name, help=None if name == called else summary)
    return app


def _fail(error: BaseException, *, as_json: bool, status: int) -> int:
    """Report `error` and its notes on stderr, and with `as_json` on stdout as JSON; returns `status`."""
    message = str(error) or ("interrupted" if status == _INTERRUPTED else type(error).__name__)
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    kind = "interrupted" if status == _INTERRUPTED else "error"
    head = message if status == _INTERRUPTED else f"error: {message}"
    text = "\n".join([f"mixstream: {head}", *(f"  {note}" for note in notes)])
    # A path may contain surrogates; writing it must not raise another error.
    sys.stderr.write(text.encode(errors="backslashreplace").decode() + "\n")
    if as_json:
        from .shared.console import write_json

        failure = {"type": type(error).__name__, "message": message, "notes": notes}
        write_json({"status": kind, "error": failure})
    return status


if __name__ == "__main__":
    run()
