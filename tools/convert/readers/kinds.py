"""What bytes are, by themselves and by the suffix of their name: a file's, or those of a member of an archive.

Rules. Bytes in, the name of a format or a `Foreign` out. Text never comes from guessing: what looks like another format
than that of its suffix is not text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .foreign import BINARY, JSON_VALUE, OTHER, UTF8_MARK, Foreign, begins_with, by_content, by_suffix, by_text
from .json_values import JSON
from .jsonl import JSONL, is_blank
from .reader import Reader

_NUL_WITHIN = 8000  # bytes; git calls a file binary if there is a NUL in the first 8000
_LINES = JSONL.suffixes
_JSON = _LINES | JSON.suffixes
_PLAIN = frozenset({"", ".txt", ".text"})
"""Suffixes that say nothing of the content."""
_OBJECT = re.compile(rb'\{\s*(#.*|//.*|\s)*"')
_ARRAY = re.compile(rb'\[[\s\[]*\{\s*("|\})')


def judge(
    head: bytes, suffix: str, *, forced: bool = False, as_text: bool = False, whole: bool
) -> tuple[str, Foreign | None]:
    """Return the format of the reader that a file needs, and what the file is if it is none of convert's.

    Args:
        head: its first bytes, decompressed.
        suffix: of its name, such as `.txt`.
        forced: whether the user names the format.
        as_text: whether the user takes it as text whatever it holds, unless it is binary.
        whole: whether `head` is all of it.
    """
    known = _known(suffix)
    foreign = by_content(head, suffix)
    if foreign is None and holds_nul(head):
        foreign = BINARY if known else by_suffix(suffix) or OTHER
    if foreign is not None and not (foreign.is_text and (forced or as_text)):
        return known or "text", foreign
    if forced or as_text:
        return "text", None
    if found := by_suffix(suffix) or (by_text(head, whole=whole) if says_nothing(suffix) else None):
        return known or "text", found
    format_, foreign = _json_or(known, head, suffix, whole=whole)
    return format_ or known or "text", foreign


def by_magic(head: bytes) -> str | None:
    """Return the format that the first bytes of a file show by themselves."""
    return next((name for name, reader in _readers().items() if begins_with(head, reader.magic)), None)


def says_nothing(suffix: str) -> bool:
    """Whether a suffix leaves open what a file holds: it is plain, or JSON of some shape, or of no known format."""
    return suffix in _PLAIN | _JSON or _known(suffix) is None


def holds_nul(head: bytes) -> bool:
    """Whether bytes are binary, as git sees it."""
    return b"\0" in head[:_NUL_WITHIN]


def _readers() -> Mapping[str, Reader]:
    from . import READERS  # the table has the readers of archives, which ask here

    return READERS


def _known(suffix: str) -> str | None:
    return next((name for name, reader in _readers().items() if suffix in reader.suffixes), None)


def _json_or(known: str | None, head: bytes, suffix: str, *, whole: bool) -> tuple[str | None, Foreign | None]:
    """The format of JSON, by its first lines; or what is no format of documents, under a suffix of JSON."""
    if suffix not in _PLAIN | _JSON and known is not None:
        return None, None
    lines = [line.strip() for line in head.removeprefix(UTF8_MARK).split(b"\n") if not is_blank(line)]
    if not lines:
        return None, None
    found = _shape(lines, whole=whole)
    if suffix in _LINES:  # a line that is not as it should be is the line's fault, not the file's
        spans = found == "json" and (lines[0].startswith(b"[") or _goes_on(lines[0]))
        return ("json" if spans else None), None
    if suffix in _JSON:
        return found, None if found else JSON_VALUE
    return (found if _is_surely(found, lines) else None), None


def _shape(lines: list[bytes], *, whole: bool) -> str | None:
    """`jsonl` if the first line is an object, `json` if one spans lines or is in an array; None for anything else."""
    first = lines[0]
    if first.startswith(b"["):
        return "json"
    if not first.startswith(b"{"):
        return None
    if len(lines) == 1 and not whole:
        return "jsonl"  # a long line
    try:
        return "jsonl" if isinstance(json.loads(first), dict) else None
    except (ValueError, RecursionError):
        return "json"


def _is_surely(found: str | None, lines: list[bytes]) -> bool:
    """Whether a text whose name says nothing is JSON: its second line too is an object, or its first values are."""
    if found == "jsonl":
        return all(line.startswith(b"{") for line in lines[:2]) and bool(_OBJECT.match(lines[0]) or lines[0] == b"{}")
    start = b"\n".join(lines[:4])
    return found == "json" and bool(_ARRAY.match(start) or (_OBJECT.match(start) and _goes_on(lines[0])))


def _goes_on(line: bytes) -> bool:
    """Whether a line that begins an object is not all of it, or has a second one behind it."""
    if line[-1:] in b"{[,:":
        return True
    try:
        text = line.decode()
        return text[json.JSONDecoder().raw_decode(text)[1] :].lstrip().startswith("{")
    except (ValueError, RecursionError):
        return False
