"""What all kinds of tokenizers have in common: the protocol, and what is known of a vocabulary."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.uint16 | np.uint32]

SpecialTokens = Literal["text", "parse", "error"]
"""What a special token spelled out in a document is: letters, the token itself, or a fault of the document."""


class Tokenizer(Protocol):
    """A loaded tokenizer."""

    cuts_anywhere: bool
    """Whether the ids of a text are those of its parts, wherever it is cut."""

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, without what stands around a document."""
        ...

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of a row. Special tokens are shown if `special`, else left out; ids of no token are left out."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer, and what its files say about documents.

    Attributes:
        size: one more than the greatest id.
        special: special tokens by the texts that spell them, in the order of their ids.
        ids: other tokens that `--eos` and `--bos` may name, by their texts.
        unmarked: added tokens that no file marks as special; each is a token in every text.
        eos: what the files name as the end of a text; None if they do not.
        bos: what the files name as the beginning of a text.
        puts_first: the token that the tokenizer itself puts before a text.
    """

    size: int
    special: Mapping[str, int]
    ids: Mapping[str, int] = field(default_factory=dict)
    unmarked: tuple[str, ...] = ()
    eos: str | None = None
    bos: str | None = None
    puts_first: str | None = None

    def find(self, given: str) -> int | None:
        """The id of a token by its text, or by its id in digits; None if there is none."""
        for known in (self.special, self.ids):
            if given in known:
                return known[given]
        return int(given) if given.isdecimal() and int(given) in {*self.special.values(), *self.ids.values()} else None


def encoding_threads() -> int:
    """Return how many threads a tokenizer uses: $RAYON_NUM_THREADS, which executors set, or one for each core."""
    given = os.environ.get("RAYON_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_at(words: Mapping[str, int], text: str) -> list[str]:
    """Return a text cut before and behind each of `words`, at even places what stands between them.

    `split_at({"<s>": 1}, "a<s>b")` is `["a", "<s>", "b"]`.
    """
    longest_first = sorted(filter(None, words), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if longest_first else [text]
