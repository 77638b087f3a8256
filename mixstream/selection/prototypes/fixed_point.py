"""Unit vectors as integers: sums and inner products that are equal on every machine.

Rules. A component x becomes the integer rint(x · 2^30). Sums and inner products of these integers are exact in int64,
so they do not depend on the order of summation: not on threads, blocks, parts, BLAS or GPU. Floating-point products,
which are about ten times as fast, only narrow down which integers to look at: `margin` bounds their error, and
what lies closer than that is decided by the integers.

Limits: |Σ x_i y_i| <= |x| |y| (Cauchy-Schwarz) holds for every partial sum, so inner products of vectors of norm up
to 1.001 stay below 2^61; sums of vectors are exact for up to 2^32 members.

Shape suffixes: N vectors, D dimensions, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixstream.cached import cached_property
from mixstream.errors import ConfigError

GRID = 1 << 30
NORM_TOLERANCE = 1e-3
_PAIRS = 1 << 14  # pairs whose exact inner products are computed at once


class Vectors:
    """A block of unit vectors, as integers and as float32.

    >>> vectors = Vectors.of(np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32))
    >>> vectors.cosines(torch.tensor([0]), vectors, torch.tensor([1])).tolist()
    [0.6000000238418579]

    Attributes:
        float_ND: float32 [N, D], the vectors as given.
        fixed_ND: int64 [N, D], components in units of 2^-30.
        norm_N: float64 [N], norms in these units.
        unit_ND: float32 [N, D], the normalised vectors.
    """

    def __init__(self, float_ND: Tensor, fixed_ND: Tensor) -> None:
        self.float_ND, self.fixed_ND = float_ND, fixed_ND

    @classmethod
    def of(cls, vectors_ND: NDArray[Any] | Tensor, *, begin: int = 0, device: str | torch.device = "cpu") -> Vectors:
        """Take vectors of norm 1, float16, float32 or float64.

        Args:
            vectors_ND: [N, D], of norm 1 up to 0.001.
            begin: the ordinal of the first, for the error.
            device: where to compute.

        Raises:
            ConfigError: a norm differs from 1 by more than 0.001.
        """
        if not isinstance(vectors_ND, Tensor):
            vectors_ND = torch.from_numpy(np.require(vectors_ND, requirements=["C", "W"]))
        if vectors_ND.ndim != 2:
            raise ConfigError(f"embeddings of shape {tuple(vectors_ND.shape)}: give one vector for each row, [rows, d]")
        float_ND = vectors_ND.to(device=device, dtype=torch.float32)
        norm_N = torch.linalg.vector_norm(float_ND, dim=1)
        bad_N = ~((norm_N - 1).abs() <= NORM_TOLERANCE)  # NaN is bad too
        if bool(bad_N.any()):
            at = int(bad_N.to(torch.int8).argmax())
            raise ConfigError(_not_unit(begin + at, float(norm_N[at])))
        return cls(float_ND, float_ND.to(torch.float64).mul_(GRID).round_().to(torch.int64))

    @cached_property
    def norm_N(self) -> Tensor:
        """Norms in units of 2^-30, float64 [N]; they are rounded from exact squares."""
        return (self.fixed_ND * self.fixed_ND).sum(dim=1).to(torch.float64).sqrt_()

    @cached_property
    def unit_ND(self) -> Tensor:
        """The normalised vectors, float32 [N, D]."""
        return (self.fixed_ND / self.norm_N[:, None]).to(torch.float32)

    def __len__(self) -> int:
        return len(self.fixed_ND)

    def __getitem__(self, rows: Tensor | slice) -> Vectors:
        return Vectors(self.float_ND[rows], self.fixed_ND[rows])

    def cosines(self, left_P: Tensor | None, other: Vectors, right_P: Tensor) -> Tensor:
        """Return the cosines of vectors `left_P` of this block (None: all) and `right_P` of `other`, float32 [P].

        They are exact up to one rounding to float32.
        """
        found_P = torch.empty(len(right_P), dtype=torch.float32, device=self.fixed_ND.device)
        for at in range(0, len(right_P), _PAIRS):
            end = min(at + _PAIRS, len(right_P))
            left = slice(at, end) if left_P is None else left_P[at:end]
            right = right_P[at:end]
            dot_P = (self.fixed_ND[left] * other.fixed_ND[right]).sum(dim=1).to(torch.float64)
            # clamp: norms are rounded, so that the cosine of a vector with itself may be 1 + 1e-16
            found_P[at:end] = (dot_P / (self.norm_N[left] * other.norm_N[right])).clamp_(-1.0, 1.0)
        return found_P


def require_unit(vectors_ND: NDArray[Any], row_N: NDArray[Any]) -> None:
    """Refuse vectors whose norm is not 1; `row_N` are their ordinals, for the error.

    Raises:
        ConfigError: a norm differs from 1 by more than 0.001.
    """
    for at in range(0, len(vectors_ND), _PAIRS):
        norm_N = np.linalg.norm(vectors_ND[at : at + _PAIRS].astype(np.float32), axis=1)
        bad_N = ~(np.abs(norm_N - 1) <= NORM_TOLERANCE)
        if bad_N.any():
            first = int(bad_N.argmax())
            raise ConfigError(_not_unit(int(row_N[at + first]), float(norm_N[first])))


def _not_unit(row: int, norm: float) -> str:
    return (
        f"the embedding of row {row:,} has the norm {norm:.6g}, not 1: cosines would be wrong; normalise the "
        "embeddings first (`mixstream embed` does)"
    )


def margin(dimensions: int) -> float:
    """Return a bound on the error of an inner product of `unit_ND` or `float_ND` that is computed in float32.

    γ_d = d u / (1 - d u) with u = 2^-24 bounds the error of the sum, in any order (Higham, "Accuracy and Stability of
    Numerical Algorithms", 3.1); 4 u more for rounding both vectors and the result, √d 2^-29 for the integers, and a
    factor for norms up to 1.001.

    >>> f"{margin(384):.1e}"
    '2.3e-05'
    """
    unit = 2.0**-24
    return 1.003 * (dimensions * unit / (1 - dimensions * unit) + 4 * unit + math.sqrt(dimensions) * 2.0**-29)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 while the block runs: TF32 or bfloat16 would break `margin`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
