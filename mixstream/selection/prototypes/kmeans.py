"""Spherical k-means: prototypes of a domain, and the distance of each row to the nearest one.

Rules. Pure functions on arrays. Results are equal to the last bit for any number of parts, threads and blocks, on any
CPU or GPU (`fixed_point`): the nearest prototype is decided by exact cosines, rounded to float32, and of equally near
ones it is the one of lower number; sums are integers; and a prototype is computed from its sum by operations that IEEE
754 rounds correctly. The engine "faiss" is another implementation of `fit` and gives no such guarantee; assignment
never uses it.

One iteration is `lloyd_part` on each part of the sample, `Sums.of` over the parts, and `next_centroids`.

Sources: Sorscher et al., "Beyond neural scaling laws: beating power law scaling via data pruning" (2022): the distance
to the nearest k-means prototype in embedding space tells hard examples from easy ones, without labels. Dhillon and
Modha (2001) for spherical k-means.

Shape suffixes: N rows, K prototypes, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.plan.permutation import permute
from mixstream.plan.rng import derive_key
from mixstream.records import dataclass
from mixstream.types import Int64

from .fixed_point import GRID, Vectors, full_precision, margin

Float32 = NDArray[np.float32]
Engine = Literal["torch", "faiss"]
Step = Callable[[NDArray[Any], NDArray[np.float32]], "Iterable[Sums]"]
"""(sample [N, D], prototypes [K, D]) -> the sums of one iteration, in any number of parts."""

SAMPLE_PER_PROTOTYPE = 256
ITERATIONS = 20
_MIN_K, _MAX_K = 64, 65_536
_CELLS = 1 << 22  # similarities in memory at once, 4 bytes each


def default_k(rows: int) -> int:
    """Return the default number of prototypes for `rows` rows: √rows, at least 64 and at most 65,536 (or `rows`).

    >>> default_k(1_000), default_k(1_000_000), default_k(10**12), default_k(10)
    (64, 1000, 65536, 10)
    """
    return max(min(max(_MIN_K, min(_MAX_K, round(math.sqrt(rows)))), rows), 1)


def sample_rows(count: int, size: int, *, seed: int) -> Int64:
    """Return a uniform random choice of `size` of `count` rows, ascending, int64; all rows if there are fewer.

    >>> len(sample_rows(1000, 10, seed=0)), sample_rows(3, 10, seed=0).tolist()
    (10, [0, 1, 2])
    """
    if size >= count:
        return np.arange(count)
    return np.sort(permute(np.arange(size), count, derive_key(seed, "kmeans", "sample")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a part of the sample contributes to the next prototypes. Integers, so the order of adding is free.

    Attributes:
        sum_KD: int64 [K, D], the sum of the members of each prototype, in units of 2^-30.
        count_K: int64 [K], how many members.
    """

    sum_KD: Int64
    count_K: Int64

    @classmethod
    def of(cls, parts: Iterable[Sums]) -> Sums:
        """Return the sum over parts."""
        rest = iter(parts)
        first = next(rest)
        sum_KD, count_K = first.sum_KD.copy(), first.count_K.copy()
        for part in rest:
            sum_KD += part.sum_KD
            count_K += part.count_K
        return cls(sum_KD=sum_KD, count_K=count_K)

    def mean_cosine(self, centroids_KD: Float32) -> float:
        """Return the mean cosine of the members to their prototypes, which `lloyd_part` was given."""
        products_K = _sum_of_columns(self.sum_KD.astype(np.float64) / GRID, centroids_KD.astype(np.float64))
        return math.fsum(products_K) / max(int(self.count_K.sum()), 1)


def assign(
    vectors_ND: NDArray[Any], centroids_KD: Float32, *, begin: int = 0, device: str = "cpu"
) -> tuple[NDArray[np.int32], Float32]:
    """Return the nearest prototype of each row, int32 [N], and the distance to it, float32 [N].

    The distance is 1 - cosine, from 0 to 2: small is typical ("easy"), large is unlike every prototype ("hard"). The
    squared Euclidean distance of unit vectors is twice this number, so it ranks the rows in the same way.

    >>> centroids_KD = np.array([[1, 0], [0, 1]], dtype=np.float32)
    >>> cluster_N, distance_N = assign(np.array([[0.8, 0.6], [0, 1]], dtype=np.float32), centroids_KD)
    >>> cluster_N.tolist(), distance_N.round(6).tolist()
    ([0, 1], [0.20000000298023224, 0.0])

    Args:
        vectors_ND: [N, D], unit vectors of any float dtype.
        centroids_KD: float32 [K, D], from `fit`.
        begin: the ordinal of the first row, for errors.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a vector whose norm is not 1, or another dimension.
    """
    cluster_N = np.empty(len(vectors_ND), dtype=np.int32)
    distance_N = np.empty(len(vectors_ND), dtype=np.float32)

    def store(at: int, vectors: Vectors, centroids: Vectors, nearest_N: torch.Tensor) -> None:
        cosine_N = vectors.cosines(None, centroids, nearest_N)
        cluster_N[at : at + len(vectors)] = nearest_N.cpu().numpy()
        distance_N[at : at + len(vectors)] = (1 - cosine_N.to(torch.float64)).cpu().numpy()

    _for_nearest(vectors_ND, centroids_KD, store, begin=begin, device=device)
    return cluster_N, distance_N


