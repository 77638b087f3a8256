"""A stream's `packing` becomes a domain of packed rows: those that `mixstream pack` wrote, or cut by arithmetic.

Rules. Nothing here reads a shard. A packing that was made for other shards, of another selection or of another length
is refused by name.
"""

from __future__ import annotations

import warnings
from hashlib import blake2b
from typing import Any

import numpy as np

from mixstream.data.domain import Domain
from mixstream.data.packed import CutEvenly, Packed
from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import TokenStore, fixed_array
from mixstream.loader.stream import retry_of
from mixstream.packing import Packing, packable_columns
from mixstream.selection import Selection

_RUN = "run `mixstream pack`"


def packed_domain(stream: Any, whole: Domain, packing: Packing | None) -> Domain:
    """Return the domain of a stream, read as packed rows.

    Args:
        stream: the `Stream`, which has `packing`.
        whole: its domain as it is stored.
        packing: what was written; None for packing="concat".

    Raises:
        ConfigError: options contradict the packing or each other, or it has no rows.
        SelectionError: it was made for other shards, or for another selection.
    """
    where = f"stream {stream.name!r}"
    if stream.split_by is not None:
        raise ConfigError(
            f"{where}: split_by makes domains of stored samples, and packing makes rows of several: pack each bucket "
            "with a selection of its own, or leave out one of the two"
        )
    if stream.overlap:
        raise ConfigError(f"{where}: overlap={stream.overlap} is for rows of token files without packing: leave it out")
    if packing is None:
        return _joined(stream, whole, where)
    if stream.on_selection_mismatch != "error" or stream.unlisted_shards != "error":
        raise ConfigError(
            f"{where}: a packing has rows of the shards that it was made for, and no others: leave out "
            f"on_selection_mismatch and unlisted_shards, or {_RUN} again"
        )
    if stream.seq_len is not None and stream.seq_len != packing.settings.seq_len:
        raise ConfigError(
            f"{where}: seq_len={stream.seq_len}, and {packing.path} has rows of {packing.settings.seq_len} tokens: "
            f"leave out seq_len, or {_RUN} with --seq-len {stream.seq_len}"
        )
    _check_selection(stream, packing, where)
    _check_reading(stream, whole, packing, where)
    packed = packing.rows_over(whole.container)
    _refuse_none(int(packed.rows_S.sum()), packed.where, packing.settings.seq_len, where)
    return whole.packing(packed)


def _check_selection(stream: Any, packing: Packing, where: str) -> None:
    """Refuse a selection other than the one that was packed."""
    if stream.selection is None:
        return
    given = Selection.open(stream.selection, domain=stream.name, retry=retry_of(stream))
    if given.id != packing.settings.selection:
        packed = packing.settings.selection
        raise SelectionError(
            f"{where}: {packing.path} packs {'all samples' if packed is None else f'the selection {packed}'}, and "
            f"selection={stream.selection!r} is {given.id}: {_RUN} with --selection {stream.selection}, or leave out "
            "selection, since a packing has the samples that it was made of"
        )


def _check_reading(stream: Any, whole: Domain, packing: Packing, where: str) -> None:
    """Refuse token files that are read as rows under a packing of documents, or as documents under one of rows."""
    if not isinstance(store := whole.container, TokenStore):
        return
    by_token = packing.settings.documents == "eos"
    if by_token and store.index.row is None:
        raise ConfigError(
            f"{where}: {packing.path} packs documents that end with the token {packing.settings.eos_id}, in rows of "
            f"the files: give eos_id={packing.settings.eos_id}, and seq_len={packing.settings.seq_len}"
        )
    if not by_token and store.index.row is not None and stream.eos_id is not None:
        raise ConfigError(
            f"{where}: {packing.path} packs documents whose borders are stored, not those that eos_id={stream.eos_id} "
            "ends: leave out eos_id"
        )


def _joined(stream: Any, whole: Domain, where: str) -> Domain:
    """Return the domain, its tokens one after the other, cut every `seq_len`."""
    if stream.seq_len is None:
        raise ConfigError(f"{where}: packing='concat' cuts rows of seq_len tokens: give seq_len")
    if stream.selection is not None:
        raise ConfigError(
            f"{where}: packing='concat' joins all samples, without regard to a selection: {_RUN} --algorithm concat "
            f"--selection {stream.selection}, and give its --out as packing"
        )
    if isinstance(whole.container, TokenStore):
        return whole  # opened as rows of seq_len tokens
    seq_len = int(stream.seq_len)
    pack = f"{_RUN} {stream.location} --algorithm concat --seq-len {seq_len}, and give its --out as packing"
    try:
        columns = packable_columns(whole.shards, None, domain=whole.name)
    except ConfigError as error:
        error.add_note(f"{where}, packing='concat': {pack}")
        raise
    fixed = [fixed_array(shard.columns[columns[0]]) for shard in whole.shards]
    stored = {None if each is None else each[1][0] for each in fixed}
    if len(stored) != 1 or None in stored:
        raise ConfigError(
            f"{where}: packing='concat' needs samples of one length, and these have any length, so where rows begin "
            f"follows from all of them: {pack}"
        )
    length = int(stored.pop() or 0)
    tokens_S = np.array([shard.samples * length for shard in whole.shards], dtype=np.int64)
    rows_S = tokens_S // seq_len
    _refuse_none(int(rows_S.sum()), "packing='concat'", seq_len, where)
    if short := int(((rows_S == 0) & (tokens_S > 0)).sum()):
        warnings.warn(
            f"{where}: {short} of {len(rows_S)} shards have fewer than {seq_len} tokens, and packing='concat' reads "
            "nothing of them: take shorter rows, or write larger shards with `mixstream reshard`",
            stacklevel=2,
        )
    return whole.packing(
        Packed(
            inner=whole.container,
            id=blake2b(repr(("concat", seq_len, columns)).encode(), digest_size=16).hexdigest(),
            seq_len=seq_len,
            columns=columns,
            rows_S=rows_S,
            dropped=int((tokens_S - rows_S * seq_len).sum()),
            rows_of=CutEvenly(rows_S=rows_S, seq_len=seq_len, stored=length),
            knows_documents=False,
            where="packing='concat'",
        )
    )


def _refuse_none(rows: int, packing: str, seq_len: int, where: str) -> None:
    if not rows:
        raise ConfigError(
            f"{where}: {packing} has no row of {seq_len} tokens: no shard has so many; leave the stream out, or take "
            "shorter rows"
        )
