from __future__ import annotations

import copy
import multiprocessing
import os
from typing import Any

import numpy as np
import pytest
from children import in_child

from mixstream.errors import WaitTimeoutError
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
    claims.reset()
    assert (claims.count, claims.claim()) == (0, 0)


class Info:
    """What torch tells a DataLoader worker of itself."""

    def __init__(self, worker: int, seed: int) -> None:
        self.id, self.seed, self.num_workers = worker, seed + worker, 3


def test_workers_of_one_iter_claim_one_epoch(monkeypatch):
    """Whatever they are seeded with, and however often persistent ones begin."""
    claims = EpochClaims()
    told: dict[str, Info] = {}
    monkeypatch.setattr("mixstream.loader.workers.get_worker_info", lambda: told["info"])

    def epoch(seed: int, copies: list[EpochClaims]) -> list[int]:
        got = []
        for worker, mine in enumerate(copies):
            told["info"] = Info(worker, seed)
            got.append(mine.claim())
        return got

    def forked() -> list[EpochClaims]:
        """Return what three forked workers have: the same file, and their own memory of it."""
        copies = [copy.copy(claims) for _ in range(3)]
        for mine in copies:
            mine._begun = dict(claims._begun)
        return copies

    assert epoch(5, forked()) == [0, 0, 0]
    assert epoch(9, forked()) == [1, 1, 1]
    assert epoch(9, forked()) == [2, 2, 2]  # seeded alike
    persistent = forked()
    assert [epoch(9, persistent) for _ in range(3)] == [[3] * 3, [4] * 3, [5] * 3]
    assert claims.count == 6


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
