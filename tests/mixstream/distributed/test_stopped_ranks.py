"""Ranks that are stopped, dead or late: the others end within the timeout of the process group, and name them."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from children import Child, in_child
from harness import Tilt, losses, make_dataset, row_ids
from torch._C._distributed_c10d import TCPStore

import mixstream as ms
from mixstream.distributed import Exchange, RankNotes
from mixstream.distributed.bounded import Attendance, in_time
from mixstream.errors import ForkedError, WaitTimeoutError
from mixstream.world import World

HOST, RANKS = "127.0.0.1", 2
SHORT, LONG = 6.0, 600.0  # seconds: timeouts of a process group
PATIENT = 60.0  # seconds that a busy machine may add
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def as_rank(rank: int, port: int, timeout: float, keeps_store: bool, job: Callable[[int], Any]) -> Any:
    """Run `job` as one of two ranks; return what it raised, in how many seconds, and what was logged."""
    limit = timedelta(seconds=timeout)
    store = TCPStore(HOST, port, is_master=keeps_store and rank == 0, wait_for_workers=False, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=limit)
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mixstream").addHandler(handler)
    began = time.monotonic()
    try:
        job(rank)
    except WaitTimeoutError as error:
        return str(error), time.monotonic() - began, logged
    return "", time.monotonic() - began, logged


@contextmanager
def ranks_of(job: Callable[[int], Any], *, timeout: float, keeps_store: bool = False) -> Iterator[list[Child]]:
    """Start two ranks; a store is kept by rank 0, or by this process."""
    server = None if keeps_store else TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    port = free_port() if server is None else server.port
    ranks = [Child(as_rank, rank, port, timeout, keeps_store, job) for rank in range(RANKS)]
    try:
        yield ranks
    finally:
        for child in ranks:
            child.end()


def free_port() -> int:
    """Return a port that nothing listens at."""
    import socket

    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


def train(library: Path, rank: int, at_end: Callable[[], Any], *, steps: int = 4, victim: int = 1) -> None:
    """Train without end; `at_end` happens to the victim at a step."""
    with ms.Loader(make_dataset(library, batch_size=4, mixer=Tilt(), lag=4), prefetch=2) as loader:
        while True:
            for batch in loader:
                loader.report(batch, torch.from_numpy(losses(row_ids(batch))))
                if rank == victim and batch.step == steps:
                    loader.state_dict()  # so that the sums of this step are over
                    at_end()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_ranks_name_the_one_that_was_stopped_or_has_died(library):
    def die() -> None:
        os._exit(9)

    with ms.Loader(make_dataset(library)) as loader:
        next(iter(loader))  # compiles here what each rank would compile
    stopped = ranks_of(lambda rank: train(library, rank, stop), timeout=SHORT)
    died = ranks_of(lambda rank: train(library, rank, die), timeout=LONG)
    with stopped as one, died as two:
        (told, seconds, logged), (told_of_death, seconds_to_death, _) = one[0].result(), two[0].result()
    for said in (told, told_of_death):
        assert said.startswith("rank 1 did not come to the losses of step"), said
        assert "; rank 0 waits" in said
    assert seconds < SHORT + PATIENT
    assert seconds_to_death < LONG / 10
    assert any("for rank 1: the losses of step" in line for line in logged), (told, seconds, logged)


def test_notes_end_in_time_if_the_rank_that_keeps_the_store_is_stopped(library):
    def read(rank: int) -> None:
        notes = RankNotes.of_job("test")
        assert notes is not None
        notes.post(f"{rank}")
        if rank == 0:
            while len(notes.read()) < RANKS:
                time.sleep(0.01)
            stop()
        with pytest.raises(WaitTimeoutError):
            list(iter(notes.read, None))
        began = time.monotonic()
        try:
            notes.read()
        finally:
            assert time.monotonic() - began < SHORT / 2  # the second does not wait again

    with ranks_of(read, timeout=SHORT / 2, keeps_store=True) as ranks:
        said, seconds, _ = ranks[1].result()
    assert said.startswith("the notes of the ranks: torch.distributed has not answered in 3 s; the process that keeps")
    assert seconds < SHORT + PATIENT


def test_a_forked_child_of_a_rank_does_not_speak_for_it():
    def fork(rank: int) -> None:
        exchange = Exchange(World(rank=rank, size=RANKS))
        if rank == 0:
            assert in_child(speaks) == (True, True)
        assert exchange.all_reduce(torch.ones(2).double().numpy()).tolist() == [RANKS] * 2

    def speaks() -> tuple[bool, bool]:
        with pytest.raises(ForkedError, match="forked from a rank of torch"):
            Exchange(World(rank=0, size=RANKS))
        return RankNotes.of_job("test") is None, True

    with ranks_of(fork, timeout=60.0) as ranks:
        assert [child.result()[0] for child in ranks] == [""] * RANKS


class Slow:
    """A collective that ends at its third wait."""

    def __init__(self) -> None:
        self.waits = 0

    def is_completed(self) -> bool:
        return self.waits > 2

    def wait(self, timeout: timedelta) -> None:
        self.waits += 1
        if self.waits < 3:
            raise RuntimeError("Operation timed out!")


class Words(dict[str, str]):
    """A store."""

    def set(self, name: str, text: str) -> None:
        self[name] = text

    def check(self, names: list[str]) -> bool:
        return all(name in self for name in names)


def test_a_collective_in_time_asks_the_store_nothing_and_a_slow_one_comes_to_its_end():
    store, slow = Words(), Slow()
    attendance = Attendance(store, rank=0, ranks=2, timeout=60.0)
    slow.waits = 2
    attendance.wait(slow, what="a sum")
    assert store == {}
    slow.waits = 0
    attendance.wait(slow, what="a sum")
    assert store == {"2/0": "here"}


def test_a_rank_that_stops_within_a_collective_is_named():
    store, stuck = Words(), Slow()
    stuck.waits = -1_000_000
    for rank in range(3):
        store.set(f"1/{rank}", "here")
    store.set("1/1/over", "")
    with pytest.raises(WaitTimeoutError, match=r"rank 2 came to a sum and did not go on; rank 0 waits 0.2 s at most"):
        Attendance(store, rank=0, ranks=3, timeout=0.2).wait(stuck, what="a sum")


def test_what_does_not_answer_is_left_behind():
    with pytest.raises(WaitTimeoutError, match=r"^the notes: torch.distributed has not answered in 0.05 s"):
        in_time(lambda: time.sleep(5), timeout=0.05, what="the notes")
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, timeout=5, what="the notes")
