"""What is recorded of a finished part: what it wrote, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixstream.storage import domain_directory


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """The output of one part for one domain and split."""

    domain: str
    split: str
    rows: int
    documents: int
    tail_bytes: int
    shards: tuple[dict[str, Any], ...]
    """Entries as in the part's own index.json; their basenames are relative to the part's directory."""
    tokens: int = 0
    """In the rows; 0 in records of earlier versions."""
    noted: tuple[int, ...] = ()
    """The numbers of its batches in the part's file of documents."""

    def directory(self, out: Path, part: str) -> Path:
        """The directory of the shards of the part named `part`."""
        return out / domain_directory(self.domain) / self.split / part


@dataclass(frozen=True, kw_only=True, slots=True)
class SidecarRecord:
    """What the record of a part says of its documents."""

    bytes: int
    """Size of the file."""
    records: tuple[int, ...]
    """How many records each slice of the part has."""
    kinds: tuple[tuple[str, ...], ...] = ()
    """Which kinds of values each field of `--keep` has (kept.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """A finished part."""

    identity: str
    outputs: tuple[Output, ...]
    skipped: int = 0
    """Documents that could not be read."""
    examples: tuple[str, ...] = ()
    """The first few of them: place and reason."""
    seen: dict[str, int] = field(default_factory=dict)
    """How often separators (`SEPARATORS`, then the text) and special tokens were spelled out in the documents."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Documents that could not be read, by reason."""
    rejects_bytes: int = 0
    """Size of the part's file of rejects."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Documents that filters did not take, by filter, and those without text."""
    sidecar: SidecarRecord | None = None
    """What its file of documents holds; None in records of earlier versions, which wrote none."""
    statistics: int = 0
    """Bytes of the file with the statistics; 0 if an earlier version wrote none."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Suffix of a file in the ledger to the xxh3_64 of its bytes; earlier versions have some or none."""
