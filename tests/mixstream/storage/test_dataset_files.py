"""Files of a dataset: found, refused, unpacked once."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import make_dataset, write_tokens

import mixstream as ms
from mixstream.errors import ConfigError, IndexNotFoundError, ShardCorruptError, ShardNotFoundError
from mixstream.storage import map_file


def test_a_missing_index_names_the_place_and_what_to_check(tmp_path):
    with pytest.raises(IndexNotFoundError, match=rf"no index.json in {tmp_path}/nothing.*`split`"):
        ms.StreamingDataset(remote=str(tmp_path / "nothing"))


def test_of_many_threads_one_unpacks(tmp_path):
    at = ms.StreamingDataset(remote=str(write_tokens(tmp_path / "packed", range(12), compression="zstd")))
    at = at.domains[0]
    (want,), unpacked = at.specs(0), []
    assert want.compressed is not None
    unpack = want.compressed.unpack

    def count(data: bytes) -> bytes:
        unpacked.append(1)
        return unpack(data)

    want = replace(want, compressed=replace(want.compressed, unpack=count))

    def read() -> None:
        file = at.files.open(want)
        assert file is not None
        file.close()

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(unpacked) == 1


def test_what_a_killed_process_left_is_written_over_or_removed(tmp_path):
    write_tokens(tmp_path / "packed", range(100, 160), compression="zstd")
    (tmp_path / "raw").mkdir()
    for number in (0, 1):
        (tmp_path / f"raw/.shard.0000{number}.mds.partial").write_bytes(b"half of someth")
    dataset = ms.StreamingDataset(remote=str(tmp_path / "packed"), local=str(tmp_path / "raw"))
    assert not list((tmp_path / "raw").glob(".*.partial"))
    assert [int(sample["tokens"][0]) for sample in dataset[:]] == list(range(100, 160))


def read_all(root: Path, local: Path, results) -> None:
    dataset = ms.StreamingDataset(remote=str(root), local=str(local))
    results.put([int(sample["tokens"][0]) for sample in dataset[:]])


def test_processes_share_one_directory_of_unpacked_shards(tmp_path):
    write_tokens(tmp_path / "packed", range(100, 160), compression="zstd", hashes=["xxh3_64"])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=read_all, args=(tmp_path / "packed", tmp_path / "raw", results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [list(range(100, 160))] * 3
    assert not list((tmp_path / "raw").glob("*.partial"))
    assert not list((tmp_path / "packed").glob("*.mds"))  # the original is left as it was


def test_a_dataset_made_anew_under_its_path_does_not_meet_old_shards(tmp_path):
    for first in (100, 200):
        write_tokens(tmp_path / "d", range(first, first + 20), compression="zstd", exist_ok=True)
        assert int(ms.StreamingDataset(remote=str(tmp_path / "d"))[0]["tokens"][0]) == first


@pytest.mark.parametrize("damage", ["truncated", "deleted", "flipped"])
def test_a_damaged_shard_is_refused_by_name(tmp_path, damage):
    write_tokens(tmp_path / "web", range(100, 140), hashes=["xxh3_64"])
    shard = tmp_path / "web/shard.00001.mds"
    data = shard.read_bytes()
    shard.unlink()
    if damage != "deleted":
        shard.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    dataset = make_dataset(tmp_path, ["web"], shuffle=False, validate_hash="xxh3_64")
    expected = ShardNotFoundError if damage == "deleted" else ShardCorruptError
    with ms.Loader(dataset) as loader, pytest.raises(expected, match=r"shard\.00001\.mds") as caught:
        list(loader)
    assert any("domain 'web', shard 1 of" in note for note in caught.value.__notes__)
    assert loader.step == 1  # the batch before the damage was handed out


def test_a_local_directory_belongs_to_one_dataset(tmp_path):
    for name, first in (("a", 100), ("b", 200)):
        write_tokens(tmp_path / name, range(first, first + 20), compression="zstd")
    a, b = (ms.StreamingDataset(remote=str(tmp_path / name), local=str(tmp_path / "raw")) for name in "ab")
    assert int(a[0]["tokens"][0]) == 100
    with pytest.raises(ConfigError, match=r"Reused local directory.*vs.*Provide a different one"):
        b[0]


def test_unpacked_shards_are_checked_too_and_made_anew(tmp_path):
    write_tokens(tmp_path / "packed", range(100, 120), compression="zstd", hashes=["xxh3_64"])
    where: dict[str, Any] = {"remote": str(tmp_path / "packed"), "local": str(tmp_path / "raw")}
    assert len(ms.StreamingDataset(**where)[:]) == 20
    raw = tmp_path / "raw/shard.00000.mds"
    good = raw.read_bytes()
    raw.write_bytes(good[:-1] + b"!")
    assert int(ms.StreamingDataset(**where, validate_hash="xxh3_64")[0]["tokens"][0]) == 100
    assert raw.read_bytes() == good
    raw.write_bytes(good[:-1] + b"!")
    packed = tmp_path / "packed/shard.00000.mds.zstd"
    packed.write_bytes(packed.read_bytes()[:-1] + b"!")
    with pytest.raises(ShardCorruptError, match="Checksum failure"):
        ms.StreamingDataset(**where, validate_hash="xxh3_64")[0]


def test_a_shard_with_a_broken_header_is_unpacked_anew(tmp_path):
    write_tokens(tmp_path / "packed", range(100, 120), compression="zstd")
    where: dict[str, Any] = {"remote": str(tmp_path / "packed"), "local": str(tmp_path / "raw")}
    assert len(ms.StreamingDataset(**where)[:]) == 20
    raw = tmp_path / "raw/shard.00000.mds"
    raw.write_bytes(b"\0" * raw.stat().st_size)
    assert int(ms.StreamingDataset(**where)[0]["tokens"][0]) == 100


def test_mapped_shards_hold_no_descriptors(tmp_path):
    write_tokens(tmp_path / "many", range(1000), shard_bytes=400)
    before = len(list(Path("/proc/self/fd").iterdir()))
    dataset = ms.StreamingDataset(remote=str(tmp_path / "many"))
    assert [int(sample["tokens"][0]) for sample in dataset[:]] == list(range(1000))
    assert dataset.num_shards > 50
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10


def test_a_dataset_unpacked_in_place_can_be_written_anew_there(tmp_path):
    for first in (100, 200):
        write_tokens(tmp_path / "d", range(first, first + 20), compression="zstd", exist_ok=True)
        assert int(ms.StreamingDataset(local=str(tmp_path / "d"))[0]["tokens"][0]) == first


def test_a_mapping_outlives_its_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"bytes that stay")
    with path.open("rb") as file:
        data = map_file(file)
    path.unlink()
    assert data.tobytes() == b"bytes that stay"
    assert not data.flags.writeable
    path.write_bytes(b"")
    assert map_file(path).shape == (0,)
