"""How a selection fits the shards of a dataset, which may have changed since it was made.

Shape suffixes: S shards of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import ShardEntry
from mixstream.records import dataclass
from mixstream.selection.changed_shards import OnMismatch, Unlisted
from mixstream.selection.shard_table import Match, ShardIdentity, ShardTable
from mixstream.types import Int64

_CHOICE = "make it again, or pass on_selection_mismatch='drop' or 'keep_all'"
_MOVE = (
    "; if the corpus was sharded anew, `mixstream select rebase` carries the selection over, by keys that `mixstream "
    "select key` wrote while the old shards were there"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What becomes of each shard of a dataset.

    Attributes:
        of_S: int64 [S], the number in the selection's table; -1 if no row that the selection lists counts.
        whole_S: bool [S], whether all rows of the shard count.
        stored_S: int64 [S], rows of each shard.
        header_S: the fingerprint that each shard must have; None where there is none.
        missing: numbers in the table of the shards that the dataset lacks.
        deviations: (what became of it, shard) of every shard of the dataset that counts in another way than it is
            listed.
    """

    of_S: Int64
    whole_S: NDArray[np.bool_]
    stored_S: Int64
    header_S: tuple[str | None, ...]
    missing: list[int]
    deviations: list[tuple[str, str]]


def fit_shards(
    table: ShardTable,
    entries: Sequence[ShardEntry],
    *,
    on_mismatch: OnMismatch,
    unlisted: Unlisted,
    domain: str,
    path: str,
) -> Fit:
    """Return how the shards `entries` fit a table of shards.

    Args:
        table: of the selection.
        entries: shards of the dataset, in its order.
        on_mismatch: what happens to a shard that was changed: `"error"`, `"drop"` or `"keep_all"`.
        unlisted: what happens to a shard that the table does not list: `"error"`, `"drop"` or `"keep"`.
        domain: that the selection was made for, for errors.
        path: of the selection, for errors.

    Raises:
        SelectionError: a shard does not fit, and the option for it is `"error"`; or none of them is listed.
        ConfigError: an option has another value.
    """
    for name, value, choices in (
        ("on_mismatch", on_mismatch, get_args(OnMismatch)),
        ("unlisted", unlisted, get_args(Unlisted)),
    ):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
    match = table.match(entries)
    _refuse_strangers(table, entries, match, domain, path)
    if on_mismatch == "error" and match.changed:
        _, expected, found = match.changed[0]
        more = f", and {len(match.changed) - 1} shards more" if len(match.changed) > 1 else ""
        raise SelectionError(
            f"the selection {path} was made for shard {expected}, the dataset has {found}"
            f"{_hashes(expected, found)}{more}: it was rewritten, or token files are read "
            f"otherwise (seq_len), so its rows may be others now; {_CHOICE}{_MOVE}"
        )
    changed = {number for number, _, _ in match.changed}
    whole_S, deviations = np.zeros(len(entries), dtype=np.bool_), []
    for number in np.flatnonzero(match.of_S < 0).tolist():
        name = entries[number].raw.basename
        if number not in changed and unlisted == "error":
            raise SelectionError(
                f"shard {name!r} is not in the selection {path}: it was added after the selection was made; make it "
                "again, or pass unlisted_shards='drop' or 'keep'"
            )
        whole_S[number] = on_mismatch == "keep_all" if number in changed else unlisted == "keep"
        if whole_S[number] or number in changed:
            deviations.append(("whole" if whole_S[number] else "dropped", name))
    return Fit(
        of_S=match.of_S,
        whole_S=whole_S,
        stored_S=np.array([entry.samples for entry in entries], dtype=np.int64),
        header_S=tuple(table.shards[at].fingerprint if at >= 0 else None for at in match.of_S.tolist()),
        missing=match.missing,
        deviations=deviations,
    )


def refuse_missing(table: ShardTable, missing: Sequence[int], *, path: str) -> None:
    """Refuse a dataset that lacks the shards `missing` of the table, of which rows are kept.

    Raises:
        SelectionError: there are any.
    """
    if len(missing):
        raise SelectionError(
            f"the dataset lacks {len(missing)} shards of which the selection {path} keeps rows, first "
            f"{table.shards[missing[0]]}; restore them, {_CHOICE}{_MOVE}"
        )


def _refuse_strangers(table: ShardTable, entries: Sequence[ShardEntry], match: Match, domain: str, path: str) -> None:
    """Refuse a dataset of which no shard is listed: it is another one, so no option applies to single shards."""
    if len(entries) and table.shards and not match.changed and not (match.of_S >= 0).any():
        raise SelectionError(
            f"the selection {path} was made for the domain {domain!r} ({len(table.shards)} shards, first "
            f"{table.shards[0]}), and this dataset has {len(entries)} other shards, first {entries[0].raw.basename!r}: "
            f"none of them is listed; give the selection to the stream that it was made for{_MOVE}"
        )


def _hashes(expected: ShardIdentity, found: ShardIdentity) -> str:
    """Return the hash that differs, for an error; empty if the facts differ."""
    for name in sorted(expected.hashes.keys() & found.hashes.keys()):
        if expected.hashes[name] != found.hashes[name]:
            return f" ({name} {found.hashes[name]}, was {expected.hashes[name]})"
    return ""
