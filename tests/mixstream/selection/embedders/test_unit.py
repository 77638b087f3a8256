"""Unit vectors: norm 1 or failed, for any floats, and a row depends on itself alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mixstream.selection.embedders import unit_rows

ANY = npst.arrays(
    st.sampled_from([np.float64, np.float32, np.float16]),
    npst.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements={"allow_nan": True, "allow_infinity": True, "allow_subnormal": True},
)


@given(ANY)
def test_every_row_is_of_norm_one_or_has_failed(vectors) -> None:
    unit, failed = unit_rows(vectors)
    assert unit.dtype == np.float32
    assert unit.shape == vectors.shape
    norms = np.linalg.norm(unit.astype(np.float64), axis=1)
    assert np.allclose(norms[~failed], 1, atol=1e-6)
    assert not unit[failed].any()
    usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    assert (failed == ~usable).all()


@given(ANY)
def test_a_row_depends_on_itself_alone(vectors) -> None:
    unit, failed = unit_rows(vectors)
    for row, alone in enumerate(vectors):
        each, lost = unit_rows(alone[None])
        assert each.tobytes() == unit[row].tobytes()
        assert lost[0] == failed[row]


def test_the_direction_stays() -> None:
    unit, _ = unit_rows(np.array([[3e300, -4e300], [3e-310, 4e-310]]))
    assert np.allclose(unit, [[0.6, -0.8], [0.6, 0.8]])


def test_no_rows() -> None:
    unit, failed = unit_rows(np.empty((0, 4)))
    assert unit.shape == (0, 4)
    assert failed.shape == (0,)
