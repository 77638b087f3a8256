"""Rows of tokens become features: projected per-sample gradients, and how unsure the model is of each row.

Rules. A row of which no token is predicted (fewer than two tokens, or only padding after the first) has no gradient: it
is flagged as too short. A row whose gradient is not finite is flagged as failed. Both have features of zero, which the
estimator leaves out; no row is dropped, and none is silently zero.

Shape suffixes: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mixstream.errors import ConfigError
from mixstream.selection.column import FAILED, SCORED, TOO_SHORT
from mixstream.selection.datamodels import gradients
from mixstream.selection.datamodels.gradients import Parameters
from mixstream.selection.datamodels.outputs import OUTPUTS, Output
from mixstream.selection.datamodels.projection import Kind, Projection, Projector
from mixstream.types import UInt8

_MOST_AT_ONCE = 1024  # rows whose gradients are projected together: more make the projection no faster


class Features(NamedTuple):
    """What one proxy model says of rows.

    Attributes:
        phi_NF: float32 [N, F], the projected gradients.
        one_minus_p_N: float32 [N], 1 - the mean probability of the correct token.
        flags_N: uint8 [N], `SCORED`, `TOO_SHORT` or `FAILED`.
    """

    phi_NF: NDArray[np.float32]
    one_minus_p_N: NDArray[np.float32]
    flags_N: UInt8


class Proxy:
    """One proxy model, ready to make features.

    Args:
        model: a causal language model (`gradients.causal_call`); it is put into evaluation mode.
        dims: number of features, F.
        key: the key of its projection; every proxy needs its own.
        kind: the kind of its projection.
        output: "log-odds" or "loss".
        parameters: shell patterns of the parameters' names; default: all trainable ones.
        pad: the token that the dataset's rows are padded with, if any.
        memory: bytes for gradients and activations, a target and no bound. One half holds gradients (4 bytes a
            parameter and row) that are projected together: the projection is regenerated for every such group, so it
            pays to have room for ten rows or more. The other half is for computing them.
        projection_memory: bytes of the projection that are kept instead of regenerated for every chunk.

    Attributes:
        context: the longest row that the model reads; None if it does not say.

    Raises:
        ConfigError: an argument is out of range.

    >>> from mixstream.selection.datamodels.features import Proxy
    >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))  # a bigram model: causal
    >>> features = Proxy(model, dims=4, key=1).features([np.array([1, 2, 3]), np.array([4])])
    >>> features.phi_NF.shape, features.flags_N.tolist()  # the second row has nothing to predict
    ((2, 4), [1, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dims: int,
        key: int,
        kind: Kind = "rademacher",
        output: Output = "log-odds",
        parameters: Sequence[str] = (),
        pad: int | None = None,
        memory: int = 1 << 30,
        projection_memory: int = 256 << 20,
    ) -> None:
        if output not in OUTPUTS:
            raise ConfigError(f"output function {output!r} is unknown: give one of {', '.join(OUTPUTS)}")
        self._pad = pad
        self.parameters: Parameters = gradients.chosen_parameters(model, parameters)
        self.projection = Projection(inputs=gradients.count(self.parameters), outputs=dims, key=key, kind=kind)
        self._device = next(iter(self.parameters.values())).device
        self._project = Projector(self.projection, device=self._device, memory=projection_memory)
        self._call = gradients.causal_call(model, output=output)
        self._of_row = gradients.bytes_of_gradient(self.parameters)
        self._at_once = min(max(memory // 2 // (4 * self.projection.inputs), 1), _MOST_AT_ONCE)
        self._memory = memory - memory // 2
        self._probe = gradients.probe(model, self._device)
        self.context: int | None = getattr(getattr(model, "config", None), "max_position_embeddings", None)

    def features(
        self, rows: Sequence[NDArray[np.integer]], counted: Sequence[NDArray[np.bool_]] | None = None
    ) -> Features:
        """Return the features of rows.

        Args:
            rows: the tokens of each, [t], of any integer type.
            counted: which tokens of each row are predicted, bool [t], as the answer to a question is; None for all.
                The first token of a row never is.

        A row's features depend on the row alone, up to rounding: the rows of a chunk are multiplied together, so the
        last bits may change with the rows around it. The same rows under the same `memory` give the same bits.

        Raises:
            ConfigError: a row is longer than the model's context, or has a token outside of its vocabulary.
        """
        made = Features(
            np.zeros((len(rows), self.projection.outputs), np.float32),
            np.zeros(len(rows), np.float32),
            np.full(len(rows), TOO_SHORT, np.uint8),
        )
        masks = [self._counted(row) for row in rows]
        if counted is not None:
            masks = [mask & also for mask, also in zip(masks, counted, strict=True)]
        usable = [at for at, mask in enumerate(masks) if mask[1:].any()]
        for begin in range(0, len(usable), self._at_once):
            some = usable[begin : begin + self._at_once]
            self._fill(made, some, [rows[at] for at in some], [masks[at] for at in some])
        return made

    def _counted(self, row: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which tokens of a row are no padding, bool [t].

        Raises:
            ConfigError: the model cannot read it.
        """
        if self.context is not None and len(row) > self.context:
            raise ConfigError(
                f"a row has {len(row):,} tokens, the proxy model reads {self.context:,}: cut the rows to its context, "
                f"with --max-tokens {self.context} (or in your code)"
            )
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < self._probe.vocabulary:
            raise ConfigError(
                f"a row has tokens {row.min()} to {row.max()}, the proxy model has a vocabulary of "
                f"{self._probe.vocabulary:,}: it was trained with another tokenizer; use that of the dataset"
            )
        return np.ones(len(row), np.bool_) if self._pad is None else row != self._pad

    def _fill(
        self,
        made: Features,
        at: Sequence[int],
        rows: Sequence[NDArray[np.integer]],
        masks: Sequence[NDArray[np.bool_]],
    ) -> None:
        """Fill in the features of rows whose gradients are projected at once; they are computed in smaller chunks."""
        gradient_BP = torch.empty(len(rows), self.projection.inputs, device=self._device)
        probability_B = torch.empty(len(rows), device=self._device)
        lengths = [len(row) for row in rows]
        for cut in gradients.chunks(
            lengths, of_token=self._probe.token_bytes, of_row=self._of_row, memory=self._memory
        ):
            tokens_BT = torch.from_numpy(gradients.padded(rows[cut], np.int64)).to(self._device)
            counted_BT = torch.from_numpy(gradients.padded(masks[cut], np.bool_)).to(self._device)
            _, probability_B[cut] = gradients.per_sample_gradients(
                self._call, self.parameters, tokens_BT, counted_BT, out=gradient_BP[cut]
            )
        phi_BF = self._project(gradient_BP).cpu().numpy()
        one_minus_p_B = 1 - probability_B.cpu().numpy()
        good_B = np.isfinite(phi_BF).all(axis=1) & np.isfinite(one_minus_p_B)
        made.phi_NF[at] = np.where(good_B[:, None], phi_BF, 0)
        made.one_minus_p_N[at] = np.where(good_B, one_minus_p_B, 0)
        made.flags_N[at] = np.where(good_B, SCORED, FAILED)
