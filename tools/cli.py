"""The command line: the list of commands, and how every command ends.

A command is a function: its signature is its options, its docstring is its `--help`, and it returns its exit status
(None is 0). Its module is imported only when it is called, so `mixstream --help` stays fast. To add a command, add a
line to `COMMANDS`; a name of two words is a command of a group, which has a line in `GROUPS`, or goes with a command
whose name is the first word.

Exit status: 0 done · 1 found a fault or failed · 2 wrong use · 130 interrupted · 143 ended by SIGTERM; the last two say
what is kept · 141 done, but the result was not read to its end (`standard_streams.py`). A failure is reported in plain
lines on stderr, without a traceback; with `--json` also as one JSON document on stdout. A traceback is a bug.

What takes time to import is imported inside `main`, where Ctrl-C is handled.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, NoReturn

from .standard_streams import Outputs

if TYPE_CHECKING:
    from cyclopts import App

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("mixstream_tools.demo.command:demo", "Train, kill -9, resume on two processes, prove the batches equal."),
    "demo selection": (
        "mixstream_tools.demo.selection.command:selection",
        "Prune text with planted faults, stream it.",
    ),
    "convert": (
        "mixstream_tools.convert.command:convert",
        "Turn text, tables, crawls and archives into tokenised shards.",
    ),
    "reshard": (
        "mixstream_tools.reshard.command:reshard",
        "Rewrite datasets: size, compression, dtype, order.",
    ),
    "merge": ("mixstream_tools.merge.command:merge", "Join datasets, or outputs of convert, into one."),
    "verify": ("mixstream_tools.verify.command:verify", "Check that every shard is complete and matches its index."),
    "inspect": ("mixstream_tools.inspect.command:inspect", "Show datasets: shards, tokens, columns, samples."),
    "plan": ("mixstream_tools.plan.command:plan", "Show what a mixture reads: epochs, tokens, weights by step."),
    "rows": ("mixstream_tools.rows.command:rows", "Show which rows were in a step of a run, and what they say."),
    "pack": ("mixstream_tools.pack.command:pack", "Pack documents into rows of one length, as an index."),
    "embed": ("mixstream_tools.embed.command:embed", "Turn the rows of datasets into embeddings, for selection."),
    "attribute features": ("mixstream_tools.attribute.command:features", "Turn rows into gradients of proxy models."),
    "attribute score": ("mixstream_tools.attribute.command:score", "Score rows by features, for target tasks."),
    "prune run": ("mixstream_tools.prune.run:run", "Prune in one go: fit, assign and keep."),
    "prune fit": ("mixstream_tools.prune.fit:fit", "Find the prototypes of each domain (k-means)."),
    "prune assign": ("mixstream_tools.prune.assign:assign", "Score rows by their distance to a prototype."),
    "prune keep": ("mixstream_tools.prune.keep:keep", "Keep the hard or the easy part, as a selection."),
    "prune dedup": ("mixstream_tools.prune.dedup:dedup", "Keep one row of each group of near-duplicates."),
    "prune d4": ("mixstream_tools.prune.d4:d4", "Remove near-duplicates, then the most typical rows."),
    "prune domains": ("mixstream_tools.prune.domains:domains", "Split domains into clusters that can be mixed."),
    "select top": ("mixstream_tools.select.top:top", "Keep the rows with the best scores, to a budget."),
    "select where": ("mixstream_tools.select.where:where", "Keep the rows for which a condition holds."),
    "select random": ("mixstream_tools.select.random_control:random", "Keep rows at random: the control."),
    "select combine": ("mixstream_tools.select.combine:combine", "Rows in both, in either, or in one only."),
    "select import": ("mixstream_tools.select.import_scores:import_scores", "Scores and lists that others made."),
    "select split": ("mixstream_tools.select.split:split", "Buckets of a column, to be mixed as domains."),
    "select stats": ("mixstream_tools.select.stats:stats", "What is kept, and what reading it costs."),
    "select sample": ("mixstream_tools.select.sample:sample", "Texts that are kept, and texts that are dropped."),
    "select verify": ("mixstream_tools.select.verify:verify", "Check artefacts, and that they fit a dataset."),
    "select overlap": ("mixstream_tools.select.overlap:overlap", "Find candidates that contain a target set."),
    "select validate": ("mixstream_tools.select.validate:validate", "Do scores predict the loss, and beat chance?"),
    "select diff": ("mixstream_tools.select.diff:diff", "Compare two selections."),
    "select export": ("mixstream_tools.select.export:export", "Scores or a selection as parquet or JSONL."),
    "select key": ("mixstream_tools.select.key:key", "Keys of rows, by which they survive new shards."),
    "select rebase": ("mixstream_tools.select.rebase:rebase", "Move scores or a selection to new shards."),
    "select merge": ("mixstream_tools.select.merge:merge", "Merge parts that several processes wrote."),
}
"""Command → (module and name of its function, one line for `mixstream --help`)."""

_PRUNE = """Select rows by how typical they are, or by how many are like them.

mixstream embed shards/ --out emb/
mixstream prune run --emb emb/ --side hard --fraction 0.8 --out pruned/

In training:
ms.Stream(remote="shards/web", selection="pruned/selection")

All published evidence for pruning by prototypes is on images. For text,
train on a random selection of the same size too (--control random).
"""

GROUPS: dict[str, tuple[str, str]] = {
    "attribute": (
        "Score rows by what training on them does for target tasks (DsDm).",
        """Score rows by how much training on them lowers the loss on target tasks (DsDm).

mixstream attribute features shards/ --model proxy0,proxy1 --out feat/
mixstream attribute score feat/ --target qa=questions.jsonl --out scores/
mixstream select top scores/ --overall --fraction 0.2 --out sel/

