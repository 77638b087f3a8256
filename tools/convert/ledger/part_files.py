"""The files of one part: its shards, and what `.convert/parts` has of it. Tasks of a job array share all others.

Rule: only the part's own files are removed. The directories around them stay: other tasks may be about to write there.
"""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

from mixstream.storage import domain_directory

from ..parts import Part
from .ledger import SPLITS, Ledger
from .records import PartRecord
from .run_file import is_by_key


def place_of(ledger: Ledger, part: Part) -> str:
    """Return where the files of a part lie in `.convert`, below the output and without their suffixes."""
    return ledger.documents_path(part).with_suffix("").relative_to(ledger.out).as_posix()


def files_of(ledger: Ledger, part: Part) -> list[Path]:
    """Return the files of a part in `.convert/parts`, its record last: it says that the others are there."""
    record = ledger.documents_path(part).with_suffix(".json")
    others = sorted(path for path in record.parent.glob(f"{record.stem}.*") if path != record)
    return [*others, record]


def shards_of(ledger: Ledger, part: Part, record: PartRecord) -> list[tuple[Path, int]]:
    """Return path and size of the shards of a part."""
    found = []
    for output in record.outputs:
        for shard in output.shards:
            stored = shard["zip_data"] or shard["raw_data"]
            found.append((output.directory(ledger.out, part.name) / stored["basename"], stored["bytes"]))
    return found


def drop_part(ledger: Ledger, part: Part) -> None:
    """Remove a part, its record first."""
    for path in reversed(files_of(ledger, part)):
        path.unlink(missing_ok=True)
    drop_shards_of(ledger, part)


def drop_shards_of(ledger: Ledger, part: Part) -> None:
    """Remove the shards of a part, in every domain that it has."""
    place = "*" if is_by_key(part.group) else glob.escape(domain_directory(part.group))
    for split in SPLITS:
        for path in sorted(ledger.out.glob(f"{place}/{split}/{part.name}")):
            shutil.rmtree(path)
