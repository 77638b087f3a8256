"""Batches in memory that a worker and the trainer's process share: reused only when nobody has them any more."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from children import in_child
from harness import make_dataset
from torch.utils.data import DataLoader

import mixstream as ms

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks", "ignore:This DataLoader will create"),
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name needs memfd_create (Linux)"),
]


def loader_of(library: Path, **kw: Any) -> DataLoader[Any]:
    return DataLoader(make_dataset(library), **{"batch_size": 8, "num_workers": 1, **kw})


def expected(library: Path) -> list[torch.Tensor]:
    with ms.Loader(make_dataset(library), widen=False) as loader:
        return [batch["tokens"] for batch in loader]


def slots_of(batches: Any) -> list[int]:
    """Take each batch and drop it; return where they lay, without the first, which is handed over by torch."""
    return [batch["tokens"].data_ptr() for batch in batches][1:]


def test_memory_is_used_again(library):
    for kind in (DataLoader, ms.StreamingDataLoader):
        found = slots_of(kind(make_dataset(library), batch_size=8, num_workers=1))
        assert len(found) > 15
        assert len(set(found)) <= 8


def test_batches_that_are_kept_do_not_change(library):
    whole = expected(library)
    for kept in (list(loader_of(library)), list(loader_of(library, num_workers=3, prefetch_factor=5))):
        assert len(kept) == len(whole)
        assert all(torch.equal(batch["tokens"], other) for batch, other in zip(kept, whole))
        assert len({batch["tokens"].data_ptr() for batch in kept}) == len(kept)


def test_where_such_memory_is_forbidden_torch_hands_over(library, monkeypatch):
    def forbidden(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    found = list(loader_of(library))
    assert all(batch["tokens"].is_shared() for batch in found)
    assert all(torch.equal(batch["tokens"], other) for batch, other in zip(found, expected(library), strict=True))


def test_a_view_keeps_its_batch(library):
    whole, batches = expected(library), iter(loader_of(library))
    views = [next(batches)["tokens"][3:5].view(torch.int16)[:, ::2] for _ in range(5)]
    for _ in batches:
        pass
    for view, other in zip(views, whole):
        assert torch.equal(view, other[3:5].view(torch.int16)[:, ::2])


def test_batches_outlive_their_loader(library):
    kept = list(itertools.islice(loader_of(library), 4))
    gc.collect()
    assert all(torch.equal(batch["tokens"], other) for batch, other in zip(kept, expected(library)))


def test_workers_that_stay_keep_their_memory(library):
    loader = loader_of(library, persistent_workers=True)
    first, later = [set(slots_of(loader)) for _ in range(2)]
    assert len(first | later) <= 8


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_however_workers_are_started(library, method):
    found = list(loader_of(library, multiprocessing_context=method))
    assert all(torch.equal(batch["tokens"], other) for batch, other in zip(found, expected(library), strict=True))


def test_a_batch_can_be_written_to_and_sent_on(library):
    batch = list(itertools.islice(loader_of(library), 3))[2]
    batch["tokens"] = batch["tokens"].to(torch.int64)
    batch["tokens"] += 1
    assert torch.equal(batch["tokens"], expected(library)[2].long() + 1)
    assert in_child(lambda: torch.equal(batch["tokens"].share_memory_(), expected(library)[2].long() + 1))


def test_a_forked_child_keeps_what_its_parent_had(library):
    """The parent drops the batch, and the worker makes others: not in the memory that the child looks at."""
    whole, batches = expected(library), iter(loader_of(library))
    batch = list(itertools.islice(batches, 3))[2]
    here, there = os.pipe()
    if not (pid := os.fork()):
        code = 1
        try:
            os.read(here, 1)
            code = 0 if torch.equal(batch["tokens"], whole[2]) else 3
        finally:
            os._exit(code)
    del batch
    rest = [later["tokens"].clone() for later in batches]
    os.write(there, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(here)
    os.close(there)
    assert all(torch.equal(later, other) for later, other in zip(rest, whole[3:], strict=True))


def test_a_child_that_drops_a_batch_does_not_give_it_back(library):
    whole, batches = expected(library), iter(loader_of(library))
    batch = list(itertools.islice(batches, 3))[2]

    def drop() -> bool:
        del batch["tokens"]
        gc.collect()
        return True

    assert in_child(drop)
    for _ in batches:
        pass
    assert torch.equal(batch["tokens"], whole[2])


def test_rings_that_forks_have_worn_are_replaced(library):
    batches, found = iter(loader_of(library)), []
    for _ in range(12):
        batch = next(batches)
        assert in_child(lambda: True)
        found.append(batch["tokens"].clone())
    found += [later["tokens"] for later in batches]
    assert all(torch.equal(batch, other) for batch, other in zip(found, expected(library), strict=True))


def test_nothing_is_left(library):
    def named() -> set[str]:
        mine = ("mixstream", f"torch_{os.getpid()}_")
        return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(mine)}

    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    before, files = named(), descriptors()
    for _ in range(3):
        kept = list(itertools.islice(loader_of(library), 5))
        assert named() == before
        del kept
    gc.collect()
    assert descriptors() <= files + 1
    lines = Path("/proc/self/maps").read_text().splitlines()
    assert sum("mixstream-batches" in line for line in lines) <= 1
