"""k-means: equal to the last bit however it is computed, correct against a plain reference, and refusals."""

import hashlib
import sys
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from corpus import Corpus  # pyright: ignore[reportMissingImports]
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.prototypes import kmeans
from mixstream.selection.prototypes.kmeans import Sums, assign, default_k, fit, lloyd_part, sample_rows

N, K, D = 700, 12, 24


def unit(seed: int, rows: int, d: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def in_parts(parts: int):
    def step(sample_ND: np.ndarray, centroids_KD: np.ndarray) -> Iterable[Sums]:
        return [lloyd_part(block, centroids_KD) for block in np.array_split(sample_ND, parts)]

    return step


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_parts_and_threads_change_no_bit(parts: int, threads: int) -> None:
    sample = unit(0, N)
    torch.set_num_threads(1)
    expected = fit(sample, k=K, seed=5, iterations=6)
    torch.set_num_threads(threads)
    found = fit(sample, k=K, seed=5, iterations=6, step=in_parts(parts))
    assert found.centroids_KD.tobytes() == expected.centroids_KD.tobytes()
    assert found.mean_cosines == expected.mean_cosines


@pytest.mark.parametrize("cells", [1, 1 << 10, 1 << 30])
def test_blocks_change_no_bit(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centroids = unit(1, N), unit(2, K)
    expected = assign(vectors, centroids), lloyd_part(vectors, centroids).sum_KD
    monkeypatch.setattr(kmeans, "_CELLS", cells)
    found = assign(vectors, centroids), lloyd_part(vectors, centroids).sum_KD
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], expected[0]))
    assert np.array_equal(found[1], expected[1])


def test_order_of_rows_changes_no_sum() -> None:
    vectors, centroids = unit(1, N), unit(2, K)
    assert np.array_equal(lloyd_part(vectors[::-1].copy(), centroids).sum_KD, lloyd_part(vectors, centroids).sum_KD)


def test_frozen() -> None:
    """Every machine gives these bytes; another digest is a breaking change."""
    grid = (np.arange(300)[:, None] * 7919 + np.arange(16)[None] * 104729) % 1009 - 504.0
    vectors = (grid / np.sqrt((grid**2).sum(axis=1, keepdims=True))).astype(np.float32)
    fitted = fit(vectors, k=9, seed=3, iterations=5)
    cluster, distance = assign(vectors, fitted.centroids_KD)
    digest = hashlib.sha256(fitted.centroids_KD.tobytes() + cluster.tobytes() + distance.tobytes()).hexdigest()
    assert digest[:16] == "54b2a02c61099662"


@given(seed=st.integers(0, 50), rows=st.integers(1, 40), k=st.integers(1, 9), d=st.integers(1, 6))
def test_assignment_equals_a_plain_reference(seed: int, rows: int, k: int, d: int) -> None:
    vectors, centroids = unit(seed, rows, d), unit(seed + 1000, k, d)
    cluster, distance = assign(vectors, centroids)
    cosines = np.clip(vectors.astype(float) @ centroids.astype(float).T, -1, 1)
    assert np.allclose(distance, 1 - cosines.max(axis=1), atol=1e-6)
    assert np.allclose(cosines[np.arange(rows), cluster], cosines.max(axis=1), atol=1e-7)
    assert (distance >= 0).all()
    assert (distance <= 2).all()


def test_ties_go_to_the_lower_prototype() -> None:
    vectors = unit(3, 200)
    centroids = np.concatenate([vectors[5:8], vectors[5:8], vectors[5:6]])
    cluster, distance = assign(vectors[5:8], centroids)
    assert cluster.tolist() == [0, 1, 2]
    assert distance.tolist() == [0, 0, 0]
    assert assign(vectors, centroids)[0].max() == 2


