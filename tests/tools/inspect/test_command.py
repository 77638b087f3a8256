"""`mixstream inspect`: what it tells of datasets, what it fetches for that, and what it keeps off the terminal."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import ignore_range  # pyright: ignore[reportMissingImports] - conftest.py sets the path
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
from mixstream.formats import dump_index, parse_index
from mixstream_tools.cli import main

GOLDEN = Path(__file__).parents[2] / "data" / "mosaic"
OPTIONS = {
    *(
        "--samples",
        "--tokenizer",
        "--count",
        "--allow-unsafe-types",
        "--download-retry",
        "--download-timeout",
        "--html",
        "--seq-len",
        "--overlap",
        "--dtype",
        "--token-column",
    ),
    "--json",
}
NASTY = "\x1b[31mred\x1b[0m\u202e\x07 [bold]x[/y] :smile: \x9b2J"


@pytest.fixture
def inspect(capsys):
    """Run `mixstream inspect … --json`; returns status and document. Only what strict JSON has is accepted."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["inspect", *map(str, arguments), "--download-retry", "1", "--json"])
        return status, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return run


@pytest.fixture
def shown(capsys):
    """Run `mixstream inspect …`; returns what people see, which holds nothing but text."""

    def run(*arguments):
        capsys.readouterr()
        main(["inspect", *map(str, arguments), "--download-retry", "1"])
        told = capsys.readouterr()
        assert (told.out + told.err).replace("\n", "").isprintable()
        return told.out + told.err

    return run


def write(out: Path, columns, samples, **kw) -> Path:
    with ms.MDSWriter(columns=columns, out=str(out), **kw) as writer:
        for sample in samples:
            writer.write(sample)
    return out


def public(s3):
    """The place in the bucket that can be read without keys."""
    return replace(s3, bucket="public")


def columns_of(sample):
    return sample["columns"]


