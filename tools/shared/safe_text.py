"""What comes out of data, made fit for a terminal.

Rule: a name, a value or a message that a shard, an index or a server had a hand in passes through here before it is
printed. It then holds no control characters, no terminal escapes and nothing that turns the direction of text, and
`rich` reads no markup in it. JSON needs none of this: it escapes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mixstream.storage import redact


def printable(text: str) -> str:
    r"""Return `text` with everything invisible written out, as in `\x1b` and `\u202e`."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, limit: int) -> str:
    """Return `text`, or its beginning with an ellipsis: at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def message_of(error: BaseException) -> str:
    """Return what an exception says, in one line without credentials."""
    return printable(redact(" ".join(str(error).split()) or type(error).__name__))


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an exception, as `message_of`."""
    return [printable(redact(str(note))) for note in getattr(error, "__notes__", ())]


def escaped_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a plain table of any text; long cells fold, and integers stand right-aligned, thousands apart."""
    view = Table(box=None, pad_edge=False)
    for at, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[at], int) or row[at] == "-" for row in rows)
        view.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell))) for cell in row))
    return view


def escaped_lines(lines: Sequence[str]) -> Table:
    """Return lines of any text, as a part of a result; what is too long for a line goes on in the next."""
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(overflow="fold")
    for line in lines:
        view.add_row(Text(printable(line)))
    return view
