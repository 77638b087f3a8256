"""Adds the columns of documents to the batches of a dataset, whatever knows the borders of each of its domains.

Shape suffixes: B rows, S tokens of a row, K domains.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data.batch import Batch
from mixstream.data.document_columns import COLUMNS, Alloc, Labels, document_columns
from mixstream.data.row_documents import BorderTokens, RowBorders, RowDocuments, joined, padded
from mixstream.data.segments import Segments
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.records import dataclass
from mixstream.types import Addresses, Int64

TOKENS = ("tokens", "input_ids")
"""Names of the column of tokens: the first of them that a batch has."""
_MANY = 1 << 22
"""Tokens of rows without any end of a document, after which the user is warned: hardly any document is as long."""


@dataclass(frozen=True, kw_only=True)
class DocumentMasks:
    """Makes the columns of documents for batches of a dataset.

    Args:
        known: for each domain, in the plan's order, what knows its borders.
        offset_K: int64 [K], the number of each domain's first shard, over all domains.
        names: the domains' names, for errors.
        labels: "unshifted" or "shifted".
    """

    known: Sequence[RowDocuments | BorderTokens]
    offset_K: Int64
    names: tuple[str, ...]
    labels: Labels = "unshifted"
    # By kind: tokens so far of which none ends or begins a document; None once one does, or the user was warned.
    _without: dict[int, int | None] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise ConfigError(
                f"labels={self.labels!r} is not known: give 'unshifted' (the tokens, for models that shift them) or "
                "'shifted' (the next tokens)"
            )

    @cached_property
    def _kinds(self) -> tuple[list[RowDocuments | BorderTokens], Int64]:
        """What knows borders, each once, and which of them each domain has."""
        kinds: list[RowDocuments | BorderTokens] = []
        of_K = []
        for each in self.known:
            if each not in kinds:
                kinds.append(each)
            of_K.append(kinds.index(each))
        return kinds, np.array(of_K, dtype=np.int64)

    def columns(
        self,
        tokens_BS: NDArray[Any],
        at: Addresses,
        *,
        counts_BS: NDArray[Any] | None = None,
        alloc: Alloc = lambda dtype, shape: np.empty(shape, dtype),
        stored_B: Int64 | None = None,
    ) -> tuple[dict[str, Any], Segments]:
        """Return the columns (arrays, and an int), and the batch's segments.

        Args:
            tokens_BS: the rows at `at`, of any integers.
            at: their addresses.
            counts_BS: the column `loss_mask`: tokens of 0 are not predicted.
            alloc: allocates the arrays.
            stored_B: int64 [B], tokens of each row that are stored; what stands behind them is padding. None: all.

        Raises:
            ShardCorruptError: the borders that are stored do not fit the rows.
        """
        borders = self._borders(tokens_BS, at)
        if stored_B is not None:
            borders = padded(borders, stored_B, tokens_BS.shape[1])
        try:
            return document_columns(tokens_BS, borders, counts_BS=counts_BS, labels=self.labels, alloc=alloc)
        except ShardCorruptError as error:
            error.add_note(f"in a batch of the domains {sorted({self.names[k] for k in at.domain_B.tolist()})}")
            raise

    def _borders(self, tokens_BS: NDArray[Any], at: Addresses) -> RowBorders:
        kinds, of_K = self._kinds
        kind_B, shard_B = of_K[at.domain_B], at.shard_B - self.offset_K[at.domain_B]
        parts = []
        for number in np.unique(kind_B).tolist() if len(kinds) > 1 else (0,):
            here_B = np.flatnonzero(kind_B == number)
            known = kinds[number]
            if isinstance(known, BorderTokens):
                rows_BS = tokens_BS if len(here_B) == len(tokens_BS) else tokens_BS[here_B]
                found = known.in_rows(rows_BS)
                self._watch(number, known, rows_BS)
            else:
                found = known.borders(shard_B[here_B], at.row_B[here_B])
            parts.append((here_B, found))
        return parts[0][1] if len(parts) == 1 else joined(parts)

    def _watch(self, kind: int, known: BorderTokens, rows_BS: NDArray[Any]) -> None:
        """Warn once if many tokens are none of those that end or begin documents: it is probably another one."""
        if (before := self._without.get(kind, 0)) is None:
            return
        tokens = {name: token for name, token in (("eos_id", known.end), ("bos_id", known.begin)) if token is not None}
        seen = before + rows_BS.size
        if any((rows_BS == token).any() for token in tokens.values()):
            self._without[kind] = None
        elif seen < _MANY:
            self._without[kind] = seen
        else:
            self._without[kind] = None
            names = [name for name, k in zip(self.names, self._kinds[1].tolist()) if k == kind]
            warnings.warn(
                f"no document ends in {seen:,} tokens of the domains {names[:8]}: none of them is "
                f"{' or '.join(f'{name}={token}' for name, token in tokens.items())}, so each row counts as one "
                "document, and attention crosses documents; give the token that ends documents in these files",
                stacklevel=2,
            )


def token_column(batch: Mapping[str, Any]) -> str:
    """Return the name of a batch's column of tokens.

    Raises:
        ConfigError: it has none.
    """
    for name in TOKENS:
        if name in batch:
            return name
    raise ConfigError(
        f"documents=True marks documents in the column 'tokens' (or 'input_ids'), and rows have the columns "
        f"{sorted(map(str, batch))}: write the token ids under that name, or leave out documents"
    )


def mark(
    made: Any, masks: DocumentMasks, at: Addresses, *, samples: Sequence[Any] | None = None, alloc: Alloc | None = None
) -> Batch:
    """Return a batch of the rows at `at` with the columns of documents.

    Args:
        made: column -> tensor; "loss_mask" says which tokens are predicted.
        masks: makes the columns.
        at: the rows' addresses.
        samples: what was collated, with the rows as they are stored; None if the batch was gathered.
        alloc: allocates the arrays.

    Raises:
        ConfigError: the batch is no dict, has no column of tokens, has such columns already, or rows in it are not
            those that were collated.
    """
    if not isinstance(made, dict):
        raise ConfigError(
            f"documents=True adds columns to a batch, and collate_fn returned a {type(made).__name__}: return a dict, "
            "with rows of 'tokens'"
        )
    if there := sorted({*COLUMNS} & made.keys()):
        raise ConfigError(
            f"documents=True makes the columns {', '.join(COLUMNS)}, and rows have {there} already: leave out "
            "documents, or the column"
        )
    name = token_column(made)
    tokens_BS, counts_BS = _array(made[name], name), made.get("loss_mask")
    stored_B = None if samples is None else _stored(samples, name, tokens_BS)
    columns, segments = masks.columns(
        tokens_BS,
        at,
        counts_BS=None if counts_BS is None else _array(counts_BS, "loss_mask"),
        stored_B=stored_B,
        **({} if alloc is None else {"alloc": alloc}),
    )
    batch = made if isinstance(made, Batch) else Batch(made)
    batch.update({key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in columns.items()})
    batch.segments = segments
    return batch


def check_covered(batch: Batch) -> None:
    """Check that transforms left `cu_seqlens` and the tokens as long as each other.

    Raises:
        ConfigError: attention would read beyond the tokens, or not see all of them.
    """
    ends_D1 = batch.get("cu_seqlens")
    if not isinstance(ends_D1, torch.Tensor) or ends_D1.ndim != 1 or not len(ends_D1):
        return
    for name in TOKENS:
        column = batch.get(name)
        if isinstance(column, torch.Tensor) and column.numel() != int(ends_D1[-1]):
            raise ConfigError(
                f"after the transforms, {name!r} has the shape {list(column.shape)}, and cu_seqlens ends at "
                f"{int(ends_D1[-1])}, so it is of other tokens: leave out cu_seqlens and max_seqlen, or use "
                "a function of mixstream.integrations.packed_batches, which changes both (extra_token=True)"
            )


def _array(column: Any, name: str) -> NDArray[Any]:
    if isinstance(column, torch.Tensor | np.ndarray) and column.ndim == 2:
        return column.numpy() if isinstance(column, torch.Tensor) else column
    raise ConfigError(
        f"documents=True needs rows of one length in column {name!r}, a tensor of two dimensions, and it is a "
        f"{type(column).__name__}{list(getattr(column, 'shape', []))}: let collate_fn pad rows on the right"
    )


def _stored(samples: Sequence[Any], name: str, tokens_BS: NDArray[Any]) -> Int64:
    """Return how many tokens each collated row has, of which the batch has all, or the first.

    Raises:
        ConfigError: the batch has other tokens.
    """
    stored = [np.asarray(sample[name]).reshape(-1) for sample in samples]
    length = tokens_BS.shape[1]
    same = len(stored) == len(tokens_BS) and all(
        np.array_equal(row[:length], tokens_S[: len(row)]) for row, tokens_S in zip(stored, tokens_BS)
    )
    if not same:
        raise ConfigError(
            f"documents=True knows where documents begin in stored rows, and the rows of {name!r} that collate_fn "
            "returned are others: keep all rows in their order, and pad or cut them on the right only"
        )
    return np.array([len(row) for row in stored], dtype=np.int64)