def lloyd_part(vectors_ND: NDArray[Any], centroids_KD: Float32, *, begin: int = 0, device: str = "cpu") -> Sums:
    """Return the sums of one part of the sample: each vector is added to its nearest prototype."""
    sum_KD = torch.zeros(centroids_KD.shape, dtype=torch.int64, device=device)
    count_K = torch.zeros(len(centroids_KD), dtype=torch.int64, device=device)

    def add(_: int, vectors: Vectors, __: Vectors, nearest_N: torch.Tensor) -> None:
        sum_KD.index_add_(0, nearest_N, vectors.fixed_ND)
        count_K.add_(torch.bincount(nearest_N, minlength=len(count_K)))

    _for_nearest(vectors_ND, centroids_KD, add, begin=begin, device=device)
    return Sums(sum_KD=sum_KD.cpu().numpy(), count_K=count_K.cpu().numpy())


def next_centroids(sums: Sums, replacements: Callable[[int], Float32]) -> Float32:
    """Return the prototypes of the next iteration, float32 [K, D]: the normalised sums of their members.

    A prototype without members, or whose members cancel out, is replaced by a vector of the sample:
    `replacements(count)` returns that many.
    """
    wide_KD = sums.sum_KD.astype(np.float64)
    norm_K = np.sqrt(_sum_of_columns(wide_KD, wide_KD))
    empty_K = (sums.count_K == 0) | (norm_K == 0)
    centroids_KD = (wide_KD / np.where(empty_K, 1.0, norm_K)[:, None]).astype(np.float32)
    if empty_K.any():
        centroids_KD[empty_K] = replacements(int(empty_K.sum()))
    return centroids_KD


def first_centroids(sample_ND: NDArray[Any], k: int, *, seed: int) -> Float32:
    """Return the first prototypes: k different rows of the sample, in a seeded random order; float32 [K, D]."""
    rows_K = permute(np.arange(k), len(sample_ND), derive_key(seed, "kmeans", "first"))
    return np.asarray(sample_ND[rows_K], dtype=np.float32)


