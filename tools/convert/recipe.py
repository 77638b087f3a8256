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

from mixstream import MDSWriter
from mixstream.errors import ConfigError

from .readers import Fields
from .tokenizer import TokenizerSpec

_LAYOUT = {"bytes": 2}
_LAYOUT_OF_FILES = 3
"""Increased whenever this program would write other bytes for the same recipe and sources, by kind of tokenizer."""
LATER = {"bos": None, "special-tokens": "text", "document-separator": None}
"""Options that earlier versions did not have, and what these did. Where an option says the same, nothing changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How documents become shards.

    Raises ConfigError for values out of range. `checked` also validates the writer's options.
    """

    tokenizer: TokenizerSpec
    seq_len: int = 2048
    """Tokens in a row."""
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
        if not (math.isfinite(self.val_fraction) and 0 <= self.val_fraction < 1):
            raise ConfigError(f"--val-fraction {self.val_fraction}: give a number from 0 up to, not including, 1.")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"--seed {self.seed}: give a number from 0 to 2**64 - 1.")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the summary."""
        return ("train", "val") if self.val_fraction else ("train",)

    def writer(self, out: Path, metadata: dict[str, Any] | None = None) -> MDSWriter:
        """A writer of rows into the directory `out`."""
        return MDSWriter(
            columns={"tokens": f"ndarray:{self.tokenizer.dtype}:{self.seq_len}"},
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
            "seq-len": self.seq_len,
            "text-key": self.fields.text,
            "domain-key": self.fields.domain,
            "val-fraction": self.val_fraction,
            "seed": self.seed,
            "compression": self.compression,
            "hashes": list(self.hashes),
            "size-limit": self.size_limit,
            "part-bytes": self.part_bytes,
            "bos": self.tokenizer.bos,
            "special-tokens": self.tokenizer.special_tokens,
            "document-separator": self.fields.separator,
        }

    def identity(self) -> dict[str, Any]:
        """`describe` without the options that earlier versions did not have, where they change nothing."""
        return {key: value for key, value in self.describe().items() if key not in LATER or value != LATER[key]}
