import importlib.util
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream.formats.mds.shard
import mixstream.writer.base
from mixstream.errors import ConfigError, EncodingError
from mixstream.formats import decode_sample, decompress, parse_index, read_offsets
from mixstream.writer import CSVWriter, JSONWriter, MDSWriter

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data" / "mosaic"
CASES = runpy.run_path(str(TESTS / "mosaic" / "cases.py"))["CASES"]
COLUMNS = {"text": "str", "id": "int"}
KILLED = """
import sys
from mixstream.writer import MDSWriter
writer = MDSWriter(columns={"x": "bytes"}, out=sys.argv[1], size_limit=1000)
for n in range(10**9):
    writer.write({"x": bytes(300)})
    if n == 50: print("busy", flush=True)
"""


def sample(n):
    return {"text": f"sample {n} " * 5, "id": n}


def index_of(directory):
    return parse_index((Path(directory) / "index.json").read_bytes(), where=str(directory))


def shards_of(directory):
    """Return the samples of each shard, all sizes checked."""
    shards = []
    for info in index_of(directory).shards:
        raw = (Path(directory) / (info.zip or info.raw).basename).read_bytes()
        if info.compression:
            raw = decompress(info.compression, raw, raw_bytes=info.raw.bytes, where="")
        offsets = read_offsets(raw, info, where=info.raw.basename).tolist()
        shards.append([decode_sample(raw[a:b], info, where="") for a, b in pairwise(offsets)])
    return shards


def write(out, samples, *, columns=None, **options):
    with MDSWriter(columns=columns or COLUMNS, out=out, **options) as writer:
        for each in samples:
            writer.write(each)
    return writer


def write_and_raise(error, out, samples, **options):
    with MDSWriter(columns=COLUMNS, out=out, **options) as writer:
        for each in samples:
            writer.write(each)
        raise error


def files(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


# The bytes of mosaicml-streaming


def library_versions():
    """Return the versions of what compresses here, None where the library is absent."""

    def version(module, attribute):
        return getattr(importlib.import_module(module), attribute) if importlib.util.find_spec(module) else None

    return {
        "br": version("brotli", "__version__"),
        "bz2": "1",
        "gz": zlib.ZLIB_RUNTIME_VERSION,
        "pillow": version("PIL", "__version__"),
        "pickle": str(pickle.DEFAULT_PROTOCOL),
        "snappy": version("cramjam", "__version__"),
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }


def same_version(library):
    return json.loads((DATA / "versions.json").read_text())[library] == library_versions()[library]


def without_zip(index):
    shards = json.loads(index)["shards"]
    return [shard | {"zip_data": None} for shard in shards]


PLAIN = ["scalars", "arrays", "tokens", "one_shard", "hashes", "oversize", "empty"]
PACKED = [name for name in CASES if name.startswith("documents_")]


@pytest.mark.parametrize("name", PLAIN)
def test_every_byte_is_that_of_mosaicml_streaming(name, tmp_path):
    write(tmp_path / name, CASES[name].samples(), columns=CASES[name].columns, **CASES[name].options)
    assert files(tmp_path / name) == files(DATA / name)


@pytest.mark.parametrize(
    ("name", "library"), [("pickles", "pickle"), ("raw_images", None), ("encoded_images", "pillow")]
)
def test_every_byte_is_the_same_where_the_encoder_is(name, library, tmp_path):
    if "images" in name:
        pytest.importorskip("PIL")
    if library is not None and not same_version(library):
        pytest.skip(f"the fixture was made with another {library}")
    write(tmp_path / name, CASES[name].samples(), columns=CASES[name].columns, **CASES[name].options)
    assert files(tmp_path / name) == files(DATA / name)


@pytest.mark.parametrize("name", PACKED)
def test_compressed_shards_hold_the_same_bytes(name, tmp_path):
    case = CASES[name]
    library = case.options["compression"].partition(":")[0]
    if library_versions()[library] is None:
        pytest.skip("extra not installed")
    write(tmp_path / name, case.samples(), columns=case.columns, **case.options)
    ours, theirs = files(tmp_path / name), files(DATA / name)
    assert ours.keys() == theirs.keys()
    assert without_zip(ours["index.json"]) == without_zip(theirs["index.json"])
    if library == "gz":  # bytes 4 to 8 of theirs are the time of day
        ours, theirs = ({n: d[:4] + d[8:] for n, d in f.items() if n != "index.json"} for f in (ours, theirs))
    if same_version(library):
        assert ours == theirs


def test_no_shard_is_ever_empty(tmp_path):
    """MDSWriter of mosaicml-streaming writes a first shard of 0 samples before a first sample above the limit."""
    case = CASES["oversize_first"]
    write(tmp_path / "out", case.samples(), columns=case.columns, **case.options)
    assert [len(shard) for shard in shards_of(tmp_path / "out")] == [1, 4, 1]
    assert [len(shard) for shard in shards_of(DATA / "oversize_first")] == [0, 1, 4, 1]


# Splitting


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 600), max_size=40), limit=st.integers(1, 1500))
def test_shards_fill_up_to_the_limit_and_no_further(sizes, limit, tmp_path_factory):
    out = tmp_path_factory.mktemp("split")
    given = [{"x": bytes([n % 256]) * size} for n, size in enumerate(sizes)]
    write(out, given, columns={"x": "bytes"}, size_limit=limit)
    shards = shards_of(out)
    assert [each for shard in shards for each in shard] == given
    infos = index_of(out).shards
    for n, (info, shard) in enumerate(zip(infos, shards)):
        assert info.raw.basename == f"shard.{n:05}.mds"
        assert info.raw.bytes == (out / info.raw.basename).stat().st_size
        assert len(shard) == 1 or info.raw.bytes <= limit
        if n + 1 < len(shards):
            assert info.raw.bytes + 4 + 4 + len(shards[n + 1][0]["x"]) > limit


