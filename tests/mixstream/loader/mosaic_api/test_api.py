"""What programs of mosaicml-streaming read from, and call on, streams, datasets and loaders."""

from __future__ import annotations

import gc
import hashlib
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, SIZES, Tilt, make_dataset, row_ids, streams, write_tokens

import mixstream as ms
from mixstream.errors import ConfigError


def cached(library: Path, place: Path, **kw):
    """Return a dataset whose shards are copied below `place`."""
    each = [ms.Stream(remote=str(library / name), local=str(place / name)) for name in SIZES]
    return make_dataset(library, streams=each, **kw)


def files(place: Path) -> list[str]:
    return sorted(at.name for at in place.rglob("shard.*"))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_streams_show_what_an_epoch_takes_and_serve_again(library):
    each = streams(library, web={"choose": 30}, code={"repeat": 2})
    options: dict[str, Any]
    for options in ({}, {"batch_size": 4}, {"order": "mosaic"}):
        dataset = make_dataset(library, streams=each, **options)
        for shown in (each, dataset.streams):
            assert [stream.choose for stream in shown] == [30, 100, 19]
            assert [stream.repeat for stream in shown] == [0.2, 2.0, 1.0]
            assert [stream.proportion for stream in shown] == [30 / 149, 100 / 149, 19 / 149]
    again = make_dataset(library, streams=dataset.streams)
    assert again.epoch_size == 149
    each[0].choose = 40
    assert make_dataset(library, streams=each).epoch_size == 159
    each[1].choose = 5  # beside the `repeat` that was given
    with pytest.raises(ConfigError, match=r"at most one of .* stream 1, which has repeat, choose"):
        make_dataset(library, streams=each)


def test_relative_and_absolute_weights_do_not_mix(library):
    each = streams(library, web={"proportion": 1}, code={"repeat": 2})
    with pytest.raises(ValueError, match=r"Relative .* and absolute .* are incompatible .*stream 1"):
        make_dataset(library, streams=each)


def test_local_is_the_directory_where_the_shards_are(library, tmp_path):
    in_place = make_dataset(library)
    assert [stream.local for stream in in_place.streams] == [str(library / name) for name in SIZES]
    assert [stream.safe_keep_zip for stream in in_place.streams] == [False] * 3
    write_tokens(tmp_path / "packed", range(1000, 1030), compression="zstd")
    stream = ms.Stream(remote=str(tmp_path / "packed"))
    dataset = ms.StreamingDataset(streams=[stream], batch_size=8)
    dataset.prepare_shard(0)
    (shown,) = dataset.streams
    assert stream.local == shown.local
    assert files(Path(shown.local)) == ["shard.00000.mds"]
    again = ms.StreamingDataset(streams=dataset.streams, batch_size=8)  # still a stream without `local`
    assert again.streams[0].local == shown.local
    assert shown.given("local") is None


def test_a_stream_alone_shows_the_local_of_mosaicml_streaming_and_does_not_read_there(library):
    stream = ms.Stream(remote=str(library), split="web")
    name = hashlib.blake2s(str(library).encode(), digest_size=16).hexdigest()
    assert stream.local == f"{tempfile.gettempdir()}/{name}/web"
    assert ms.Stream(remote="/r").local.endswith("/")
    assert "local" not in repr(stream)
    dataset = ms.StreamingDataset(streams=[stream], batch_size=8)
    assert (stream.local, dataset[0]["tokens"].dtype.kind) == (str(library / "web"), "u")  # read in place
    assert not Path(tempfile.gettempdir(), name).exists()
    stream.local = str(library / "cache")
    assert stream.given("local") == str(library / "cache")


def test_a_stream_takes_defaults_and_lists_its_shards(library):
    stream = ms.Stream(remote=str(library / "web"), keep_zip=True)
    stream.apply_default({"split": None, "download_retry": 3, "validate_hash": None, "keep_zip": False})
    assert (stream.split, stream.download_retry, stream.keep_zip, stream.safe_keep_zip) == ("", 3, True, True)
    assert sum(shard.samples for shard in stream.get_shards(None, allow_unsafe_types=False)) == 150
    assert stream.get_index_size() == (library / "web" / "index.json").stat().st_size
    with pytest.raises(ValueError, match="`remote` and/or `local` path must be provided"):
        ms.Stream().apply_default({})


