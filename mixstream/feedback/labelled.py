"""Which losses of a batch with marked documents count, and of which row each is.

Rules. A loss without a mask is masked by the labels of its batch, where the loader made them: the loss of a token that
is not predicted is 0, and counted it would lower the mean. Losses of rows that were joined, [1, B * S], are folded
into rows again; models that shift labels have one loss less. Nothing waits for a device if the losses lie there.

Shape suffixes: B rows, S tokens of a row.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mixstream.data.batch import Batch
from mixstream.data.segments import IGNORED, Segments
from mixstream.feedback.numbers import moved


def labelled(batch: Batch, loss: Any, mask: Any) -> tuple[Any, Any]:
    """Return the losses of a batch by row, and which of them count; as they are, if no documents are marked in it.

    A row of two documents, whose model shifts labels; so the losses are those of tokens 1 to 4, and token 2 begins the
    second document:

    >>> import numpy as np
    >>> batch = Batch({"labels": torch.tensor([[-100, 6, -100, 8, 9]])})
    >>> batch.segments = Segments(ends_D1=np.array([0, 2, 5], np.int32), rows=1)
    >>> loss, mask = labelled(batch, torch.tensor([[3.0, 0.0, 1.0, 2.0]]), None)
    >>> mask.tolist()
    [[True, False, True, True]]

    Args:
        batch: the batch, or a part of it.
        loss: per row [B] or per token: [B, S], [B, S - 1] or, of joined rows, [1, B * S] and [1, B * S - 1].
        mask: as of `domain_sums`; None for that of the labels.
    """
    marked = batch.segments
    if marked is None or not isinstance(loss, torch.Tensor) or not loss.ndim or loss.ndim > 2:
        return loss, mask
    if mask is None and isinstance(found := batch.get(marked.labels), torch.Tensor):
        counted = found != (IGNORED if marked.labels == "labels" else 0)
        mask = _matching(moved(counted, loss.device), loss, marked)
    if isinstance(mask, torch.Tensor):
        mask = _by_row(mask, marked, missing=0)
    return _by_row(loss, marked, missing=math.nan), mask


def _matching(counted: torch.Tensor, loss: torch.Tensor, marked: Segments) -> torch.Tensor | None:
    """Return which losses count, in their shape, from which labels do; None if losses are per row, or of other tokens.

    Labels that a transform has cut are taken for those of the losses, if there are as many.
    """
    rows, tokens = marked.rows, marked.tokens
    if counted.numel() != rows * tokens:
        return counted.reshape(loss.shape) if counted.numel() == loss.numel() else None
    counted_BS = counted.reshape(rows, tokens)
    if not marked.shifted:  # of the next tokens; the first token of a row is never predicted
        counted_BS = torch.nn.functional.pad(counted_BS[:, 1:], (0, 1))
    if loss.numel() == rows * tokens:
        return counted_BS.reshape(loss.shape)
    if loss.numel() == rows * tokens - 1:  # of joined rows, shifted
        return counted_BS.reshape(-1)[:-1].reshape(loss.shape)
    return counted_BS[:, :-1] if loss.shape == (rows, tokens - 1) else None


def _by_row(values: torch.Tensor, marked: Segments, *, missing: float) -> torch.Tensor:
    """Return values of joined rows, [1, B * S] or one less, as [B, S]; others as they are.

    Args:
        missing: the value of the last token, which has no next one.
    """
    total = marked.rows * marked.tokens
    joined = values.ndim == 1 or (values.ndim == 2 and len(values) == 1)
    if marked.rows == 1 or not joined or values.numel() not in (total, total - 1):
        return values
    flat = values.reshape(-1)
    if len(flat) < total:
        flat = torch.nn.functional.pad(flat, (0, 1), value=missing)
    return flat.reshape(marked.rows, marked.tokens)