@pytest.mark.parametrize("kind", ["mds", "json", "csv"])
def test_a_shard_may_have_exactly_the_size_limit(kind, tmp_path):
    def sizes(limit, rows):
        out = tmp_path / f"{limit}-{rows}"
        columns = {"x": "bytes" if kind == "mds" else "str"}
        writer = {"mds": MDSWriter, "json": JSONWriter, "csv": CSVWriter}[kind]
        with writer(columns=columns, out=out, size_limit=limit) as written:
            for _ in range(rows):
                written.write({"x": bytes(80) if kind == "mds" else "x" * 80})
        return [info.raw.bytes for info in index_of(out).shards]

    (two,) = sizes(999, 2)
    assert 99 < two < 999  # numbers of three digits, which are a part of the file
    limit = two - len("x\n") if kind == "csv" else two  # as in mosaicml-streaming, the names of columns do not count
    assert sizes(limit, 4) == sizes(limit + 1, 4) == [two, two]
    assert len(sizes(limit - 1, 4)) == 4


def test_size_limit_is_read_as_people_write_it(tmp_path):
    for n, (given_limit, meant) in enumerate([("2kb", 2048), ("1.5kb", 1536), ("900b", 900), (900, 900), (None, None)]):
        assert write(tmp_path / str(n), [], size_limit=given_limit).get_config()["size_limit"] == meant


def test_without_a_limit_shards_end_before_their_offsets_would_wrap(tmp_path, monkeypatch):
    monkeypatch.setattr(mixstream.writer.base, "MAX_OFFSET", 2000)
    monkeypatch.setattr(mixstream.formats.mds.shard, "MAX_OFFSET", 2000)
    given = [{"x": bytes([n]) * 500} for n in range(10)]
    write(tmp_path / "out", given, columns={"x": "bytes"}, size_limit=None)
    assert [each for shard in shards_of(tmp_path / "out") for each in shard] == given
    assert max(info.raw.bytes for info in index_of(tmp_path / "out").shards) <= 2000
    with MDSWriter(columns={"x": "bytes"}, out=tmp_path / "large", size_limit=None) as writer:
        with pytest.raises(EncodingError, match="the sample has 2004 bytes, a whole shard at most 2000"):
            writer.write({"x": bytes(2000)})
        writer.write({"x": b"small"})
    assert shards_of(tmp_path / "large") == [[{"x": b"small"}]]


# Whole or not at all


def test_an_exception_leaves_no_index(tmp_path):
    with pytest.raises(RuntimeError, match="mine"):
        write_and_raise(RuntimeError("mine"), tmp_path, map(sample, range(50)), size_limit=300)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "index.json" not in names
    assert all(name.endswith(".mds") for name in names)


