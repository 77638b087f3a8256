"""Whether candidates share text with a target set: equal texts, and n-grams that both have.

Rules. A score that was made for a target set favours candidates that contain it, so a hold-out result proves nothing
unless the overlap is known. Two kinds of it: candidates whose units are exactly those of a target, and candidates that
share n consecutive units. Units are words or token ids, as integers of 64 bits. n-grams are found by a polynomial hash
of 64 bits, and a hit counts only if the units agree, so chance cannot report one. Targets shorter than n units are only
compared whole. Memory: 24 bytes for each unit of the targets.

Such a check belongs to DsDm (Engstrom et al., 2024), which removes candidates that overlap with its hold-out sets.

Shape suffixes: T units of one text, G n-grams of one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.keys import UInt64

DEFAULT_NGRAM = 13
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so powers of it never vanish modulo 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a candidate shares with the targets.

    Attributes:
        target: number of the first target that it shares something with.
        exact: whether all its units are those of the target.
        at: where in the candidate the shared units begin.
        length: how many units are compared at once: n, or all of a short target.
    """

    target: int
    exact: bool
    at: int
    length: int


class Targets:
    """The units of a target set, to be looked for in candidates.

    >>> targets = Targets([words_of("the quick brown fox jumps"), words_of("hello")], ngram=3)
    >>> targets.search(words_of("A quick Brown fox!"))
    Hit(target=0, exact=False, at=1, length=3)
    >>> targets.search(words_of("Hello."))
    Hit(target=1, exact=True, at=0, length=1)
    >>> targets.search(words_of("say hello")) is None
    True

    Args:
        texts: units of each target, uint64 [T]; empty ones are left out.
        ngram: how many consecutive units count as overlap.

    Raises:
        ConfigError: `ngram` is below 1, or there is no target with a unit.
    """

    def __init__(self, texts: Iterable[UInt64], *, ngram: int = DEFAULT_NGRAM) -> None:
        if ngram < 1:
            raise ConfigError(f"ngram {ngram}: give the number of consecutive units, 1 or more; 13 is usual")
        self.ngram = ngram
        self._exact: dict[bytes, int] = {}
        units, begins, hashes, places, count = [], [0], [], [], 0
        for number, unit_T in enumerate(texts):
            if len(unit_T):
                self._exact.setdefault(unit_T.tobytes(), number)
            if len(unit_T) >= ngram:
                hash_G = _ngram_hashes(unit_T, ngram)
                hashes.append(hash_G)
                places.append(np.arange(len(hash_G)) + begins[-1])
            units.append(unit_T)
            begins.append(begins[-1] + len(unit_T))
            count = number + 1
        if not self._exact:
            raise ConfigError(
                f"none of the {count} targets has a word or token; check the target file and its text key"
            )
        self.count = count
        self._unit = np.concatenate(units)
        self._begin = np.array(begins)
        hash_G = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        order = np.argsort(hash_G, kind="stable")
        self._hash, self._place = hash_G[order], (np.concatenate(places) if places else order)[order]

    def search(self, unit_T: UInt64) -> Hit | None:
        """Return the first thing that a candidate shares with the targets; None if it shares nothing.

        Args:
            unit_T: its units, uint64 [T].
        """
        if (target := self._exact.get(unit_T.tobytes()) if len(unit_T) else None) is not None:
            return Hit(target=target, exact=True, at=0, length=len(unit_T))
        if len(unit_T) < self.ngram or not len(self._hash):
            return None
        hash_G = _ngram_hashes(unit_T, self.ngram)
        at_G = np.searchsorted(self._hash, hash_G)
        inside_G = at_G < len(self._hash)
        inside_G[inside_G] = self._hash[at_G[inside_G]] == hash_G[inside_G]
        for begin in np.flatnonzero(inside_G).tolist():
            if (target := self._agrees(unit_T[begin : begin + self.ngram], int(at_G[begin]))) is not None:
                return Hit(target=target, exact=False, at=begin, length=self.ngram)
        return None

    def _agrees(self, unit_n: UInt64, at: int) -> int | None:
        """Return the target that has these units, among the n-grams of one hash from `at`."""
        hashed = self._hash[at]
        while at < len(self._hash) and self._hash[at] == hashed:
            place = int(self._place[at])
            if np.array_equal(self._unit[place : place + self.ngram], unit_n):
                return int(np.searchsorted(self._begin, place, side="right")) - 1
            at += 1
        return None


@dataclass(slots=True)
class Words:
    """Turns texts into units: words without case and punctuation, as hashes; remembers those that it has seen.

    Attributes:
        limit: how many words are remembered.
    """

    limit: int = 1 << 18
    _known: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> UInt64:
        """Return the words of a text, uint64 [T]."""
        words = _WORD.findall(text.lower())
        if len(self._known) > self.limit:
            self._known.clear()
        known = self._known
        for word in set(words).difference(known):
            known[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        return np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))


def words_of(text: str) -> UInt64:
    """Return the words of a text as units, uint64 [T]. See `Words`.

    >>> words_of("The fox, the FOX").tolist() == 2 * words_of("the fox").tolist()
    True
    """
    return Words()(text)


def tokens_as_units(tokens: Sequence[int] | NDArray[Any]) -> UInt64:
    """Return token ids as units, uint64 [T]."""
    return np.asarray(tokens).astype(np.int64).view(np.uint64)


def _ngram_hashes(unit_T: UInt64, n: int) -> UInt64:
    """Return a hash of each n consecutive units, uint64 [T - n + 1]: the sum of unit[i + j]' · factor^(n - j)."""
    mixed_T = unit_T ^ (unit_T >> np.uint64(31))
    mixed_T = mixed_T * np.uint64(0xBF58476D1CE4E5B9)  # small ids differ in few bits; spread them
    mixed_T ^= mixed_T >> np.uint64(29)
    found = np.zeros(len(unit_T) - n + 1, dtype=np.uint64)
    for j in range(n):
        found *= _FACTOR
        found += mixed_T[j : len(mixed_T) - n + 1 + j]
    return found
