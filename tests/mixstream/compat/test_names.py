"""Functions and classes that programs import beside the dataset."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mixstream import formats
from mixstream.compat import compression, distributed, encodings, util
from mixstream.compat.array import Array
from mixstream.compat.download import CloudDownloader, S3Downloader
from mixstream.compat.spanner import Spanner
from mixstream.compat.upload import CloudUploader
from mixstream.compat.world import World
from mixstream.errors import ConfigError, EncodingError


@pytest.mark.parametrize(
    ("text", "number"),
    [("1234", 1234), ("50B", 50), (" 100 kb", 102400), ("1.09zb", 1286844866581978415104), (35.78, 35)],
)
def test_bytes(text, number):
    assert util.bytes_to_int(text) == number


@pytest.mark.parametrize("text", ["", "12kbb", "27mxb", "kb", "1.5"])
def test_bytes_that_are_none(text):
    with pytest.raises(ValueError, match="Unsupported value/suffix"):
        util.bytes_to_int(text)


@pytest.mark.parametrize(("text", "number"), [("1k", 1000), (" 3 T", 3 * 10**12), ("1.39b", 1390000000), (7, 7)])
def test_counts(text, number):
    assert util.number_abbrev_to_int(text) == number


@pytest.mark.parametrize("text", ["", "79bb", "p 64", "64b m", "50kb"])
def test_counts_that_are_none(text):
    with pytest.raises(ValueError, match="Unsupported value/suffix"):
        util.number_abbrev_to_int(text)


def test_waiting_for_a_file(tmp_path: Path):
    threading.Timer(0.05, (tmp_path / "late").touch).start()
    util.wait_for_file_to_exist(str(tmp_path / "late"), 0.01, 10.0, "never ")
    with pytest.raises(RuntimeError, match=r"never 0\.020 < "):
        util.wait_for_file_to_exist(str(tmp_path / "never"), 0.01, 0.02, "never ")


@pytest.mark.parametrize("bare", [False, True])
def test_retry(bare, monkeypatch):
    calls, cleaned, naps = [], [], []
    monkeypatch.setattr(time, "sleep", naps.append)
    decorate = util.retry if bare else util.retry([OSError], clean_up_fn=lambda: cleaned.append(1), max_jitter=0)

    @decorate
    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("not yet")
        return "here"

    assert flaky() == "here"
    assert len(cleaned) == (0 if bare else 2)
    assert [int(nap) for nap in naps] == [1, 2]


def test_retry_raises_the_last_error_and_others_at_once():
    attempts = []

    @util.retry(KeyError, num_attempts=2, initial_backoff=0, max_jitter=0)
    def fails(error):
        attempts.append(1)
        raise error

    with pytest.raises(KeyError):
        fails(KeyError("gone"))
    with pytest.raises(IndexError):
        fails(IndexError("gone"))
    assert len(attempts) == 3
    with pytest.raises(ValueError, match="num_attempts must be at-least 1"):
        util.retry(num_attempts=0)


def test_world_from_the_environment(monkeypatch):
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    world = World.detect()
    assert (world.node, world.num_nodes, world.rank, world.rank_of_node, world.is_leader) == (1, 2, 9, 1, False)
    assert world.copy().to_json() == world.to_json() == world.detect_workers().to_json()
    replicas = world.replicate(4)
    assert (replicas.num_ranks, replicas.rank, replicas.num_nodes) == (4, 2, 1)
    with pytest.raises(ValueError, match="divisible by your replication"):
        world.replicate(3)
    assert distributed.get_local_rank() == 1
    with pytest.raises(RuntimeError, match=r"world_size\(16\) > 1.*init_process_group"):
        distributed.all_gather_object(5)


def test_one_process_needs_no_process_group():
    assert distributed.all_gather_object(5) == [5]
    assert distributed.barrier() is None
    assert distributed.maybe_init_dist() is False


class Range(Array):
    size = 10

    def get_item(self, idx):
        assert 0 <= idx < 10
        return idx


@pytest.mark.parametrize("at", [3, -1, slice(2, 9, 3), slice(None, None, -1), [1, [2, -3]], np.arange(4).reshape(2, 2)])
def test_an_array_is_indexed_as_one_of_numpy(at):
    if isinstance(at, list):
        assert Range()[at] == [1, [2, 7]]
    else:
        assert np.array_equal(Range()[at], np.arange(10)[at])
    with pytest.raises(ValueError, match="Unsupported argument type"):
        Range()["x"]


def test_spanner_finds_every_sample():
    sizes = np.array([3, 0, 5])
    found = [Spanner(sizes)[at] for at in range(8)]
    assert found == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]
    for at in (-1, 8):
        with pytest.raises(IndexError, match="Invalid sample index"):
            Spanner(sizes)[at]


@pytest.mark.parametrize("name", formats.compression_names())
def test_compressions_as_objects(name):
    kinds = (compression.Brotli, compression.Bzip2, compression.Gzip, compression.Snappy, compression.Zstandard)
    objects = {algo: each for kind in kinds for algo, each in kind.each()}
    assert objects.keys() == {*formats.compression_names()}
    assert objects[name].decompress(objects[name].compress(b"tokens")) == b"tokens"
    with pytest.raises(TypeError):
        objects[name].compress("text")


def test_a_compression_that_there_is_not():
    with pytest.raises(ValueError, match="gz:99 is not a supported compression algorithm"):
        compression.compress("gz:99", b"x")
    assert compression.decompress(None, b"x") == b"x"


@pytest.mark.parametrize(("name", "value"), [("bytes", 9), ("int", "27"), ("str", 12.5)])
def test_a_value_that_an_encoding_cannot_hold(name, value):
    for error in (AttributeError, ValueError, EncodingError):
        with pytest.raises(error):
            encodings.mds_encode(name, value)


def test_encodings_as_objects():
    assert encodings.Int().decode(encodings.Int().encode(5)) == 5
    assert encodings.NDArray("uint16", (3,)).size == 6
    assert encodings.XSVFloat.decode(encodings.XSVFloat.encode(1.5)) == 1.5
    assert encodings.JSONStr.is_encoded("a")
    with pytest.raises(AttributeError):
        encodings.JSONInt.is_encoded("a")
    with pytest.raises(AttributeError, match="bytes are no value"):
        encodings.Str().encode(b"a")


def test_files_are_copied_between_directories(tmp_path):
    local, remote = tmp_path / "local", tmp_path / "remote"
    uploader = CloudUploader.get((str(local), str(remote)))
    (local / "a.txt").write_text("a")
    uploader.upload_file("a.txt")
    assert (remote / "a.txt").read_text() == "a"
    assert not uploader.list_objects()
    CloudDownloader.direct_download(str(remote / "a.txt"), str(local / "b.txt"))
    assert [Path(path).name for path in uploader.list_objects()] == ["b.txt"]
    with pytest.raises(FileExistsError, match="Directory is not empty"):
        CloudUploader.get(str(local))
    assert CloudUploader.get(str(local), exist_ok=True).list_objects("b.") == [str(local / "b.txt")]


def test_a_download_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        CloudDownloader.direct_download(str(tmp_path / "gone"), str(tmp_path / "new" / "file"))
    assert not [*(tmp_path / "new").iterdir()]


@pytest.mark.parametrize("out", [(), ("s3://bucket/dir",), ("a", "b", "c")])
def test_places_that_are_none(out):
    with pytest.raises(ValueError, match="Invalid `out` argument"):
        CloudUploader.get(out)
    with pytest.raises(ValueError, match="Invalid Cloud provider prefix"):
        CloudUploader.get(("a", "gcs://bucket"))
    with pytest.raises(ValueError, match="Unsupported remote path"):
        CloudDownloader.get("s9://bucket/file")
    with pytest.raises(ConfigError, match="url scheme of `s3`"):
        S3Downloader().download("gs://bucket/file", "nowhere")
