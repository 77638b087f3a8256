"""D4: near-duplicates go first, then k-means again, then the most typical of what is left.

Rules. Pure functions on arrays, which may be mapped from files. The reason for the second k-means: duplicates form
tight clusters, which otherwise own prototypes and make their neighbourhood look typical.

Source: Tirumala et al., "D4: Improving LLM pretraining via document de-duplication and diversification" (2023).
Differences from the paper: the number of clusters follows from the number of rows (`default_k`), and k-means is
fitted on a sample of 256 rows a cluster, unless given otherwise.

Shape suffixes: N rows, E chosen rows, S surviving rows, K clusters, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.rules import ceil_share, keep
from mixstream.types import Int64

from .clusters import Clusters
from .dedup import Variant, duplicate_of, nearest_earlier, threshold_for
from .fixed_point import require_unit
from .kmeans import ITERATIONS, SAMPLE_PER_PROTOTYPE, Engine, Fit, Float32, Step, assign, default_k, fit, sample_rows

ROWS_AT_ONCE = 1 << 16
Note = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans:
    """The settings of k-means.

    Attributes:
        k: the number of prototypes; None: √rows, from 64 to 65,536.
        sample: rows to fit on, for each prototype.
        iterations: Lloyd iterations.
        seed: of the sample, the first prototypes and the replacements of empty ones.
        engine: "torch" (equal on every machine) or "faiss".
        device: "cpu" or "cuda".
    """

    k: int | None = None
    sample: int = SAMPLE_PER_PROTOTYPE
    iterations: int = ITERATIONS
    seed: int = 0
    engine: Engine = "torch"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ConfigError(f"a sample of {self.sample} rows for each prototype: give 1 or more, such as 256")
        if self.k is not None and self.k < 1:
            raise ConfigError(f"{self.k} prototypes: give 1 or more")


def fit_rows(
    vectors_ND: NDArray[Any],
    rows_E: Int64,
    settings: KMeans,
    *,
    note: Note | None = None,
    step: Step | None = None,
) -> Fit:
    """Return prototypes of the rows `rows_E`, fitted on a uniform sample of them.

    Memory: the sample, `settings.sample` · K vectors. `note` is as for `prune_d4`, and `step` as for `fit`.
    """
    k = default_k(len(rows_E)) if settings.k is None else settings.k
    chosen = rows_E[sample_rows(len(rows_E), settings.sample * k, seed=settings.seed)]
    sample_ED = np.asarray(vectors_ND[chosen])
    require_unit(sample_ED, chosen)
    return fit(
        sample_ED,
        k=k,
        iterations=settings.iterations,
        seed=settings.seed,
        engine=settings.engine,
        device=settings.device,
        step=step,
        advance=None if note is None else lambda count: note("fit", count, settings.iterations),
    )


def assign_rows(
    vectors_ND: NDArray[Any], rows_E: Int64, centroids_KD: Float32, *, device: str = "cpu", note: Note | None = None
) -> tuple[NDArray[np.int32], Float32]:
    """Return the nearest prototype of each of the rows `rows_E`, int32 [E], and the distance, float32 [E]."""
    cluster_E = np.empty(len(rows_E), dtype=np.int32)
    distance_E = np.empty(len(rows_E), dtype=np.float32)
    for at in range(0, len(rows_E), ROWS_AT_ONCE):
        block = slice(at, at + ROWS_AT_ONCE)
        vectors_BD = np.asarray(vectors_ND[rows_E[block]])
        require_unit(vectors_BD, rows_E[block])
        cluster_E[block], distance_E[block] = assign(vectors_BD, centroids_KD, device=device)
        if note is not None:
            note("assign", len(cluster_E[block]), len(rows_E))
    return cluster_E, distance_E


@dataclass(frozen=True, slots=True, kw_only=True)
class D4:
    """The result of D4.

    Attributes:
        kept_E: int64 [E], the rows that are kept, ascending.
        survivors_S: int64 [S], the rows that the removal of duplicates leaves, ascending.
        distance_S: float32 [S], their distances to the prototypes of the second k-means.
        threshold: cosines above it count as duplicates; 1 - eps.
    """

    kept_E: Int64
    survivors_S: Int64
    distance_S: Float32
    threshold: float


def prune_d4(
    vectors_ND: NDArray[Any],
    *,
    r: float,
    r_dedup: float = 0.75,
    kmeans: KMeans,
    variant: Variant = "official",
    rows_E: Int64 | None = None,
    note: Note | None = None,
    step: Step | None = None,
) -> D4:
    """Return the rows that D4 keeps.

    >>> rng = np.random.default_rng(0)
    >>> distinct_ND = rng.standard_normal((60, 8))
    >>> vectors_ND = np.concatenate([distinct_ND, distinct_ND[:20]])  # rows 60 to 79 repeat rows 0 to 19
    >>> vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    >>> result = prune_d4(vectors_ND, r=0.5, kmeans=KMeans(k=4))
    >>> len(result.kept_E), len(set((result.kept_E % 60).tolist()))
    (40, 40)

    Args:
        vectors_ND: [N, D], unit vectors.
        r: the share of all rows that is kept in the end, above 0 and at most `r_dedup`.
        r_dedup: the share that the removal of duplicates leaves, as nearly as ties permit.
        kmeans: settings of both k-means.
        variant: of the removal of duplicates. The threshold is found for "official", which other variants use too.
        rows_E: int64 [E], the rows to look at, ascending; default: all.
        note: called with (stage, rows or iterations done since the last call, of how many in this stage).
        step: as for `fit`, of both k-means.

    Raises:
        ConfigError: shares out of range, a vector whose norm is not 1, or fewer survivors than are to be kept.
    """
    if not 0 < r <= r_dedup <= 1:
        raise ConfigError(f"r {r:g} and r_dedup {r_dedup:g}: give 0 < r <= r_dedup <= 1, such as 0.5 and 0.75")
    rows_E = np.arange(len(vectors_ND)) if rows_E is None else rows_E
    centroids_KD = fit_rows(vectors_ND, rows_E, kmeans, note=note, step=step).centroids_KD
    cluster_E, distance_E = assign_rows(vectors_ND, rows_E, centroids_KD, device=kmeans.device, note=note)
    groups = Clusters.of(cluster_E, distance_E, count=len(centroids_KD))
    keys = Clusters(row_N=rows_E[groups.row_N], begin_K=groups.begin_K)
    nearest_E = np.empty(len(rows_E), dtype=np.float32)
    for first, end in groups.ranges(ROWS_AT_ONCE):
        for rows, vectors in keys.vectors(vectors_ND, first, end):
            nearest_E[np.searchsorted(rows_E, rows)] = nearest_earlier(vectors, device=kmeans.device)
            if note is not None:
                note("compare", len(rows), len(rows_E))
    threshold = threshold_for(nearest_E, ceil_share(r_dedup, len(rows_E)))
    kept_E = nearest_E <= threshold
    if variant != "official":
        for first, end in groups.ranges(ROWS_AT_ONCE):
            for rows, vectors in keys.vectors(vectors_ND, first, end):
                found = duplicate_of(vectors, threshold=threshold, variant=variant, device=kmeans.device)
                kept_E[np.searchsorted(rows_E, rows)] = found < 0
    survivors_S = rows_E[kept_E]
    wanted = ceil_share(r, len(rows_E))
    if len(survivors_S) < wanted:
        raise ConfigError(
            f"{len(survivors_S):,} rows are left without duplicates, fewer than the {wanted:,} that are to be kept: "
            f"give --r {len(survivors_S) / len(rows_E):.3g} or less"
        )
    centroids_KD = fit_rows(vectors_ND, survivors_S, kmeans, note=note, step=step).centroids_KD
    _, distance_S = assign_rows(vectors_ND, survivors_S, centroids_KD, device=kmeans.device, note=note)
    kept = keep(distance_S, side="high", rows=wanted)
    return D4(kept_E=survivors_S[kept], survivors_S=survivors_S, distance_S=distance_S, threshold=threshold)