def replacements_of(sample_ND: NDArray[Any], *, seed: int, iteration: int) -> Callable[[int], Float32]:
    """Return the `replacements` of one iteration, for `next_centroids`: rows of the sample in a seeded order."""

    def rows(count: int) -> Float32:
        key = derive_key(seed, "kmeans", "empty", iteration)
        return np.asarray(sample_ND[permute(np.arange(count), len(sample_ND), key)], dtype=np.float32)

    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Prototypes, and how the fit went.

    Attributes:
        centroids_KD: float32 [K, D], unit vectors.
        mean_cosines: the mean cosine of the sample to its nearest prototype, before each iteration.
        engine: which implementation fitted them.
    """

    centroids_KD: Float32
    mean_cosines: tuple[float, ...]
    engine: Engine


def fit(
    sample_ND: NDArray[Any],
    *,
    k: int,
    iterations: int = ITERATIONS,
    seed: int = 0,
    engine: Engine = "torch",
    device: str = "cpu",
    step: Step | None = None,
    advance: Callable[[int], None] | None = None,
) -> Fit:
    """Return k prototypes of a sample of unit vectors.

    >>> two_groups = np.array([[1, 0], [0.96, 0.28], [0, 1], [0.28, 0.96]], dtype=np.float32)
    >>> fitted = fit(two_groups, k=2, seed=0)
    >>> fitted.centroids_KD.astype(float).round(2).tolist()
    [[0.14, 0.99], [0.99, 0.14]]

    Args:
        sample_ND: [N, D], unit vectors; may be mapped from a file.
        k: how many prototypes, at most N.
        iterations: Lloyd iterations.
        seed: of the first prototypes and of the replacements of empty ones.
        engine: "torch", equal on every machine; or "faiss".
        device: "cpu" or "cuda", for the engine "torch".
        step: computes the sums of an iteration, in any number of parts; default: `lloyd_part` of the whole sample.
        advance: called with 1 after each iteration.

    Raises:
        ConfigError: more prototypes than rows, a norm that is not 1, or faiss is missing.
    """
    if not 1 <= k <= len(sample_ND):
        raise ConfigError(f"{k:,} prototypes of {len(sample_ND):,} rows: give --k from 1 to {len(sample_ND):,}")
    if iterations < 1:
        raise ConfigError(f"{iterations} iterations: give 1 or more")
    if engine == "faiss":
        return _fit_faiss(sample_ND, k=k, iterations=iterations, seed=seed)
    step = step or (lambda sample_ND, centroids_KD: [lloyd_part(sample_ND, centroids_KD, device=device)])
    centroids_KD = first_centroids(sample_ND, k, seed=seed)
    mean_cosines = []
    for iteration in range(iterations):
        sums = Sums.of(step(sample_ND, centroids_KD))
        mean_cosines.append(sums.mean_cosine(centroids_KD))
        centroids_KD = next_centroids(sums, replacements_of(sample_ND, seed=seed, iteration=iteration))
        if advance is not None:
            advance(1)
    return Fit(centroids_KD=centroids_KD, mean_cosines=tuple(mean_cosines), engine="torch")


def _fit_faiss(sample_ND: NDArray[Any], *, k: int, iterations: int, seed: int) -> Fit:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "faiss is not installed, so it cannot fit prototypes: run `pip install faiss-cpu`, or fit with torch"
        ) from error
    sample_ND = np.ascontiguousarray(Vectors.of(sample_ND).unit_ND.numpy())
    # faiss would fit on 256 points a prototype, whatever it is given, and warn below 39: use the sample as it is
    kmeans = faiss.Kmeans(
        sample_ND.shape[1],
        k,
        niter=iterations,
        seed=derive_key(seed, "kmeans", "faiss") % (1 << 31),
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample_ND),
    )
    kmeans.train(sample_ND)
    centroids_KD = np.asarray(kmeans.centroids, dtype=np.float32).reshape(k, -1)
    means = tuple(float(value) / len(sample_ND) for value in np.asarray(kmeans.obj))
    return Fit(centroids_KD=centroids_KD, mean_cosines=means, engine="faiss")


def _sum_of_columns(left_KD: NDArray[np.float64], right_KD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inner products of rows, float64 [K], in a fixed order of additions, so that machines round alike."""
    found_K = np.zeros(len(left_KD))
    for d in range(left_KD.shape[1]):
        found_K += left_KD[:, d] * right_KD[:, d]
    return found_K


def _for_nearest(
    vectors_ND: NDArray[Any],
    centroids_KD: Float32,
    act: Callable[[int, Vectors, Vectors, torch.Tensor], None],
    *,
    begin: int,
    device: str,
) -> None:
    """Call `act(position, block, centroids, nearest_N)` for each block of vectors."""
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != centroids_KD.shape[1]:
        raise ConfigError(
            f"vectors of shape {vectors_ND.shape} and prototypes of {centroids_KD.shape[1]} dimensions: use the "
            "embedder that the prototypes were fitted with"
        )
    centroids = Vectors.of(centroids_KD, device=device)
    block = max(64, min(8192, _CELLS // len(centroids)))
    with full_precision():
        for at in range(0, len(vectors_ND), block):
            vectors = Vectors.of(vectors_ND[at : at + block], begin=begin + at, device=device)
            act(at, vectors, centroids, _nearest(vectors, centroids))


def _nearest(vectors: Vectors, centroids: Vectors) -> torch.Tensor:
    """Return the nearest centroid of each vector, int64 [N], exact."""
    similarity_NK = vectors.float_ND @ centroids.float_ND.T
    best_N, nearest_N = similarity_NK.max(dim=1)
    slack = 2 * margin(vectors.float_ND.shape[1])
    similarity_NK.scatter_(1, nearest_N[:, None], -2.0)
    close = (similarity_NK.amax(dim=1) >= best_N - slack).nonzero().flatten()
    if len(close):  # another centroid is as near, as far as floats can tell
        near_CK = similarity_NK[close] >= (best_N[close] - slack)[:, None]
        near_CK.scatter_(1, nearest_N[close][:, None], True)
        at_P, centroid_P = near_CK.nonzero(as_tuple=True)
        cosine_P = vectors.cosines(close[at_P], centroids, centroid_P)
        best_C = torch.full((len(close),), -2.0, device=cosine_P.device).scatter_reduce_(0, at_P, cosine_P, "amax")
        centroid_P[cosine_P != best_C[at_P]] = len(centroids)
        nearest_N[close] = torch.full_like(close, len(centroids)).scatter_reduce_(0, at_P, centroid_P, "amin")
    return nearest_N
