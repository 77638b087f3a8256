"""Batches with marked documents, in the names, dtypes and shapes of each trainer.

Each function takes a batch of `Loader(documents=True)`, with labels of either kind, and returns a `Batch` of the same
step and rows, which `loader.report` takes like the one before. They may be `transforms=` of the loader. Tensors stay on
their device, and nothing waits for it.

Two rows over documents of 3, 3 and 2 tokens, for a model of transformers; as labels, the model's own shift is meant:

>>> import numpy as np, tempfile
>>> with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=(out := tempfile.mkdtemp())) as writer:
...     for row in ([5, 6, 0, 7], [8, 0, 9, 0]):
...         writer.write({"tokens": np.array(row, np.uint16)})
>>> dataset = ms.StreamingDataset(streams=[ms.Stream(local=out, eos_id=0)], batch_size=2)
>>> with ms.Loader(dataset, documents=True) as loader:
...     batch = as_transformers(next(iter(loader)))
>>> batch["input_ids"].tolist(), batch["labels"].tolist()
([[5, 6, 0, 7, 8, 0, 9, 0]], [[-100, 6, 0, -100, -100, 0, -100, 0]])
>>> batch["cu_seq_lens_q"].tolist(), batch["max_length_q"]
([0, 3, 4, 6, 8], 3)

Where labels are of the next tokens, nothing is predicted from the last token of a row, unless `extra_token=True` says
that rows have one token more than the model takes, which is only predicted: rows of `seq_len` + 1 tokens.

Shape suffixes: B rows, S tokens of a row that the model takes, T = B * S, D segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

import mixstream as ms
from mixstream.errors import ConfigError

__all__ = [
    "as_axolotl",
    "as_flex",
    "as_llm_foundry",
    "as_megatron",
    "as_nanotron",
    "as_olmo_core",
    "as_torchtitan",
    "as_torchtune",
    "as_transformers",
    "as_trl",
]

IGNORED = -100


def as_transformers(batch: Mapping[str, Any], *, joined: bool = True) -> ms.Batch:
    """Return what `DataCollatorWithFlattening` makes: all rows joined to one, and the arguments of flash attention.

    input_ids, labels (unshifted), position_ids: int64 [1, T]; cu_seq_lens_q, cu_seq_lens_k: int32 [D + 1];
    max_length_q, max_length_k: int; seq_idx, for Mamba: int32 [1, T]. There is no attention_mask, which would make
    transformers attend across documents. So does its cache, but for flash attention: call the model with
    `use_cache=False`, as the Trainer of transformers does.

    Args:
        batch: of a loader.
        joined: False keeps rows, [B, S]: eager, sdpa and flex attention find documents by position_ids, and flash
            attention by cu_seq_lens_q.
    """
    rows = _Rows.of(batch)
    ids, labels, positions = rows.tokens_BS, rows.labels_BS, rows.positions_BS
    columns = {"input_ids": ids, "labels": labels, "position_ids": positions}
    if joined:
        columns = {name: column.reshape(1, -1) for name, column in columns.items()}
        columns["seq_idx"] = rows.segment_T[None]
    longest, ends_D1 = rows.segments.longest, rows.ends_D1
    flash = {"cu_seq_lens_q": ends_D1, "cu_seq_lens_k": ends_D1, "max_length_q": longest, "max_length_k": longest}
    return rows.made({**columns, **flash})


def as_trl(batch: Mapping[str, Any]) -> ms.Batch:
    """Return input_ids, labels (unshifted), position_ids: int64 [1, T], as TRL's padding-free collators."""
    rows = _Rows.of(batch)
    columns = {"input_ids": rows.tokens_BS, "labels": rows.labels_BS, "position_ids": rows.positions_BS}
    return rows.made({name: column.reshape(1, -1) for name, column in columns.items()})


def as_axolotl(batch: Mapping[str, Any]) -> ms.Batch:
    """Return input_ids, labels (unshifted), position_ids: int64 [B, S]; attention_mask: document number from 1, int64.

    Padding is 0 in the mask.
    """
    rows = _Rows.of(batch)
    numbers_BS = rows.documents_BS.long() + 1
    return rows.made(
        {
            "input_ids": rows.tokens_BS,
            "attention_mask": numbers_BS,
            "labels": rows.labels_BS,
            "position_ids": rows.positions_BS,
        }
    )


