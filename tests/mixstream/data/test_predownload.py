"""Shards on local disk ahead of time: in the order of the plan, as deep as asked, within the limit."""

from __future__ import annotations

import gc
import re
import subprocess
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import SIZES, joined, make_dataset, row_ids, write_tokens

import mixstream as ms
from mixstream.data.domain import Domain
from mixstream.data.predownload import Predownloader
from mixstream.errors import ConfigError
from mixstream.loader.prefetch import Prefetcher
from mixstream.plan.forecast import Forecast

ROWS = 300


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """One domain of about 25 compressed shards of 12 rows."""
    return write_tokens(tmp_path / "packed", range(ROWS), compression="zstd")


def dataset(packed: Path, local: Path, **kw: Any) -> ms.StreamingDataset:
    return ms.StreamingDataset(**{"remote": str(packed), "local": str(local), "batch_size": 4, **kw})


def beside_index(packed: Path, size: int) -> int:
    """Return a cache limit that holds `size` bytes of shards, beside the copy of the index."""
    return size + (packed / "index.json").stat().st_size


def shards_in(local: Path) -> list[int]:
    return sorted(int(path.name.split(".")[1]) for path in local.glob("shard.*.mds"))


def eventually(holds: Any) -> bool:
    """Tell whether something comes to hold once garbage is collected and threads have got on."""
    until = time.monotonic() + 20
    while not holds() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.05)
    return holds()


def fetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mixstream-fetch")]


@pytest.mark.parametrize("ahead", [4, 40, 120])
def test_shards_are_there_as_deep_as_predownload(packed, tmp_path, ahead):
    data = dataset(packed, tmp_path / "cache", predownload=ahead, shuffle=True, shuffle_block_size=24)
    forecast = Forecast(data.run.run_plan)
    with ms.Loader(data, prefetch=0) as loader:
        next(iter(loader))
        coming = sorted(forecast.upcoming(data.run.start(), None, max(ahead, 4))[0].tolist())
        assert eventually(lambda: shards_in(tmp_path / "cache") == coming)
        time.sleep(0.3)  # in which a mistake would show
        assert shards_in(tmp_path / "cache") == coming


def test_they_come_in_the_order_in_which_the_plan_needs_them(packed, tmp_path, monkeypatch):
    asked, fetch = [], Domain.fetch
    monkeypatch.setattr(Domain, "fetch", lambda self, *at: asked.append(at[0]) or fetch(self, *at))
    data = dataset(packed, tmp_path / "cache", predownload=200, shuffle=True, shuffle_block_size=24)
    with ms.Loader(data, prefetch=0) as loader:
        next(iter(loader))
        coming = Forecast(data.run.run_plan).upcoming(data.run.start(), None, 200)[0].tolist()
        assert eventually(lambda: set(shards_in(tmp_path / "cache")) == set(coming))
    first = list(dict.fromkeys(asked))
    assert sorted(first) == sorted(coming)
    off = [abs(first.index(number) - coming.index(number)) for number in coming]
    assert sum(off) / len(off) <= 4  # four threads, of which one may be held up; by chance, it would be a third of all


def test_under_a_limit_the_rows_are_the_same_and_the_disk_holds_it(packed, tmp_path):
    order: dict[str, Any] = {"shuffle": True, "shuffle_block_size": 24}
    expected = [row_ids(batch) for batch in ms.Loader(dataset(packed, tmp_path / "all", **order))]
    size = max(shard.raw.bytes for shard in dataset(packed, tmp_path / "all").shards)
    limited = dataset(packed, tmp_path / "few", **order, cache_limit=beside_index(packed, 4 * size), predownload=60)
    peak = 0
    with ms.Loader(limited, prefetch=2) as loader:
        for batch, wanted in zip(loader, expected, strict=True):
            assert row_ids(batch) == wanted
            peak = max(peak, held(tmp_path / "few"))
    assert 2 * size <= peak <= 4 * size


