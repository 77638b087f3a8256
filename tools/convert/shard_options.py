"""The options of convert that say how tokens become shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from mixstream.documents import RowKind

from ..shared.numbers import Positive, Seed, real
from .documents.fields import Fields
from .panels import OUTPUT, ROWS
from .recipe import Recipe
from .tokens.tokenizer import TokenizerSpec

_Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=", ".join)]
_OUTPUT = Parameter(group=OUTPUT)
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
TOPICS = """ROWS. Documents are joined end to end and cut every --seq-len tokens. The
last, incomplete row of each domain and split is dropped and counted. With
--rows documents each document is one row, as long as it is. The order is that
of the files; the loader shuffles.

OUTPUT. DIR/DOMAIN/train, with --val-fraction also DIR/DOMAIN/val; DIR/
domains.json with all counts, and DIR/card.json, which says what the documents
are like (`mixstream inspect DIR --html FILE` shows it). The bytes do not
depend on --workers.

DOCUMENTS. Beside the shards, DIR/DOMAIN/SPLIT/documents/*.parquet says where
each document lies: its id (--id-key, or a hash of its text), its file and
record, its row, token and length, and the fields of --keep. DuckDB, pandas
and `mixstream select import --key document` read it.
"""
"""What the help of the command says of them."""


@Parameter(name="*", group=ROWS)
@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """How tokens become shards. As a parameter of a command, its fields are options.

    Args:
        rows: packed: documents end to end, cut every --seq-len tokens; documents: each document is a row.
        seq_len: tokens in a packed row.
        loss_mask: write the column loss_mask, as with --messages-key, also where no source has chats.
        val_fraction: share of the documents in the split val, chosen by content.
        seed: seed of the choice of these documents.
        compression: none, zstd, zstd:7, gz, br, …; each shard is compressed as a whole.
        hashes: hashes of every shard in the index; may be repeated, `none` for none.
        size_limit: maximum size of a shard.
    """

    rows: RowKind = "packed"
    seq_len: Positive = 2048
    loss_mask: _Flag = False
    val_fraction: Annotated[float, real(least=0, below=1)] = 0.0
    seed: Seed = 0
    compression: Annotated[str, _OUTPUT] = "none"
    hashes: Annotated[_Many, _OUTPUT] = ("xxh3_64",)
    size_limit: Annotated[str, _OUTPUT] = "64mb"

    def recipe(
        self, tokenizer: TokenizerSpec, fields: Fields, *, chats: bool, on_bad_document: Literal["raise", "skip"]
    ) -> Recipe:
        """Return the recipe of documents with these fields; `chats` have a loss mask."""
        return Recipe(
            tokenizer=tokenizer,
            rows=self.rows,
            seq_len=self.seq_len,
            loss_mask=self.loss_mask or chats,
            fields=fields,
            val_fraction=self.val_fraction,
            seed=self.seed,
            on_bad_document=on_bad_document,
            compression=None if self.compression == "none" else self.compression,
            hashes=tuple(sorted({name for name in self.hashes if name != "none"})),
            size_limit=self.size_limit,
        )
