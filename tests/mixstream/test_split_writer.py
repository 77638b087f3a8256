"""Writers of JSON, CSV, TSV and XSV shards, and what StreamingDataset, LocalDataset and merge_index make of them.

The same bytes as mosaicml-streaming: `tests/mosaic/test_split_live.py`.
"""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import mixstream as ms
from mixstream.errors import (
    ConfigError,
    EncodingError,
    IndexCorruptError,
    OutputExistsError,
    ShardCorruptError,
    ShardNotFoundError,
)
from mixstream.formats import decode_sample, decompress, join_files, parse_index, read_offsets

WRITERS = {"json": ms.JSONWriter, "csv": ms.CSVWriter, "tsv": ms.TSVWriter, "xsv": ms.XSVWriter}
COLUMNS = {"text": "str", "id": "int", "x": "float"}


def sample(n):
    return {"id": n, "text": f"sample {n} é", "x": n / 7}


def write(name, out, numbers=range(40), **options):
    options = {"columns": COLUMNS, "size_limit": 300} | options
    if name == "xsv":
        options.setdefault("separator", "||")
    with WRITERS[name](out=out, **options) as writer:
        for n in numbers:
            writer.write(sample(n))
    return writer


def read(directory):
    """Return the samples of each shard, read file by file."""
    shards = []
    for info in parse_index((Path(directory) / "index.json").read_bytes(), where=str(directory)).shards:
        files = []
        for raw, packed in info.files:
            data = (Path(directory) / (packed or raw).basename).read_bytes()
            files.append(decompress(info.compression, data, raw_bytes=raw.bytes, where=raw.basename))
        whole = join_files(files)
        ends = read_offsets(whole, info, where=info.raw.basename).tolist()
        shards.append([decode_sample(whole[a:b], info, where=info.raw.basename) for a, b in pairwise(ends)])
    return shards


def names(directory):
    return {path.name for path in directory.iterdir()}


def streamed(*, shuffle=False, **options):
    return list(ms.StreamingDataset(batch_size=1, shuffle=shuffle, **options))


@pytest.mark.parametrize("compression", [None, "zstd:7"])
@pytest.mark.parametrize("name", WRITERS)
def test_samples_are_written_and_read_again(name, compression, tmp_path):
    write(name, tmp_path, compression=compression, hashes=["sha1", "xxh3_64"])
    shards = read(tmp_path)
    assert len(shards) > 1
    assert [each for shard in shards for each in shard] == [sample(n) for n in range(40)]
    end = f".{compression[:4]}" if compression else ""
    first = {f"shard.00000.{name}{end}", f"shard.00000.{name}.meta{end}"}
    assert first < names(tmp_path)
    assert len(names(tmp_path)) == 2 * len(shards) + 1
    entry = json.loads((tmp_path / "index.json").read_bytes())["shards"][0]
    assert entry["raw_data"]["bytes"] <= 300 + len("id||text||x\n")
    assert entry["raw_meta"]["hashes"].keys() == {
        "sha1",
        "xxh3_64",
    }


@pytest.mark.parametrize("where", ["in place", "copied"])
@pytest.mark.parametrize(("name", "compression"), [("json", None), ("csv", "zstd"), ("tsv", "gz"), ("xsv", "snappy")])
def test_streaming_dataset_reads_them(name, compression, where, tmp_path):
    write(name, tmp_path / "remote", compression=compression, hashes=["sha1"])
    local = {} if where == "in place" else {"local": str(tmp_path / "local")}
    found = streamed(remote=str(tmp_path / "remote"), validate_hash="sha1", keep_zip=True, **local)
    assert found == [sample(n) for n in range(40)]
    if local:
        assert names(tmp_path / "remote") <= names(tmp_path / "local")


