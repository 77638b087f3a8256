"""Text from data, made safe for a terminal.

Rule: a name, value or message that comes from a shard, an index or a server passes through here before it is printed.
The result contains no control characters, no terminal escapes and no characters that change the direction of text.
JSON needs none of this, because it is escaped by its encoder.
"""

from __future__ import annotations

from mixstream.storage import redact


def printable(text: str) -> str:
    r"""Return `text` with invisible characters as escapes, such as `\x1b` and `\u202e`."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, limit: int) -> str:
    """Return `text`, or its beginning with an ellipsis: at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def message_of(error: BaseException) -> str:
    """Return the message of an exception, on one line and without credentials."""
    return printable(redact(" ".join(str(error).split()) or type(error).__name__))


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an exception, without credentials."""
    return [printable(redact(str(note))) for note in getattr(error, "__notes__", ())]