def test_a_stream_fetches_shards_by_itself(library, tmp_path):
    stream = ms.Stream(remote=str(library / "web"), local=str(tmp_path))
    shards, held_S = stream.get_shards(), np.zeros(len(stream.get_shards()), dtype=np.int64)
    grown = stream.prepare_shard(shards[2])
    assert grown == shards[2].raw.bytes
    stream.set_up_local(shards, held_S)
    assert held_S.tolist() == [shards[2].raw.bytes * (number == 2) for number in range(len(shards))]
    assert stream.prepare_shard(shards[2]) == 0


def test_weights_are_applied_as_in_mosaicml_streaming(library):
    each = [ms.Stream(remote="a", proportion=3), ms.Stream(remote="b", proportion=1)]
    assert ms.Stream.validate_weights(each) == (True, False)
    assert ms.Stream.apply_weights(each, np.array([10, 20]), 40, seed=1) == 40
    assert [(s.proportion, s.repeat, s.choose) for s in each] == [(0.75, 3.0, 30), (0.25, 0.5, 10)]
    assert ms.Stream.apply_weights(each, np.array([10, 20]), None, seed=1) == 30  # by the weights that were given
    assert ms.Stream.validate_weights([ms.Stream(remote="a")]) == (False, True)
    with pytest.raises(ValueError, match="Only provide `choose` when weighting streams relatively"):
        ms.Stream.apply_weights([ms.Stream(remote="a", choose=3)], [10], 5, seed=1)


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_tables_of_samples_and_epochs(library):
    dataset = make_dataset(library, rank=1, world_size=2, batch_size=4)
    assert dataset.length == 110
    assert len(dataset) == 112  # with the repeats that fill the last batch
    assert (dataset.epoch_seed_change, dataset.initial_physical_nodes, dataset.num_canonical_nodes) == (
        True,
        None,
        None,
    )
    assert not make_dataset(library, shuffle=False).epoch_seed_change
    for rows in (None, 4):
        assert make_dataset(library, rank=1, world_size=4, replication=2, batch_size=rows).length == 110
    shard, row = dataset.spanner[151]
    assert dataset.shards[shard] is dataset.shards[int(dataset.shard_offset_per_stream[1])]
    assert (row, dataset[151]["tokens"][0]) == (1, FIRST["code"] + 1)
    with pytest.raises(IndexError, match="Invalid sample index `219`: 0 <= 219 < 219"):
        _ = dataset.spanner[219]
    with pytest.raises(IndexError, match="Invalid sample index `-1`"):
        _ = dataset.spanner[-1]


def test_which_samples_an_epoch_takes(library):
    dataset = make_dataset(library, streams=streams(library, web={"choose": 40}, law={"choose": 0}), drop_last=True)
    taken = []
    for epoch in range(2):
        count_S, number_N = dataset.resample_streams(epoch)
        taken.append(number_N.tolist())
        assert len(number_N) == count_S.sum() == 88
        read = sorted(int(sample["tokens"][0]) for sample in dataset)
        assert [int(dataset[number]["tokens"][0]) for number in number_N.tolist()] == read
        web_S, web_N = dataset.resample_streams(epoch, 0)
        assert len(web_S) == dataset.shards_per_stream[0]
        assert web_N.tolist() == [number for number in taken[-1] if number < 150]
        assert dataset.resample_streams(epoch, 2)[1].tolist() == []
    assert taken[0] != taken[1]
    with pytest.raises(ConfigError, match="Tilt learns from losses"):
        make_dataset(library, mixer=Tilt()).resample_streams(0)


def test_the_next_epoch_can_be_set(library):
    dataset = make_dataset(library)
    epochs = [[int(sample["tokens"][0]) for sample in dataset] for _ in range(3)]
    assert dataset.next_epoch == 3
    for epoch in (1, 2, 0):
        dataset.next_epoch = epoch
        assert dataset.next_epoch == epoch
        assert [int(sample["tokens"][0]) for sample in dataset] == epochs[epoch]
    with pytest.raises(ConfigError, match="`next_epoch` must be at least 0"):
        dataset.next_epoch = -1
    with ms.Loader(dataset) as loader:
        next(iter(loader))
        with pytest.raises(ConfigError, match=r"call its set_epoch\(4\) instead of setting next_epoch"):
            dataset.next_epoch = 4