def test_the_first_batch_waits_for_no_shards_but_its_own(packed, tmp_path, monkeypatch):
    """They are all there before the fetch of any other begins; then those follow without a further call."""
    asked, there, fetch = [], set(), Domain.fetch
    data = dataset(packed, tmp_path / "cache", predownload=200, shuffle=True, shuffle_block_size=100, batch_size=8)
    own, _ = Forecast(data.run.run_plan).upcoming(data.run.start(), None, 8)

    def recorded(domain: Domain, number: int, need: float) -> bool:
        asked.append((number, set(there)))
        if done := fetch(domain, number, need):
            there.add(number)
        return done

    monkeypatch.setattr(Domain, "fetch", recorded)
    with ms.Loader(data, prefetch=0) as loader:
        next(iter(loader))
        assert eventually(lambda: len(there) > len(own))
    assert 1 < len(own) < 10
    early = [number for number, before in asked if not before >= set(own.tolist())]
    assert set(early) == set(own.tolist())


def test_shards_of_the_first_batch_are_fetched_while_those_of_later_ones_are_found(packed, tmp_path, monkeypatch):
    fetch, upcoming, begun = Domain.fetch, Forecast.upcoming, threading.Event()

    def fetched(domain: Domain, number: int, need: float) -> bool:
        begun.set()
        return fetch(domain, number, need)

    def found(self: Forecast, cursor: Any, share: Any, rows: int) -> Any:
        assert rows <= 8 or begun.wait(20), "nothing was fetched while shards far ahead were looked for"
        return upcoming(self, cursor, share, rows)

    monkeypatch.setattr(Domain, "fetch", fetched)
    monkeypatch.setattr(Forecast, "upcoming", found)
    data = dataset(packed, tmp_path / "cache", predownload=200, shuffle=True, batch_size=8)
    with ms.Loader(data, prefetch=0) as loader:
        next(iter(loader))


def test_shards_that_the_next_steps_read_are_mapped_once_under_a_limit(packed, tmp_path, monkeypatch):
    mapped, of = [], Domain.map
    monkeypatch.setattr(Domain, "map", lambda self, number: mapped.append(number) or of(self, number))
    order: dict[str, Any] = {"shuffle": True, "shuffle_block_size": 24, "predownload": 60}
    size = max(shard.raw.bytes for shard in dataset(packed, tmp_path / "all").shards)
    limited = dataset(packed, tmp_path / "few", **order, cache_limit=beside_index(packed, 8 * size))
    assert limited.domains.unmap_after_read
    with ms.Loader(limited, prefetch=0) as loader:
        for _ in loader:
            pass
    shards = len(limited.shards)
    assert shards <= len(mapped) <= 2 * shards  # a shard is read in three windows at most; 75 batches need 2 to 4 each
    assert len(set(mapped)) == shards


def test_what_is_evicted_by_its_reader_is_not_mapped_any_more(packed, tmp_path):
    """A mapped file takes disk space even after it was evicted: the limit would not hold."""
    order: dict[str, Any] = {"shuffle": True, "shuffle_block_size": 150, "predownload": 60}
    size = max(shard.raw.bytes for shard in dataset(packed, tmp_path / "all").shards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the limit is below the windows: shards are evicted that are needed at once
        limited = dataset(packed, tmp_path / "few", **order, cache_limit=beside_index(packed, 4 * size))
        with ms.Loader(limited, prefetch=0) as loader:
            for _ in loader:
                maps = Path("/proc/self/maps").read_text().splitlines()
                assert [line for line in maps if f"{tmp_path}/few" in line and line.endswith("(deleted)")] == []


def test_what_another_process_evicts_is_not_mapped_for_long(packed, tmp_path):
    order: dict[str, Any] = {"shuffle": True, "shuffle_block_size": 40, "predownload": 16}
    size = max(shard.raw.bytes for shard in dataset(packed, tmp_path / "all").shards)
    limited = dataset(packed, tmp_path / "few", **order, cache_limit=beside_index(packed, 6 * size))
    few = f"{tmp_path}/few/shard"
    with ms.Loader(limited, prefetch=0) as loader:
        batches = iter(loader)
        for _ in range(2):
            next(batches)
        maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if few in line]
        assert maps
        for path in (tmp_path / "few").glob("shard.*.mds"):
            path.unlink()
        next(batches)
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert [line for line in maps if few in line and line.endswith("(deleted)")] == []


def held(directory: Path) -> int:
    """Return the bytes of all shards in `directory`, finished or not; others may be removing them."""
    sizes, before = shard_sizes(directory), None
    while sizes != before:  # what was looked at first may have gone before the rest came
        sizes, before = shard_sizes(directory), sizes
    return sum(sizes.values())


def shard_sizes(directory: Path) -> dict[str, int]:
    found = {}
    for path in [*directory.glob("shard.*"), *directory.glob(".shard.*")]:
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


