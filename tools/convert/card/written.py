"""`OUT/card.json` and `OUT/tokenizer/`: written when all groups are published, right before `domains.json`.

Rules. Both are functions of the cards of the datasets, the summary and the tokenizer's files; what is there already is
not written again. Only files that the card before named are removed from `OUT/tokenizer/`: a domain may have that name.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...shared.cards import CARD, TOKENIZER, Card, DatasetCard, dump_card, read_card, read_dataset_card
from ..ledger.durable import make_directory, write_durably
from ..recipe import Recipe
from .compose import compose_card

FindCard = Callable[[str, str], bytes | None]
"""Domain and split → the bytes of the dataset's card; None if it has none."""


def write_card(out: Path, summary: Mapping[str, Any], recipe: Recipe, finds: tuple[FindCard, ...]) -> bool:
    """Write the card of an output; returns whether anything was written.

    Args:
        out: the output, or the work directory of its upload.
        summary: what domains.json says.
        recipe: of the command. Its tokenizer is copied if it is that of the summary.
        finds: where the card of a dataset may be, in order; the first that describes the dataset's state is taken.
    """
    before = read_written(out)
    files = before.tokenizer_files if before is not None else {}
    written = False
    if recipe.tokenizer.describe() == summary["tokenizer"]:
        copies = _copy(recipe)
        for name in files.keys() - copies.keys():
            (out / TOKENIZER / name).unlink(missing_ok=True)
        for name, data in copies.items():
            written |= _write(out / TOKENIZER / name, data)
        files = {name: hashlib.sha256(data).hexdigest() for name, data in copies.items()}

    def find(domain: str, split: str) -> DatasetCard | None:
        counts = {**summary["domains"][domain][split], "domain": domain, "split": split}
        for read in finds:
            with suppress(ValueError):  # a file of another program
                data = read(domain, split)
                card = read_dataset_card(data) if data is not None else None
                if card is not None and card.matches(counts):
                    return card
        return None

    card = compose_card(summary, find, tokenizer_files=files)
    if card is None:
        (out / CARD).unlink(missing_ok=True)
        return written
    return _write(out / CARD, dump_card(card)) or written


def read_written(out: Path) -> Card | None:
    """Return the card of an output as it is; None if there is none."""
    try:
        return read_card((out / CARD).read_bytes())
    except (OSError, ValueError):
        return None


def _copy(recipe: Recipe) -> dict[str, bytes]:
    """The files of the tokenizer, path below `OUT/tokenizer/` to content."""
    with tempfile.TemporaryDirectory(prefix="mixstream-") as scratch:
        place = Path(scratch)
        recipe.tokenizer.copy_to(place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def _write(path: Path, data: bytes) -> bool:
    if path.is_file() and path.read_bytes() == data:
        return False
    make_directory(path.parent)
    write_durably(path, data)
    return True
