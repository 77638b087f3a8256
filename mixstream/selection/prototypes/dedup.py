"""SemDeDup: near-duplicates inside the clusters of k-means, and which of them to keep.

Rules. Pure functions on arrays. Inside a cluster, the members are ordered hardest first: by distance to the prototype,
largest first, then by ordinal. A member is a duplicate of an earlier one if their cosine is above a threshold, 1 - eps.
So the survivor of a group of duplicates is the one least similar to the prototype. Decisions are made on exact
cosines, rounded to float32 (`fixed_point`), so they are equal on every machine.

Variants. They differ in chains, where a is near b and b near c, but a is not near c:
    greedy      a duplicate of an earlier *kept* member is removed (default). Keeps a and c: everything that is
                removed has a kept neighbour above the threshold
    official    a duplicate of *any* earlier member is removed, as in the published code. Keeps a
    components  one member of each connected component is kept, as the paper words it. Keeps a, whatever the order

Memory of one cluster of s rows: its vectors, and blocks of at most 2^23 cosines; never s². Time: s² d.

Source: Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication" (2023).

Shape suffixes: N members of a cluster, U members with different vectors, B members of a block, H those of them that
may have a duplicate, E earlier members, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.types import Int64

from .fixed_point import Vectors, full_precision, margin

Variant = Literal["greedy", "official", "components"]
Float32 = NDArray[np.float32]

_ROWS = 1024
_CELLS = 1 << 23
_PAIRS = 1 << 14
_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
_Bool = NDArray[np.bool_]


def hardest_first(distance_N: NDArray[Any], ordinal_N: Int64) -> Int64:
    """Return the positions of the members of a cluster in their order, int64 [N].

    >>> hardest_first(np.array([0.1, 0.4, 0.4]), np.array([7, 9, 8])).tolist()
    [2, 1, 0]
    """
    return np.lexsort((ordinal_N, -np.asarray(distance_N, dtype=np.float64)))


def nearest_earlier(vectors_ND: NDArray[Any], *, device: str = "cpu") -> Float32:
    """Return the largest cosine of each member to an earlier one, float32 [N]; -1 for the first.

    The official variant removes the members whose number is above 1 - eps. So these numbers, computed once, give the
    result for any eps.

    >>> vectors_ND = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    >>> nearest_earlier(vectors_ND).round(6).tolist()
    [-1.0, 0.0, 0.800000011920929, 1.0]

    Args:
        vectors_ND: [N, D], the unit vectors of one cluster, hardest first.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a vector whose norm is not 1.
    """
    first_N = _first_equal(vectors_ND)
    distinct_U = np.flatnonzero(first_N == np.arange(len(first_N)))
    found_U = np.full(len(distinct_U), -1.0, dtype=np.float32)
    pairs = _Pairs(vectors_ND[distinct_U], device=device)
    for begin, end in pairs.blocks():
        similarity_BE = pairs.block(begin, end, np.arange(begin))
        best_B = similarity_BE.amax(dim=1)
        row_P, earlier_P = (similarity_BE >= (best_B - pairs.slack)[:, None]).nonzero(as_tuple=True)
        real_P = similarity_BE[row_P, earlier_P] > -2  # the first member of all has no earlier one
        row_P, earlier_P = row_P[real_P].cpu().numpy(), earlier_P[real_P].cpu().numpy()
        np.maximum.at(found_U, begin + row_P, pairs.cosines(begin + row_P, earlier_P))
    found_N = np.ones(len(first_N), dtype=np.float32)  # a copy of an earlier vector
    found_N[distinct_U] = found_U
    return found_N


def duplicate_of(
    vectors_ND: NDArray[Any], *, threshold: float, variant: Variant = "greedy", device: str = "cpu"
) -> Int64:
    """Return for each member the earlier member that it is a duplicate of, int64 [N]; -1 if it is kept.

    The vectors below lie 20 degrees apart, so that neighbours have the cosine 0.94 and the outer two 0.77.

    >>> angle_N = np.radians([0, 20, 40])
    >>> chain_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    >>> duplicate_of(chain_ND, threshold=0.9, variant="greedy").tolist()
    [-1, 0, -1]
    >>> duplicate_of(chain_ND, threshold=0.9, variant="official").tolist()
    [-1, 0, 1]
    >>> duplicate_of(chain_ND, threshold=0.9, variant="components").tolist()
    [-1, 0, 0]

    Args:
        vectors_ND: [N, D], the unit vectors of one cluster, hardest first.
        threshold: 1 - eps: duplicates have a larger cosine. A larger threshold removes fewer.
        variant: see the top of this module.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: an unknown variant, or a vector whose norm is not 1.
    """
    if variant not in get_args(Variant):
        raise ConfigError(f"variant {variant!r}: give one of {', '.join(get_args(Variant))}")
    threshold = float(np.float32(threshold))  # as cosines are
    if threshold >= 1:  # no cosine is larger
        return np.full(len(vectors_ND), -1, dtype=np.int64)
    first_N = _first_equal(vectors_ND)
    distinct_U = np.flatnonzero(first_N == np.arange(len(first_N)))
    pairs = _Pairs(vectors_ND[distinct_U], device=device)
    search = {"greedy": _greedy, "official": _official, "components": _components}[variant]
    found_U = search(pairs, threshold)
    found_N = np.full(len(first_N), -1, dtype=np.int64)
    found_N[distinct_U] = np.where(found_U < 0, -1, distinct_U[found_U])
    copies = np.flatnonzero(first_N != np.arange(len(first_N)))
    original = first_N[copies]
    found_N[copies] = np.where(found_N[original] < 0, original, found_N[original])  # equal vectors, equal neighbours
    return found_N


def threshold_for(nearest_N: Float32, keep: int) -> float:
    """Return the threshold at which the official variant keeps as nearly `keep` rows as ties permit.

    >>> threshold_for(np.array([-1, 0.5, 0.7, 0.9, 0.9], dtype=np.float32), keep=2)
    0.5
    >>> threshold_for(np.array([-1, 0.5, 0.7, 0.9, 0.9], dtype=np.float32), keep=4)  # 3 or 5 rows: more is safer
    0.8999999761581421

    Args:
        nearest_N: float32 [N], from `nearest_earlier`, of all clusters.
        keep: how many rows to keep, at least 1.
    """
    if not 1 <= keep <= len(nearest_N):
        raise ConfigError(f"{keep:,} of {len(nearest_N):,} rows are to be kept: give a share above 0 and at most 1")
    value = np.partition(nearest_N, keep - 1)[keep - 1]
    most, fewest = int(np.count_nonzero(nearest_N <= value)), int(np.count_nonzero(nearest_N < value))
    if most - keep <= keep - fewest or fewest == 0:
        return float(value)
    return float(nearest_N[nearest_N < value].max())


def bisect_threshold(kept: Callable[[float], int], *, keep: int, near: float, steps: int = 14) -> float:
    """Return a threshold at which about `keep` rows are kept, for the variants that are not a function of one number.

    How many rows "greedy" keeps does not only grow with the threshold, but nearly so; the search finds one of the
    crossings, or the end of the range that comes nearest.

    >>> bisect_threshold(lambda threshold: int(1000 * threshold), keep=900, near=0.8).__round__(3)
    0.9

    Args:
        kept: threshold -> how many rows are kept.
        keep: how many rows to keep.
        near: where to look: the result is at most 0.5 below, and below 1.
        steps: evaluations of `kept`; each halves the range.
    """
    low, high = max(near - 0.5, -1.0), _BELOW_1
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) < keep else (low, middle)
    return high


class _Pairs:
    """The cosines of the members of one cluster: blocks of floats, and exact ones of chosen pairs."""

    def __init__(self, vectors_UD: NDArray[Any], *, device: str) -> None:
        self._vectors_UD, self._device = vectors_UD, device
        parts = [self._exact(slice(at, at + _PAIRS)).unit_ND for at in range(0, len(vectors_UD), _PAIRS)]
        self._unit_UD = torch.cat(parts) if parts else torch.empty(0, 1)
        self._margin = margin(vectors_UD.shape[1])
        self.slack = 2 * self._margin

    def __len__(self) -> int:
        return len(self._vectors_UD)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield [begin, end) of blocks of members, so small that a block's cosines to all members fit in memory."""
        rows = max(1, min(_ROWS, _CELLS // max(len(self), 1)))
        for begin in range(0, len(self), rows):
            yield begin, min(begin + rows, len(self))

    def block(self, begin: int, end: int, earlier_E: Int64) -> torch.Tensor:
        """Return the cosines of members [begin, end) to `earlier_E` and then to themselves; -2 where not earlier."""
        rows_BD = self._unit_UD[begin:end]
        with full_precision():
            if len(earlier_E) == begin:
                similarity_BE = rows_BD @ self._unit_UD[:end].T
            else:
                columns = torch.from_numpy(np.concatenate([earlier_E, np.arange(begin, end)])).to(self._device)
                similarity_BE = rows_BD @ self._unit_UD[columns].T
        inside_BB = similarity_BE[:, len(earlier_E) :]
        inside_BB.masked_fill_(torch.ones_like(inside_BB, dtype=torch.bool).triu_(), -2.0)
        return similarity_BE

    def above(self, threshold: float, begin: int, end: int, earlier_E: Int64) -> tuple[Int64, _Bool]:
        """Return (rows of `block` that may have a duplicate, int64 [H]; which of their pairs are duplicates, bool).

        Decided by floats where these are certain, or else by exact cosines. Most rows have no duplicate, and one look
        at their largest cosine is enough.
        """
        similarity_BE = self.block(begin, end, earlier_E)
        near_H = (similarity_BE.amax(dim=1) >= threshold - self._margin).nonzero().flatten()
        similarity_HE = similarity_BE[near_H]
        above_HE = similarity_HE > threshold + self._margin
        unsure_HE = (similarity_HE >= threshold - self._margin) & ~above_HE & (similarity_HE > -2)
        row_P, column_P = (each.cpu().numpy() for each in unsure_HE.nonzero(as_tuple=True))
        row_H, found_HE = near_H.cpu().numpy(), above_HE.cpu().numpy()
        if len(row_P):
            member_E = np.concatenate([earlier_E, np.arange(begin, end)])
            found_HE[row_P, column_P] = self.cosines(begin + row_H[row_P], member_E[column_P]) > threshold
        return row_H, found_HE

    def cosines(self, left_P: Int64, right_P: Int64) -> Float32:
        """Return exact cosines, rounded to float32."""
        found_P = np.empty(len(left_P), dtype=np.float32)
        for at in range(0, len(left_P), _PAIRS):
            left, right = self._exact(left_P[at : at + _PAIRS]), self._exact(right_P[at : at + _PAIRS])
            every = torch.arange(len(left), device=self._device)
            found_P[at : at + _PAIRS] = left.cosines(None, right, every).cpu().numpy()
        return found_P

    def _exact(self, rows: Int64 | slice) -> Vectors:
        return Vectors.of(self._vectors_UD[rows], device=self._device)


def _greedy(pairs: _Pairs, threshold: float) -> Int64:
    found_U = np.full(len(pairs), -1, dtype=np.int64)
    for begin, end in pairs.blocks():
        kept_E = np.flatnonzero(found_U[:begin] < 0)
        row_H, above_HE = pairs.above(threshold, begin, end, kept_E)
        before_HE, inside_HB = above_HE[:, : len(kept_E)], above_HE[:, len(kept_E) :]
        if len(kept_E):
            removed_H = before_HE.any(axis=1)
            found_U[begin + row_H[removed_H]] = kept_E[before_HE[removed_H].argmax(axis=1)]
        here_B = found_U[begin:end]
        for at in np.flatnonzero(inside_HB.any(axis=1) & (here_B[row_H] < 0)):
            row = row_H[at]
            kept = np.flatnonzero(inside_HB[at, :row] & (here_B[:row] < 0))
            if len(kept):
                here_B[row] = begin + kept[0]
    return found_U


def _official(pairs: _Pairs, threshold: float) -> Int64:
    found_U = np.full(len(pairs), -1, dtype=np.int64)
    for begin, end in pairs.blocks():
        row_H, above_HE = pairs.above(threshold, begin, end, np.arange(begin))
        removed_H = above_HE.any(axis=1)
        found_U[begin + row_H[removed_H]] = above_HE[removed_H].argmax(axis=1)
    return found_U


def _components(pairs: _Pairs, threshold: float) -> Int64:
    root_U = np.arange(len(pairs))  # the first member of each component so far
    for begin, end in pairs.blocks():
        row_H, above_HE = pairs.above(threshold, begin, end, np.arange(begin))
        row_P, earlier_P = np.nonzero(above_HE)
        touched_HU = np.zeros(above_HE.shape, dtype=bool)  # a row meets a component once, not each of its members
        touched_HU[row_P, root_U[earlier_P]] = True
        row_P, root_P = np.nonzero(touched_HU)
        row_P = begin + row_H[row_P]
        parent = {node: node for node in np.unique(np.concatenate([row_P, root_P])).tolist()}
        for row, root in zip(row_P.tolist(), root_P.tolist()):
            a, b = _root(parent, row), _root(parent, root)
            parent[max(a, b)] = min(a, b)
        moved_U = np.arange(len(pairs))
        for node in parent:
            moved_U[node] = _root(parent, node)
        root_U = moved_U[root_U]
    return np.where(root_U == np.arange(len(pairs)), -1, root_U)


def _root(parent: dict[int, int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _first_equal(vectors_ND: NDArray[Any]) -> Int64:
    """Return for each vector the position of the first that is equal, byte for byte, int64 [N].

    Boilerplate that stands a thousand times in a corpus would otherwise need a million cosines.
    """
    rows_N = np.ascontiguousarray(vectors_ND).view(np.dtype((np.void, vectors_ND.dtype.itemsize * vectors_ND.shape[1])))
    _, first, inverse_N = np.unique(rows_N.reshape(-1), return_index=True, return_inverse=True)
    return first[inverse_N]
