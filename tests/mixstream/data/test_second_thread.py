"""A second thread copies half of what the trainer waits for: the same batches, and no half is left behind."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from harness import make_dataset  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.data import gather, second_thread
from mixstream.data.second_thread import both
from mixstream.storage import ProcessLocal


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
    assert len(threads) == 2


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


def test_a_process_that_starts_no_more_threads_does_both_halves_itself(monkeypatch):
    def submit(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(second_thread, "_second", ProcessLocal(lambda: SimpleNamespace(submit=submit)))
    done: list[slice] = []
    both(done.append, 10)
    assert sorted(i for part in done for i in range(10)[part]) == list(range(10))


def test_what_was_queued_when_no_thread_could_be_started_is_not_done_later(monkeypatch):
    """Its rows would be written into memory that other batches have by then."""
    start, refused = threading.Thread.start, []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name.startswith("mixstream-copy") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    monkeypatch.setattr(second_thread, "_second", ProcessLocal(second_thread._executor))
    first, second = [], []
    both(first.append, 10)
    assert len(refused) == 1
    done = list(first)
    assert sorted(i for part in done for i in range(10)[part]) == list(range(10))
    for _ in range(3):
        both(second.append, 10)
    assert first == done
    assert len(second) == 6


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
