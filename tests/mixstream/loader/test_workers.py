from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
from children import in_child
from harness import make_dataset, row_ids

import mixstream as ms
from mixstream.errors import ConfigError, WaitTimeoutError
from mixstream.inherited_file import InheritedFile
from mixstream.loader.workers import EpochClaims, WeightRing

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def expect_weights(ring: WeightRing) -> None:
    assert ring.get(0).tolist() == [1, 2, 3]


def test_each_iter_in_one_process_claims_an_epoch():
    claims = EpochClaims()
    assert claims.count == 0
    assert [claims.claim() for _ in range(3)] == [0, 1, 2]
    assert claims.count == 3


class Info:
    """What torch tells a DataLoader worker of itself."""

    def __init__(self, worker: int, seed: int) -> None:
        self.id, self.seed, self.num_workers = worker, seed + worker, 3


class Crew:
    """Copies of claims as three forked workers of one `iter()` have them: the same file, and their own memory of it."""

    def __init__(self, claims: EpochClaims, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.copies, self.seed = [copy.copy(claims) for _ in range(3)], seed
        self.patch = monkeypatch

    def claim(self, *workers: int) -> list[int]:
        got = []
        for worker in workers:
            info = Info(worker, self.seed)
            self.patch.setattr("mixstream.loader.workers.get_worker_info", lambda info=info: info)
            got.append(self.copies[worker].claim())
        return got


def test_workers_of_one_iter_claim_one_epoch_in_any_order(monkeypatch):
    claims = EpochClaims()
    first, second, persistent = (Crew(claims, monkeypatch, seed) for seed in (5, 9, 5))
    assert first.claim(0, 1) == [0, 0]
    assert second.claim(2) == [1]
    assert first.claim(2) == [0]
    assert second.claim(0, 1) == [1, 1]
    assert [persistent.claim(0, 1, 2) for _ in range(3)] == [[2] * 3, [3] * 3, [4] * 3]
    assert claims.count == 5


def test_a_late_worker_joins_its_iter_after_thousands_of_others(monkeypatch):
    claims = EpochClaims()
    late = Crew(claims, monkeypatch, 0)
    assert late.claim(0) == [0]
    for seed in range(1, 1200):  # each abandoned before its other workers began
        Crew(claims, monkeypatch, seed).claim(1)
    assert late.claim(1, 2) == [0, 0]
    assert claims.count == 1200


def test_workers_that_cannot_know_their_epoch_are_refused(monkeypatch):
    """Those of a loader that starts its workers in another way than torch's, and seeds all of its iterators alike."""
    claims = EpochClaims()
    assert Crew(claims, monkeypatch, 7).claim(0) == [0]
    with pytest.raises(ConfigError, match=r"worker 0 begins iteration 1 .* a second time: .*seeds all its iterators"):
        Crew(claims, monkeypatch, 7).claim(0)


def test_ended_claims_are_refused():
    claims = EpochClaims()
    claims.claim()
    claims.end()
    with pytest.raises(ConfigError, match="persistent workers were alive"):
        claims.claim()
    assert claims.count == 1


def test_threads_claim_different_epochs():
    claims, got = EpochClaims(), list[int]()
    threads = [threading.Thread(target=lambda: got.extend(claims.claim() for _ in range(200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert 0 <= claims.count <= 800
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(800))


def test_the_count_is_not_read_while_it_is_written(monkeypatch):
    claims, middle, go_on, write = EpochClaims(), threading.Event(), threading.Event(), InheritedFile.write

    def in_halves(file, data, at=0):
        write(file, data[: len(data) // 2].replace(b"]", b" "), at)
        middle.set()
        go_on.wait(timeout=10)
        write(file, data, at)

    monkeypatch.setattr(InheritedFile, "write", in_halves)
    claiming = threading.Thread(target=claims.claim)
    claiming.start()
    assert middle.wait(timeout=10)
    threading.Timer(0.05, go_on.set).start()
    assert claims.count == 1
    claiming.join()


def test_weights_reach_workers():
    ring = WeightRing(domains=3, lag=4)
    ring.put(0, np.array([1, 2, 3]))
    in_child(expect_weights, ring)
    ring.put(7, np.array([4, 5, 6]))
    assert ring.get(7).tolist() == [4, 5, 6]
    assert ring.get(0).tolist() == [1, 2, 3]


def test_a_ring_keeps_a_thousand_steps_and_says_what_is_gone():
    ring = WeightRing(domains=1, lag=0)
    for step in range(3000):
        ring.put(step, np.array([step]))
    for step in range(3000 - 1024, 3000):
        assert ring.get(step).tolist() == [step]
    with pytest.raises(WaitTimeoutError, match=r"weights of step 5 did not reach .*report\(\)"):
        ring.get(5)


def test_a_wait_for_weights_is_bounded():
    ring = WeightRing(domains=1, lag=0, timeout=0.05)
    with pytest.raises(WaitTimeoutError, match=r"weights of step 0 did not reach a DataLoader worker in 0\.05 s"):
        ring.get(0)


def wait_as_orphan(ring: WeightRing, said: Any) -> None:
    if os.fork() == 0:  # this one's parent dies at once
        try:
            ring.get(0)
        except WaitTimeoutError:
            said.put("given up")
        finally:
            said.close()
            said.join_thread()
            os._exit(0)
    os._exit(0)


def test_a_worker_whose_trainer_died_does_not_wait():
    ring, said = WeightRing(domains=1, lag=0), FORK.Queue()
    FORK.Process(target=wait_as_orphan, args=(ring, said)).start()
    assert said.get(timeout=20) == "given up"


def test_a_worker_that_is_stopped_is_named_while_its_batch_is_waited_for(library, monkeypatch, caplog):
    """And the epoch goes on where it was once it may."""
    monkeypatch.setattr("mixstream.loader.workers._LOOK_EVERY", 0.02)
    whole = [row_ids(batch) for batch in ms.StreamingDataLoader(make_dataset(library), num_workers=1)]
    batches = iter(ms.StreamingDataLoader(make_dataset(library), num_workers=1))
    rows = [row_ids(next(batches))]
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    said = threading.Event()
    monkeypatch.setattr(caplog.handler, "emit", lambda record: said.set() or texts.append(record.getMessage()))
    texts: list[str] = []
    rest = threading.Thread(target=lambda: rows.extend(row_ids(batch) for batch in batches))
    rest.start()
    try:
        assert said.wait(30)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
        rest.join()
    assert f"process {worker.pid}, which is stopped (kill -CONT {worker.pid} lets it go on)" in texts[0]
    assert rows == whole
