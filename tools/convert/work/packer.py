"""Token ids → rows → shards, for one domain and split of one part: `--rows packed`, or `--rows documents`.

`documents`: each document is a sample, whatever its length, with the ids that begin and end it.

`packed`: documents are joined end to end, each followed by the tokenizer's end-of-document id (and behind its begin id,
if that was asked for; without either, if the user asked for none), and cut every `seq_len` tokens. The tokens after the
last whole row are the part's *tail*. It is returned, not dropped: publish.py joins the tails of all parts and cuts them
too, so less than one row is lost for each domain and split, for any number of parts. With `seq_len` 4, documents of 3,
2 and 2 tokens give the rows `a a a end` and `b b end c`, and the tail `c end`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixstream import MDSWriter
from mixstream.storage import INDEX

from ..recipe import Recipe
from ..tokens.chat_tokens import LOSS, TOKEN
from ..tokens.tokenizer import TokenIds

_BLOCK = 1 << 16  # tokens gathered before rows are cut from them
_MOST_BYTES = (1 << 32) - (1 << 16)
"""Bytes of the tokens of a sample: offsets in a shard have 32 bits, and the shard has a header."""


class TooLongError(ValueError):
    """A document that no sample can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What a packer wrote."""

    rows: int
    documents: int
    tokens: int
    """In the rows."""
    tail: bytes
    """The tokens after the last whole row, little-endian."""
    shards: tuple[dict[str, Any], ...]
    """Their entries for an index; basenames are relative to the packer's directory."""


class _Rows:
    """What both kinds of rows share: the tokens that are held, and the shards.

    Args:
        recipe: how documents become rows.
        out: directory of the shards, which is created with the first row.
    """

    def __init__(self, *, recipe: Recipe, out: Path) -> None:
        self._recipe, self._out = recipe, out
        self._dtype = recipe.token_dtype
        bos, eos = recipe.tokenizer.bos, recipe.tokenizer.eos
        self._begin = self._tokens_of([] if bos is None else [bos])
        self._end = self._tokens_of([] if eos is None else [eos])
        self._held: list[TokenIds] = []
        self._held_tokens = 0
        self._rows = self._documents = self._tokens = 0
        self._length = 0
        """Tokens of the document that is being added."""
        self._writer: MDSWriter | None = None

    def cancel(self) -> None:
        """Stop writing: the shards written so far get no index."""
        if self._writer is not None:
            self._writer.cancel_future_jobs()

    def count(self, tail: bytes) -> int:
        """The number of tokens in a tail."""
        return len(tail) // self._dtype.itemsize

    def _hold(self, ids: TokenIds, *, begins: bool, ends: bool) -> None:
        if ids.dtype.names is not None:  # of a chat: whole, with the tokens around it
            added = [ids]
        else:
            middle = ids if self._dtype.names is None else self._tokens_of(ids)
            added = [*([self._begin] if begins else ()), middle, *([self._end] if ends else ())]
        self._held += added
        size = sum(map(len, added))
        self._held_tokens += size
        self._length = size if begins else self._length + size
        self._documents += ends

    def _tokens_of(self, ids: Any) -> Any:
        """Ids of text, all of which count, as an array of the rows' dtype."""
        made = np.ones(len(ids), self._dtype)
        if self._dtype.names is None:
            made[:] = ids
        else:
            made[TOKEN] = ids
        return made

    def _columns(self, tokens: bytes) -> dict[str, Any]:
        """A sample of these tokens."""
        if self._dtype.names is None:
            return {"tokens": np.frombuffer(tokens, self._dtype)}
        both = np.frombuffer(tokens, self._dtype)
        return {"tokens": np.ascontiguousarray(both[TOKEN]), "loss_mask": np.ascontiguousarray(both[LOSS])}

    def _join(self) -> bytes:
        joined = np.concatenate(self._held, dtype=self._dtype).tobytes() if self._held else b""
        self._held, self._held_tokens = [], 0
        return joined

    def _open(self) -> MDSWriter:
        self._writer = self._recipe.writer(self._out) if self._writer is None else self._writer
        return self._writer

    def _finish(self, tail: bytes) -> Packed:
        """Finish the shards. No index stays beside them: a part of a dataset must not look like a dataset."""
        shards: tuple[dict[str, Any], ...] = ()
        if self._writer is not None:
            self._writer.finish()
            index = self._out / INDEX
            shards = tuple(json.loads(index.read_bytes())["shards"])
            index.unlink()
        return Packed(rows=self._rows, documents=self._documents, tokens=self._tokens, tail=tail, shards=shards)


class Packer(_Rows):
    """Writes rows of `seq_len` tokens."""

    def add(self, ids: TokenIds, *, begins: bool, ends: bool) -> int:
        """Add a piece of a document; `begins` is True for the document's first piece, `ends` for its last.

        Returns how many tokens the document has, with those that begin and end it; as yet, if it goes on.
        """
        self._hold(ids, begins=begins, ends=ends)
        if self._held_tokens >= max(_BLOCK, self._recipe.seq_len):
            self._write(self._join())
        return self._length

    def add_tail(self, tail: bytes) -> None:
        """Add another packer's tail; its documents are counted by that packer."""
        self.add(np.frombuffer(tail, self._dtype), begins=False, ends=False)

    def finish(self) -> Packed:
        """Write the last whole rows and finish the shards."""
        self._write(self._join())
        return self._finish(self._join())

    def _write(self, block: bytes) -> None:
        row_bytes = self._recipe.seq_len * self._dtype.itemsize
        whole = len(block) - len(block) % row_bytes
        if whole:
            writer = self._open()
            for at in range(0, whole, row_bytes):
                row = block[at : at + row_bytes]
                # The writer accepts bytes as an encoded column; the encoding of an array of fixed size is its values.
                writer.write({"tokens": row} if self._dtype.names is None else self._columns(row))
            self._rows += whole // row_bytes
            self._tokens += whole // self._dtype.itemsize
        if whole < len(block):
            rest = np.frombuffer(block, self._dtype, offset=whole)
            self._held, self._held_tokens = [rest], len(rest)


class DocumentRows(_Rows):
    """Writes each document as a sample; memory is bounded by the longest document."""

    def add(self, ids: TokenIds, *, begins: bool, ends: bool) -> int:
        """Add a piece of a document, as `Packer.add` does.

        Raises:
            TooLongError: the document ends, and is longer than a sample can be; nothing of it is written.
        """
        most = _MOST_BYTES // self._dtype.itemsize
        self._hold(ids, begins=begins, ends=ends)
        if self._length > most:
            self._held, self._held_tokens = [], 0
        if ends and self._length > most:
            self._documents -= 1
            raise TooLongError(
                f"it has {self._length:,} tokens, and a sample of an MDS shard holds at most {most:,}: with "
                "--rows documents a document is one sample; divide it (--document-separator), or use --rows packed"
            )
        if ends:
            self._open().write(self._columns(self._join()))
            self._rows += 1
            self._tokens += self._length
        return self._length

    def finish(self) -> Packed:
        """Finish the shards."""
        return self._finish(b"")


def rows_of(recipe: Recipe, out: Path) -> Packer | DocumentRows:
    """Return what writes rows of the kind of `recipe` to the directory `out`."""
    return (DocumentRows if recipe.rows == "documents" else Packer)(recipe=recipe, out=out)
