"""Long documents → ids, in parts of bounded size, as if the tokenizer had seen each document whole.

A tokenizer sees where a text begins: Llama-2's puts `▁` before it; and where it ends: GPT-2's makes a token of the
spaces there. So a document is cut only where the tokenizer does not notice, which is tried and not assumed. At a cut,

    … far near | ahead …        each of about a thousand characters

1. the ids of `near + ahead` begin with those of `near`: no token spans the cut, and what follows changes none before;
2. the ids of `far + near`, and those of all that is encoded up to the cut, end as those of `near` do: what lies
   further back changes none either.

What follows is encoded behind `near`, whose ids are taken away again: so it is never the beginning of a text. Where no
cut passes, more of the document is read and encoded uncut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mixstream.errors import ConfigError

from .tokenizer import TokenIds

_NEAR = 1000  # characters
_LINE_START = re.compile(r"\n(?=\S)")
_WORD_END = re.compile(r"\S(?=\s)")
_TRIES = 24  # cuts of each kind that are tried on `near` and `ahead`
_WHOLE_TRIES = 3  # cuts that are tried on everything up to them


class LongText:
    """One document, piece by piece.

    Args:
        encode: texts → ids of each, without special tokens.
    """

    def __init__(self, encode: Callable[[Sequence[str]], list[TokenIds]]) -> None:
        self._encode = encode
        self._near = ""
        """The end of what was returned."""
        self._held = ""
        self._tried = 0
        """No cut of `_held` before this passes."""

    def add(self, text: str, *, ends: bool) -> TokenIds | None:
        """Add the next piece; returns further ids of the document: all that are left if it `ends`, None if none yet."""
        self._held += text
        if ends:
            return self._behind(self._held)
        for tries, (cut, tail) in enumerate(self._cuts()):
            if tries == _WHOLE_TRIES:
                break
            ids = self._behind(self._held[:cut])
            if _ends_with(ids, tail):
                self._near, self._held, self._tried = self._held[cut - _NEAR : cut], self._held[cut:], 0
                return ids
        self._tried = max(len(self._held) - _NEAR, 0)
        return None

    def _cuts(self) -> Iterator[tuple[int, TokenIds]]:
        """Yield cuts that pass on what is near, and the ids with which everything before has to end; the last first."""
        low, high = max(self._tried, len(self._held) // 2, 2 * _NEAR), len(self._held) - _NEAR
        for cut in _candidates(self._held, low, high):
            far, near, ahead = (
                self._held[cut - 2 * _NEAR : cut],
                self._held[cut - _NEAR : cut],
                self._held[cut:][:_NEAR],
            )
            near_ids, ahead_ids, far_ids = self._encode([near, near + ahead, far])
            tail = near_ids[len(near_ids) // 2 :]
            if len(tail) and _begins_with(ahead_ids, near_ids) and _ends_with(far_ids, tail):
                yield cut, tail

    def _behind(self, text: str) -> TokenIds:
        """The ids of a text that follows `_near`."""
        if not self._near:
            return self._encode([text])[0]
        near, both = self._encode([self._near, self._near + text])
        if not _begins_with(both, near):
            raise ConfigError(
                f"this tokenizer cannot encode a document of this length in parts: behind {self._near[-40:]!r}, text "
                f"more than {_NEAR} characters away changes the tokens. Divide the document (--document-separator)."
            )
        return both[len(near) :]


def _candidates(text: str, low: int, high: int) -> Iterator[int]:
    """Yield places for a cut from `low` to `high`: before lines, before the spaces between words, then anywhere."""
    for pattern in (_LINE_START, _WORD_END):
        start = high
        for _ in range(_TRIES):
            start -= _NEAR
            found = [match.end() for match in pattern.finditer(text, max(start, low), max(start, low) + _NEAR)]
            if found and low <= found[-1] <= high:
                yield found[-1]
            if start <= low:
                break
    yield from range(high, max(high - _TRIES, low), -1)


def _begins_with(ids: TokenIds, head: TokenIds) -> bool:
    return np.array_equal(ids[: len(head)], head)


def _ends_with(ids: TokenIds, tail: TokenIds) -> bool:
    return len(ids) >= len(tail) and np.array_equal(ids[len(ids) - len(tail) :], tail)
