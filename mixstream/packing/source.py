"""Where the documents of a domain come from: what its index says, and what the user says of its tokens.

    samples    each sample is a document: arrays of any length
    cuts       the same, in a file of bare tokens; another file says where documents begin or end
    borders    samples of one length, and the dataset's sidecar says which documents lie in them
    eos        samples of one length, in which a token ends each document
    unknown    samples of one length, in which no document is known: they can only be joined (concat)

Shape suffixes: S shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixstream.cached import cached_property
from mixstream.data.domain import Domain
from mixstream.data.gather import Field, ShardTable, gather
from mixstream.data.packed import TOKENS, check_border_token, span_field, value_dtype
from mixstream.documents import Documents
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats import Container, DocumentRows, GatheredRows, ShardEntry, fixed_array
from mixstream.packing.documents import (
    ShardDocuments,
    bare_documents,
    document_samples,
    documents_of_borders,
    documents_of_ends,
    ends_of_tokens,
    even_samples,
    row_tokens,
)
from mixstream.packing.settings import DocumentsBy
from mixstream.plan.selection import KeptRows
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

_BLOCK = 1 << 22  # tokens that are looked through at a time


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Finds the documents of a domain's shards.

    Args:
        domain: the shards; its `kept` says which samples count.
        columns: "tokens", and what is packed with them (`packable_columns`).
        kind: where documents are.
        sidecar: of the dataset, for "borders".
        eos_id: the token that ends a document, for "eos".
    """

    domain: Domain
    columns: tuple[str, ...]
    kind: DocumentsBy
    sidecar: Documents | None = None
    eos_id: int | None = None

    def of(self, shard: int, data: UInt8) -> ShardDocuments:
        """Return the documents of a shard, from its bytes, validated: those that the selection keeps.

        Raises:
            ShardCorruptError: its samples contradict the index or each other, or the sidecar does not fit.
            ConfigError: columns have other lengths than the tokens.
        """
        container, where = self.domain.container, f"{self.domain.name}: {self.domain.shards[shard].raw.basename}"
        if self.kind == "cuts":
            found = bare_documents(container, shard, data, where=where)
            return found if self.domain.kept is None else found.chosen(self.kept_rows(shard))
        if self.kind == "samples":
            found = document_samples(container, shard, data, self.columns, where=where)
        else:
            found = even_samples(container, shard, where=where)
            if self.kind == "eos":
                found = documents_of_ends(found, self._ends(shard, data))
            elif self.kind == "borders" and self.domain.shards[shard].samples:
                assert self.sidecar is not None, "`document_source` opened it"
                first, end = self._row_S[shard : shard + 2].tolist()
                found = documents_of_borders(found, self.sidecar.borders(first, end), first)
        return found if self.domain.kept is None else found.within(self.kept_rows(shard))

    def kept_rows(self, shard: int) -> Int64:
        """Return the samples of a shard that count, int64, ascending."""
        size = int(self.domain.samples_S[shard])
        return self.domain.view.rows(np.full(size, shard), np.arange(size))

    @cached_property
    def _row_S(self) -> Int64:
        """The first row of each shard, counted over the dataset, int64 [S + 1]."""
        return np.concatenate(([0], np.cumsum([shard.samples for shard in self.domain.shards], dtype=np.int64)))

    def _ends(self, shard: int, data: UInt8) -> Int64:
        """Return where documents end in a shard of even samples, by the token that ends them."""
        samples, length = self.domain.shards[shard].samples, row_tokens(self.domain.container, shard)
        field, table = _even_field(self.domain.container, shard, length), ShardTable(1)
        table.put(0, data)
        ends = [np.empty(0, dtype=np.int64)]
        step = max(_BLOCK // length, 1)
        for first in range(0, samples, step):
            row_B = np.arange(first, min(first + step, samples))
            out = np.empty((len(row_B), length), dtype=field.dtype)
            if gather(table, np.zeros_like(row_B), row_B, field, out, np.arange(len(row_B))) >= 0:
                raise ShardCorruptError(
                    f"{self.domain.name}: {self.domain.shards[shard].raw.basename} has other rows than its index says; "
                    "check the dataset with `mixstream verify`"
                )
            ends.append(ends_of_tokens(out.reshape(-1), self.eos_id or 0, first * length))
        return np.concatenate(ends)


def document_source(
    domain: Domain,
    *,
    columns: Sequence[str] | None = None,
    sidecar: Documents | None = None,
    eos_id: int | None = None,
    kept: KeptRows | None = None,
    joins: bool = False,
) -> DocumentSource:
    """Return where the documents of a domain are.

    Args:
        domain: its shards.
        columns: what is packed; all columns if not given.
        sidecar: of the dataset, if it has one.
        eos_id: the token that ends a document; that of the dataset's tokenizer if not given.
        kept: the samples that count; None for all.
        joins: whether rows can be made without knowing documents, as concat does.

    Raises:
        ConfigError: the columns cannot be packed, or it is not known where documents are.
    """
    chosen = packable_columns(domain.shards, columns, domain=domain.name)
    domain = domain if kept is None else domain.keeping(kept)
    fixed = {fixed_array(shard.columns[TOKENS]) is not None for shard in domain.shards}
    if fixed == {True, False}:
        raise ConfigError(
            f"domain {domain.name!r}: tokens have one length in some shards and any length in others: pack them as "
            "datasets of their own"
        )
    if fixed != {True}:
        if eos_id is not None:
            raise ConfigError(
                f"domain {domain.name!r}: each sample is a document, so no token has to end it: leave out --eos-id"
            )
        bare = bool(domain.shards) and isinstance(domain.container.rows(0), DocumentRows)
        return DocumentSource(domain=domain, columns=chosen, kind="cuts" if bare else "samples")
    if eos_id is None and sidecar is not None and sidecar.row_kind == "packed":
        return DocumentSource(domain=domain, columns=chosen, kind="borders", sidecar=sidecar)
    if eos_id is None and isinstance(known := (domain.tokenizer or {}).get("eos"), int):
        eos_id = known
    if eos_id is not None:
        check_border_token(domain.shards, "eos_id", eos_id, domain=domain.name)
        return DocumentSource(domain=domain, columns=chosen, kind="eos", eos_id=eos_id)
    if not joins:
        raise ConfigError(
            f"domain {domain.name!r} has rows of one length and does not say where documents lie in them: give the "
            "token that ends each document (--eos-id), or pack with concat"
        )
    return DocumentSource(domain=domain, columns=chosen, kind="unknown")


def packable_columns(shards: Sequence[ShardEntry], given: Sequence[str] | None, *, domain: str) -> tuple[str, ...]:
    """Return the columns that are packed: "tokens", then the others by name.

    Raises:
        ConfigError: a column is none of numbers, one value per token; or there is none of the name.
    """
    examples = {(shard.column_names, shard.column_encodings): shard for shard in shards}.values()
    names = given or sorted({name for shard in examples for name in shard.column_names})
    chosen = (TOKENS, *dict.fromkeys(name for name in names if name != TOKENS))
    for shard in examples:
        if given is None and (others := [name for name in chosen[1:] if not _is_array(shard, name)]):
            shown = ", ".join(f"{name} ({shard.columns.get(name, 'missing')})" for name in others)
            left = ",".join(name for name in chosen if name not in others)
            raise ConfigError(
                f"domain {domain!r}: the columns {shown} have no value for each token, so packed rows cannot have "
                f"them: name the columns to pack, --columns {left}"
            )
        for name in chosen:
            value_dtype(shard, name)
        lengths = (fixed_array(shard.columns[name]) for name in chosen)
        if len({None if fixed is None else fixed[1][0] for fixed in lengths}) > 1:
            shown = ", ".join(f"{name} as {shard.columns[name]}" for name in chosen)
            raise ConfigError(
                f"domain {domain!r}: shard {shard.raw.basename!r} has {shown}: only columns of one length can be "
                "packed together, leave others out with --columns"
            )
    return chosen


def _even_field(container: Container, shard: int, length: int) -> Field:
    """Return where the tokens of samples of one length lie."""
    rows, lies = container.rows(shard), span_field(container, shard, TOKENS)
    assert isinstance(rows, GatheredRows), "samples have one length"
    size = np.array([length * lies.dtype.itemsize])
    sizes_C = size if lies.sizes_C is None else lies.sizes_C
    return Field(rows=rows, column=lies.column, sizes_C=sizes_C, dtype=lies.dtype, elements=length)


def _is_array(shard: ShardEntry, column: str) -> bool:
    try:
        value_dtype(shard, column)
    except ConfigError:
        return False
    return True
