"""Numbers at the edge, and of odd types, mean what they say or are refused by name before anything is read."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from harness import SIZES, Tilt, make_dataset, streams

import mixstream as ms
from mixstream.errors import ConfigError

HUGE = 10**400
EVEN = {"web": 1, "code": 1, "law": 1}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"shuffle_seed": None}, "shuffle_seed"),
        ({"lag": None}, "lag"),
        ({"lag": 1 << 62, "mixer": Tilt()}, "lag"),
        ({"epoch_size": 1 << 62}, "epoch_size"),
        ({"rank": 0, "world_size": 1 << 62}, "world_size"),
        ({"batch_size": 1 << 62}, "global batch of 4611686018427387904"),
    ],
)
def test_what_no_run_can_be_made_of_is_refused(library, options, name):
    with pytest.raises(ConfigError, match=name):
        _ = make_dataset(library, **options).run.plan


@pytest.mark.parametrize("option", ["proportion", "repeat", "max_epochs", "choose", "download_timeout"])
@pytest.mark.parametrize("value", [HUGE, -HUGE])
def test_integers_beyond_floats_are_refused(library, option, value):
    with pytest.raises(ConfigError, match=option):
        make_dataset(library, streams=streams(library, web={option: value}))


def test_what_all_streams_take_together_is_counted(library):
    with pytest.raises(ConfigError, match="rows an epoch; give fewer"):
        make_dataset(library, streams=streams(library, web={"choose": 1 << 62}))


def test_a_limit_beyond_all_draws_is_none(library):
    dataset = make_dataset(library, streams=streams(library, web={"max_epochs": 1 << 63}))
    state = json.loads(json.dumps(dataset.state_dict()))
    dataset.load_state_dict(state)
    assert dataset.state_dict() == state


@pytest.mark.parametrize("value", ["2", b"2", True, None, [2.0], math.nan, HUGE])
def test_weights_that_are_no_numbers_are_refused(value):
    for make in (
        lambda: ms.mixers.Static(EVEN | {"web": value}),
        lambda: ms.mixers.Schedule({0: EVEN | {"web": value}}),
    ):
        with pytest.raises(ConfigError, match=r"Static proportions|Schedule weights"):
            make()


@pytest.mark.parametrize("step", ["3", None, math.nan, math.inf, 3.5, 1 << 63, True])
def test_steps_that_are_no_whole_numbers_are_refused(step: Any):
    with pytest.raises(ConfigError, match=r"Schedule (weights|steps)"):
        ms.mixers.Schedule({0: EVEN, step: EVEN})


@pytest.mark.parametrize("step", [np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3])])
def test_a_step_of_any_integer_type_is_that_step(step: Any):
    weights = {"web": torch.tensor(2.0), "code": np.array(1.0), "law": 0}
    schedule = ms.mixers.Schedule({0: EVEN, step: weights})
    assert schedule == ms.mixers.Schedule({0: EVEN, 3: {"web": 2.0, "code": 1.0, "law": 0}})
    assert schedule.weights_at(3, tuple(SIZES)).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
