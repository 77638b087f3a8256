"""The tokenizer `bytes`: ids 0..255 are the bytes of the UTF-8 text, 256 ends a document. It needs no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .kind import TokenIds, Vocabulary

END = 256
VOCABULARY = Vocabulary(size=END + 1, special={}, ids={})


class ByteTokenizer:
    """The bytes of the text."""

    cuts_anywhere = True

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Bytes of each text as uint16."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text, with a newline where a document ends, whether or not `special`."""
        return text_of_bytes(ids)


def text_of_bytes(ids: Sequence[int], *, end: str = "\n") -> str:
    """Return the text of ids of the bytes tokenizer: UTF-8, and 256 after each document, shown as `end`."""
    known = np.asarray(ids).astype(np.int64)
    shown = np.where((known < 0) | (known > 255), 255, known).astype(np.uint8)  # 255 is in no UTF-8: it becomes U+FFFD
    documents = np.split(shown, np.flatnonzero(known == END))
    parts = [documents[0], *(each[1:] for each in documents[1:])]
    return end.join(part.tobytes().decode(errors="replace") for part in parts)