def test_batches_mix_them_with_mds_and_resume(tmp_path):
    write("json", tmp_path / "json")
    write("csv", tmp_path / "csv", range(100, 140))
    with ms.MDSWriter(out=tmp_path / "mds", columns={"text": "str", "id": "int32", "x": "float32"}) as writer:
        for n in range(200, 240):
            writer.write(sample(n))

    def loader():
        streams = [ms.Stream(remote=str(tmp_path / name), name=name) for name in ("json", "csv", "mds")]
        return ms.Loader(ms.StreamingDataset(streams=streams, batch_size=6, shuffle=True))

    with loader() as one:
        batches = list(one)
    ids = torch.cat([batch["id"] for batch in batches])
    assert sorted(ids.tolist()) == [*range(40), *range(100, 140), *range(200, 240)]
    assert {batch["id"].dtype for batch in batches} == {torch.int64}  # whatever rows a batch has
    assert {batch["x"].dtype for batch in batches} == {torch.float64}
    assert all(text == f"sample {n} é" for b in batches for text, n in zip(b["text"], b["id"].tolist()))
    with loader() as two:
        for _ in zip(range(7), two):
            state = two.state_dict()
    with loader() as three:
        three.load_state_dict(state)
        assert [batch["id"].tolist() for batch in three] == [batch["id"].tolist() for batch in batches[7:]]


def test_a_cache_limit_holds_for_both_files(tmp_path):
    write("json", tmp_path / "remote", range(200), compression="zstd")
    sizes = [info.raw_bytes for info in parse_index((tmp_path / "remote/index.json").read_bytes(), where="").shards]
    limit = (tmp_path / "remote/index.json").stat().st_size + 5 * max(sizes)
    dataset = ms.StreamingDataset(
        remote=str(tmp_path / "remote"), local=str(tmp_path / "local"), batch_size=1, cache_limit=limit
    )
    for n, found in enumerate(dataset):
        assert found == sample(n)
        assert dataset.cache_usage <= limit
    assert 0 < sum(name.endswith(".meta") for name in names(tmp_path / "local")) < len(sizes)


@pytest.mark.parametrize("bad", ["shard.00001.json", "shard.00001.json.meta"])
def test_a_damaged_file_is_fetched_again_and_without_its_origin_refused(bad, tmp_path):
    write("json", tmp_path / "remote")
    options = {"remote": str(tmp_path / "remote"), "local": str(tmp_path / "local")}
    streamed(**options)
    path = tmp_path / "local" / bad
    path.write_bytes(path.read_bytes()[:-3])
    assert streamed(**options) == [sample(n) for n in range(40)]
    whole = tmp_path / "remote" / bad
    data = whole.read_bytes()
    whole.write_bytes(data[:4] + b"\xff" + data[5:] if bad.endswith("meta") else b"?" + data[1:])
    with pytest.raises(ShardCorruptError, match=r"shard\.00001\.json"):
        streamed(remote=str(tmp_path / "remote"))
    whole.unlink()
    with pytest.raises(ShardNotFoundError, match=bad):
        streamed(remote=str(tmp_path / "remote"))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_local_dataset(compression, tmp_path):
    write("csv", tmp_path / "train", compression=compression)
    dataset = ms.LocalDataset(tmp_path, "train")
    assert len(dataset) == dataset.size == dataset.num_samples == 40
    assert dataset[7] == dataset[-33] == dataset.get_item(7) == sample(7)
    assert dataset[3:9:2] == [sample(3), sample(5), sample(7)]
    assert dataset[[1, [2]]] == [sample(1), [sample(2)]]
    assert dataset[torch.arange(2).numpy()] == [sample(0), sample(1)]
    for wrong in (40, -41):
        with pytest.raises(IndexError, match=str(wrong)):
            dataset[wrong]
    with pytest.raises(ConfigError, match="str"):
        dataset["a"]
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert torch.cat([batch["id"] for batch in loader]).tolist() == [*range(40)]


def test_local_dataset_asks_before_it_unpickles(tmp_path):
    with ms.MDSWriter(columns={"x": "pkl"}, out=tmp_path) as writer:
        writer.write({"x": {1}})
    with pytest.raises(ValueError, match="unsafe type"):
        ms.LocalDataset(tmp_path)
    assert ms.LocalDataset(tmp_path, allow_unsafe_types=True)[0] == {"x": {1}}


def test_an_empty_dataset(tmp_path):
    write("json", tmp_path, ())
    assert len(ms.LocalDataset(tmp_path)) == 0


