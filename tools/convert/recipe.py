"""The options that decide the bytes of the output.

Rule: an option belongs here if changing it may change a byte of a shard or of an index. Two runs with equal
`Recipe.describe()` over equal sources write equal bytes, and a restart compares exactly this document (ledger.py).
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixstream import MDSWriter
from mixstream.documents import COLUMNS, RowKind
from mixstream.errors import ConfigError

from .documents.extractors import describe_extractor
from .documents.fields import Fields
from .tokens.chat_tokens import token_dtype
from .tokens.tokenizer import TokenizerSpec

_LAYOUT = {"bytes": 2}
_LAYOUT_OF_FILES = 3
"""Increased whenever this program would write other bytes for the same recipe and sources, by kind of tokenizer."""
LATER = {
    "bos": None,
    "special-tokens": "text",
    "document-separator": None,
    "text-join": None,
    "text-template": None,
    "messages-key": None,
    "chat-template": None,
    "loss-mask": False,
    "domain-map": None,
    "domain-function": None,
    "filters": [],
    "rows": "packed",
    "id-key": None,
    "keep": [],
    "extract": None,
}
"""Options that earlier versions did not have, and what these did. Where an option says the same, nothing changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How documents become shards.

    Raises ConfigError for values out of range. `checked` also validates the writer's options.
    """

    tokenizer: TokenizerSpec
    rows: RowKind = "packed"
    """What a row is: a cut of `seq_len` tokens out of the joined documents, or one document."""
    loss_mask: bool = False
    """Whether rows have a column that says which tokens count; with chats."""
    seq_len: int = 2048
    """Tokens in a packed row."""
    fields: Fields
    val_fraction: float = 0.0
    """Share of the documents in the split `val`."""
    seed: int = 0
    """Seed of the choice of these documents."""
    on_bad_document: Literal["raise", "skip"] = "raise"
    """Not in `describe`: it does not affect parts without a bad document, so a run may be resumed with `skip`."""
    compression: str | None = None
    hashes: tuple[str, ...] = ("xxh3_64",)
    size_limit: int | str | None = 1 << 26
    part_bytes: int | None = None
    """Source bytes in a part, the unit of work; None derives it from the size of the domain (parts.py)."""

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ConfigError(f"--seq-len {self.seq_len}: a row holds at least 1 token.")
        if self.seq_len > 1 << 30:
            raise ConfigError(f"--seq-len {self.seq_len}: a shard holds rows of at most 2**30 tokens; give fewer.")
        if not (math.isfinite(self.val_fraction) and 0 <= self.val_fraction < 1):
            raise ConfigError(f"--val-fraction {self.val_fraction}: give a number from 0 up to, not including, 1.")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"--seed {self.seed}: give a number from 0 to 2**64 - 1.")
        kept = self.fields.kept
        for name in kept:
            if name in COLUMNS or not name or kept.count(name) > 1:
                raise ConfigError(
                    f"--keep {name}: the documents have {'two columns' if name else 'no column'} of this name. Give it "
                    f"another one: NAME={self.fields.kept_fields[kept.index(name)]}"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the summary."""
        return ("train", "val") if self.val_fraction else ("train",)

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """The dtype of a token on its way to a row."""
        return token_dtype(self.tokenizer.dtype, masked=self.loss_mask)

    def writer(self, out: Path, metadata: dict[str, Any] | None = None) -> MDSWriter:
        """A writer of rows into the directory `out`."""
        length = f":{self.seq_len}" if self.rows == "packed" else ""
        mask = {"loss_mask": f"ndarray:uint8{length}"} if self.loss_mask else {}
        return MDSWriter(
            columns={"tokens": f"ndarray:{self.tokenizer.dtype}{length}", **mask},
            out=out,
            compression=self.compression,
            hashes=self.hashes,
            size_limit=self.size_limit,
            max_workers=1,  # each core has a worker process already
            metadata=metadata or {},
        )

    def checked(self) -> Recipe:
        """This recipe with the writer's options parsed; raises now what the writer would raise after hours of work."""
        with tempfile.TemporaryDirectory() as scratch:
            writer = self.writer(Path(scratch))
            writer.cancel_future_jobs()
        return replace(self, size_limit=writer.size_limit, hashes=tuple(writer.hashes))

    def describe(self) -> dict[str, Any]:
        """The fields above as JSON, by the names of the command line's options."""
        return {
            "layout": _LAYOUT.get(self.tokenizer.hash, _LAYOUT_OF_FILES),
            "tokenizer": self.tokenizer.describe(),
            "seq-len": self.seq_len if self.rows == "packed" else None,
            **self.fields.describe(),
            "val-fraction": self.val_fraction,
            "seed": self.seed,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size-limit": self.size_limit,
            "part-bytes": self.part_bytes,
            "bos": self.tokenizer.bos,
            "special-tokens": self.tokenizer.special_tokens,
            "extract": None if self.fields.extract is None else describe_extractor(self.fields.extract),
            "rows": self.rows,
            "loss-mask": self.loss_mask,
        }

    def identity(self) -> dict[str, Any]:
        """`describe` without the options that earlier versions did not have, where they change nothing."""
        return {key: value for key, value in self.describe().items() if key not in LATER or value != LATER[key]}
