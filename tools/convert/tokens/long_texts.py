"""Long documents → ids, in parts of bounded size, as if the tokenizer had seen each document whole.

A document that comes in pieces is encoded piece by piece, so memory is bounded; and every text of more than
`_SEGMENT` characters is encoded in segments, all in one call of the tokenizer, so one document keeps all threads busy.

A tokenizer sees where a text begins: Llama-2's puts `▁` before it; and where it ends: GPT-2's makes a token of the
spaces there. So a document is cut only where the tokenizer does not notice, which is tried and not assumed. At a cut,

    … far near | ahead …        each of about a thousand characters

1. the ids of `near + ahead` begin with those of `near`: no token spans the cut, and what follows changes none before;
2. the ids of `far + near`, and those of all that is encoded up to the cut, end as those of `near` do: what lies
   further back changes none either.

What follows is encoded behind `near`, whose ids are taken away again: so it is never the beginning of a text. Where no
cut passes, more of the document is read and encoded uncut. Cuts depend on the text alone, never on threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mixstream.errors import ConfigError

from .tokenizer import TokenIds

Encode = Callable[[Sequence[str]], list[TokenIds]]
"""Texts → ids of each, without special tokens."""

_SEGMENT = 1 << 18  # characters
_NEAR = 1000  # characters
_LINE_START = re.compile(r"\n(?=\S)")
_WORD_END = re.compile(r"\S(?=\s)")
_TRIES = 24  # cuts of each kind that are tried on `near` and `ahead`
_WHOLE_TRIES = 3  # cuts that are tried on everything up to them


def encode_texts(encode: Encode, texts: Sequence[str]) -> list[TokenIds]:
    """Return the ids of each text; long ones are encoded in segments, by the same call as all others."""
    if all(len(text) < 2 * _SEGMENT for text in texts):
        return encode(texts)
    return [segmented.ids() for segmented in _encode(encode, [_Segmented(text) for text in texts])]


class LongText:
    """One document, piece by piece.

    Args:
        encode: texts → ids of each, without special tokens.
    """

    def __init__(self, encode: Encode) -> None:
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
            (found,) = _try_cuts(self._encode, [(self._held, cut)])
            if found is not None:
                yield cut, found.tail

    def _behind(self, text: str) -> TokenIds:
        """The ids of a text that follows `_near`."""
        if not self._near:
            return encode_texts(self._encode, [text])[0]
        (near,) = self._encode([self._near])
        (segmented,) = _encode(self._encode, [_Segmented(text, near=self._near, near_ids=near)])
        if not segmented.begins_behind_near():
            raise ConfigError(
                f"this tokenizer cannot encode a document of this length in parts: behind {self._near[-40:]!r}, text "
                f"more than {_NEAR} characters away changes the tokens. Divide the document (--document-separator)."
            )
        return segmented.ids()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cut:
    """A place in a text where a tokenizer does not notice a cut, as far as `near` and `ahead` tell."""

    at: int
    near: TokenIds
    """The ids of the characters before it."""

    @property
    def tail(self) -> TokenIds:
        """The ids with which all that is encoded up to the cut has to end."""
        return self.near[len(self.near) // 2 :]


@dataclass(kw_only=True, slots=True)
class _Segment:
    """What stands between two cuts of a text.

    Args:
        start: the cut before it; None at the beginning of the text.
        text: with the characters of `near` before it, if there are any.
        stop: the cut behind it; None at the end.
        ids: of `text`; None before it was encoded.
    """

    start: _Cut | None
    text: str
    stop: _Cut | None
    ids: TokenIds | None = None

    @property
    def encoded(self) -> TokenIds:
        """The ids of `text`, which was encoded."""
        assert self.ids is not None
        return self.ids


class _Segmented:
    """A text that is encoded in segments.

    Args:
        text: the text.
        near: what stands before it, and is encoded with its beginning.
        near_ids: the ids of `near`.
    """

    def __init__(self, text: str, *, near: str = "", near_ids: TokenIds | None = None) -> None:
        self.text = text
        self._near = near
        self._first = None if near_ids is None else _Cut(at=0, near=near_ids)
        self.segments: list[_Segment] = []

    def cut(self, cuts: Sequence[_Cut]) -> None:
        """Divide the text at these cuts; segments that were encoded between the same ones are kept."""
        known = {(each.start, each.stop): each for each in self.segments}
        self.segments = [
            known.get((start, stop)) or _Segment(start=start, text=self._between(start, stop), stop=stop)
            for start, stop in pairwise([self._first, *cuts, None])
        ]

    def _between(self, start: _Cut | None, stop: _Cut | None) -> str:
        end = stop.at if stop else len(self.text)
        if start is None or start is self._first:
            return self._near + self.text[:end]
        return self.text[start.at - _NEAR : end]

    def failed(self) -> list[_Cut]:
        """The cuts at which the ids of the segments do not fit together."""
        found: list[_Cut] = []
        for before, after in pairwise(self.segments):
            cut = after.start
            assert cut is not None
            if not (_ends_with(before.encoded, cut.tail) and _begins_with(after.encoded, cut.near)):
                found.append(cut)
        return found

    def begins_behind_near(self) -> bool:
        """Whether the ids of the first segment begin with those of `near`."""
        return self._first is None or _begins_with(self.segments[0].encoded, self._first.near)

    def ids(self) -> TokenIds:
        """The ids of the text."""
        parts = [each.encoded[len(each.start.near) if each.start else 0 :] for each in self.segments]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _encode(encode: Encode, texts: Sequence[_Segmented]) -> Sequence[_Segmented]:
    """Encode texts in segments: one call tries the cuts, another encodes all segments; few texts need a third."""
    for segmented, cuts in zip(texts, _find_cuts(encode, [segmented.text for segmented in texts])):
        segmented.cut(cuts)
    while todo := [segment for each in texts for segment in each.segments if segment.ids is None]:
        for segment, ids in zip(todo, encode([segment.text for segment in todo])):
            segment.ids = ids
        for segmented in texts:
            if failed := segmented.failed():
                segmented.cut([each.stop for each in segmented.segments if each.stop and each.stop not in failed])
    return texts


def _find_cuts(encode: Encode, texts: Sequence[str]) -> list[list[_Cut]]:
    """The cuts of each text, about `_SEGMENT` characters apart; places where none passes are left uncut."""
    places: list[tuple[int, Iterator[int]]] = []
    for number, text in enumerate(texts):
        count = len(text) // _SEGMENT
        ends = [len(text) * at // count for at in range(count)]
        for before, end in pairwise(ends):
            low, high = max(before, end - _TRIES * _NEAR, 2 * _NEAR), min(end, len(text) - _NEAR)
            places.append((number, _candidates(text, low, high)))
    found: list[list[_Cut]] = [[] for _ in texts]
    for _ in range(_WHOLE_TRIES):
        tried = [(place, next(place[1], None)) for place in places]
        tries = [(place, cut) for place, cut in tried if cut is not None]
        made = _try_cuts(encode, [(texts[place[0]], cut) for place, cut in tries])
        for (place, _), cut in zip(tries, made):
            if cut is not None:
                found[place[0]].append(cut)
        places = [place for (place, _), cut in zip(tries, made) if cut is None]
        if not places:
            break
    return [sorted(cuts, key=lambda cut: cut.at) for cuts in found]


def _try_cuts(encode: Encode, cuts: Sequence[tuple[str, int]]) -> list[_Cut | None]:
    """Each cut of a text if it passes on what is near; else None."""
    if not cuts:
        return []
    tries = [
        part
        for text, at in cuts
        for part in (text[at - _NEAR : at], text[at - _NEAR : at + _NEAR], text[at - 2 * _NEAR : at])
    ]
    ids = encode(tries)
    found: list[_Cut | None] = []
    for (_, at), near, ahead, far in zip(cuts, ids[::3], ids[1::3], ids[2::3]):
        cut = _Cut(at=at, near=near)
        passes = len(cut.tail) and _begins_with(ahead, near) and _ends_with(far, cut.tail)
        found.append(cut if passes else None)
    return found


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
