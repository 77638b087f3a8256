"""Exact resume: after any step, from any rank's state, under any world size, number of workers and prefetch depth."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from harness import Tilt, digest, drive, loaders_of, make_dataset, row_ids, streams, write_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores: so be it
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
    pytest.mark.filterwarnings("ignore:domain .* has been read"),  # max_epochs
]

STEPS = 70  # two and a half epochs of 28 steps
LAG = 8
SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 50: {"web": 1, "code": 2, "law": 3}}, kind="linear")
WEIGHTS = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
CONFIGS: dict[str, dict[str, Any]] = {
    "natural": {},
    "weighted": {"each": WEIGHTS, "epoch_size": 150},
    "repeat and choose": {"each": {"web": {"repeat": 0.5}, "code": {"choose": 77}, "law": {"repeat": 3.0}}},
    "drop_last": {"drop_last": True},
    "in order": {"shuffle": False},
    "within shards": {"shuffle_algo": "py1s"},
    "schedule": {"mixer": SCHEDULE},
    "learning": {"mixer": Tilt(), "lag": LAG},
    "max_epochs": {"each": {"law": {"max_epochs": 1.5}, "web": {"max_epochs": 1}}, "mixer": SCHEDULE},
    "max_epochs, static": {"each": {"law": {"max_epochs": 2}}},
    "max_epochs, in order": {"each": {"web": {"max_epochs": 1}}, "shuffle": False},
}


def options(root: Path, config: str) -> dict[str, Any]:
    kw = dict(CONFIGS[config])
    each = kw.pop("each", {})
    return {**kw, "streams": streams(root, **each)}


def simulated(root: Path, config: str, **kw: Any) -> Any:
    return loaders_of(root, **{**options(root, config), **kw})


_known: dict[tuple[str, int], list[list[int]]] = {}


def uninterrupted(root: Path, config: str, lanes: int) -> list[list[int]]:
    if (config, lanes) not in _known:
        with simulated(root, config, lanes=lanes) as loaders:
            _known[config, lanes] = drive(loaders, STEPS)
    return _known[config, lanes]


def travel(state: Any) -> Any:
    """Return `state` as it comes out of a file."""
    text = json.dumps(state)
    assert len(text) < 8000
    return json.loads(text)


WORLDS = st.sampled_from([1, 2, 4, 8])
PREFETCH = st.integers(0, LAG)


@pytest.mark.parametrize("config", CONFIGS)
@settings(max_examples=8)
@given(data=st.data())
def test_a_run_goes_on_exactly_under_any_world(library, config, data):
    lanes = data.draw(st.sampled_from([1, 2, 4, 8]), label="lanes")
    expected = uninterrupted(library, config, lanes)
    cuts = data.draw(st.lists(st.integers(0, len(expected)), min_size=1, max_size=3).map(sorted), label="steps")
    state, done, got = None, 0, []
    for cut in [*cuts, len(expected)]:
        world = data.draw(WORLDS, label="world")
        # A loaded state brings its lanes; they need not be given again.
        given_lanes = lanes if state is None else data.draw(st.sampled_from([lanes, None]), label="lanes given")
        with simulated(library, config, world=world, lanes=given_lanes, prefetch=data.draw(PREFETCH)) as loaders:
            for loader in loaders:
                if state is not None:
                    loader.load_state_dict(state)
                assert loader.step == done
            got += drive(loaders, cut - done)
            states = [loader.state_dict() for loader in loaders]
        assert all(other == states[0] for other in states)
        state, done = travel(states[data.draw(st.integers(0, world - 1), label="saved by rank")]), cut
    assert got == expected


def test_runs_differ_so_that_the_test_above_can_fail(library):
    runs = [uninterrupted(library, config, lanes) for config in CONFIGS for lanes in (1, 4)]
    assert all(len(run) > 20 for run in runs)
    for i, run in enumerate(runs):
        assert run not in runs[:i]


@pytest.mark.parametrize("step", [0, 13, 27, 28, 29, 56])
@pytest.mark.parametrize("config", ["natural", "drop_last"])
def test_epochs_end_where_they_would_have_ended(library, config, step):
    """`for batch in loader` after a resume stops at the same step as without."""
    with simulated(library, config) as (loader,):
        drive([loader], step)
        state = travel(loader.state_dict())
    with simulated(library, config) as (loader,):
        loader.load_state_dict(state)
        assert len(loader) == (27 if config == "drop_last" else 28)
        assert len(list(loader)) == len(loader) - step % len(loader)
        assert len(list(loader)) == len(loader)


def test_a_state_loaded_twice_and_iterated_twice_stays_where_it_is(library):
    expected = uninterrupted(library, "natural", 1)
    with simulated(library, "natural") as (loader,):
        drive([loader], 10)
        state = travel(loader.state_dict())
        drive([loader], 5)
        assert loader.state_dict() != state
        for _ in range(2):
            loader.load_state_dict(state)
            assert loader.state_dict() == state
            iter(loader)  # trainers look whether something can be iterated
            assert row_ids(next(iter(loader))) == expected[10]
            assert row_ids(next(iter(loader))) == expected[11]  # an abandoned loop is gone on with, not begun anew
        assert [row_ids(batch) for batch in loader] == expected[12:28]


def test_what_was_made_ahead_and_not_handed_out_is_not_lost(library):
    expected = uninterrupted(library, "natural", 1)
    with simulated(library, "natural", prefetch=8) as (loader,):
        it = iter(loader)
        for _ in range(3):
            next(it)
        state = travel(loader.state_dict())
        del it
    with simulated(library, "natural", prefetch=0) as (loader,):
        loader.load_state_dict(state)
        assert drive([loader], STEPS - 3) == expected[3:]


def test_the_state_is_small_and_does_not_grow(library):
    with simulated(library, "learning", lanes=8) as (loader,):
        drive([loader], 30)
        early = len(json.dumps(loader.state_dict()))
        drive([loader], 170)
        assert abs(len(json.dumps(loader.state_dict())) - early) < 100
    assert early < 4000


# --- other faces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["natural", "schedule", "learning", "max_epochs"])
@pytest.mark.parametrize("step", [5, 28, 40])
def test_loader_and_streaming_dataloader_take_over_from_each_other(library, config, step):
    expected = uninterrupted(library, config, 1)
    one = ms.StreamingDataLoader(make_dataset(library, **options(library, config)), batch_size=8)
    assert drive([one], step) == expected[:step]
    with simulated(library, config) as (loader,):
        loader.load_state_dict(travel(one.state_dict()))
        assert drive([loader], 15) == expected[step : step + 15]
        state = travel(loader.state_dict())
    other = ms.StreamingDataLoader(make_dataset(library, **options(library, config)), batch_size=8)
    other.load_state_dict(state)
    assert drive([other], STEPS - step - 15) == expected[step + 15 :]


@pytest.mark.parametrize(
    ("config", "before", "after", "persistent"),
    [("learning", 2, 3, False), ("natural", 4, 1, True), ("schedule", 0, 2, True), ("learning", 1, 2, True)],
)
def test_workers_of_streaming_dataloader_may_change(library, config, before, after, persistent):
    expected, step = uninterrupted(library, config, 1), 38

    def face(workers: int) -> ms.StreamingDataLoader:
        forked = {"multiprocessing_context": "fork", "persistent_workers": persistent, "timeout": 60} if workers else {}
        dataset = make_dataset(library, **options(library, config))
        return ms.StreamingDataLoader(dataset, batch_size=8, num_workers=workers, **forked)

    one: Any = face(before)
    assert drive([one], step) == expected[:step]
    other = face(after)
    other.load_state_dict(travel(one.state_dict()))
    assert drive([other], STEPS - step) == expected[step:]
    other.load_state_dict(one.state_dict())  # again, with workers running
    assert drive([other], 20) == expected[step : step + 20]


def test_a_learning_mixer_with_workers_from_a_fork_server(library, warm_spawn):
    """The default of Python 3.14; the worker's parent is not the trainer."""
    loader = ms.StreamingDataLoader(
        make_dataset(library, **options(library, "learning")),
        batch_size=8,
        num_workers=1,
        multiprocessing_context="forkserver",
        timeout=120,
    )
    assert drive([loader], 20) == uninterrupted(library, "learning", 1)[:20]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("from_beginning", [True, False])
