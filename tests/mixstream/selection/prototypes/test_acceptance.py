"""The acceptance table of prototype pruning: a corpus whose difficulty and duplicates are known."""

from itertools import pairwise

import numpy as np
import pytest
from corpus import Corpus  # pyright: ignore[reportMissingImports]

from mixstream.errors import ConfigError
from mixstream.selection.prototypes.clusters import Clusters
from mixstream.selection.prototypes.d4 import KMeans, prune_d4
from mixstream.selection.prototypes.dedup import duplicate_of, nearest_earlier
from mixstream.selection.prototypes.kmeans import assign, fit
from mixstream.selection.rules import keep

K = 50


@pytest.fixture(scope="module")
def assigned(corpus: Corpus) -> tuple[np.ndarray, Clusters]:
    cluster, distance = assign(corpus.vectors_ND, fit(corpus.vectors_ND, k=K).centroids_KD)
    return distance, Clusters.of(cluster, distance, count=K)


def survivors(corpus: Corpus, clusters: Clusters, threshold: float, variant) -> np.ndarray:
    kept = np.zeros(len(corpus.vectors_ND), dtype=bool)
    for rows, vectors in clusters.vectors(corpus.vectors_ND, 0, K):
        kept[rows] = duplicate_of(vectors, threshold=threshold, variant=variant) < 0
    return kept


def rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize("k", [40, 80, 160])
def test_distance_ranks_as_difficulty(corpus: Corpus, k: int) -> None:
    _, distance = assign(corpus.vectors_ND, fit(corpus.vectors_ND, k=k).centroids_KD)
    spearman = np.corrcoef(rank(distance[: corpus.originals]), rank(corpus.spread_N))[0, 1]
    assert spearman >= 0.80


@pytest.mark.parametrize("variant", ["greedy", "official", "components"])
@pytest.mark.parametrize("eps", [0.02, 0.05])
def test_dedup_keeps_one_of_each_group(corpus: Corpus, assigned, eps: float, variant: str) -> None:
    kept = survivors(corpus, assigned[1], 1 - eps, variant)
    assert kept.sum() == len(np.unique(corpus.group_N[kept])) == corpus.originals + 1


def test_a_strict_eps_loses_nothing(corpus: Corpus, assigned) -> None:
    greedy, official = (survivors(corpus, assigned[1], 0.995, each) for each in ("greedy", "official"))
    for kept in (greedy, official):
        assert len(np.unique(corpus.group_N[kept])) == corpus.originals + 1
        assert kept.sum() - (corpus.originals + 1) <= 200
    assert (greedy >= official).all()
    assert greedy.sum() > official.sum()


def test_the_official_variant_shrinks_with_eps(corpus: Corpus, assigned) -> None:
    nearest = np.empty(len(corpus.vectors_ND), dtype=np.float32)
    for rows, vectors in assigned[1].vectors(corpus.vectors_ND, 0, K):
        nearest[rows] = nearest_earlier(vectors)
    kept = [nearest <= 1 - eps for eps in (0.001, 0.003, 0.005, 0.01, 0.02, 0.1)]
    assert all((more >= fewer).all() for more, fewer in pairwise(kept))
    assert np.array_equal(kept[2], survivors(corpus, assigned[1], 1 - 0.005, "official"))


def test_d4_keeps_no_duplicates_where_distance_alone_keeps_hundreds(corpus: Corpus, assigned) -> None:
    result = prune_d4(corpus.vectors_ND, r=0.5, kmeans=KMeans(k=K))
    alone = keep(assigned[0], side="high", rows=len(result.kept_E))
    twice = [int((np.bincount(corpus.group_N[rows]) > 1).sum()) for rows in (result.kept_E, alone)]
    assert len(result.kept_E) == len(corpus.vectors_ND) // 2
    assert len(result.survivors_S) == 0.75 * len(corpus.vectors_ND)
    assert twice[0] == 0
    assert twice[1] >= 300


@pytest.mark.parametrize("variant", ["greedy", "components"])
def test_d4_with_other_variants(corpus: Corpus, variant: str) -> None:
    few = corpus.vectors_ND[:400]
    result = prune_d4(few, r=0.3, r_dedup=0.9, kmeans=KMeans(k=8, iterations=3), variant=variant)
    assert len(result.kept_E) == 120


def test_d4_looks_at_chosen_rows_only(corpus: Corpus) -> None:
    chosen = np.arange(3, 603, 2)
    settings = KMeans(k=8, iterations=3)
    result = prune_d4(corpus.vectors_ND, r=0.5, kmeans=settings, rows_E=chosen)
    alone = prune_d4(corpus.vectors_ND[chosen].copy(), r=0.5, kmeans=settings)
    assert np.array_equal(result.kept_E, chosen[alone.kept_E])


def test_d4_refuses_what_it_cannot_give() -> None:
    copies = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    with pytest.raises(ConfigError, match=r"4 rows are left without duplicates.*50.*--r 0.04"):
        prune_d4(copies, r=0.5, r_dedup=0.5, kmeans=KMeans(k=4))
    with pytest.raises(ConfigError, match="0 < r <= r_dedup <= 1"):
        prune_d4(copies, r=0.8, r_dedup=0.5, kmeans=KMeans(k=4))
