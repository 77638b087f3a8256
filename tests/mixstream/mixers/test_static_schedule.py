"""Mixers that know their weights beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Tilt, make_dataset

from mixstream.errors import ConfigError
from mixstream.mixers import Mixer, OpenLoop, Schedule, Static

NAMES = ("code", "web")


def test_a_schedule_holds_until_its_next_step():
    mixer = Schedule({0: {"web": 3, "code": 1}, 10: {"web": 1, "code": 1}})
    assert [mixer.weights_at(step, NAMES).tolist() for step in (0, 9, 10, 10**9)] == [
        [0.25, 0.75],
        [0.25, 0.75],
        [0.5, 0.5],
        [0.5, 0.5],
    ]


def test_a_linear_schedule_moves_in_a_straight_line_over_the_simplex():
    mixer = Schedule({0: {"web": 1, "code": 0}, 4: {"web": 0, "code": 2}}, kind="linear")
    weights = np.array([mixer.weights_at(step, NAMES) for step in range(6)])
    assert np.allclose(weights[:, 0], [0, 0.25, 0.5, 0.75, 1, 1])
    assert np.allclose(weights.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({5: {"web": 1, "code": 1}}, "must have weights for step 0"),
        ({0: {"web": 0, "code": 0}}, "all zero"),
        ({0: {"web": -1, "code": 2}}, "finite numbers >= 0"),
        ({0: {"web": float("nan"), "code": 2}}, "finite numbers >= 0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(weights, said):
    with pytest.raises(ConfigError, match=said):
        Schedule(weights)
    with pytest.raises(ConfigError, match="step, linear"):
        Schedule({0: {"web": 1, "code": 1}}, kind="cosine")  # type: ignore[arg-type]


def test_names_that_do_not_fit_the_domains_are_named(library):
    with pytest.raises(ConfigError, match=r"\['books'\], which are not domains"):
        make_dataset(library, mixer=Static({"web": 1, "code": 1, "law": 1, "books": 1}))
    with pytest.raises(ConfigError, match=r"no weight to the domains \['law'\]"):
        make_dataset(library, mixer=Static({"web": 1, "code": 1}))
    with pytest.raises(ConfigError, match=r"step 3.*\['law'\]"):
        Schedule({0: dict.fromkeys(("web", "code", "law"), 1), 3: {"web": 1, "code": 1}}).weights_at(
            3, ("code", "law", "web")
        )


def test_weights_on_streams_and_a_static_mixer_are_one_too_many(library):
    import mixstream as ms

    streams = [
        ms.Stream(remote=str(library / "web"), proportion=1),
        ms.Stream(remote=str(library / "code"), proportion=1),
    ]
    with pytest.raises(ConfigError, match="weights are given twice"):
        ms.StreamingDataset(streams=streams, mixer=Static({"web": 1, "code": 1}))


def test_a_class_is_no_mixer(library):
    with pytest.raises(ConfigError, match=r"mixer=Tilt is a class: give an object of it, mixer=Tilt\(\.\.\.\)"):
        make_dataset(library, mixer=Tilt)


def test_protocols_tell_the_kinds_apart():
    assert isinstance(Tilt(), Mixer)
    assert not isinstance(Tilt(), OpenLoop)
    assert isinstance(Schedule({0: {"web": 1}}), OpenLoop)
    assert not isinstance(Static({"web": 1}), Mixer | OpenLoop)