def test_an_interrupted_rewrite_leaves_no_index_of_the_old_dataset(tmp_path):
    write(tmp_path, map(sample, range(50)), size_limit=300)
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(KeyboardInterrupt(), tmp_path, [sample(0)], exist_ok=True)
    assert not (tmp_path / "index.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs kill -9")
def test_kill_leaves_no_index_and_only_whole_shards(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"busy\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "index.json" not in names
    sizes = {(tmp_path / name).stat().st_size for name in names if name.endswith(".mds")}
    assert len(sizes) == 1


def test_a_failing_disk_surfaces_as_it_is_and_leaves_no_index(tmp_path, monkeypatch):
    def full(_self, _data):
        raise OSError(28, "No space left on device")

    writer = MDSWriter(columns=COLUMNS, out=tmp_path, size_limit=300, retry=0)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:  # noqa: PT012 (which write it is, threads decide)
        for n in range(1000):
            writer.write(sample(n))
    assert "attempt 1 of 1 to write" in caught.value.__notes__[0]
    with pytest.raises(ConfigError, match="cancelled"):
        writer.finish()
    monkeypatch.undo()
    assert not (tmp_path / "index.json").exists()


def test_a_write_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    failures, write_bytes = [OSError("busy"), OSError("busy")], Path.write_bytes

    def shaky(self, data):
        if failures:
            raise failures.pop()
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", shaky)
    write(tmp_path, map(sample, range(3)), retry=2)
    assert shards_of(tmp_path) == [[sample(0), sample(1), sample(2)]]


def test_nothing_is_left_beside_the_dataset(tmp_path):
    before = set(threading.enumerate())
    write(tmp_path, map(sample, range(50)), size_limit=300, max_workers=3)
    assert all(not path.name.endswith(".tmp") for path in tmp_path.iterdir())
    assert set(threading.enumerate()) <= before


def test_order_does_not_depend_on_threads(tmp_path):
    given = [{"x": np.random.default_rng(n).bytes(5000 - 49 * n)} for n in range(100)]
    for workers in (1, 8):
        out = tmp_path / str(workers)
        write(out, given, columns={"x": "bytes"}, size_limit=6000, compression="bz2", max_workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "8")


def test_a_sample_that_is_refused_can_be_left_out(tmp_path):
    with MDSWriter(columns=COLUMNS, out=tmp_path) as writer:
        for n in range(3):
            try:
                writer.write({"text": None} if n == 1 else sample(n))
            except KeyError as error:  # what mosaicml-streaming raises for a missing column
                assert "id" in str(error) or "text" in str(error)  # noqa: PT017
            except EncodingError as error:
                assert "text" in str(error)  # noqa: PT017
    assert shards_of(tmp_path) == [[sample(0), sample(2)]]


def test_finish_twice_is_once_and_writing_after_it_is_refused(tmp_path):
    writer = MDSWriter(columns=COLUMNS, out=tmp_path)
    writer.write(sample(1))
    writer.finish()
    before = files(tmp_path)
    writer.finish()
    assert files(tmp_path) == before
    with pytest.raises(ConfigError, match="finished"):
        writer.write(sample(2))


# Where to


def test_a_directory_that_holds_something_is_refused_before_anything_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"Directory is not empty.*notes\.txt.*exist_ok=True") as caught:
        MDSWriter(columns=COLUMNS, out=tmp_path)
    assert isinstance(caught.value, ConfigError)


def test_exist_ok_replaces_the_dataset_and_nothing_else(tmp_path):
    write(tmp_path, map(sample, range(50)), size_limit=300, compression="gz")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "shard.00000.mds.gz.tmp").write_text("left by a crash")
    write(tmp_path, [sample(7)], exist_ok=True)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "index.json", "shard.00000.mds"}
    assert shards_of(tmp_path) == [[sample(7)]]


def test_local_and_remote_directories(tmp_path):
    local, remote, url = (tmp_path / name for name in ("local", "remote", "with space"))
    write((str(local), str(remote)), [sample(1)], keep_local=True)
    assert files(local) == files(remote)
    writer = write((tmp_path / "unused", "file://" + str(url).replace(" ", "%20")), [sample(1)])
    assert files(url) == files(remote)
    assert not (tmp_path / "unused").exists()
    assert writer.remote == str(url)


