"""Workers end when their trainer was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import make_dataset
from torch.utils.data import DataLoader

LARGE = 1 << 17  # bytes, more than a pipe holds


def _large(rows: list[Any]) -> np.ndarray[Any, Any]:
    return np.zeros(LARGE, dtype=np.uint8)


def _train(library: Path, pids: Any) -> None:
    """Read a batch, and wait to be killed while batches that fill their pipe are ready."""
    batches = iter(DataLoader(make_dataset(library), batch_size=2, num_workers=2, collate_fn=_large))
    next(batches)
    pids.send([each.pid for each in multiprocessing.active_children()])
    time.sleep(300)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_end_when_their_trainer_was_killed(library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that wait until their batches are in a pipe that nobody reads: torch lets them wait for ever."""
    for name, seconds in {"_LOOK_EVERY": 0.05, "_TO_END": 0.1}.items():
        monkeypatch.setattr(f"mixstream.loader.orphans.{name}", seconds)
    ours, theirs = multiprocessing.Pipe()
    trainer = multiprocessing.get_context("fork").Process(target=_train, args=(library, theirs))
    trainer.start()
    assert ours.poll(60)
    workers = ours.recv()
    assert len(workers) == 2
    trainer.kill()
    trainer.join()
    until = time.monotonic() + 60
    try:
        while any(map(_lives, workers)):
            assert time.monotonic() < until, "a worker outlives its trainer"
            time.sleep(0.02)
    finally:
        for pid in filter(_lives, workers):
            os.kill(pid, signal.SIGKILL)
        trainer.close()
        for end in (ours, theirs):
            end.close()
