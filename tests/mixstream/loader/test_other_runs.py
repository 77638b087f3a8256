"""What a state of another run is answered with: the fact, and a remedy that works."""

from __future__ import annotations

from typing import Any

import pytest
from harness import SIZES, make_dataset, streams

import mixstream as ms
from mixstream.errors import StateError


def sample_of(library: Any, choose: int, **options: Any) -> ms.StreamingDataset:
    """Return a dataset of a fixed sample of each domain."""
    each: dict[str, Any] = {name: {"choose": choose} for name in SIZES}
    return make_dataset(library, streams=streams(library, **each), **{"sampling_method": "fixed", **options})


def test_a_state_of_another_fixed_sample_says_how_to_read_that_one(library):
    state = sample_of(library, 12).state_dict()
    with pytest.raises(
        StateError, match=r"fixed sample of 12, and is now read as a fixed sample of 13: give .*choose=12"
    ):
        sample_of(library, 13).load_state_dict(state)
    with pytest.raises(StateError, match='without a fixed sample: give sampling_method="fixed" and choose=12'):
        sample_of(library, 12, sampling_method="balanced").load_state_dict(state)
    with pytest.raises(StateError, match='fixed sample of 12: give sampling_method="balanced"'):
        sample_of(library, 12).load_state_dict(sample_of(library, 12, sampling_method="balanced").state_dict())
    sample_of(library, 12).load_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_within_a_step_is_not_carried_over(library, strict):
    """It would lose the rest of the step, or read its beginning twice."""
    dataset = make_dataset(library)
    samples = iter(dataset)
    for _ in range(13):
        next(samples)
    other = make_dataset(library, ["web", "code"])
    with pytest.raises(StateError, match=r"strict=False cannot help, since the state lies within a step.*save between"):
        other.load_state_dict(dataset.state_dict(), strict=strict)
    assert other.state_dict()["step"] == 0
