"""What is fetched for streams of which some samples count: no shard without any, and none twice for two domains."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from faults import reset
from harness import joined, row_ids, write_tokens
from packings import pack
from selections import buckets, keep, score, table_of

import mixstream as ms
from mixstream.errors import SelectionError

ROWS = 150


@pytest.fixture
def place(s3: Any, tmp_path: Path) -> Path:
    """Ten shards of 15 rows, on the server; the local copy is where selections are made."""
    write_tokens(tmp_path / "web", range(1000, 1000 + ROWS))
    s3.upload(tmp_path)
    return tmp_path


def stream(s3: Any, **options: Any) -> ms.Stream:
    return ms.Stream(**{"remote": f"{s3.url}/web", "name": "web", **options})


def of(*each: ms.Stream, **options: Any) -> ms.StreamingDataset:
    return ms.StreamingDataset(**{"streams": each, "batch_size": 5, "shuffle": True, "predownload": 1000, **options})


def fetched(proxy: Any, place: Path) -> list[int]:
    """Return how often each shard was fetched."""
    return [proxy.count(f"*/web/shard.{number:05}.mds") for number in range(len(table_of(place / "web").shards))]


def some(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of rows that lie in some of the shards, bool [rows], and which shards these are, bool [S]."""
    table = table_of(place / "web")
    shard = np.repeat(np.arange(len(table.shards)), np.diff(table.start_S))
    mask = np.isin(shard, [1, 4, 5]) & (np.arange(table.rows) % 3 == 0)
    return mask, np.isin(np.arange(len(table.shards)), shard[mask])


@pytest.mark.parametrize("options", [{}, {"cache_limit": 4500}, {"shuffle": False}])
def test_shards_of_which_nothing_is_kept_are_never_fetched(s3, proxy, place, options):
    mask, used = some(place)
    keep(place / "sel", place / "web", mask)
    dataset = of(stream(s3, selection=place / "sel", local=str(place / "cache")), **options)
    with ms.Loader(dataset) as loader:
        for _ in range(2):
            assert set(joined(map(row_ids, loader))) == set((1000 + np.flatnonzero(mask)).tolist())
    assert fetched(proxy, place) == used.astype(int).tolist()
    assert len(list((place / "cache").glob("*.mds"))) == used.sum() == 3


def test_workers_fetch_no_shard_of_which_nothing_is_kept(s3, proxy, place):
    mask, used = some(place)
    keep(place / "sel", place / "web", mask)
    dataset = of(stream(s3, selection=place / "sel"))
    found = [row_ids(batch) for batch in ms.StreamingDataLoader(dataset, batch_size=5, num_workers=2, timeout=60)]
    assert set(joined(found)) == set((1000 + np.flatnonzero(mask)).tolist())
    assert fetched(proxy, place) == used.astype(int).tolist()


def test_a_cache_limit_that_holds_the_shards_of_kept_rows_is_high_enough(s3, place):
    """Shards of about 490 bytes: three are read, ten are there."""
    keep(place / "sel", place / "web", some(place)[0])
    limit = (place / "web" / "index.json").stat().st_size + 3 * 500
    selected = of(stream(s3, selection=place / "sel"), cache_limit=limit)
    assert not selected.domains.unmap_after_read
    assert of(stream(s3), cache_limit=limit).domains.unmap_after_read


@pytest.mark.parametrize("kind", ["selection", "buckets", "scores", "packing"])
def test_a_view_in_a_store_is_read_with_the_attempts_of_its_stream(s3, proxy, place, monkeypatch, kind):
    monkeypatch.setattr("mixstream.storage.retry.Retry.pause", lambda self, number: 0.001)
    half, place_of = np.arange(ROWS) % 2, f"{s3.url}/view"
    options: dict[str, Any] = {"selection": place_of}
    if kind == "selection":
        keep(place / "view", place / "web", half == 0)
    elif kind == "buckets":
        buckets(place / "view", place / "web", half, ["even", "odd"])
        options = {"split_by": place_of}
    elif kind == "scores":
        score(place / "view", place / "web", side=half)
        options = {"split_by": f"{place_of}/side"}
    else:
        pack(place / "view", place / "web", algorithm="concat", eos_id=1000, columns=["tokens"])
        options = {"packing": place_of}
    for path in (place / "view").iterdir():
        s3.put(f"view/{path.name}", path.read_bytes())
        proxy.when(reset(), path=f"*/view/{path.name}", times=3)
    opening = stream(s3, local=str(place / "cache"), download_retry=6, **options)
    with ms.Loader(of(opening)) as loader:
        assert list(loader)


