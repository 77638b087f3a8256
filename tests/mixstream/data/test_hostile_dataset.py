"""A whole dataset from somebody who means harm, through the public face: our error, or the rows that its bytes say.

And nothing is written but below the local directory. The rows are read a second time by `read_by_the_book`, which is
the specification (specs/mds.md) and trusts everything.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms

ROWS = 24
KINDS: dict[str, dict[str, Any]] = {
    "rows of one length": {"columns": {"id": "int", "tokens": "ndarray:uint16:8"}},
    "rows that say their length": {"columns": {"id": "int", "tokens": "ndarray:uint16"}},
    "texts": {"columns": {"id": "int", "text": "str", "raw": "bytes"}, "hashes": ["sha1"]},
    "compressed": {"columns": {"id": "int", "tokens": "ndarray:uint16:8"}, "compression": "zstd"},
    "compressed texts": {"columns": {"id": "int", "text": "str"}, "compression": "gz", "hashes": ["xxh64"]},
}


@cache
def files_of(kind: str) -> dict[str, bytes]:
    """Write a dataset of `ROWS` rows in a few shards; return its files."""
    with tempfile.TemporaryDirectory() as out:
        with ms.MDSWriter(out=f"{out}/d", size_limit=480, metadata={"note": 1}, **KINDS[kind]) as writer:
            for number in range(ROWS):
                tokens = np.arange(number, number + 8, dtype=np.uint16)
                text = f"number {number} "
                writer.write({"id": number, "tokens": tokens, "text": text, "raw": text.encode() * 2})
        return {path.name: path.read_bytes() for path in sorted(Path(out, "d").iterdir())}


def read_by_the_book(root: Path) -> list[dict[str, bytes]]:
    """Return the payloads of all samples."""
    samples = []
    for shard in json.loads((root / "index.json").read_bytes())["shards"]:
        raw = root / shard["raw_data"]["basename"]
        if raw.is_file():
            data = raw.read_bytes()
        elif shard["compression"].startswith("zstd"):
            data = zstandard.ZstdDecompressor().decompress((root / shard["zip_data"]["basename"]).read_bytes())
        else:
            data = __import__("gzip").decompress((root / shard["zip_data"]["basename"]).read_bytes())
        for row in range(shard["samples"]):
            at, end = struct.unpack_from("<2I", data, 4 + 4 * row)
            sizes = []
            for size in shard["column_sizes"]:
                sizes.append(struct.unpack_from("<I", data, at)[0] if size is None else size)
                at += 4 if size is None else 0
            sample = {}
            for name, size in zip(shard["column_names"], sizes):
                sample[name], at = data[at : at + size], at + size
            assert at == end <= len(data)
            samples.append(sample)
    return samples


def payload(value: Any) -> bytes:
    """Return the values alone, as they are stored: without what an array says of its shape."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return struct.pack("<q", value) if isinstance(value, int) else np.asarray(value).astype("<u2").tobytes()


def said(sample: dict[str, Any]) -> bool:
    """Whether these are the columns that `payload` can compare."""
    return set(sample) <= {"id", "tokens", "text", "raw"} and type(sample.get("id")) is int


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    for row, number in enumerate(batch["id"].tolist()):
        columns = {name: column[row] for name, column in batch.items() if name not in ("id", "domain")}
        yield {"id": number, **{name: v.numpy() if hasattr(v, "numpy") else v for name, v in columns.items()}}


def listing(root: Path) -> dict[str, tuple[Any, ...]]:
    return {
        str(path.relative_to(root)): (path.is_symlink(), path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in [root, *root.rglob("*")]
        if "local" not in path.relative_to(root).parts and path != root  # the root itself gets a local directory
    }


hostile_values = st.one_of(
    st.sampled_from(
        [-1, 0, 1, 2, 12, 13, 2**31, 2**32 - 1, 2**32, 2**63, 1.5, None, True, "", [], {}, "zstd", "gz", "br"]
    ),
    st.sampled_from(
        ["../outside/stolen.mds", "/tmp/stolen.mds", "a/../../outside/x", "..", "index.json", "\0", "x" * 500]
    ),
    st.sampled_from(
        [".mixstream-origin", ".mixstream-lock", ".shard.00000.mds.partial", "shard.00001.mds", "new/x.mds"]
    ),
    st.sampled_from(["pkl", "bytes", "str", "json", "png", "int", "ndarray", "ndarray:uint16", "ndarray:uint16:4,2"]),
)


PLACES: list[list[Any]] = [
    *(["raw_data", "basename"], ["raw_data", "bytes"], ["raw_data", "hashes"], ["zip_data", "basename"], ["samples"]),
    *(["zip_data"], ["zip_data", "bytes"], ["compression"], ["hashes"], ["samples"]),
    *(["column_encodings", 1], ["column_names", 0], ["column_sizes", 1]),
]


@st.composite
def hostile_files(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a dataset's files with one to three things changed: of its index, of a shard, or which is which."""
    files = dict(files)
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["value", "value", "word", "word", "byte", "cut", "swap", "gone"]))
        shard = draw(st.sampled_from(sorted(name for name in files if name != "index.json") or ["index.json"]))
        data = bytearray(files.get(shard, b""))
        if how == "value":
            with suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
                index = json.loads(files["index.json"])
                node, keys = index, ["shards", draw(st.integers(0, 2))]
                keys += draw(st.sampled_from(PLACES))
                for key in keys[:-1]:
                    node = node[key]
                node[keys[-1]] = draw(hostile_values)
                files["index.json"] = json.dumps(index).encode()
        elif how == "word" and len(data) > 8:
            at = draw(st.integers(0, 15)) * 4 if draw(st.booleans()) else draw(st.integers(0, len(data) - 4))
            at = min(at, len(data) - 4)
            now = struct.unpack_from("<I", data, at)[0]
            struct.pack_into("<I", data, at, (now + draw(st.sampled_from([-8, -2, -1, 1, 2, 8, 2**31]))) % 2**32)
            files[shard] = bytes(data)
        elif how == "byte" and data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            files[shard] = bytes(data)
        elif how == "cut":
            files[shard] = bytes(data[: draw(st.integers(0, len(data)))])
        elif how == "swap":
            other = draw(st.sampled_from(sorted(files)))
            files[shard], files[other] = files[other], bytes(data)
        elif how == "gone":
            del files[draw(st.sampled_from(sorted(files)))]
            files.setdefault("index.json", b"")
    return files


