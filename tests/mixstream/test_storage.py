"""Files of a dataset: found, refused, unpacked once."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import make_dataset, write_tokens

import mixstream as ms
from mixstream.errors import ConfigError, IndexNotFoundError, ShardCorruptError, ShardNotFoundError
from mixstream.storage import DatasetFiles, local_path


def test_paths_and_file_urls_are_local_and_other_urls_are_refused():
    assert local_path("some/dir") == Path("some/dir")
    assert local_path("file:///a/b%20c") == Path("/a/b c")
    with pytest.raises(ConfigError, match=r"s3://bucket/x.*local paths and file:// URLs"):
        local_path("s3://bucket/x")


def test_a_missing_index_names_the_place_and_what_to_check(tmp_path):
    with pytest.raises(IndexNotFoundError, match=rf"no index.json in {tmp_path}/nothing.*`split`"):
        ms.StreamingDataset(remote=str(tmp_path / "nothing"))


def files(tmp_path: Path) -> DatasetFiles:
    write_tokens(tmp_path / "remote", range(3))
    return DatasetFiles(local=tmp_path / "local", remote=tmp_path / "remote")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    at = files(tmp_path)

    def fail() -> bytes:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        at.write("00/shard", 3, fail)
    assert at.find("00/shard", 3) is None
    assert at.write("00/shard", 3, lambda: b"abc").read_bytes() == b"abc"
    assert at.find("00/shard", 3) == tmp_path / "local/00/shard"
    assert [path.name for path in (tmp_path / "local/00").iterdir()] == ["shard"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    at = files(tmp_path)
    (tmp_path / "local").mkdir()
    (tmp_path / "local/.shard.partial").write_bytes(b"half of someth")
    assert at.write("shard", 3, lambda: b"abc").read_bytes() == b"abc"
    assert {path.name for path in (tmp_path / "local").iterdir()} == {"shard", ".mixstream-origin"}


def test_of_many_threads_one_makes_the_file(tmp_path):
    at, made = files(tmp_path), []

    def make() -> bytes:
        made.append(1)
        return b"abc"

    threads = [threading.Thread(target=at.write, args=("shard", 3, make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


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


def test_unpacked_shards_are_checked_too(tmp_path):
    write_tokens(tmp_path / "packed", range(100, 120), compression="zstd", hashes=["xxh3_64"])
    where: dict[str, Any] = {"remote": str(tmp_path / "packed"), "local": str(tmp_path / "raw")}
    assert len(ms.StreamingDataset(**where)[:]) == 20
    raw = tmp_path / "raw/shard.00000.mds"
    raw.write_bytes(raw.read_bytes()[:-1] + b"!")
    with pytest.raises(ShardCorruptError, match="Checksum failure"):
        ms.StreamingDataset(**where, validate_hash="xxh3_64")[0]


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
