"""SemDeDup: each variant against a plain reference, and the laws that tie them together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.prototypes import dedup
from mixstream.selection.prototypes.dedup import duplicate_of, hardest_first, nearest_earlier, threshold_for


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    """Draw a few directions, near-duplicates of them, and exact copies; in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows, d = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    base = rng.standard_normal((draw(st.integers(1, 6)), d))
    vectors = base[rng.integers(len(base), size=rows)] + draw(st.sampled_from([0.0, 0.1, 0.5])) * rng.standard_normal(
        (rows, d)
    )
    vectors[rng.random(rows) < 0.2] = vectors[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reference(vectors: np.ndarray, threshold: float, variant: str) -> np.ndarray:
    """Return which members are kept, in the words of the paper and of the published code, one pair at a time."""
    above = (vectors.astype(float) @ vectors.astype(float).T).astype(np.float32) > threshold
    n = len(vectors)
    kept = np.ones(n, dtype=bool)
    if variant == "components":
        label = np.arange(n)
        for _ in range(n):
            for i in range(n):
                label[i] = min([label[i], *(label[j] for j in range(n) if above[i, j] or above[j, i])])
        return label == np.arange(n)
    for i in range(n):
        kept[i] = not any(above[i, j] and (kept[j] or variant == "official") for j in range(i))
    return kept


@given(vectors=clusters(), threshold=st.sampled_from([0.3, 0.8, 0.95, 0.999]))
@pytest.mark.parametrize("variant", ["greedy", "official", "components"])
def test_variants_equal_their_references(variant: str, vectors: np.ndarray, threshold: float) -> None:
    cosines = vectors.astype(float) @ vectors.astype(float).T
    if (np.abs(cosines - threshold) < 1e-6).any():
        return  # the reference rounds otherwise
    of = duplicate_of(vectors, threshold=threshold, variant=variant)
    assert np.array_equal(of < 0, reference(vectors, threshold, variant))


@given(vectors=clusters(), threshold=st.sampled_from([0.3, 0.8, 0.95, 0.999]))
def test_laws(vectors: np.ndarray, threshold: float) -> None:
    nearest = nearest_earlier(vectors)
    of = {
        each: duplicate_of(vectors, threshold=threshold, variant=each) for each in ("greedy", "official", "components")
    }
    kept = {each: found < 0 for each, found in of.items()}
    assert np.array_equal(kept["official"], nearest <= threshold)  # one number gives the result for every threshold
    assert (kept["greedy"] >= kept["official"]).all()
    assert (kept["official"] >= kept["components"]).all()
    assert all(found[0] == -1 for found in of.values())
    for found in of.values():
        removed = np.flatnonzero(found >= 0)
        assert (found[removed] < removed).all()
    removed = np.flatnonzero(~kept["greedy"])
    pairs = np.einsum("nd,nd->n", vectors[removed].astype(float), vectors[of["greedy"][removed]].astype(float))
    assert (pairs > threshold - 1e-6).all()
    assert kept["greedy"][of["greedy"][removed]].all()
    assert kept["components"][of["components"][~kept["components"]]].all()


@given(vectors=clusters())
def test_nearest_equals_a_plain_reference(vectors: np.ndarray) -> None:
    cosines = vectors.astype(float) @ vectors.astype(float).T
    cosines[np.triu_indices(len(vectors))] = -1
    assert np.allclose(nearest_earlier(vectors), cosines.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("cells", [1, 3000])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_change_no_bit(cells: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)) + 2 * rng.standard_normal((12, 8))[rng.integers(12, size=300)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    variants = ("greedy", "official", "components")
    expected = [nearest_earlier(vectors), *(duplicate_of(vectors, threshold=0.93, variant=each) for each in variants)]
    assert len({int((each < 0).sum()) for each in expected[1:]}) == 3
    monkeypatch.setattr(dedup, "_CELLS", cells)
    torch.set_num_threads(threads)
    found = [nearest_earlier(vectors), *(duplicate_of(vectors, threshold=0.93, variant=each) for each in variants)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected))


def test_a_cosine_at_the_threshold_is_decided_exactly() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((40, 200))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    nearest = nearest_earlier(vectors)
    for row in (5, 20, 39):
        at = float(nearest[row])
        below = float(np.nextafter(np.float32(at), np.float32(-1)))
        assert duplicate_of(vectors, threshold=at, variant="official")[row] == -1
        assert duplicate_of(vectors, threshold=below, variant="official")[row] >= 0


def test_ten_thousand_copies_need_no_cosines() -> None:
    copies = np.repeat(np.array([[0.6, 0.8]], dtype=np.float16), 10_000, axis=0)
    assert (duplicate_of(copies, threshold=0.95)[1:] == 0).all()
    assert (nearest_earlier(copies)[1:] == 1).all()


def test_threshold_1_removes_nothing() -> None:
    assert duplicate_of(np.ones((3, 1), dtype=np.float32), threshold=1.0).tolist() == [-1, -1, -1]


def test_an_empty_cluster() -> None:
    assert len(duplicate_of(np.empty((0, 4), dtype=np.float32), threshold=0.9)) == 0
    assert len(nearest_earlier(np.empty((0, 4), dtype=np.float32))) == 0


def test_the_order_is_hardest_first_and_ties_by_ordinal() -> None:
    assert hardest_first(np.array([0.1, 0.3, 0.3, 0.2]), np.array([4, 9, 2, 1])).tolist() == [2, 1, 3, 0]


@given(
    values=st.lists(st.sampled_from([-1.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30), share=st.floats(0.01, 1)
)
def test_the_threshold_keeps_the_nearest_possible_number(values: list[float], share: float) -> None:
    nearest = np.array(values, dtype=np.float32)
    wanted = max(1, round(share * len(values)))
    threshold = threshold_for(nearest, wanted)
    possible = [int((nearest <= each).sum()) for each in set(values)]
    assert abs(int((nearest <= threshold).sum()) - wanted) == min(abs(each - wanted) for each in possible)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="greedy, official, components"):
        duplicate_of(np.ones((1, 1), dtype=np.float32), threshold=0.9, variant="other")  # pyright: ignore[reportArgumentType]