def test_home_is_expanded_and_directories_are_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/a/b", [sample(1)])
    assert shards_of(tmp_path / "a" / "b") == [[sample(1)]]


@pytest.mark.parametrize(
    "out", ["http://host/x", ("local", "https://host/x"), "file://host/x", "", ("a", "b", "c"), 5, ("a",)]
)
def test_another_place_is_refused_with_what_is_supported(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"directory|directories"):
        MDSWriter(columns=COLUMNS, out=out)
    assert list(tmp_path.iterdir()) == []


# Arguments


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"colour": 1}, r"Invalid Writer argument\(s\): \['colour'\]"),
        ({"columns": {}}, "name at least one"),
        ({"columns": {1: "int"}}, "columns"),
        ({"compression": "zip"}, "zstd"),
        ({"hashes": ["sha1", "md5"]}, r"sorted order.*\['md5', 'sha1'\]"),
        ({"hashes": ["sha1", "sha1"]}, "unique"),
        ({"hashes": ["crc"]}, "Invalid hash: 'crc'"),
        ({"hashes": "sha1"}, r"is a list of names of hashes, got 'sha1'; write \['sha1'\]"),
        ({"size_limit": 2**32}, "1 to 4294967295"),
        ({"size_limit": 0}, "None for the largest"),
        ({"size_limit": -1}, "-1"),
        ({"size_limit": "10 parsecs"}, "parsecs"),
        ({"retry": -1}, "retry is -1"),
        ({"max_workers": 0}, "max_workers is 0"),
        ({"metadata": {"shards": 1}}, "'shards'"),
        ({"metadata": {"a": {1}}}, "metadata"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_touched(options, word, tmp_path):
    with pytest.raises(ConfigError, match=word):
        MDSWriter(**{"columns": COLUMNS, "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_an_unknown_encoding_names_column_and_choices(tmp_path):
    with pytest.raises(EncodingError, match=r"'x' with encoding 'int128'.*Supported encodings are.*uint8") as caught:
        MDSWriter(columns={"x": "int128"}, out=tmp_path / "out")
    assert isinstance(caught.value, TypeError)


def test_metadata_stands_at_the_top_of_the_index(tmp_path):
    with MDSWriter(columns=COLUMNS, out=tmp_path, metadata={"source": "web"}) as writer:
        writer.write(sample(1))
        writer.metadata["tokens"] = 12
    assert index_of(tmp_path).extra == {"source": "web", "tokens": 12}


def test_metadata_that_json_cannot_hold_can_be_corrected(tmp_path):
    writer = MDSWriter(columns=COLUMNS, out=tmp_path)
    writer.write(sample(1))
    writer.metadata["tokens"] = object()
    with pytest.raises(ConfigError, match=r"metadata cannot be stored in index\.json"):
        writer.finish()
    writer.metadata["tokens"] = 1
    writer.finish()
    assert index_of(tmp_path).extra == {"tokens": 1}
    assert shards_of(tmp_path) == [[sample(1)]]


def test_what_others_read_off_a_writer(tmp_path):
    writer = MDSWriter(columns=COLUMNS, out=tmp_path, hashes=["sha1"])
    assert writer.columns == COLUMNS
    assert writer.column_names == ["id", "text"]
    assert writer.column_encodings == ["int", "str"]
    assert writer.column_sizes == [8, None]
    assert (writer.local, writer.remote) == (str(tmp_path), None)
    assert writer.get_config()["hashes"] == ["sha1"]
    writer.write(sample(3))
    raw = writer.encode_joint_shard()
    assert raw.endswith(writer.encode_sample(sample(3)))
    writer.flush_shard()
    writer.flush_shard()
    writer.finish()
    assert files(tmp_path)["shard.00000.mds"] == raw
    assert len(index_of(tmp_path).shards) == 1


def test_progress_is_shown_on_stderr_only_when_asked(tmp_path, capsys):
    write(tmp_path / "quiet", [sample(1)])
    assert capsys.readouterr() == ("", "")
    write(tmp_path / "loud", [sample(1)], progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 shards" in err