def test_a_selection_beside_its_dataset_in_a_store(s3, place, warm_spawn):
    mask, _ = some(place)
    keep(place / "up/sel/web", place / "web", mask)
    s3.upload(place / "up")
    expected = [row_ids(batch) for batch in ms.Loader(of(stream(s3, selection=place / "up/sel")))]
    assert [row_ids(batch) for batch in ms.Loader(of(stream(s3, selection=f"{s3.url}/sel/web")))] == expected
    dataset = of(stream(s3, selection=f"{s3.url}/sel"))
    loader = ms.StreamingDataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn", timeout=60)
    assert [row_ids(batch) for batch in loader] == expected
    with pytest.raises(SelectionError, match="elsewhere"):
        of(stream(s3, selection=f"{s3.url}/elsewhere"))


def test_buckets_fetch_a_shard_once_for_all_of_them(s3, proxy, place):
    score(place / "scores", place / "web", cell=(np.arange(ROWS) * 7 % 10).astype("<i4"))
    dataset = of(stream(s3, split_by=f"{place}/scores/cell"))
    with ms.Loader(dataset) as loader:
        for _ in range(2):
            assert sorted(joined(map(row_ids, loader))) == list(range(1000, 1000 + ROWS))
    assert set(fetched(proxy, place)) == {1}


def test_two_selections_of_one_dataset_share_its_files(s3, proxy, place):
    for name, rest in (("even", 0), ("odd", 1)):
        keep(place / name, place / "web", np.arange(ROWS) % 2 == rest)
    given = {"local": str(place / "cache")}
    dataset = of(*(stream(s3, name=name, selection=place / name, **given) for name in ("even", "odd")))
    with ms.Loader(dataset) as loader:
        for batch in loader:
            assert (np.array(row_ids(batch)) % 2 == batch.domain).all()
        assert len(loader._domains.opened.table.data) == dataset.domains.shards == 10
    assert set(fetched(proxy, place)) == {1}


def test_buckets_in_a_small_cache_fetch_little_twice(s3, proxy, tmp_path):
    """40 shards in a cache of 12, and an index of 11,426 bytes: the buckets are at the same shards."""
    write_tokens(tmp_path / "web", range(1000, 1600))
    s3.upload(tmp_path)
    score(tmp_path / "scores", tmp_path / "web", cell=(np.arange(600) * 7 % 4).astype("<i4"))
    given = {"shuffle_block_size": 60, "cache_limit": 11_500 + 12 * 500, "predownload": 20}
    dataset = of(stream(s3, split_by=f"{tmp_path}/scores/cell"), **given)
    with ms.Loader(dataset) as loader:
        assert sorted(joined(map(row_ids, loader))) == list(range(1000, 1600))
    count = fetched(proxy, tmp_path)
    assert len(count) == 40
    assert min(count) == 1
    assert sum(count) <= 44


def test_a_cached_shard_whose_header_was_damaged_is_fetched_again(s3, proxy, place):
    """Its size is right, and every row lies within it: only the fingerprint of the selection tells."""
    mask, _ = some(place)
    keep(place / "sel", place / "web", mask)

    def read() -> list[list[int]]:
        dataset = of(stream(s3, selection=place / "sel", local=str(place / "cache")))
        return [row_ids(batch) for batch in ms.Loader(dataset)]

    def damage(file: Path) -> None:
        file.write_bytes(file.read_bytes().replace(b"size_limit", b"size_limIt"))

    expected = read()
    damage(place / "cache/shard.00004.mds")
    assert read() == expected
    assert fetched(proxy, place)[4] == 2
    damage(place / "web/shard.00004.mds")
    s3.put("web/shard.00004.mds", (place / "web/shard.00004.mds").read_bytes())
    (place / "cache/shard.00004.mds").unlink()
    sleep(3)  # a run that may have begun in the second of the write would be refused for that
    with pytest.raises(SelectionError, match=r"shard.00004.mds was rewritten"):
        read()
