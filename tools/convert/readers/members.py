"""Which members of an archive are texts: by the same rules as files of a directory.

A member is a document; what holds none, such as a picture, is left out and counted. A member in a format whose records
or markup would be mistaken for text is a fault, and what says so names the ways on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mixstream.units import show_bytes

from ..files.source_files import SourceFile, split_name
from .kinds import by_magic, judge
from .reader import MAX_RECORD, OnBad

if TYPE_CHECKING:
    from ..files.choice import Choice

_HEAD = 1 << 16
_OUTSIDE = re.compile(r"/|[A-Za-z]:[\\/]|(.*/)?\.\.(/|$)")
_UNPACK = {"tar": "tar -xf FILE -C DIR", "webdataset": "tar -xf FILE -C DIR", "zip": "unzip FILE -d DIR"}


class MemberError(ValueError):
    """A member that may be a document and cannot be read; `reason` as in `OnBad`."""

    def __init__(self, fact: str, reason: str) -> None:
        super().__init__(fact)
        self.reason = reason


class LeftOutError(Exception):
    """A member holds no document; the message is its kind, as in `3 links`."""


def check_name(name: str, choice: Choice | None) -> None:
    """Raise LeftOutError for a member that is no part of the data, by its path alone."""
    if _OUTSIDE.match(name):
        raise LeftOutError("with paths that lead out of the archive")
    if any(part.startswith(".") for part in name.split("/")):
        raise LeftOutError("hidden")
    if choice is not None and not choice.takes(name):
        raise LeftOutError("left out by --include or --exclude")


def text_of(file: SourceFile, name: str, size: int, read: Callable[[int], bytes]) -> str:
    """Return the text of a member.

    Args:
        file: the archive.
        name: the member's path.
        size: its bytes.
        read: returns its next bytes, so many at most.

    Raises:
        LeftOutError: it holds no document.
        MemberError: it may hold one, but not as text.
    """
    head = read(_HEAD)
    _, suffix, packed = split_name(name)
    as_text = file.choice is not None and file.choice.is_text(name)
    format_, foreign = judge(head, suffix, as_text=as_text, whole=size <= len(head))
    if shown := by_magic(head):
        format_, foreign = shown, None
    kind = foreign.name if foreign is not None else "" if format_ == "text" else f"of format {format_}"
    if foreign is not None and not foreign.data:
        raise LeftOutError("not text")
    kind = f"{packed} data" if packed and foreign is not None else kind
    if kind:
        raise MemberError(
            f"it is {kind}, and members of an archive are read as texts only. Unpack it "
            f"(`{_UNPACK[file.format].replace('FILE', file.path)}`) and convert DIR; or {_ways(name, packed)}",
            "not-text",
        )
    if size > MAX_RECORD:
        raise MemberError(f"it is larger than {show_bytes(MAX_RECORD)}", "too-long")
    data = head + read(MAX_RECORD + 1 - len(head)) if len(head) == _HEAD else head
    if len(data) > MAX_RECORD:
        raise MemberError(f"it is larger than {show_bytes(MAX_RECORD)}", "too-long")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MemberError(f"not UTF-8: byte {error.start}, {error.reason}", "not-utf8") from None
    if (at := text.find("\0")) >= 0:
        raise MemberError(f"it holds a NUL byte, at character {at}, so it is not text", "not-text")
    return text.removeprefix("\ufeff")


def _ways(name: str, packed: str | None) -> str:
    """The options for members of a kind, which are known by their suffixes."""
    base = name.rpartition("/")[2]
    pattern = f"*{base[len(split_name(base)[0]) :] or name}"
    text = "" if packed else f", or take them as text with --as-text '{pattern}'"
    return f"leave such members out with --exclude '{pattern}'{text}"


def report(on_bad: OnBad, file: SourceFile, name: str, number: int, error: Exception) -> None:
    """Report a member that is left out, or bad."""
    kind = str(error) if isinstance(error, LeftOutError) else ""
    reason = getattr(error, "reason", "unreadable")
    on_bad(f"{file.path}, member {name!r}: {error}", record=number, reason=reason, left_out=kind)