def test_a_limit_below_what_any_run_could_do_with_is_refused(packed, tmp_path):
    with pytest.raises(ConfigError, match=r"Minimum cache usage \(\d+ bytes of index files\) is larger"):
        dataset(packed, tmp_path / "cache", cache_limit=beside_index(packed, 0))
    large = write_tokens(tmp_path / "large", range(4000), shard_bytes=50_000)
    with pytest.raises(ConfigError, match=r"Cache limit \(60000 bytes\) is too low. Increase the `cache_limit` to \d+"):
        dataset(large, tmp_path / "other", cache_limit=60_000)


def test_a_cache_that_cannot_hold_what_rows_are_shuffled_within_is_told_of(packed, tmp_path):
    limit = beside_index(packed, 1024)
    with pytest.warns(
        UserWarning, match=rf"cache_limit={limit} bytes is less .* again and again; .*shuffle_block_size=\d+"
    ):
        _ = dataset(packed, tmp_path / "cache", cache_limit=limit, shuffle=True).run
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = dataset(packed, tmp_path / "cache", cache_limit=limit, shuffle=True, shuffle_algo="py1s").run
        _ = dataset(packed, tmp_path / "cache", cache_limit=limit).run


def test_a_limit_says_nothing_about_shards_that_are_read_in_place(library):
    assert len(joined(row_ids(b) for b in ms.Loader(make_dataset(library, cache_limit=100)))) >= sum(SIZES.values())


@pytest.mark.parametrize("limit", [None, "8kb"])
def test_no_thread_outlives_its_loader(packed, tmp_path, limit):
    data = dataset(packed, tmp_path / "cache", predownload=8, cache_limit=limit)
    before = len(fetchers())
    loader = ms.Loader(data)
    next(iter(loader))
    loader.close()
    next(iter(loader))  # it can be iterated again
    assert len(fetchers()) > before
    del loader
    assert eventually(lambda: len(fetchers()) == before)


def test_nothing_is_forecast_where_all_shards_are_local(library):
    before = len(fetchers())
    with ms.Loader(make_dataset(library)) as loader:
        next(iter(loader))
        assert len(fetchers()) == before


def test_random_access_fetches_what_it_needs(packed, tmp_path):
    data = dataset(packed, tmp_path / "cache", cache_limit="8kb")
    assert [int(sample["tokens"][0]) for sample in data[np.array([299, 0, 150])]] == [299, 0, 150]
    assert 1 <= len(shards_in(tmp_path / "cache")) <= 3


def test_a_shard_can_be_asked_for_and_the_cache_says_what_it_holds(packed, tmp_path):
    data = dataset(packed, tmp_path / "cache", cache_limit="10kb", batch_size=4)
    data.prepare_shard(3)
    before = data.cache_usage - data.shards[3].raw.bytes
    data.prepare_shard(5, blocking=False)
    assert shards_in(tmp_path / "cache") == [3, 5]
    assert data.cache_usage - before == data.shards[3].raw.bytes + data.shards[5].raw.bytes
    assert before >= (packed / "index.json").stat().st_size
    assert "cache    7.8 KiB of 1 domain(s) on local disk, limit 10.0 KiB" in ms.Loader(data).describe()


def test_a_limit_that_holds_everything_costs_nothing(packed, tmp_path, monkeypatch):
    """Only where shards are evicted is each let go after every batch, so that its disk is free."""
    mapped, map_shard = [], Domain.map
    monkeypatch.setattr(Domain, "map", lambda self, number: mapped.append(number) or map_shard(self, number))
    data = dataset(packed, tmp_path / "cache", shuffle=True, shuffle_block_size=60, cache_limit="1mb")
    assert len([row_ids(batch) for batch in ms.Loader(data)]) == ROWS // 4
    assert sorted(mapped) == list(range(len(data.shards)))


def test_shards_stay_mapped_where_they_fit_beside_the_copy_of_their_index(packed, tmp_path):
    size = sum(shard.raw.bytes for shard in dataset(packed, tmp_path / "all").shards)
    for room, evicts in ((size, False), (size - 1, True)):
        data = dataset(packed, tmp_path / str(room), cache_limit=beside_index(packed, room), shuffle=True)
        assert data.domains.unmap_after_read == evicts


