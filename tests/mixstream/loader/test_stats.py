"""`stats()`: each number moves for its stage and only for it, and two loaders do not mix."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from directory_server import directory_server
from fault_proxy import FaultProxy
from faults import delay, refuse_with
from harness import SIZES, Tilt, drive, make_dataset, write_tokens

import mixstream as ms
from mixstream.errors import FeedbackError
from mixstream.metering import STAGES

NAP = 0.02
AT_WORK = ("plan", "locate", "open", "shards", "gather", "collate", "transform", "copy", "weights")
LOADERS = {"thread": ms.Loader, "trainer's thread": lambda dataset: ms.Loader(dataset, prefetch=0)}
LOADERS |= {"torch": ms.StreamingDataLoader, "workers": lambda dataset: ms.StreamingDataLoader(dataset, num_workers=2)}


@pytest.fixture(autouse=True, scope="module")
def _compiled(library: Path) -> None:
    """Load the compiled kernels, which the first batch of a process waits for in one stage or another."""
    with ms.Loader(make_dataset(library)) as loader:
        drive([loader], 1)


@pytest.fixture
def remote(library: Path) -> Iterator[FaultProxy]:
    """The library of three domains, on a server of the web behind a proxy."""
    with directory_server(library) as url, FaultProxy(url) as proxy:
        yield proxy


def remote_dataset(proxy: FaultProxy, local: Path, **kw: Any) -> ms.StreamingDataset:
    each = [ms.Stream(remote=f"{proxy.endpoint}/{name}", local=str(local / name), name=name) for name in SIZES]
    return ms.StreamingDataset(**{"streams": each, "batch_size": 8, "shuffle": True, **kw})


def slowest(stats: ms.LoaderStats, among: tuple[str, ...] = AT_WORK) -> str:
    return max(among, key=lambda stage: getattr(stats, stage) or 0.0)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.001)


def napping(*args: Any) -> Any:
    time.sleep(NAP)
    return args[0] if len(args) == 1 else None


class Slow(ms.StreamingDataset):
    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        time.sleep(NAP / 8)
        return super().get_item(sample_id, retry)


@pytest.mark.parametrize("kind", LOADERS)
def test_every_loader_counts_its_batches_and_knows_what_it_waited(library: Path, kind: str):
    loader: Any = LOADERS[kind](make_dataset(library))
    assert loader.stats().batches == loader.stats().seconds == 0
    began = time.perf_counter()
    for _ in loader:
        time.sleep(0.001)
    stats, passed = loader.stats(), time.perf_counter() - began
    assert (stats.batches, stats.rows) == (28, 28 * 8)
    assert 0 < stats.first + stats.wait < stats.seconds <= passed
    assert stats.hits
    assert stats.misses == stats.fetched == stats.requests == 0
    assert "trainer waited" in loader.describe() or "trainer never waited" in loader.describe()
    assert "28 batches" in str(stats)


def test_the_stages_of_the_thread_add_up_to_its_time(library: Path):
    with ms.Loader(make_dataset(library)) as loader:
        for _ in loader:
            time.sleep(0.002)
        stats = loader.stats()
        assert slowest(stats, STAGES) in ("trainer", "plan", "locate")  # the first call loads compiled kernels
        assert sum(getattr(stats, stage) for stage in STAGES) == pytest.approx(stats.seconds, rel=0.2)
        assert 0 < stats.cpu < stats.seconds


def test_a_slow_transform_is_the_transforms(library: Path):
    with ms.Loader(make_dataset(library), transforms=[napping]) as loader:
        drive([loader], 3)
        before = loader.stats()
        for _ in zip(range(8), loader):
            time.sleep(NAP / 2)  # so that a batch is waited for during a part of its transform
        done = loader.stats() - before
        assert slowest(done) == "transform" == max(done.waited_for, key=lambda stage: done.waited_for[stage])
        assert done.transform > 7 * NAP
        assert sum(done.waited_for.values()) == pytest.approx(done.wait, rel=0.2)
        assert done.empty
        assert "in transforms" in loader.describe()


def test_samples_one_by_one_are_collate(library: Path):
    dataset = Slow(streams=[ms.Stream(remote=str(library / name)) for name in SIZES], batch_size=8)
    with ms.Loader(dataset) as loader:
        drive([loader], 6)
        assert slowest(loader.stats()) == "collate"
        assert "Slow overrides get_item" in loader.describe()
        assert not loader.stats().gather


def test_missing_losses_are_weights(library: Path):
    dataset = make_dataset(library, mixer=Tilt(), lag=4)
    with ms.Loader(dataset, prefetch=2) as loader:
        batches = [next(iter(loader)) for _ in range(4)]
        time.sleep(0.2)
        assert slowest(loader.stats()) == "weights"
        with pytest.raises(FeedbackError):
            for _ in loader:
                pass
        loader.report(batches[0], torch.ones(8))


def test_a_trainer_that_takes_its_time_is_the_trainer(library: Path):
    with ms.Loader(make_dataset(library), prefetch=3) as loader:
        drive([loader], 5)
        before = loader.stats()
        for _ in zip(range(5), loader):
            wait_until(lambda: loader.stats().ready >= 3)
            time.sleep(NAP)
        done = loader.stats() - before
        assert slowest(done, STAGES) == "trainer"
        assert done.ready_seen >= 4 * 3
        assert done.ready >= 3
        assert done.depth == 3


def test_slow_requests_are_fetch_and_shards(remote: FaultProxy, tmp_path: Path):
    remote.when(delay(0.05), path="*/shard.*")
    with ms.Loader(remote_dataset(remote, tmp_path)) as loader:
        drive([loader], 20)
        stats = loader.stats()
    assert slowest(stats) == "shards"
    shards = remote.count("*/shard.*")
    assert stats.requests >= shards >= stats.fetched > 0
    assert stats.store_bytes == remote.sent("*/shard.*")
    assert stats.fetch >= 0.05 * shards
    assert 0.05 < stats.fetching <= stats.fetch
    assert stats.misses
    assert (stats.retries, stats.refetched, stats.evicted) == (0, 0, 0)
    assert stats.requests_at_once > 1


def test_retries_are_counted(remote: FaultProxy, tmp_path: Path):
    dataset = remote_dataset(remote, tmp_path, download_retry=4)
    remote.when(refuse_with(500, "InternalError"), path="*/shard.*", times=1)
    with ms.Loader(dataset, prefetch=0) as loader:
        drive([loader], 1)
        assert loader.stats().retries == 1


def test_compressed_shards_take_decompress(tmp_path: Path):
    write_tokens(tmp_path / "web", range(1000, 1100), compression="zstd")
    dataset = ms.StreamingDataset(remote=str(tmp_path / "web"), local=str(tmp_path / "cache"), batch_size=8)
    with ms.Loader(dataset) as loader:
        drive([loader], 3)
        stats = loader.stats()
    assert stats.decompress > 0
    assert stats.fetched > 0


def test_a_small_cache_shows_evictions_and_what_is_fetched_again(remote: FaultProxy, tmp_path: Path):
    limit = (
        sum(source.files.index_bytes for source in remote_dataset(remote, tmp_path / "whole").domains.sources) + 2000
    )
    dataset = remote_dataset(remote, tmp_path / "part", cache_limit=limit)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cache_limit=.* is less than")
        loader = ms.Loader(dataset)
    with loader:
        drive([loader], 10)
        stats = loader.stats()
        assert stats.evicted
        assert stats.refetched
        assert stats.fetched - stats.refetched <= dataset.num_shards


def test_two_loaders_do_not_mix(library: Path, remote: FaultProxy, tmp_path: Path):
    far, near = ms.Loader(remote_dataset(remote, tmp_path)), ms.Loader(make_dataset(library))
    with far, near:
        for _ in zip(range(10), far, near):
            pass
        assert far.stats().requests
        assert near.stats().requests == near.stats().fetched == near.stats().misses == 0
        assert (near.stats().batches, far.stats().batches) == (10, 10)


def test_two_loaders_over_one_dataset_do_not_mix(remote: FaultProxy, tmp_path: Path):
    dataset = remote_dataset(remote, tmp_path)
    with ms.Loader(dataset) as one, ms.Loader(dataset) as other:
        drive([one], 28)
        assert one.stats().requests
        assert other.stats().requests == other.stats().batches == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_workers_fetch_is_known(remote: FaultProxy, tmp_path: Path, workers: int):
    loader = ms.StreamingDataLoader(remote_dataset(remote, tmp_path), num_workers=workers)
    for _ in range(2):
        for _ in loader:
            pass
    stats = loader.stats()
    assert stats.batches == 56
    assert stats.store_bytes >= 0.9 * sum(path.stat().st_size for path in tmp_path.rglob("shard.*"))
    assert stats.fetched
    assert stats.collate > 0
    assert stats.cpu is stats.ready is stats.empty is None
    assert (stats.trainer is None) == (workers == 0)


def test_what_is_not_known_is_none_and_not_zero(library: Path):
    loader = ms.StreamingDataLoader(make_dataset(library), num_workers=1, collate_fn=list)
    for _ in loader:
        pass
    assert loader.stats().collate is None
    assert loader.stats().trainer is None
    assert "collate" not in loader.stats().as_dict()
    other = ms.StreamingDataLoader(torch.utils.data.TensorDataset(torch.arange(4)))
    assert len(list(other)) == 4
    assert other.stats() == ms.LoaderStats()
    assert "StreamingDataLoader" in other.describe()


def test_a_window_is_the_difference_of_two(library: Path):
    with ms.Loader(make_dataset(library)) as loader:
        drive([loader], 5)
        before = loader.stats()
        drive([loader], 7)
        after = loader.stats()
    window = after - before
    assert (window.batches, window.rows) == (7, 56)
    assert (window.depth, window.ready) == (after.depth, after.ready)
    assert all(value >= 0 for value in window.as_dict().values())
    assert window.first == 0
    assert {"data/wait", "data/gather", "data/batches"} <= set(window.as_dict("data/"))
    assert after - replace(after, hits=None) == replace(after - after, hits=after.hits)


def test_the_numbers_survive_a_move_to_another_place(library: Path):
    with ms.Loader(make_dataset(library)) as loader:
        drive([loader], 5)
        state, before = loader.state_dict(), loader.stats()
        loader.load_state_dict(state)
        drive([loader], 5)
        done = loader.stats() - before
    assert done.batches == 5
    assert done.first > 0
    assert done.gather > 0


def test_taking_a_ready_batch_makes_no_call_that_releases_the_gil(library: Path, monkeypatch: pytest.MonkeyPatch):
    """A thread that releases the GIL waits up to 5 ms for another one that holds it; `bench/gil.py` shows the time."""
    calls: list[str] = []
    with ms.Loader(make_dataset(library), prefetch=4) as loader:
        drive([loader], 2)
        for name in ("pread", "read", "fstat", "stat"):
            real = getattr(os, name)
            monkeypatch.setattr(
                os, name, lambda *args, _real=real, _name=name, **kw: calls.append(_name) or _real(*args, **kw)
            )
        drive([loader], 8)
    assert not [name for name in calls if name in ("pread", "read")]