`features` takes the gradients of small proxy models on every row and projects
them; it costs about as much as training each proxy for one epoch. `score`
compares them with the gradients of the target tasks. It is cheap, so new
targets need no new features.
""",
    ),
    "prune": ("Select rows by distance to prototypes, and remove near-duplicates.", _PRUNE),
    "select": (
        "Choose rows by scores, combine and check selections.",
        """Choose which rows of a dataset count, without rewriting a shard.

Scores say how good a row is, a selection says which rows count. Both are small
files beside the shards; Stream(selection=...) reads the rows that count.

Start here:  mixstream select import scores.parquet --dataset shards/web \\
                 --key id --where "int_score >= 3" --selection sel/edu3
             mixstream select stats sel/edu3
""",
    ),
}
"""Group → (one line for `mixstream --help`, what `mixstream GROUP --help` says above the list of its commands)."""

_HELP = """Stream sharded corpora and mix them while the model learns.

Start here:  mixstream demo
             mixstream demo selection

Every command has --help with an example, and --json. Exit status: 0 done, 1 found a fault or failed, 2 wrong use.
"""
_WRONG_USE, _FAILED, _INTERRUPTED, _TERMINATED = 2, 1, 130, 143


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: commands end as after Ctrl-C, and say what is kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mixstream` with `arguments` (default: the command line); returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    level = logging.getLevelNamesMapping().get(os.environ.get("MIXSTREAM_LOG", "").upper(), logging.WARNING)
    logging.basicConfig(stream=sys.stderr, level=level)
    as_json = "--json" in arguments
    try:
        return _app(arguments)(arguments, exit_on_error=False, print_error=False) or 0
    except KeyboardInterrupt as error:
        status = _TERMINATED if isinstance(error, TerminatedError) else _INTERRUPTED
        return _fail(error, as_json=as_json, status=status)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        if _is_of_words(error):
            error.add_note(f"See `{' '.join(['mixstream', *_called(arguments)])} --help`.")
        return _fail(error, as_json=as_json, status=status)


def run() -> NoReturn:
    """The program `mixstream`: run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _tell_or_interrupt_again
    outputs = Outputs()
    status = main()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C from here on ends the program without a traceback
    status = outputs.status(status)
    if status in (_INTERRUPTED, _TERMINATED):
        os._exit(status)  # threads with running requests, and locks that they hold, do not delay the exit
    sys.exit(status)


def _terminate(number: int, frame: object) -> NoReturn:
    """Raise, once: what a command does to end in order is not interrupted."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise TerminatedError("ended by SIGTERM")


def _tell_or_interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception came up in a destructor, out of which Python lets none."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    number = signal.SIGINT
    if isinstance(dropped.exc_value, TerminatedError):
        number = signal.SIGTERM
        signal.signal(number, _terminate)
    again = threading.Timer(0.01, os.kill, (os.getpid(), number))  # once the destructor is left
    again.daemon = True
    again.start()


def _status(error: Exception) -> int | None:
    """The exit status of a foreseen failure; None for a bug."""
    from mixstream.errors import ConfigError, MixstreamError  # here, so that --help does not load the library

    if isinstance(error, ConfigError) or _is_of_words(error):
        return _WRONG_USE
    return _FAILED if isinstance(error, MixstreamError | OSError) else None


def _is_of_words(error: Exception) -> bool:
    """Whether the words of the command line are no call of a command."""
    from cyclopts import CycloptsError

    return isinstance(error, CycloptsError)


def _app(arguments: Sequence[str]) -> App:
    from importlib import metadata

    from cyclopts import App

    app = App(
        name="mixstream",
        help=_HELP,
        help_format="plaintext",
        version=lambda: metadata.version("mixstream-data"),  # the distribution; it installs the package `mixstream`
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    called = _called(arguments)
    groups = {}
    for name, (summary, text) in GROUPS.items():
        groups[name] = App(name=name, help=text if called[:1] == (name,) else summary)
        app.command(groups[name])
    for name, (target, summary) in COMMANDS.items():
        *group, word = name.split()
        if called[:1] == (word,) and " ".join(called) in COMMANDS and len(called) > 1 and not group:
            groups[word] = App(name=word, help=summary)  # such as `demo`, when `demo selection` is called
            app.command(groups[word])
            continue
        if group and group[0] not in groups:
            continue
        # The called command has its own, longer help; the others are listed with a summary and not imported.
        is_called = called == (*group, word)
        (groups[group[0]] if group else app).command(target, name=word, help=None if is_called else summary)
    return app


def _called(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the words of the command that is called, such as ("select", "top"); as many as are known."""
    after = dropwhile(lambda word: word.startswith("-"), arguments)
    words = tuple(takewhile(lambda word: not word.startswith("-"), after))  # a later one may be an option's value
    for known in (words[:2], words[:1]):
        if " ".join(known) in COMMANDS or " ".join(known) in GROUPS:
            return known
    return ()


def _fail(error: BaseException, *, as_json: bool, status: int) -> int:
    """Report `error` and its notes on stderr, and with `as_json` on stdout as JSON; returns `status`."""
    ended = status in (_INTERRUPTED, _TERMINATED)
    message, *notes = map(str, (error, *getattr(error, "__notes__", ())))
    if notes or not ended:
        from mixstream.storage import redact  # here, so that Ctrl-C during its import ends at once

        message, *notes = map(redact, (message, *notes))
    message = message or ("interrupted" if ended else type(error).__name__)
    kind = "interrupted" if ended else "error"
    if ended and not notes:
        notes = ["No file is half written: run the same command again."]
    head = message if ended else f"error: {message}"
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
