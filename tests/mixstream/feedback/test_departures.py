"""Domains that leave the mix (`max_epochs`): weights that are reported, logged and learned from are without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from harness import SIZES, Tilt, drive, loaders_of, row_ids, streams

import mixstream as ms
from mixstream.feedback import read_log
from mixstream.plan.weights import WEIGHT_UNIT

pytestmark = [
    pytest.mark.filterwarnings("ignore:domain .* has been read"),
    pytest.mark.filterwarnings("ignore:the run ends at step"),
    pytest.mark.filterwarnings("ignore:state is taken after step"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
NAMES = tuple(sorted(SIZES))  # the plan's order
EQUAL = dict.fromkeys(NAMES, 1)
SEEN: list[tuple[int, tuple[float, ...]]] = []


@dataclass(frozen=True)
class Noting(Tilt):
    """Notes the weights of its feedback."""

    def update(self, state: Any, feedback: ms.Feedback) -> Any:
        """As `Tilt`."""
        SEEN.append((feedback.step, tuple(feedback.weights_K.tolist())))
        return super().update(state, feedback)


def limited(library: Any, **epochs: float) -> dict[str, Any]:
    return {"streams": streams(library, **{name: {"max_epochs": limit} for name, limit in epochs.items()})}


def shares(weights_TK: np.ndarray) -> np.ndarray:
    assert (weights_TK.sum(axis=1) == WEIGHT_UNIT).all()
    return weights_TK / WEIGHT_UNIT


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("mixer", [ms.mixers.Schedule({0: EQUAL}), ms.mixers.Static(EQUAL)], ids=["by step", "static"])
def test_a_fixed_mix_is_logged_without_those_that_left(library, tmp_path, mixer, lanes):
    """`law` leaves first, then `code`; with two lanes there is a time between, when only one lane has lost it."""
    kw: dict[str, Any] = limited(library, law=1, code=1) | {"num_canonical_nodes": lanes, "mixer": mixer}
    taken: list[Any] = []
    last: dict[str, float] = {}
    with ms.Loader(ms.StreamingDataset(batch_size=8, shuffle=True, **kw), log=tmp_path) as loader:
        for batch in loader:
            taken.append(row_ids(batch))
            loader.report(batch, None)
            last = loader.weights
            if batch.step == 26:
                break
        assert loader.describe().count("left the mix") == 2
    log = read_log(tmp_path)
    weights_TK = shares(log.weights_TK)
    assert weights_TK[0].tolist() == pytest.approx([1 / 3] * 3)
    assert weights_TK[-1].tolist() == [0, 0, 1] == [last[name] for name in NAMES]
    kinds = {tuple(np.round(row_K, 6)) for row_K in weights_TK.tolist()}
    between: set[Any] = {1: set(), 2: {(0.416667, 0.166667, 0.416667)}}[lanes]
    assert kinds >= {(0.333333, 0.333333, 0.333333), (0.5, 0, 0.5), (0, 0, 1)} | between
    assert (log.rows_TK[weights_TK == 0] == 0).all()  # what has no weight has no rows
    assert log.given_TK[-1].tolist() != log.weights_TK[-1].tolist()
    again_kw: dict[str, Any] = kw | {"mixer": ms.replay(tmp_path)}
    with ms.Loader(ms.StreamingDataset(batch_size=8, shuffle=True, **again_kw)) as again:
        replayed = drive([again], 27, report=False)
    assert replayed == taken


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_mixer_learns_from_the_weights_that_a_step_was_drawn_by(library, tmp_path, lanes):
    kw: dict[str, Any] = limited(library, law=0.25, code=0.25) | {"mixer": Noting(), "lag": 2, "lanes": lanes}
    SEEN.clear()
    with loaders_of(library, **kw) as (loader,):
        batches = drive([loader], 18)
        loader.state_dict()
        seen, now = list(SEEN), loader.weights
    assert [step for step, _ in seen] == list(range(18))
    for step, weights in seen:
        assert sum(weights) == pytest.approx(1)
        left = [weights[NAMES.index(name)] == 0 for name in ("law", "code")]
        drawn = {row // 1000 for row in batches[step]}
        assert not (left[0] and 3 in drawn) and not (left[1] and 2 in drawn)  # noqa: PT018
    assert seen[-1][1] == (0, 0, 1)
    assert now == {"code": 0, "law": 0, "web": 1}


def test_after_a_resume_feedback_is_what_it_would_have_been(library, tmp_path):
    """Also of the steps that were handed out before the save and not reported; they are logged as they were drawn."""
    kw: dict[str, Any] = limited(library, law=0.25) | {"mixer": Noting(), "lag": 4}
    SEEN.clear()
    with loaders_of(library, **kw) as (loader,):
        drive([loader], 14)
        batches = iter(loader)
        drawn = [next(batches) for _ in range(2)]
        state = loader.state_dict()
        for batch in drawn:
            loader.report(batch, None)
        drive([loader], 3)
        loader.state_dict()
        whole = SEEN[:19]
    SEEN.clear()
    dataset = ms.StreamingDataset(
        batch_size=8,
        shuffle=True,
        shuffle_seed=loader.dataset.shuffle_seed,
        **limited(library, law=0.25),
        mixer=Noting(),
        lag=4,
    )
    resumed = ms.Loader(dataset, log=tmp_path)
    resumed.load_state_dict(state)
    SEEN[:] = SEEN[-2:]  # it was parsed more than once
    drive([resumed], 3)
    resumed.close()
    assert [step for step, _ in SEEN] == [14, 15, 16, 17, 18]
    assert whole[14:] == SEEN
    assert whole[14][1][NAMES.index("law")] == 0
    log = read_log(tmp_path)
    assert log.step_T.tolist() == [14, 15, 16, 17, 18]
    assert (log.weights_TK[:, NAMES.index("law")] == 0).all()


def test_states_without_these_weights_still_load(library):
    kw: dict[str, Any] = limited(library, law=0.25) | {"mixer": Noting(), "lag": 4}
    with loaders_of(library, **kw) as (loader,):
        drive([loader], 14)
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        expected = row_ids(next(batches))
    assert state["mixing"].pop("drawn_by")
    with loaders_of(library, **kw) as (loader,):
        loader.load_state_dict(state)
        assert row_ids(next(iter(loader))) == expected


def test_a_run_that_is_over_has_no_weights(library):
    with loaders_of(library, **limited(library, law=1, code=1, web=1)) as (loader,):
        assert len(list(loader)) == 27  # the last rows fill no batch
        assert sum(loader.weights.values()) == 1
    every = limited(library, law=0.25, code=0.25, web=0.25)
    with loaders_of(library, **every, batch=1, mixer=ms.mixers.Static(dict.fromkeys(NAMES, 1))) as (loader,):
        list(loader)
        assert loader.weights == dict.fromkeys(NAMES, 0)
