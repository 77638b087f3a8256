"""A replay of the mixing log is equal to the bit."""

import numpy as np
import pytest
import torch
from harness import Tilt, make_dataset, row_ids, write_library
from hypothesis import given, settings
from hypothesis import strategies as st
from mixing_logs import NAMES, begin, open_log, weights_at, write

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.replay import read_log, replay
from mixstream.plan.weights import quantise


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 2**40), min_size=4, max_size=4).filter(any), min_size=1, max_size=6),
    order=st.permutations(range(4)),
)
def test_a_replay_draws_by_the_very_parts_that_were_logged(tmp_path_factory, parts, order):
    names, path = tuple("abcd"), tmp_path_factory.mktemp("log")
    logged = [quantise(weights_K) for weights_K in parts for _ in range(2)]
    with open_log(path, names) as log:
        begin(log, samples_K=np.ones(4, dtype=np.int64))
        for step, weights_K in enumerate(logged):
            log.write(step, weights_K=weights_K, rows_K=np.zeros(4))
    mixer = replay(path)
    asked = tuple(names[k] for k in order)
    for step, weights_K in enumerate(logged):
        assert quantise(mixer.weights_at(step, asked)).tolist() == weights_K[list(order)].tolist()
    assert quantise(mixer.weights_at(10**9, names)).tolist() == logged[-1].tolist()
    assert len(mixer.step_C) <= len(parts)


def test_a_dataset_replays_the_batches_of_the_logged_mixture(tmp_path, log):
    """The weights of another mixer, which knows them by step, written as a run would have drawn by them."""
    library = write_library(tmp_path / "library")
    schedule = ms.mixers.Schedule(
        {0: {"web": 5, "code": 2, "law": 1}, 6: {"web": 1, "code": 1, "law": 1}, 9: {"web": 1, "code": 0.3, "law": 0}},
        kind="linear",
    )
    begin(log)
    write(log, range(20), weights=lambda step: quantise(schedule.weights_at(step, NAMES)))

    def rows(mixer):
        with ms.Loader(make_dataset(library, mixer=mixer)) as loader:
            return [row_ids(batch) for _, batch in zip(range(20), loader)]

    assert rows(replay(log.file)) == rows(schedule)


def test_a_run_that_learned_is_replayed_without_its_losses(tmp_path):
    library = write_library(tmp_path / "library")

    def rows(mixer, *, log=None):
        taken = []
        with ms.Loader(make_dataset(library, mixer=mixer, lag=4), log=log) as loader:
            for _, batch in zip(range(20), loader):
                taken.append(row_ids(batch))
                if log is not None:
                    loader.report(batch, torch.from_numpy(np.asarray(batch.domain) + 1.0))
        return taken

    learned = rows(Tilt(), log=tmp_path / "run")
    said = read_log(tmp_path / "run")
    assert len(np.unique(said.weights_TK, axis=0)) > 10, "the mixture moved"
    assert said.rows_TK.sum(axis=1).tolist() == [8] * 20
    assert rows(replay(tmp_path / "run")) == learned


def test_a_replay_needs_every_step_from_the_first(log):
    begin(log, 3)
    with pytest.raises(StateError, match="the log is empty"):
        replay(log.file)
    write(log, [3, 4])
    with pytest.raises(StateError, match="lacks the steps 0 to 2"):
        replay(log.file)
    log.file.write_bytes(log.file.read_bytes().splitlines(keepends=True)[0])  # killed behind the header
    with pytest.raises(StateError, match="no steps yet"):
        replay(log.file)


def test_domains_that_came_in_mid_run_are_read_and_not_replayed(tmp_path, log):
    begin(log)
    write(log, [0, 1])
    with open_log(log.file, ("web", "code")) as later:
        begin(later, 2, samples_K=np.array([200, 50]))
        later.write(2, weights_K=quantise([3, 1]), rows_K=[6, 2])
    said = read_log(log.file)
    assert said.rows_TK.tolist() == [[3, 0, 5], [3, 0, 5], [2, 0, 6]]
    assert said.samples_K.tolist() == [50, 19, 200]
    with pytest.raises(StateError, match="domains changed"):
        said.replay()


def test_selections_that_changed_in_mid_run_are_read_and_not_replayed(tmp_path, log):
    for step, selections in ((0, {"web": "a" * 32}), (2, {"web": "b" * 32})):
        with open_log(log.file) as later:
            begin(later, step, selections=selections)
            write(later, [step, step + 1])
    said = read_log(log.file)
    assert said.header.selections == {"web": "b" * 32}
    with pytest.raises(StateError, match=r"selections changed in mid-run .* step 0 and of step 2"):
        said.replay()


def test_other_domains_are_named(log):
    begin(log)
    write(log, [0])
    with pytest.raises(ConfigError, match="books"):
        replay(log.file).weights_at(0, ("books", "code", "web"))


def test_replays_of_other_logs_are_told_apart(tmp_path):
    mixers = []
    for seed in (0, 0, 1):
        with open_log(tmp_path / f"{len(mixers)}.jsonl") as log:
            begin(log)
            write(log, range(4), weights=lambda step, seed=seed: weights_at(step + 50 * seed))
        mixers.append(replay(log.file))
    assert mixers[0] == mixers[1]
    assert repr(mixers[0]) == repr(mixers[1]) != repr(mixers[2])
