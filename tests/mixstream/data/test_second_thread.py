"""A second thread copies half of what the trainer waits for: the same batches, and no half is left behind."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from harness import make_dataset  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.data import gather
from mixstream.data.second_thread import Pace, both


def test_each_position_is_worked_on_once_by_two_threads():
    done_N, threads = np.zeros(1001, dtype=np.int64), set()

    def work(part: slice) -> None:
        done_N[part] += 1
        threads.add(threading.get_ident())

    for size in (1001, 2, 1, 0):
        done_N[:] = 0
        both(work, size)
        assert (done_N[:size] == 1).all()
        assert not done_N[size:].any()
    assert len(threads) >= 2


@pytest.mark.parametrize("failing", [0, 500])
def test_an_error_in_one_half_is_raised_when_the_other_has_ended(failing):
    ended, slow = [], threading.Event()

    def work(part: slice) -> None:
        if (part.start or 0) == failing:
            slow.set()
            raise KeyError(failing)
        assert slow.wait(20)
        threading.Event().wait(0.05)
        ended.append(part)

    with pytest.raises(KeyError):
        both(work, 1000)
    assert len(ended) == 1


def test_where_no_thread_can_be_started_both_halves_are_done_at_once_and_once(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[slice] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        both(done.append, 10)
    assert sorted(i for part in done for i in range(10)[part]) == list(range(10))
    later: list[slice] = []
    both(later.append, 10)
    assert (len(done), len(later)) == (2, 2)


def test_the_quicker_way_to_copy_is_taken_and_the_other_one_tried_now_and_then():
    pace, taken = Pace(), []
    for second_core_is_busy in (False, True, False):
        for _ in range(400):
            taken.append(pace.takes_two())
            pace.took((3.0 if second_core_is_busy else 1.1) if taken[-1] else 2.0, two=taken[-1])
    idle, busy, again = taken[:400], taken[400:800], taken[800:]
    assert 350 < sum(idle) < 400
    assert 0 < sum(busy[200:]) < 30
    assert sum(again[300:]) > 80


def test_no_thread_is_left():
    before = threading.active_count()
    both(lambda part: None, 10)
    assert threading.active_count() == before


def test_a_forked_child_has_a_second_thread_of_its_own():
    both(lambda part: None, 10)
    if (child := os.fork()) == 0:
        done: list[slice] = []
        both(done.append, 10)
        os._exit(len(done) != 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_batches_that_two_threads_copy_are_those_of_one(library, monkeypatch):
    calls = []
    monkeypatch.setattr(gather, "_HALVES", 0)
    monkeypatch.setattr(gather, "both", lambda work, size: calls.append(size) or both(work, size))
    monkeypatch.setattr("mixstream.loader.batch_maker.has_second_core", lambda: True)
    expected = [batch["tokens"].tolist() for batch in ms.Loader(make_dataset(library, epoch_size=320), prefetch=0)]
    assert not calls  # a trainer that makes its batches itself has no thread that waits
    with ms.Loader(make_dataset(library, epoch_size=320), prefetch=2) as loader:
        assert [batch["tokens"].tolist() for batch in loader] == expected
    assert calls


def test_one_thread_copies_while_the_trainer_has_batches(library, monkeypatch):
    calls = []
    monkeypatch.setattr(gather, "_HALVES", 0)
    monkeypatch.setattr(gather, "both", lambda work, size: calls.append(size) or both(work, size))
    monkeypatch.setattr("mixstream.loader.batch_maker.has_second_core", lambda: True)
    with ms.Loader(make_dataset(library, epoch_size=320), prefetch=40) as loader:
        made = threading.Event()
        batches = iter(loader)
        next(batches)
        while loader.stats().ready < 38:  # nothing is taken: the first few groups found none ready, others did
            made.wait(0.01)
    assert len(calls) <= 2