def test_merge_index_joins_shards_of_two_files(tmp_path):
    write("json", tmp_path / "0", range(20))
    write("csv", tmp_path / "1", range(20, 40), compression="zstd")
    ms.merge_index(str(tmp_path))
    assert streamed(remote=str(tmp_path)) == [sample(n) for n in range(40)]
    (tmp_path / "1/shard.00000.csv.meta.zstd").unlink()
    with pytest.raises(ShardNotFoundError, match=r"1/shard\.00000\.csv\.meta\.zstd"):
        ms.merge_index(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "options", "error", "word"),
    [
        ("json", {"min_workers": 1}, ConfigError, "Invalid Writer argument"),
        ("json", {"size_limit": 2**32}, ConfigError, "`size_limit` must be less than"),
        ("json", {"columns": {"a": "uint8"}}, EncodingError, "float, int, str"),
        ("json", {"columns": {}}, ConfigError, "name at least one"),
        ("json", {"newline": "|"}, ConfigError, "white space"),
        ("json", {"compression": "zip"}, ConfigError, "Invalid compression"),
        ("csv", {"columns": {"a,b": "str"}}, ConfigError, "'a,b' contains the separator"),
        ("csv", {"newline": ""}, ConfigError, "newline is ''"),
        ("xsv", {"separator": ""}, ConfigError, "separator is ''"),
        ("xsv", {"separator": "\n"}, ConfigError, "overlap"),
        ("xsv", {"columns": {"a|": "str", "b": "str"}}, ConfigError, "a part of the separator"),
        ("tsv", {"hashes": ["sha1", "md5"]}, ConfigError, "sorted"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_touched(name, options, error, word, tmp_path):
    with pytest.raises(error, match=word):
        write(name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_is_refused_or_replaced_with_all_of_its_files(tmp_path):
    write("json", tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="Directory is not empty"):
        write("json", tmp_path)
    write("csv", tmp_path, range(1), exist_ok=True)
    assert sorted(names(tmp_path)) == ["index.json", "notes.json", "shard.00000.csv", "shard.00000.csv.meta"]


@pytest.mark.parametrize("name", WRITERS)
def test_an_exception_leaves_no_index_and_a_refused_sample_can_be_left_out(name, tmp_path):
    options = {"separator": "|"} if name == "xsv" else {}

    def fail():
        with WRITERS[name](out=tmp_path / "a", columns=COLUMNS, **options) as writer:
            writer.write(sample(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "a/index.json").exists()
    with WRITERS[name](out=tmp_path / "b", columns=COLUMNS, **options) as writer:
        for each in (sample(1), sample(2) | {"id": "2"}, sample(3)):
            try:
                writer.write(each)
            except EncodingError:
                continue
    assert read(tmp_path / "b") == [[sample(1), sample(3)]]


def test_what_others_read_off_a_writer(tmp_path):
    options = {"columns": {"text": "str"}, "keep_local": True, "compression": "gz", "hashes": ["md5"]}
    with ms.XSVWriter(out=(tmp_path / "a", tmp_path / "b"), separator="|", size_limit="1kb", **options) as writer:
        writer.write({"text": "red"})
        assert writer.encode_sample({"text": "blue"}) == b"blue\n"
        data, meta = writer.encode_split_shard()
        assert data == b"text\nred\n"
        assert meta[:4] == b"\x01\x00\x00\x00"
        assert writer.get_config() == {
            "version": 2,
            "format": "xsv",
            "compression": "gz",
            "hashes": ["md5"],
            "size_limit": 1024,
            "column_names": ["text"],
            "column_encodings": ["str"],
            "separator": "|",
            "newline": "\n",
        }
        assert (writer.newline, writer.separator, writer.keep_local) == ("\n", "|", True)
        writer.flush_shard()
    assert read(tmp_path / "a") == read(tmp_path / "b") == [[{"text": "red"}]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"raw_meta": None}, "raw_meta none"),
        ({"raw_meta": {"basename": "other", "bytes": 100, "hashes": {}}}, "raw_meta 'other'"),
        ({"columns": None}, "lacks columns"),
        ({"columns": {"a": "uint8"}}, "encoding 'uint8'"),
        ({"newline": None}, "lacks newline"),
        ({"samples": 10**9}, "raw_data takes|raw_meta takes"),
        ({"compression": "zstd"}, "no zip_meta"),
        ({"format": "csv"}, "lacks column_names"),
        ({"version": 1}, "version 1"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_file_and_fact(change, word, tmp_path):
    write("json", tmp_path, range(1))
    index = json.loads((tmp_path / "index.json").read_bytes())
    index["shards"][0] |= change
    with pytest.raises(IndexCorruptError, match=f"^index.json: shard 0 .*({word})"):
        parse_index(json.dumps(index).encode(), where="index.json")
