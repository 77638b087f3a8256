"""Random projections: a matrix is a function of its recipe, however it is applied."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.datamodels import Projection, Projector


def whole(projection: Projection) -> np.ndarray:
    return np.concatenate([projection.block(number) for number in range(projection.blocks)])


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
@pytest.mark.parametrize("memory", [0, 20 << 20, 1 << 30])
def test_features_are_the_product_with_the_whole_matrix(kind: str, memory: int) -> None:
    projection = Projection(inputs=7500, outputs=600, key=7, kind=kind)
    assert projection.blocks == 2
    gradient = torch.randn(5, 7500, generator=torch.Generator().manual_seed(0))
    project = Projector(projection, memory=memory)
    phi = project(gradient)
    torch.testing.assert_close(phi, gradient @ torch.from_numpy(whole(projection)), atol=2e-3, rtol=1e-4)
    assert torch.equal(project(gradient), phi), "kept blocks are those that are regenerated"
    assert torch.equal(phi, Projector(projection)(gradient)), "memory changes no bit"


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_entries_have_mean_0_variance_1_over_outputs_and_no_correlation(kind: str) -> None:
    matrix = whole(Projection(inputs=4000, outputs=256, key=3, kind=kind)).astype(np.float64)
    assert abs(matrix.mean()) < 4 / 16 / 1000
    assert matrix.var() == pytest.approx(1 / 256, rel=0.01)
    gram = matrix.T @ matrix / 4000 * 256
    assert np.abs(gram - np.eye(256)).max() < 6 / np.sqrt(4000)
    by_row = matrix[:256] @ matrix[:256].T
    assert np.abs(by_row - np.diag(np.diag(by_row))).max() < 6 / np.sqrt(256)


def test_the_matrices_never_change() -> None:
    """Features that another version or machine made are useless if the matrix moves."""
    signs, normals = (
        Projection(inputs=9000, outputs=512, key=0x1234_5678_9ABC_DEF0, kind=kind)
        for kind in ("rademacher", "gaussian")
    )
    assert hashlib.sha256(signs.signs(1).tobytes()).hexdigest()[:16] == "956c5689743623db"
    expected = [-1.240803, -0.386498, 0.82944, 0.905151]
    np.testing.assert_allclose(normals.block(1)[0, :4] * np.sqrt(512), expected, rtol=1e-5)


@given(inputs=st.integers(1, 40_000), outputs=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_blocks_cover_every_parameter_once(inputs: int, outputs: int, key: int) -> None:
    projection = Projection(inputs=inputs, outputs=outputs, key=key)
    spans = [projection.span(number) for number in range(projection.blocks)]
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == inputs
    assert all(begin < end for begin, end in spans)
    assert projection.signs(projection.blocks - 1).shape == (spans[-1][1] - spans[-1][0], outputs)


def test_a_model_with_more_parameters_shares_the_first_blocks() -> None:
    small, large = (Projection(inputs=inputs, outputs=512, key=5) for inputs in (8192, 20_000))
    assert np.array_equal(small.block(0), large.block(0))


def test_keys_and_blocks_are_unrelated() -> None:
    one, other = (Projection(inputs=20_000, outputs=512, key=key) for key in (1, 2))
    for left, right in [(one.signs(0), other.signs(0)), (one.signs(0), one.signs(1))]:
        assert abs((left == right).mean() - 0.5) < 0.002


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "sparse"}, {"inputs": 0}, {"outputs": 0}, {"outputs": 1 << 23}, {"key": -1}, {"key": 1 << 64}],
)
def test_wrong_recipes_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Projection(**{"inputs": 10, "outputs": 4, "key": 0, **wrong})


def test_gradients_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 11\) do not fit a projection of 10 parameters"):
        Projector(Projection(inputs=10, outputs=4, key=0))(torch.zeros(2, 11))