def test_prototypes_closer_than_floats_can_tell_are_told_apart() -> None:
    vectors = unit(4, 64)
    nudged = vectors.astype(float)
    nudged[:, 0] += 3e-8
    cluster, _ = assign(vectors, np.concatenate([nudged.astype(np.float32), vectors]))
    exact = np.round(vectors.astype(float) * 2**30)
    other = np.round(nudged.astype(np.float32).astype(float) * 2**30)
    for row, found in enumerate(cluster):
        ints = [int(sum(int(a) * int(b) for a, b in zip(exact[row], c[row]))) for c in (other, exact)]
        norms = [float(np.linalg.norm(c[row])) for c in (other, exact)]
        cosine = [np.float32(min(i / (n * np.linalg.norm(exact[row])), 1.0)) for i, n in zip(ints, norms)]
        assert found == row + 64 * int(np.argmax(cosine))


def test_the_mean_cosine_rises(corpus: Corpus) -> None:
    means = fit(corpus.vectors_ND, k=50, iterations=8).mean_cosines
    assert len(means) == 8
    assert all(later >= sooner - 1e-6 for sooner, later in pairwise(means))
    assert means[-1] > means[0] + 0.02


def test_the_mean_cosine_is_that_of_assign() -> None:
    vectors, centroids = unit(6, N), unit(7, K)
    mean = lloyd_part(vectors, centroids).mean_cosine(centroids)
    assert mean == pytest.approx(1 - assign(vectors, centroids)[1].mean(dtype=float), abs=1e-6)


def test_empty_prototypes_are_replaced_by_rows_of_the_sample() -> None:
    two = np.repeat(unit(8, 2), 50, axis=0)  # 100 rows, but 2 different ones
    fitted = fit(two, k=5, iterations=3, seed=1)
    cosines = fitted.centroids_KD @ two[[0, -1]].T
    assert (cosines.max(axis=1) > 1 - 1e-6).all()
    assert (cosines.max(axis=0) > 1 - 1e-6).all()


def test_the_seed_decides() -> None:
    sample = unit(9, N)
    one, same, other = (fit(sample, k=K, seed=seed, iterations=2).centroids_KD for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


@given(count=st.integers(0, 300), size=st.integers(0, 300), seed=st.integers(0, 5))
def test_a_sample_has_different_rows_in_order(count: int, size: int, seed: int) -> None:
    rows = sample_rows(count, size, seed=seed)
    assert len(rows) == min(count, size)
    assert (np.diff(rows) > 0).all()
    assert len(rows) == 0 or 0 <= rows[0] <= rows[-1] < count


def test_samples_are_uniform() -> None:
    counts = np.bincount(np.concatenate([sample_rows(40, 10, seed=seed) for seed in range(2000)]), minlength=40)
    assert ((counts - 500) ** 2 / 375).sum() < 70  # chi-square with 39 degrees of freedom: p = 0.002


@pytest.mark.parametrize(("rows", "k"), [(10, 10), (100, 64), (10**6, 1000), (10**11, 65_536)])
def test_default_number_of_prototypes(rows: int, k: int) -> None:
    assert default_k(rows) == k


@pytest.mark.parametrize(
    ("change", "message"),
    [({"k": 0}, "give --k from 1 to 20"), ({"k": 21}, "21 prototypes of 20 rows"), ({"iterations": 0}, "1 or more")],
)
def test_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(unit(0, 20), **{"k": 2, **change})


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="prototypes of 24 dimensions: use the embedder"):
        assign(unit(0, 5, 8), unit(1, 3))


def test_faiss_fits_as_well(corpus: Corpus) -> None:
    pytest.importorskip("faiss")
    own, faiss = (fit(corpus.vectors_ND, k=50, engine=engine) for engine in ("torch", "faiss"))
    assert faiss.engine == "faiss"
    assert np.allclose(np.linalg.norm(faiss.centroids_KD, axis=1), 1, atol=1e-5)
    means = [1 - assign(corpus.vectors_ND, each.centroids_KD)[1].mean() for each in (own, faiss)]
    assert means[0] == pytest.approx(means[1], abs=0.015)


def test_without_faiss_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        fit(unit(0, 20), k=2, engine="faiss")
