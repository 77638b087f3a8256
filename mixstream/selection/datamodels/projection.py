"""Random projection of gradients: phi = P^T g, with a matrix that is regenerated block by block and never stored.

Rules. A matrix is a pure function of (key, kind, inputs, outputs): its block `b` comes from the counter-based generator
Philox at counter (0, b), whose bits are the same on every machine and under every version of numpy. So every part of a
job, and every later target set, uses the same matrix without sending it. One model of 125M parameters and 16,384
outputs would need 2 TB for it at one byte an entry. Blocks are added up in order.

Entries have variance 1 / outputs: E[phi(g) . phi(h)] = g . h, with relative error about sqrt(2 / outputs).

    rademacher   entries +-1 / sqrt(outputs), one random bit each
    gaussian     normal entries, by Box-Muller from 32 random bits each; equal on all machines up to the last bits of
                 their log and cos

Source: Johnson and Lindenstrauss 1984; Achlioptas 2003 for signs; Salmon et al. 2011 for Philox.

Shape suffixes: B rows, P parameters (inputs), F features (outputs), R parameters of one block.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixstream.errors import ConfigError
from mixstream.plan.rng import derive_key
from mixstream.records import dataclass

Kind = Literal["rademacher", "gaussian"]
"""The distribution of a projection's entries."""

KINDS: tuple[Kind, ...] = ("rademacher", "gaussian")
_BLOCK = 1 << 22  # entries of a block; part of the definition of the matrix


def member_key(seed: int, member: int) -> int:
    """Return the key of the projection of one proxy model of an ensemble: each has a matrix of its own.

    >>> member_key(0, 0) == member_key(0, 1)
    False
    """
    return derive_key(seed, "attribute projection", member)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A random matrix [inputs, outputs], as its recipe.

    Args:
        inputs: number of parameters, P.
        outputs: number of features, F.
        key: 64-bit key; every proxy model has its own (`member_key`).
        kind: "rademacher" or "gaussian".

    Raises:
        ConfigError: an argument is out of range.

    >>> projection = Projection(inputs=6, outputs=4, key=17)
    >>> (projection.block(0) * 2).astype(int)  # entries are +-1/2
    array([[ 1,  1, -1, -1],
           [ 1, -1,  1, -1],
           [ 1, -1,  1,  1],
           [-1, -1,  1, -1],
           [ 1,  1, -1,  1],
           [-1,  1,  1,  1]])
    """

    inputs: int
    outputs: int
    key: int
    kind: Kind = "rademacher"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"projection kind {self.kind!r} is unknown: give one of {', '.join(KINDS)}")
        if self.inputs < 1 or not 1 <= self.outputs <= _BLOCK:
            raise ConfigError(
                f"a projection of {self.inputs:,} parameters to {self.outputs:,} features is impossible: give 1 or "
                f"more parameters, and 1 to {_BLOCK:,} features"
            )
        if not 0 <= self.key < 1 << 64:
            raise ConfigError(f"projection key {self.key}: give a number of 64 bits, 0 or more")

    @property
    def block_rows(self) -> int:
        """Parameters in every block but the last."""
        return _BLOCK // self.outputs

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.inputs // self.block_rows)

    def span(self, number: int) -> tuple[int, int]:
        """Return the first parameter of a block, and the one after its last."""
        begin = number * self.block_rows
        return begin, min(begin + self.block_rows, self.inputs)

    def block(self, number: int) -> NDArray[np.float32]:
        """Return the rows of block `number` of the matrix, float32 [R, F]."""
        begin, end = self.span(number)
        scale = np.float32(1 / math.sqrt(self.outputs))
        if self.kind == "rademacher":
            return np.where(self.signs(number), scale, -scale)
        return (self._normals(number, end - begin) * scale).astype(np.float32)

    def signs(self, number: int) -> NDArray[np.uint8]:
        """Return 1 where a Rademacher entry is positive, else 0: uint8 [R, F]."""
        begin, end = self.span(number)
        packed = self.packed_signs(number)
        return np.unpackbits(packed, count=(end - begin) * self.outputs, bitorder="little").reshape(-1, self.outputs)

    def packed_signs(self, number: int) -> NDArray[np.uint8]:
        """Return `signs` row after row, eight in a byte, the first in its lowest bit."""
        begin, end = self.span(number)
        entries = (end - begin) * self.outputs
        return self._bits(number, -(-entries // 64)).view(np.uint8)[: -(-entries // 8)]

    def _normals(self, number: int, rows: int) -> NDArray[np.float64]:
        entries = rows * self.outputs
        pairs = self._bits(number, -(-entries // 2)).view("<u4").reshape(-1, 2)
        radius = np.sqrt(-2 * np.log((pairs[:, 0] + 0.5) / 2**32))  # the half keeps the logarithm finite
        angle = (2 * math.pi / 2**32) * pairs[:, 1]
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return both.reshape(-1)[:entries].reshape(rows, self.outputs)

    def _bits(self, number: int, words: int) -> NDArray[np.uint64]:
        generator = np.random.Philox(
            key=np.array([self.key, 0], np.uint64), counter=np.array([0, number, 0, 0], np.uint64)
        )
        return generator.random_raw(words).astype("<u8", copy=False)


class Projector:
    """Applies a projection to gradients on a device, and keeps blocks that fit into `memory`.

    Args:
        projection: the matrix.
        device: where the gradients are.
        memory: bytes of blocks that are kept between calls (4 an entry); the others are regenerated in every call, so
            it pays to project many rows at once. It changes no result.

    >>> projection = Projection(inputs=3, outputs=2, key=1)
    >>> gradient = torch.tensor([[1.0, 2.0, 3.0]])
    >>> bool(torch.allclose(Projector(projection)(gradient), gradient @ torch.from_numpy(projection.block(0))))
    True
    """

    def __init__(self, projection: Projection, *, device: str | torch.device = "cpu", memory: int = 256 << 20) -> None:
        self.projection = projection
        self._device = torch.device(device)
        self._kept: dict[int, Tensor] = {}
        scale = 1 / math.sqrt(projection.outputs)
        eight = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._entries_of_byte = torch.from_numpy(np.where(eight, scale, -scale).astype(np.float32)).to(self._device)
        self._keep = memory // (4 * projection.block_rows * projection.outputs)

    def __call__(self, gradient_BP: Tensor) -> Tensor:
        """Return the features of the rows, float32 [B, F].

        Raises:
            ConfigError: the gradients do not have the projection's number of parameters.
        """
        if gradient_BP.ndim != 2 or gradient_BP.shape[1] != self.projection.inputs:
            raise ConfigError(
                f"gradients of shape {tuple(gradient_BP.shape)} do not fit a projection of "
                f"{self.projection.inputs:,} parameters: make the projection for this model"
            )
        phi_BF = torch.zeros(len(gradient_BP), self.projection.outputs, device=self._device)
        for number in range(self.projection.blocks):
            begin, end = self.projection.span(number)
            phi_BF += gradient_BP[:, begin:end].float() @ self._block(number)
        return phi_BF

    def _block(self, number: int) -> Tensor:
        if (kept := self._kept.get(number)) is not None:
            return kept
        if self.projection.kind == "rademacher":  # one bit an entry crosses to the device
            packed = torch.from_numpy(self.projection.packed_signs(number)).to(self._device)
            begin, end = self.projection.span(number)
            entries = self._entries_of_byte.index_select(0, packed.int()).view(-1)
            block = entries[: (end - begin) * self.projection.outputs].view(end - begin, -1)
        else:
            block = torch.from_numpy(self.projection.block(number)).to(self._device)
        if number < self._keep:
            self._kept[number] = block
        return block