def test_a_trainer_that_counts_samples_itself_over_a_plain_dataloader(library, workers, from_beginning):
    """As Composer does: `dataset.state_dict(samples, True)`, `dataset.load_state_dict(...)`."""
    context = "fork" if workers else None
    expected = uninterrupted(library, "natural", 1)
    dataset = make_dataset(library)
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=context)
    assert [row_ids(batch) for batch in loader] == expected[:28]
    it = iter(loader)
    assert [row_ids(next(it)) for _ in range(7)] == expected[28:35]
    state = travel(dataset.state_dict(7 * 8, from_beginning))
    del it

    dataset = make_dataset(library)
    dataset.load_state_dict(state)
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=context)
    it = iter(loader)
    assert [row_ids(next(it)) for _ in range(5)] == expected[35:40]
    again = dataset.state_dict((7 + 5) * 8 if from_beginning else 5 * 8, from_beginning)
    del it
    assert (again["epoch"], again["sample_in_epoch"]) == (1, 12 * 8)

    dataset = make_dataset(library)
    dataset.load_state_dict(travel(again))
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=context)
    assert [row_ids(batch) for batch in loader] + [row_ids(batch) for batch in loader][:14] == expected[40:]


def test_a_trainer_counts_the_samples_of_all_ranks(library):
    dataset = make_dataset(library, batch_size=4, rank=1, world_size=2)
    list(zip(dataset, range(12)))  # 3 steps of 4 rows on each rank
    assert dataset.state_dict(24, True)["sample_in_epoch"] == 24
    assert dataset.state_dict(28, True)["iterator"]["rows"] == 2
    with pytest.raises(ConfigError, match="25 samples over 2 ranks are not the same number on each"):
        dataset.state_dict(25, True)


