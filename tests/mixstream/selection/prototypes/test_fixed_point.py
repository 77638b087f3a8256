"""Unit vectors as integers: exact cosines, and a bound on the error of floats."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mixstream.errors import ConfigError
from mixstream.selection.prototypes.fixed_point import Vectors, full_precision, margin


def unit(seed: int, rows: int, d: int, dtype: str = "f4") -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_cosines_are_exact_up_to_one_rounding(dtype: str) -> None:
    vectors_ND = unit(0, 20, 7, dtype)
    vectors = Vectors.of(vectors_ND)
    left, right = torch.arange(19), torch.arange(1, 20)
    for at, cosine in enumerate(vectors.cosines(left, vectors, right).tolist()):
        a, b = ([Fraction(x) for x in vectors.fixed_ND[row].tolist()] for row in (at, at + 1))
        square = sum(x * x for x in a) * sum(x * x for x in b)
        exact = float(sum(x * y for x, y in zip(a, b))) / math.sqrt(square)
        assert cosine == pytest.approx(exact, rel=2**-23)
        assert cosine == pytest.approx(float(vectors_ND[at].astype("f8") @ vectors_ND[at + 1].astype("f8")), abs=2e-3)


def test_a_vector_has_the_cosine_1_to_itself() -> None:
    vectors = Vectors.of(unit(1, 500, 33))
    every = torch.arange(500)
    assert vectors.cosines(None, vectors, every).eq(1).all()


@pytest.mark.parametrize("d", [3, 64, 768])
def test_the_margin_bounds_the_error_of_floats(d: int) -> None:
    left, right = Vectors.of(unit(2, 300, d)), Vectors.of(unit(3, 200, d))
    at, to = torch.meshgrid(torch.arange(300), torch.arange(200), indexing="ij")
    exact = left.cosines(at.flatten(), right, to.flatten()).reshape(300, 200)
    assert float((left.unit_ND @ right.unit_ND.T - exact).abs().max()) < margin(d)


@pytest.mark.parametrize("factor", [1.002, 0.998, 0.0, 1e30, math.nan])
def test_other_norms_are_refused_by_row(factor: float) -> None:
    vectors = unit(4, 10, 5)
    vectors[7] *= np.float32(factor)
    with pytest.raises(ConfigError, match=r"row 107 has the norm .* not 1.*normalise"):
        Vectors.of(vectors, begin=100)


def test_norms_within_a_thousandth_are_taken() -> None:
    assert len(Vectors.of(unit(5, 10, 5) * np.float32(1.0009))) == 10


def test_one_vector_is_no_block() -> None:
    with pytest.raises(ConfigError, match="one vector for each row"):
        Vectors.of(np.ones(1, dtype=np.float32))


def test_the_precision_of_products_is_restored() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