def test_predownload_below_a_batch_is_named(library):
    with pytest.warns(UserWarning, match=r"predownload < batch_size \(3 < 8\)"):
        make_dataset(library, predownload=3)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_shards_are_prepared_and_evicted_by_number(library, tmp_path):
    dataset = cached(library, tmp_path)
    index = sum(stream.get_index_size() for stream in dataset.streams)  # kept beside the shards
    for shard in range(dataset.num_shards):
        dataset.prepare_shard(shard)
    assert len(files(tmp_path)) == dataset.num_shards
    full = dataset.cache_usage
    assert full == index + sum(shard.raw.bytes for shard in dataset.shards)
    assert dataset.max_shard_size_across_all_streams == max(shard.raw.bytes for shard in dataset.shards)
    sample = dataset[0]["tokens"]
    dataset.evict_shard(0)
    assert full - dataset.cache_usage == dataset.shards[0].raw.bytes
    assert sample[0] == FIRST["web"]  # what was read stays readable
    for shard in range(dataset.num_shards):
        dataset.evict_shard(shard)
    assert files(tmp_path) == []
    assert dataset.cache_usage == index
    assert [dataset[number]["tokens"][0] for number in (0, 150, 200)] == [1000, 2000, 3000]  # fetched again
    with pytest.raises(IndexError, match="shard 99 of a dataset that has"):
        dataset.evict_shard(99)


def test_the_coldest_shard_is_evicted_and_what_is_about_to_be_read_is_not(library, tmp_path):
    dataset = cached(library, tmp_path)
    with pytest.raises(ValueError, match="Attempted shard eviction, but there are no shards present locally to evict"):
        dataset.evict_coldest_shard()
    for shard in (2, 0, 1):
        dataset.prepare_shard(shard)
        time.sleep(0.02)
    dataset.evict_coldest_shard()
    assert files(tmp_path) == ["shard.00000.mds", "shard.00001.mds"]
    dataset.prepare_shard(0)
    dataset.evict_coldest_shard()
    assert files(tmp_path) == ["shard.00000.mds"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (2048, r"Minimum cache usage \(\d+ bytes of index files\) is larger than the cache limit \(2048 bytes\)"),
        ("2048", "Minimum cache usage .* is larger than the cache limit"),
        (9000, r"Cache limit \(9000 bytes\) is too low. Increase the `cache_limit` to \d+ or more"),
    ],
)
def test_a_cache_that_can_hold_nothing_is_refused_at_once(tmp_path, limit, said):
    write_tokens(tmp_path / "small", range(1000, 1200), shard_bytes=300)
    write_tokens(tmp_path / "large", range(2000, 2400), shard_bytes=8000)
    name = "small" if int(limit) < 9000 else "large"
    stream = ms.Stream(remote=str(tmp_path / name), local=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=said):
        ms.StreamingDataset(streams=[stream], batch_size=8, cache_limit=limit)


def test_originals_are_never_evicted(library):
    dataset = make_dataset(library)
    with pytest.raises(ConfigError, match=r"shard 0 .* is no copy that could be fetched again, so it is not evicted"):
        dataset.evict_shard(0)
    with pytest.raises(ConfigError, match="no shards present"):
        dataset.evict_coldest_shard()
    assert len(dataset[0]["tokens"]) == 8


def test_an_epoch_is_whole_while_another_reader_evicts_every_shard(library, tmp_path):
    expected = [int(sample["tokens"][0]) for sample in make_dataset(library)]
    other, done, evicted = cached(library, tmp_path), threading.Event(), threading.Event()

    def evict() -> None:
        while not done.is_set():
            for shard in range(other.num_shards):
                before = other.cache_usage
                other.evict_shard(shard)
                if other.cache_usage < before:
                    evicted.set()

    found = []
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(evict)
        try:
            for sample in cached(library, tmp_path):
                found.append(int(sample["tokens"][0]))
                evicted.wait(0.2)  # a busy machine may read the whole epoch before it evicts anything
        finally:
            done.set()
        ended.result(timeout=30)
    assert found == expected
    assert evicted.is_set()


# --- the loader -------------------------------------------------------------------------------------------------------


def test_the_samples_of_a_batch_are_counted(library):
    loader = ms.StreamingDataLoader(make_dataset(library))
    assert loader._get_batch_size({"tokens": torch.zeros(5, 2), "n": [1]}) == 5
    assert loader._get_batch_size(torch.zeros(3, 2)) == 3
    assert loader._get_batch_size((torch.zeros(4), torch.zeros(4))) == 4
    with pytest.raises(ValueError, match="Batch is empty"):
        loader._get_batch_size({})
    assert row_ids(next(iter(loader)))
    assert loader.num_samples_yielded == 8
    workers = ms.StreamingDataLoader(make_dataset(library), num_workers=1, persistent_workers=True)
    _ = next(iter(workers))
    (child,) = workers._iterator._workers  # type: ignore[union-attr]
    del workers
    gc.collect()
    assert not child.is_alive()
    other = ms.StreamingDataLoader(list(range(6)), batch_size=2)  # type: ignore[arg-type]
    assert (len(list(other)), other.state_dict()) == (3, None)