def test_a_state_after_the_last_sample_of_an_epoch_begins_the_next(library):
    expected = uninterrupted(library, "natural", 1)
    dataset = make_dataset(library)
    list(DataLoader(dataset, batch_size=8))
    state = dataset.state_dict(28 * 8, True)
    dataset = make_dataset(library)
    dataset.load_state_dict(state)
    assert dataset.next_epoch == 1
    assert [row_ids(batch) for batch in DataLoader(dataset, batch_size=8)] == expected[28:56]


def test_loaders_notice_a_state_that_their_dataset_was_given(library):
    """Composer and Foundry load into the dataset, after the loader was made."""
    expected = uninterrupted(library, "natural", 1)
    with simulated(library, "natural") as (loader,):
        drive([loader], 9)
        state = loader.state_dict()
    for face in (ms.Loader, lambda dataset: ms.StreamingDataLoader(dataset, batch_size=8)):
        dataset = make_dataset(library)
        loader = face(dataset)
        assert row_ids(next(iter(loader))) == expected[0]
        dataset.load_state_dict(state)
        assert [row_ids(batch) for batch in loader] == expected[9:28]
        if isinstance(loader, ms.Loader):
            loader.close()


# --- kill -9 ----------------------------------------------------------------------------------------------------------

JOB = Path(__file__).parents[1] / "job.py"


@pytest.mark.parametrize(("learns", "stops"), [(True, [7, 19])])
def test_kill_9_at_any_instant(tmp_path, warm_programs, learns, stops):
    """Killed in different epochs, while compressed shards are unpacked and states written: the batches are the same."""
    root = tmp_path / "library"
    for number, name in enumerate(["web", "code", "law"], start=1):
        write_tokens(root / name, range(1000 * number, 1000 * number + 40), compression="zstd")
    job = {"root": str(root), "steps": 40, "learns": learns, "state": str(tmp_path / "state.json")}
    command = [warm_programs / "python", "-W", "error", str(JOB), json.dumps(job)]
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    said: list[tuple[int, str]] = []
    for stop in [*stops, None]:
        with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=env) as process:
            assert process.stdout is not None
            for line in process.stdout:
                step, digest_of_step = line.split()
                said.append((int(step), digest_of_step))
                if int(step) == stop:
                    process.kill()
            _, complaints = process.communicate(timeout=60)
        assert process.returncode == (0 if stop is None else -9), complaints

    with loaders_of(root, mixer=Tilt() if learns else None, lag=4, prefetch=3) as loaders:
        whole = dict(enumerate(map(digest, drive(loaders, 40))))
    assert {step for step, _ in said} == set(whole)
    assert all(whole[step] == digest_of_step for step, digest_of_step in said)
    assert len(said) < 40 + 6 * len(stops)  # and next to nothing was done twice
