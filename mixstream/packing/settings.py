"""How documents are packed: everything that decides the rows, beside the shards themselves."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from mixstream.arguments import MOST, choice, shown, text, whole
from mixstream.errors import ConfigError
from mixstream.packing.algorithms import Algorithm, LongDocuments

DocumentsBy = Literal["samples", "cuts", "borders", "eos", "unknown"]
"""What says where documents are: each sample is one; the same, in files of bare tokens whose borders another file
lists; the sidecar of the dataset; a token at the end of each; or nothing, so that they can only be joined."""


class PackingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How documents are packed.

    >>> PackingSettings(seq_len=4096, algorithm="best-fit", pad_id=0).pads
    True

    Args:
        seq_len: tokens of a row.
        algorithm: how documents become rows (`algorithms`).
        long_documents: what becomes of a document that is longer than a row.
        seed: documents of a shard are shuffled by it before they are packed; None keeps their order.
        pad_id: what stands behind the last document of a row; None for concat, whose rows are full.
        documents: what says where documents are (`source`).
        eos_id: the token that ends a document, where documents are found by it; None where borders are stored.
        columns: what rows have: "tokens", then columns of as many values.
        selection: id of the selection whose samples were packed; None for all samples.

    Raises:
        ConfigError: a value is out of range, or `pad_id` is missing.
    """

    seq_len: int
    algorithm: Algorithm
    long_documents: LongDocuments = "cut"
    seed: int | None = None
    pad_id: int | None = None
    documents: DocumentsBy = "samples"
    eos_id: int | None = None
    columns: tuple[str, ...] = ("tokens",)
    selection: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= whole("seq_len", self.seq_len) < 1 << 31:
            raise ConfigError(f"seq_len={shown(self.seq_len)}: a row has 1 to {(1 << 31) - 1} tokens")
        choice("algorithm", self.algorithm, get_args(Algorithm))
        choice("long_documents", self.long_documents, get_args(LongDocuments))
        choice("documents", self.documents, get_args(DocumentsBy))
        for name, value in (("seed", self.seed), ("pad_id", self.pad_id), ("eos_id", self.eos_id)):
            if value is not None:
                whole(name, value, least=None if name == "seed" else 0, most=MOST)
        if not isinstance(self.columns, tuple) or not all(isinstance(name, str) for name in self.columns):
            raise ConfigError(f"`columns` is a tuple of names, got {shown(self.columns)}")
        if self.selection is not None:
            text("selection", self.selection)
        if self.algorithm == "concat" and self.long_documents != "cut":
            raise ConfigError(
                f"long_documents={self.long_documents!r} with concat, which joins all documents and cuts them: leave "
                "it out, or pack with best-fit"
            )
        if self.pads and self.pad_id is None:
            raise ConfigError(
                f"rows of {self.algorithm} have padding, and no end-of-document token is known that could stand there: "
                "give pad_id (--pad-id)"
            )
        if not self.columns or self.columns[0] != "tokens" or len({*self.columns}) < len(self.columns):
            raise ConfigError(f"columns={self.columns}: 'tokens' is first, and each column is named once")

    @property
    def pads(self) -> bool:
        """Whether rows may have padding."""
        return self.algorithm != "concat"
