from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixstream.errors import WaitTimeoutError
from mixstream.inherited_file import InheritedFile
from mixstream.loader.workers import EpochClaims, WeightRing

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def in_child(function: Any, *args: Any) -> None:
    child = FORK.Process(target=function, args=args)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def write_mine(file: InheritedFile) -> None:
    file.write(b"child", at=3)


def expect_weights(ring: WeightRing) -> None:
    assert ring.get(0).tolist() == [1, 2, 3]


def test_an_inherited_file_is_shared_with_children():
    file = InheritedFile(16)
    assert file.read(16) == bytes(16)
    in_child(write_mine, file)
    assert file.read(8) == b"\0\0\0child"


def test_any_other_copy_is_a_file_of_its_own():
    file = InheritedFile(4)
    file.write(b"here")
    for other in (copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert other.read(4) == b"here"
        other.write(b"else")
    assert file.read(4) == b"here"


def test_nothing_is_left_on_disk_or_open(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def descriptors() -> int:
        """Return how many of our files below tmp_path are open, unlinked ones included."""
        found = 0
        for path in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # other threads' files come and go
                found += str(path.readlink()).startswith(str(tmp_path))
        return found

    file = InheritedFile(8)
    assert not list(tmp_path.iterdir())
    assert descriptors() == 1
    del file
    gc.collect()
    assert descriptors() == 0


def count_up(file: InheritedFile, times: int) -> None:
    for _ in range(times):
        with file:
            number = int.from_bytes(file.read(8), "little")
            file.write((number + 1).to_bytes(8, "little"))


def test_the_lock_keeps_processes_apart():
    file = InheritedFile(8)
    children = [FORK.Process(target=count_up, args=(file, 300)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert int.from_bytes(file.read(8), "little") == 1200


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
    ring = WeightRing(domains=1, lag=0, patience=0.05)
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