def read_all(root: Path, **kw: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the samples, one by one in order, and the rows of an epoch's batches."""
    stream = ms.Stream(remote=str(root / "remote"), local=str(root / "local"), download_retry=1, **kw)
    dataset = ms.StreamingDataset(streams=[stream], batch_size=4, shuffle=False, num_canonical_nodes=1)
    singles: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "outside")
        error: ms.errors.MixstreamError | None = None
        for number in range(dataset.num_samples):
            try:
                singles.append(dataset[number])
            except ms.errors.MixstreamError as caught:
                singles, error = [*singles, None], caught
        rows = []
        try:
            with ms.Loader(dataset, prefetch=1) as loader:
                for batch in loader:
                    rows += [] if "id" not in batch or not hasattr(batch["id"], "tolist") else rows_of(batch)
        except ms.errors.MixstreamError as caught:
            error = caught
        else:
            assert None not in singles[: len(singles) // 4 * 4], "the batches gave what a sample alone is refused for"
    if error is not None:
        assert str(error)
        assert "Traceback" not in str(error)
    return singles, rows


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_rows_are_right_or_refused_and_nothing_is_written_elsewhere(kind, data):
    files = data.draw(hostile_files(files_of(kind)))
    checked = data.draw(st.booleans()) and KINDS[kind].get("hashes")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for directory in ("remote", "outside", "local"):
            (root / directory).mkdir()
        (root / "outside" / "stolen.mds").write_bytes(b"not yours")
        for name, content in files.items():
            (root / "remote" / name).write_bytes(content)
        before = listing(root)
        try:
            samples, rows = read_all(root, validate_hash=checked[0] if checked else None)
        except ms.errors.MixstreamError:
            samples, rows = [], []
        assert listing(root) == before
        assert not any(path.is_symlink() for path in root.rglob("*"))
        read = [(number, sample) for number, sample in enumerate(samples) if sample is not None and said(sample)]
        if not read:
            return
        book = read_by_the_book(root / "remote") if len(read) == len(samples) else None
        for number, sample in read:
            if book is not None:
                assert all(book[number][name].endswith(payload(value)) for name, value in sample.items())
        alone = {tuple(sorted((name, payload(value)) for name, value in sample.items())) for _, sample in read}
        for row in rows:
            if said(row):
                assert tuple(sorted((name, payload(value)) for name, value in row.items())) in alone


def test_the_undamaged_are_read(tmp_path):
    """The test above is not satisfied by errors alone."""
    for number, kind in enumerate(KINDS):
        root = tmp_path / str(number)
        for directory in ("remote", "outside", "local"):
            (root / directory).mkdir(parents=True)
        for name, content in files_of(kind).items():
            (root / "remote" / name).write_bytes(content)
        samples, rows = read_all(root)
        assert [sample["id"] for sample in samples] == [row["id"] for row in rows] == list(range(ROWS))
        book = read_by_the_book(root / "remote")
        assert all(one[n].endswith(payload(v)) for one, s in zip(book, samples, strict=True) for n, v in s.items())


@pytest.mark.parametrize("target", ["outside/stolen.mds", "outside"])
def test_a_link_planted_in_the_cache_leads_nowhere(tmp_path, target):
    """Whoever can write to the local directory cannot make the loader write through it to somewhere else."""
    for directory in ("remote", "outside", "local"):
        (tmp_path / directory).mkdir()
    (tmp_path / "outside" / "stolen.mds").write_bytes(b"not yours")
    files = files_of("compressed")
    for name, content in files.items():
        (tmp_path / "remote" / name).write_bytes(content)
    for name in files:
        raw = name.removesuffix(".zstd")
        for planted in (raw, f".{raw}.partial"):
            if raw != "index.json":
                (tmp_path / "local" / planted).symlink_to(tmp_path / target)
    samples, rows = [], []
    with suppress(OSError, ms.errors.MixstreamError), pytest.warns(RuntimeWarning, match="is a symbolic link"):
        samples, rows = read_all(tmp_path)  # it may give up, or read what it unpacks elsewhere
    assert {sample["id"] for sample in samples if sample is not None} <= set(range(ROWS))
    assert {row["id"] for row in rows} <= set(range(ROWS))
    assert (
        hashlib.sha1((tmp_path / "outside" / "stolen.mds").read_bytes()).digest() == hashlib.sha1(b"not yours").digest()
    )
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["stolen.mds"]