def as_flex(batch: Mapping[str, Any]) -> ms.Batch:
    """Return input_ids, labels (unshifted), position_ids: int64 [1, T]; document_id: int32 [T], for flex attention.

    The mask is `lambda b, h, q, kv: (q >= kv) & (document_id[q] == document_id[kv])`. Padding has a number, too.
    """
    rows = _Rows.of(batch)
    columns = {"input_ids": rows.tokens_BS, "labels": rows.labels_BS, "position_ids": rows.positions_BS}
    joined = {name: column.reshape(1, -1) for name, column in columns.items()}
    return rows.made({**joined, "document_id": rows.segment_T})


def as_torchtitan(batch: Mapping[str, Any], *, extra_token: bool = False) -> ms.Batch:
    """Return input, positions: int64 [T]; labels, of the next tokens: int64 [T].

    torchtitan takes ({"input", "positions"}, labels), makes its mask where positions are 0, and takes positions modulo
    the model's longest context. See also `mixstream.integrations.torchtitan.MixDataLoader`.
    """
    rows = _Rows.of(batch, extra_token=extra_token)
    columns = {"input": rows.tokens_BS, "positions": rows.positions_BS, "labels": rows.next_labels_BS}
    return rows.made({name: column.reshape(-1) for name, column in columns.items()}, shifted=True)


def as_megatron(batch: Mapping[str, Any], *, extra_token: bool = False) -> ms.Batch:
    """Return tokens, labels (the next tokens, all of them), position_ids: int64 [B, S]; loss_mask: float32 [B, S];
    cu_seqlens: int32 [B, S + 1], of each row, S from its end on; max_seqlen: int32, a tensor without dimensions.

    Of rows without an extra token, the label of the last token is 0, and masked.
    """
    rows = _Rows.of(batch, extra_token=extra_token)
    length = rows.segments.tokens
    ends_BS1 = np.full((rows.segments.rows, length + 1), length, dtype=np.int32)
    for ends_S1, lengths in zip(ends_BS1, rows.lengths_by_row):
        ends_S1[: len(lengths) + 1] = np.concatenate(([0], np.cumsum(lengths)))
    return rows.made(
        {
            "tokens": rows.tokens_BS,
            "labels": rows.next_BS,
            "position_ids": rows.positions_BS,
            "loss_mask": (rows.next_labels_BS != IGNORED).float(),
            "cu_seqlens": rows.here(ends_BS1),
            "max_seqlen": rows.here(np.array(rows.segments.longest, dtype=np.int32)),
        },
        labels="loss_mask",
        shifted=True,
    )


def as_nanotron(batch: Mapping[str, Any], *, extra_token: bool = False) -> ms.Batch:
    """Return input_ids, position_ids, label_ids (the next tokens, all of them): int64 [B, S]; label_mask: bool."""
    rows = _Rows.of(batch, extra_token=extra_token)
    return rows.made(
        {
            "input_ids": rows.tokens_BS,
            "position_ids": rows.positions_BS,
            "label_ids": rows.next_BS,
            "label_mask": rows.next_labels_BS != IGNORED,
        },
        labels="label_mask",
        shifted=True,
    )


def as_olmo_core(batch: Mapping[str, Any]) -> ms.Batch:
    """Return input_ids: int64 [B, S]; label_mask: bool [B, S], of the same tokens; doc_lens: int32 [B, most documents],
    0 behind the last of a row; max_doc_lens: list of B ints.

    The lengths of a row add up to S, since padding counts as a document, of which nothing is predicted.
    """
    rows = _Rows.of(batch)
    by_row = rows.lengths_by_row
    lengths_BM = np.zeros((len(by_row), max(map(len, by_row))), dtype=np.int32)
    for lengths_M, lengths in zip(lengths_BM, by_row):
        lengths_M[: len(lengths)] = lengths
    return rows.made(
        {
            "input_ids": rows.tokens_BS,
            "label_mask": rows.labels_BS != IGNORED,
            "doc_lens": rows.here(lengths_BM),
            "max_doc_lens": [int(lengths.max()) for lengths in by_row],
        },
        labels="label_mask",
    )


def as_llm_foundry(batch: Mapping[str, Any]) -> ms.Batch:
    """Return input_ids, labels (unshifted), attention_mask (0 for padding), sequence_id (-1 for padding): int64 [B, S].

    All columns have a row for each sample, so Composer may cut them into micro-batches.
    """
    rows = _Rows.of(batch)
    numbers_BS = rows.documents_BS.long()
    return rows.made(
        {
            "input_ids": rows.tokens_BS,
            "labels": rows.labels_BS,
            "attention_mask": (numbers_BS >= 0).long(),
            "sequence_id": numbers_BS,
        },
    )


