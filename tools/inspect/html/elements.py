"""HTML that cannot be broken out of: text is escaped unless it is `Html`, which only this file makes of text.

Rules. Every text that comes from a dataset passes `line` or `prose`. Attributes are written with quotes and escaped.
There is no way here to write a script, an inline style or a link, so no text can become one.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

_BIDI = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that turn the direction of text, break lines or cannot be seen."""
_VOID = frozenset({"meta", "link", "br"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def line(text: object) -> Html:
    r"""Return a name or a value on one line, with what cannot be seen as escapes.

    >>> line("<b>\n</b>")
    '&lt;b&gt;\\n&lt;/b&gt;'
    """
    shown = (char if not _is_hidden(char, keep="") else _escaped(char) for char in str(text))
    return Html(html.escape("".join(shown)))


def prose(text: str) -> Html:
    r"""Return text of a document: lines and tabs stay, what else cannot be seen is marked as an escape.

    >>> prose("a\nb\x1b<")
    'a\nb<i class="esc">\\x1b</i>&lt;'
    """
    parts: list[str] = []
    begin = 0
    for at, char in enumerate(text):
        if _is_hidden(char, keep="\n\t"):
            parts += [html.escape(text[begin:at]), f'<i class="esc">{html.escape(_escaped(char))}</i>']
            begin = at + 1
    return Html("".join(parts) + html.escape(text[begin:]))


def tag(name: str, /, *content: str | Iterable[str], **attributes: object) -> Html:
    """Return an element. Text in it is escaped as `line` does; of an attribute `class_`, the `_` is left out.

    >>> tag("p", "1 < 2", tag("b", "x"), class_="note")
    '<p class="note">1 &lt; 2<b>x</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{line(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: str | Iterable[str]) -> Html:
    """Return several contents one after the other, text escaped."""
    parts: list[str] = []
    for each in content:
        if isinstance(each, Html):
            parts.append(each)
        elif isinstance(each, str):
            parts.append(line(each))
        else:
            parts += [one if isinstance(one, Html) else line(one) for one in each]
    return Html("".join(parts))


def _is_hidden(char: str, keep: str) -> bool:
    if char.isprintable() or char in keep:
        return False
    return char in _BIDI or unicodedata.category(char) in {"Cc", "Cs"} or char in "\n\t"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