def test_options_of_inspect_are_frozen(capsys, monkeypatch):
    """A new option is a promise: add it here, and to docs/ where its page lists options, on purpose."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", "--help"]) == 0
    told = capsys.readouterr().out
    assert set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :])) == OPTIONS
    assert "mixstream inspect s3://bucket/shards --samples 0" in told


def test_what_the_indexes_tell(inspect):
    status, document = inspect(GOLDEN, "--samples", "0")
    assert (status, document["status"]) == (0, "ok")
    by_name = {each["name"]: each for each in document["datasets"]}
    assert set(by_name) == {path.parent.name for path in GOLDEN.glob("*/index.json")}
    for name, each in by_name.items():
        index = json.loads((GOLDEN / name / "index.json").read_bytes())["shards"]
        raw = [shard["raw_data"]["bytes"] for shard in index]
        assert each["shards"] == len(index)
        assert each["samples"] == sum(shard["samples"] for shard in index)
        assert each["raw_bytes"] == sum(raw)
        assert (each["smallest_shard"], each["largest_shard"]) == (min(raw, default=None), max(raw, default=None))
        assert each["packed_bytes"] == (sum(s["zip_data"]["bytes"] for s in index if s["zip_data"]) or None)
    assert by_name["documents_zstd7"]["compression"] == ["zstd:7"]
    assert by_name["tokens"]["hashes"] == ["sha1", "xxh64"]
    assert by_name["tokens"]["columns"] == [{"id": "int", "tokens": "ndarray:uint16:32"}]
    assert (by_name["tokens"]["tokens"], by_name["tokens"]["tokens_from"]) == (60 * 32, "row length")
    assert by_name["documents_gz"]["tokens"] is None


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_tokens_are_counted_on_request(inspect, tmp_path, compression):
    lengths = [1 + row % 7 for row in range(50)]
    rows = [{"tokens": np.zeros(length, np.int32), "image": b"none"} for length in lengths]
    columns = {"tokens": "ndarray:int32", "image": "png"}  # which is not looked at
    write(tmp_path / "varying", columns, rows, size_limit=500, compression=compression)
    write(tmp_path / "none", {"data": "bytes"}, [{"data": b"x"}])
    none, varying = inspect(tmp_path, "--samples", "0")[1]["datasets"]
    assert (none["tokens"], varying["tokens"]) == (None, None)
    none, varying = inspect(tmp_path, "--samples", "0", "--count")[1]["datasets"]
    assert (none["tokens"], varying["tokens"], varying["tokens_from"]) == (None, sum(lengths), "counted")
    assert varying["shards"] > 2
    next((tmp_path / "varying").glob("shard*")).unlink()
    status, document = inspect(tmp_path, "--samples", "0", "--count")
    assert (status, document["datasets"][1]["tokens"]) == (1, None)  # a part of them is no answer


def test_all_encodings_can_be_shown(shown):
    told = shown(GOLDEN, "--samples", "2")
    assert "8 x 6 RGBA image" in told
    assert "uint16 [32]  35 0 79" in told
    assert "pkl, 41 bytes, not decoded" in told


def test_samples_are_the_ones_of_the_shard(inspect, tmp_path):
    rows = [{"n": row, "text": f"text {row} " + "y" * 300, "b": bytes(row)} for row in range(10)]
    directory = write(tmp_path / "data", {"n": "int", "text": "str", "b": "bytes"}, rows)
    (each,) = inspect(directory, "--samples", "4")[1]["datasets"]
    assert [sample["sample"] for sample in each["samples_shown"]] == [0, 2, 5, 7]
    for sample in each["samples_shown"]:
        told, row = columns_of(sample), rows[sample["sample"]]
        assert told["n"] == {"value": row["n"]}
        assert told["text"]["characters"] == len(row["text"])
        assert told["text"]["value"] == row["text"][:199] + "…"
        assert told["b"] == {"value": f"{len(row['b'])} bytes"}
    assert len(inspect(directory, "--samples", "99")[1]["datasets"][0]["samples_shown"]) == 10


def test_what_convert_made_is_shown_as_text(inspect, shown, tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("Grüße an alle. " * 40)
    (tmp_path / "src" / "b.txt").write_text(NASTY * 40)
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "src"), "--out", str(out), "--seq-len", "64", "--workers", "1"]) == 0
    (each,) = inspect(out)[1]["datasets"]
    assert (each["name"], each["about"]["seq_len"]) == ("src/train", 64)
    assert each["tokens"] == each["about"]["tokens"] == each["samples"] * 64
    told = columns_of(each["samples_shown"][0])["tokens"]
    assert (told["dtype"], told["shape"]) == ("uint16", [64])
    assert told["first"] == list("Grüße an alle".encode()[:12])
    assert told["text"].startswith("Grüße an alle. Grüße")
    assert '"Grüße an alle. Grüße' in shown(out)
    assert r"\u001b[31mred" in shown(out, "--samples", "50")


def test_tokens_of_another_tokenizer(inspect, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel(vocab={"cat": 0, "sat": 1, "?": 2}, unk_token="?")
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    tokens = np.array([1, 0, 1], np.int32)
    directory = write(tmp_path / "data", {"tokens": "ndarray:int32"}, [{"tokens": tokens}])
    document = inspect(directory, "--tokenizer", tmp_path / "tokenizer.json")[1]
    assert columns_of(document["datasets"][0]["samples_shown"][0])["tokens"]["text"] == "sat cat sat"
    path = directory / "index.json"
    index = json.loads(path.read_bytes()) | {"mixstream": {"domain": "d", "tokenizer": {"name": "o", "hash": "other"}}}
    path.write_text(json.dumps(index))
    document = inspect(directory, "--tokenizer", tmp_path / "tokenizer.json")[1]
    assert "its text will be wrong" in document["notes"][0]
    assert inspect(directory, "--tokenizer", tmp_path / "none.json")[0] == 2


def test_numbers_that_json_does_not_have(inspect, tmp_path):
    sample = {"a": np.array([np.nan, np.inf, 1.5], np.float32), "f": np.float64("-inf"), "j": [float("nan")]}
    directory = write(tmp_path / "data", {"a": "ndarray:float32", "f": "float64", "j": "json"}, [sample])
    told = columns_of(inspect(directory)[1]["datasets"][0]["samples_shown"][0])
    assert told["a"]["first"] == ["nan", "inf", 1.5]
    assert told["f"] == {"value": "-inf"}
    assert told["j"] == {"value": "[NaN]"}


# --- hostile bytes ----------------------------------------------------------------------------------------------------


def test_nothing_from_the_data_reaches_the_terminal(shown, tmp_path):
    """Values, column names, metadata: all of it is written out."""
    column = "\u202e[red][/x]:smile:"
    sample = {column: NASTY, "j": {NASTY: [NASTY]}}
    metadata = {"mixstream": {"domain": NASTY, "tokenizer": {"name": NASTY, "hash": "other"}, "tokens": NASTY}}
    directory = write(tmp_path / "data", {column: "str", "j": "json"}, [sample], metadata=metadata)
    told = shown(directory, "--tokenizer", "bytes")
    assert r"\u202e[red][/x]:smile:" in told
    assert told.count("[bold]x[/y] :smile:") >= 4


def test_pickles_are_not_decoded_unless_allowed(inspect, tmp_path):
    trace = tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (Path(trace),)

    directory = write(tmp_path / "data", {"o": "pkl"}, [{"o": pickle.dumps(Bomb())}])
    told = columns_of(inspect(directory)[1]["datasets"][0]["samples_shown"][0])
    assert "not decoded" in told["o"]["value"]
    assert not trace.exists()
    assert inspect(directory, "--allow-unsafe-types")[0] == 0
    assert trace.exists()


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("harm", ["gone", "cut", "count", "offset"])
def test_a_bad_shard_is_told_and_the_rest_is_shown(inspect, tmp_path, compression, harm):
    columns, rows = {"text": "str"}, [{"text": f"row {row}"} for row in range(9)]
    bad = write(tmp_path / "bad", columns, rows, compression=compression)
    write(tmp_path / "good", columns, rows)
    (path,) = bad.glob("shard*")
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, len(data) - 1)
    else:
        data[3 if harm == "count" else 7] ^= 0xFF
        path.write_bytes(data)
    status, document = inspect(tmp_path)
    first, second = document["datasets"]
    assert (status, document["status"]) == (1, "faults")
    assert first["trouble"]["message"]
    assert (first["samples"], first["samples_shown"]) == (9, [])
    assert (second["trouble"], len(second["samples_shown"])) == (None, 3)


@given(data=st.data())
@settings(max_examples=15)
def test_damage_anywhere_is_told_and_never_a_traceback(data):
    """Of `inspect` and of `verify`; nothing invisible is printed."""
    name = data.draw(
        st.sampled_from(["arrays", "scalars", "encoded_images", "raw_images", "documents_snappy", "tokens"])
    )
    with tempfile.TemporaryDirectory() as root:
        directory = Path(shutil.copytree(GOLDEN / name, f"{root}/data"))
        path = data.draw(st.sampled_from(sorted(directory.iterdir())))
        content = bytearray(path.read_bytes())
        begin = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=8))
        content[begin : begin + len(noise)] = noise
        path.write_bytes(content)
        for command in (["inspect", "--samples", "9"], ["verify"]):
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                status = main([*command, str(directory), "--download-retry", "1"])
            assert status in (0, 1)
            assert (out.getvalue() + err.getvalue()).replace("\n", "").isprintable()


def test_an_index_that_says_what_cannot_be(inspect, shown, tmp_path):
    directory = write(tmp_path / "data", {"text": "str"}, [{"text": "x"}])
    text = (directory / "index.json").read_text().replace("shard.00000.mds", "../../etc/passwd")
    (directory / "index.json").write_text(text)
    status, document = inspect(directory)
    assert (status, document["datasets"][0]["trouble"]["type"]) == (1, "IndexCorruptError")
    assert "could not be read" in shown(directory)


def test_wrong_use(inspect, tmp_path):
    assert inspect(tmp_path)[0] == 2
    assert inspect(tmp_path / "none")[0] == 2
    assert inspect(GOLDEN, "--samples", "-1")[0] == 2


def test_shards_without_an_index_are_said_to_be_unfinished(inspect, tmp_path):
    for name in ("shard.00000.mds", "shard.00001.mds", "shard.00001.mds.zstd"):
        (tmp_path / "web" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "web" / "train" / name).write_bytes(b"x")
    for place in (tmp_path, tmp_path / "web" / "train"):
        status, document = inspect(place)
        assert (status, document["status"]) == (1, "faults")
        (each,) = document["datasets"]
        assert "there are 2 shards but no index.json: the writing was not finished" in each["trouble"]["message"]
    write(tmp_path / "code" / "train", {"text": "str"}, [{"text": "x"}])
    status, document = inspect(tmp_path)
    assert (status, [each["name"] for each in document["datasets"]]) == (1, ["web/train", "code/train"])


# --- stores -----------------------------------------------------------------------------------------------------------


def test_of_a_raw_shard_only_what_is_shown_is_fetched(inspect, tmp_path, s3, proxy):
    rows = [{"text": "z" * 5000} for _ in range(60)]
    write(tmp_path / "raw", {"text": "str"}, rows, size_limit=100_000)
    write(tmp_path / "packed", {"text": "str"}, rows, size_limit=100_000, compression="zstd")
    s3.upload(tmp_path)
    status, document = inspect(s3.url, "--samples", "2")
    assert (status, [each["name"] for each in document["datasets"]]) == (0, ["packed", "raw"])
    for each in document["datasets"]:
        assert [columns_of(sample)["text"]["characters"] for sample in each["samples_shown"]] == [5000, 5000]
    ranges = [seen.range.removeprefix("bytes=").split("-") for seen in proxy.seen if seen.path.endswith(".mds")]
    assert sum(int(last) + 1 - int(first) for first, last in ranges) == 4 + 2 * (8 + 5004)
    assert proxy.count("*/packed/*.zstd") == 1
    before = proxy.count("*.mds*")
    inspect(s3.url, "--samples", "0")
    assert proxy.count("*.mds*") == before


def test_a_server_that_sends_whole_objects_only(inspect, tmp_path, s3, proxy):
    write(tmp_path, {"text": "str"}, [{"text": f"row {row}"} for row in range(4)])
    place = public(s3)
    place.upload(tmp_path)
    proxy.when(ignore_range(), path="*.mds")
    status, document = inspect(place.http_url.replace(s3.endpoint, proxy.endpoint), "--samples", "2")
    assert (status, document["datasets"][0]["trouble"]) == (0, None)
    told = [columns_of(sample)["text"]["value"] for sample in document["datasets"][0]["samples_shown"]]
    assert told == ["row 0", "row 2"]


def test_a_public_bucket_by_http(inspect, tmp_path, s3):
    """Such a store cannot be listed: the directory of a dataset is named, or domains.json is there."""
    place = public(s3)
    write(tmp_path / "web" / "train", {"text": "str"}, [{"text": "hello"}])
    (tmp_path / "domains.json").write_text(json.dumps({"domains": {"web": {"train": {"rows": 1}}}}))
    place.upload(tmp_path)
    for url, name in ((f"{place.http_url}/web/train", f"{place.http_url}/web/train"), (place.http_url, "web/train")):
        status, document = inspect(url)
        assert (status, document["datasets"][0]["name"]) == (0, name)
        assert columns_of(document["datasets"][0]["samples_shown"][0])["text"]["value"] == "hello"


def test_a_bucket_that_is_not_there_is_said_not_to_be(inspect, s3):
    status, document = inspect(replace(s3, bucket="no-such-bucket").url)
    assert (status, document["status"]) == (2, "error")
    assert "there is no such bucket" in document["error"]["message"]
    assert "no dataset is there" in inspect(s3.url)[1]["error"]["message"]


def test_index_hashes_are_checked(inspect, tmp_path):
    directory = write(tmp_path / "data", {"text": "str"}, [{"text": "x"}])
    path = directory / "index.json"
    path.write_bytes(dump_index(parse_index(path.read_bytes(), where="test"), hashes=["sha1"]))
    assert inspect(directory)[0] == 0
    path.write_bytes(path.read_bytes().replace(b'"samples": 1', b'"samples": 0'))
    assert inspect(directory)[0] == 1