def as_torchtune(batch: Mapping[str, Any], *, extra_token: bool = False) -> ms.Batch:
    """Return tokens, labels (of the next tokens), input_pos: int64 [B, S]; seq_lens: list of B int64 tensors.

    The lengths of a row add up to S, padding among them, as `packed_block_causal_mask(seq_lens=...)` wants it.
    """
    rows = _Rows.of(batch, extra_token=extra_token)
    return rows.made(
        {
            "tokens": rows.tokens_BS,
            "labels": rows.next_labels_BS,
            "input_pos": rows.positions_BS,
            "seq_lens": [rows.here(lengths.astype(np.int64)) for lengths in rows.lengths_by_row],
        },
        shifted=True,
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A batch, taken apart.

    Attributes:
        batch: of the loader.
        segments: as of `Batch`, of the tokens that the model takes.
        tokens_BS, positions_BS, documents_BS: as of the loader; labels_BS: unshifted.
        next_BS, next_labels_BS: the token behind each, and its label.
    """

    batch: ms.Batch
    segments: Any
    tokens_BS: torch.Tensor
    positions_BS: torch.Tensor
    documents_BS: torch.Tensor
    labels_BS: torch.Tensor
    next_BS: torch.Tensor
    next_labels_BS: torch.Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any], *, extra_token: bool = False) -> _Rows:
        """Return the rows of a batch; with `extra_token`, without their last token.

        Raises:
            ConfigError: no documents are marked in it.
        """
        batch = batch if isinstance(batch, ms.Batch) else ms.Batch(batch)
        segments = batch.segments
        tokens_BS = next((batch[name] for name in ("tokens", "input_ids") if name in batch), None)
        lacking = {"position_ids", "document_ids", "labels", "cu_seqlens"} - {*map(str, batch)}
        if segments is None or tokens_BS is None or lacking:
            raise ConfigError(
                f"a batch with the columns {sorted(map(str, batch))} has no documents that a loader has marked: give "
                "mixstream.Loader(dataset, documents=True), and take its batches, or parts of them (batch.split(n))"
            )
        labels_BS = batch["labels"]
        if segments.shifted:
            labels_BS = pad(labels_BS[:, :-1], (1, 0), value=IGNORED)
        next_BS, next_labels_BS = pad(tokens_BS[:, 1:], (0, 1)), pad(labels_BS[:, 1:], (0, 1), value=IGNORED)
        columns = (tokens_BS, batch["position_ids"], batch["document_ids"], labels_BS, next_BS, next_labels_BS)
        if extra_token:
            if tokens_BS.shape[1] < 2:
                raise ConfigError("extra_token=True leaves nothing of rows of one token: give longer rows")
            columns = tuple(column[:, :-1].contiguous() for column in columns)
            segments = segments.without_last()
        names = ("tokens_BS", "positions_BS", "documents_BS", "labels_BS", "next_BS", "next_labels_BS")
        return cls(batch=batch, segments=segments, **dict(zip(names, columns)))

    def made(self, columns: Mapping[str, Any], *, labels: str = "labels", shifted: bool = False) -> ms.Batch:
        """Return a batch of these columns, of the same step and rows.

        Args:
            columns: its columns.
            labels: the column that says which losses count.
            shifted: whether it is of the next tokens.
        """
        made = ms.Batch(columns)
        made.__dict__.update(self.batch.__dict__)
        made.segments = replace(self.segments, labels=labels, shifted=shifted)
        return made

    @property
    def ends_D1(self) -> torch.Tensor:
        """The ends of the segments, `cu_seqlens`."""
        return self.batch["cu_seqlens"] if self.segments is self.batch.segments else self.here(self.segments.ends_D1)

    @property
    def segment_T(self) -> torch.Tensor:
        """The number of each token's segment, int32 [T]."""
        lengths_D = np.diff(self.segments.ends_D1)
        return self.here(np.repeat(np.arange(len(lengths_D), dtype=np.int32), lengths_D))

    @property
    def lengths_by_row(self) -> list[np.ndarray]:
        """Tokens of each row's segments."""
        return [np.diff(self.segments.part(row, row + 1).ends_D1) for row in range(self.segments.rows)]

    def here(self, array: np.ndarray) -> torch.Tensor:
        """Return an array of the host on the batch's device."""
        return torch.from_numpy(array).to(self.tokens_BS.device, non_blocking=True)