def test_what_a_loader_told_others_goes_with_it(packed, tmp_path):
    data = dataset(packed, tmp_path / "cache", predownload=40, cache_limit=beside_index(packed, 2 << 10))
    told = lambda: list((tmp_path / "cache").glob(".mixstream-needs/*"))  # noqa: E731
    loader = ms.Loader(data, prefetch=0)
    next(iter(loader))
    assert len(told()) == 1
    del loader
    assert eventually(lambda: not told())


def test_close_does_not_wait_long_for_a_store_that_stalls(packed, tmp_path, monkeypatch):
    expected = [row_ids(batch) for batch in ms.Loader(dataset(packed, tmp_path / "all"))]
    stalled, goes_on, map_shard = threading.Event(), threading.Event(), Domain.map

    def stall(self: Domain, number: int) -> Any:
        if number == 1 and not goes_on.is_set():
            stalled.set()
            assert goes_on.wait(20)
        return map_shard(self, number)

    monkeypatch.setattr(Domain, "map", stall)
    monkeypatch.setattr("mixstream.loader.prefetch._CLOSE_TIMEOUT", 0.1)
    loader = ms.Loader(dataset(packed, tmp_path / "few"), prefetch=2)
    seen = [row_ids(batch) for _, batch in zip(range(2), loader)]
    assert stalled.wait(20)
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 5
    goes_on.set()
    with loader:
        assert seen + [row_ids(batch) for batch in loader] == expected


@pytest.mark.parametrize("kind", [Predownloader, Prefetcher])
def test_a_loader_whose_closing_is_interrupted_goes_on(packed, tmp_path, monkeypatch, kind):
    expected = [row_ids(batch) for batch in ms.Loader(dataset(packed, tmp_path / "all"))]
    closed, close = [], kind.close

    def interrupt(self: Any) -> None:
        close(self)
        closed.append(self)
        if len(closed) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(kind, "close", interrupt)
    with ms.Loader(dataset(packed, tmp_path / "few")) as loader:
        seen = [row_ids(next(iter(loader)))]
        with pytest.raises(KeyboardInterrupt):
            loader.close()
        assert seen + [row_ids(batch) for batch in loader] == expected


def test_the_block_that_is_offered_fits(packed, tmp_path):
    limit = beside_index(packed, 1024)
    with pytest.warns(UserWarning, match="again and again") as told:
        _ = dataset(packed, tmp_path / "cache", cache_limit=limit, shuffle=True).run
    offered = int(re.findall(r"shuffle_block_size=(\d+)", str(told[0].message))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = dataset(packed, tmp_path / "cache", cache_limit=limit, shuffle=True, shuffle_block_size=offered).run
    more = dataset(packed, tmp_path / "cache", cache_limit=limit, shuffle=True, shuffle_block_size=offered * 2)
    with pytest.warns(UserWarning, match="again and again"):
        _ = more.run


def test_two_streams_cannot_share_a_directory(packed, tmp_path):
    other = write_tokens(tmp_path / "other", range(20), compression="zstd")
    local = str(tmp_path / "cache")
    with pytest.raises(
        ConfigError, match=r"streams 'packed' and 'other' have the same `local` .*cache.*give each its own"
    ):
        ms.StreamingDataset(streams=[ms.Stream(remote=str(at), local=local) for at in (packed, other)], batch_size=4)


def test_a_directory_of_an_earlier_version_is_refused_at_once(tmp_path):
    for first in (0, 100):
        write_tokens(tmp_path / "d", range(first, first + 30), compression="zstd", hashes=["xxh3_64"], exist_ok=True)
        if first:
            with pytest.raises(
                ConfigError, match=r"holds shards of an earlier version of .*, which has since been rewritten"
            ):
                dataset(tmp_path / "d", tmp_path / "cache")
        else:
            _ = dataset(tmp_path / "d", tmp_path / "cache")[0]


def test_a_full_disk_without_a_limit_is_lived_with(packed, tmp_path):
    """What is mapped takes room even when it is evicted: from then on, shards are let go as soon as they are read."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        order: dict[str, Any] = {"shuffle": True, "batch_size": 32}
        expected = [row_ids(batch) for batch in ms.Loader(dataset(packed, tmp_path / "all", **order))]
        with (
            pytest.warns(RuntimeWarning, match="is full"),
            ms.Loader(dataset(packed, disk / "cache", **order)) as loader,
        ):
            assert [row_ids(batch) for batch in loader] == expected
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)
