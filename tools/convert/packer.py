"""Token ids → rows → shards, for one domain and split of one part.

Documents are joined end to end, each followed by the tokenizer's end-of-document id (and behind its begin id, if that
was asked for), and cut every `seq_len` tokens.
The tokens after the last whole row are the part's *tail*. It is returned, not dropped: publish.py joins the tails of
all parts and cuts them too, so less than one row is lost for each domain and split, for any number of parts. With
`seq_len` 4, documents of 3, 2 and 2 tokens give the rows `a a a end` and `b b end c`, and the tail `c end`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixstream import MDSWriter
from mixstream.storage import INDEX

from .recipe import Recipe
from .tokenizer import TokenIds

_BLOCK = 1 << 16  # tokens gathered before rows are cut from them


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What a packer wrote."""

    rows: int
    documents: int
    tail: bytes
    """The tokens after the last whole row, little-endian."""
    shards: tuple[dict[str, Any], ...]
    """Their entries for an index; basenames are relative to the packer's directory."""


class Packer:
    """Writes rows to the directory `out`, which is created with the first row."""

    def __init__(self, *, recipe: Recipe, out: Path) -> None:
        self._recipe, self._out = recipe, out
        self._dtype = np.dtype(recipe.tokenizer.dtype).newbyteorder("<")
        self._row_bytes = recipe.seq_len * self._dtype.itemsize
        self._end = np.array([recipe.tokenizer.eos], self._dtype)
        bos = recipe.tokenizer.bos
        self._begin = None if bos is None else np.array([bos], self._dtype)
        self._held: list[TokenIds] = []
        self._held_tokens = 0
        self._rows = self._documents = 0
        self._writer: MDSWriter | None = None

    def add(self, ids: TokenIds, *, begins: bool, ends: bool) -> None:
        """Add a piece of a document; `begins` is True for the document's first piece, `ends` for its last."""
        if begins and self._begin is not None:
            self._held.append(self._begin)
            self._held_tokens += 1
        self._held.append(ids)
        self._held_tokens += len(ids)
        if ends:
            self._held.append(self._end)
            self._held_tokens += 1
            self._documents += 1
        if self._held_tokens >= max(_BLOCK, self._recipe.seq_len):
            self._write(self._join())

    def add_tail(self, tail: bytes) -> None:
        """Add another packer's tail; its documents are counted by that packer."""
        self.add(np.frombuffer(tail, self._dtype), begins=False, ends=False)

    def finish(self) -> Packed:
        """Write the last whole rows and finish the shards.

        No index stays beside them: a part of a dataset must not look like a dataset.
        """
        self._write(self._join())
        shards: tuple[dict[str, Any], ...] = ()
        if self._writer is not None:
            self._writer.finish()
            index = self._out / INDEX
            shards = tuple(json.loads(index.read_bytes())["shards"])
            index.unlink()
        return Packed(rows=self._rows, documents=self._documents, tail=self._join(), shards=shards)

    def cancel(self) -> None:
        """Stop writing: the shards written so far get no index."""
        if self._writer is not None:
            self._writer.cancel_future_jobs()

    def _join(self) -> bytes:
        joined = np.concatenate(self._held, dtype=self._dtype).tobytes() if self._held else b""
        self._held, self._held_tokens = [], 0
        return joined

    def _write(self, block: bytes) -> None:
        whole = len(block) - len(block) % self._row_bytes
        if whole:
            writer = self._writer = self._recipe.writer(self._out) if self._writer is None else self._writer
            for at in range(0, whole, self._row_bytes):
                # The writer accepts bytes as an encoded column; the encoding of an array of fixed size is its values.
                writer.write({"tokens": block[at : at + self._row_bytes]})
            self._rows += whole // self._row_bytes
        if whole < len(block):
            rest = np.frombuffer(block, self._dtype, offset=whole)
            self._held, self._held_tokens = [rest], len(rest)

    def count(self, tail: bytes) -> int:
        """The number of tokens in a tail."""
        return len(tail) // self._dtype.itemsize
