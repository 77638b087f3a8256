"""Indexes of many shards: their compact form is kept, believed for the same bytes only, and never needed."""

import json
from pathlib import Path

import pytest

import mixstream as ms
from mixstream.data.domain import Domain
from mixstream.errors import IndexCorruptError
from mixstream.formats import MANY, ShardList, parse_index
from mixstream.storage import DatasetFiles


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    return tmp_path / "temp"


def declared(directory, *, samples=lambda i: 1 + i % 3):
    """Write an index of many shards that are not there."""
    entries = [
        {
            "column_encodings": ["ndarray:uint16:8"],
            "column_names": ["tokens"],
            "column_sizes": [16],
            "compression": None,
            "format": "mds",
            "hashes": ["xxh64"],
            "raw_data": {"basename": f"shard.{i:05}.mds", "bytes": 100 + i, "hashes": {"xxh64": f"{i:016x}"}},
            "samples": samples(i),
            "size_limit": None,
            "version": 2,
            "zip_data": None,
        }
        for i in range(7500)
    ]
    directory.mkdir(exist_ok=True)
    data = json.dumps({"shards": entries, "version": 2}).encode()
    assert len(data) >= MANY
    (directory / "index.json").write_bytes(data)
    return data


def rewritten(directory, change):
    """Write an index of many shards with `change(i, entry)` made to each entry."""
    listed = json.loads(declared(directory))
    for i, entry in enumerate(listed["shards"]):
        change(i, entry)
    (directory / "index.json").write_text(json.dumps(listed))


def with_two_hashes(i, entry):
    entry |= {"hashes": ["xxh64", "sha1"]}
    entry["raw_data"]["hashes"] = {"xxh64": f"{i:016x}", "sha1": f"{i:040x}"}


def with_large_files(i, entry):
    entry |= {"compression": "zstd", "zip_data": {"basename": f"shard.{i:05}.mds.zstd", "hashes": {}}}
    entry["raw_data"]["bytes"], entry["zip_data"]["bytes"] = 4_294_900_000, 4_295_000_000


@pytest.mark.parametrize("change", [with_two_hashes, with_large_files])
def test_a_second_start_says_what_the_first_did(tmp_path, change):
    rewritten(tmp_path / "d", change)
    first, second = opened(tmp_path / "d"), opened(tmp_path / "d")
    assert first.fingerprint == second.fingerprint
    for number in (0, 7, 7499):
        assert first.shards[number] == second.shards[number]


def test_an_index_is_read_where_there_is_no_temporary_directory(tmp_path, monkeypatch):
    declared(tmp_path / "d")

    def refuse():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._get_default_tempdir", refuse)
    assert len(opened(tmp_path / "d").shards) == 7500


def opened(directory):
    return Domain.open(name="a", files=DatasetFiles.locate(remote=None, local=str(directory), split=None))


def kept(temporary):
    return sorted(path for path in temporary.rglob("*") if path.is_file())


@pytest.fixture
def read(monkeypatch):
    """Return how often an index was read into arrays."""
    from mixstream.data import read_container

    calls = []
    inner = read_container.read_blocks
    monkeypatch.setattr(read_container, "read_blocks", lambda blocks: calls.append(1) or inner(blocks))
    return calls


def test_a_later_start_reads_the_compact_form(tmp_path, temporary, read):
    data = declared(tmp_path / "data")
    first, later = opened(tmp_path / "data"), opened(tmp_path / "data")
    assert len(read) == 1
    assert isinstance(later.shards, ShardList)
    assert first.shards == later.shards == parse_index(data, where="index.json").shards
    assert first.fingerprint == later.fingerprint
    assert [path.name for path in kept(temporary)] == ["entries", "fingerprint"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["index.json"]


def test_the_fingerprint_is_that_of_the_whole_index(tmp_path, monkeypatch):
    declared(tmp_path / "data")
    many = opened(tmp_path / "data").fingerprint
    monkeypatch.setattr("mixstream.data.read_container.read_blocks", lambda blocks: None)
    monkeypatch.setattr("mixstream.data.read_container.load_shard_list", lambda data, text: None)
    whole = opened(tmp_path / "data")
    assert isinstance(whole.shards, tuple)
    assert whole.fingerprint == many


def test_small_indexes_leave_nothing_behind(tmp_path, temporary, read):
    with ms.MDSWriter(columns={"x": "int"}, out=str(tmp_path / "data")) as writer:
        writer.write({"x": 1})
    assert isinstance(opened(tmp_path / "data").shards, tuple)
    assert (kept(temporary), read) == ([], [])


def test_a_changed_index_is_read_again_and_its_form_replaced(tmp_path, temporary, read):
    declared(tmp_path / "data")
    assert opened(tmp_path / "data").samples == 15_000
    declared(tmp_path / "data", samples=lambda i: 2)
    assert opened(tmp_path / "data").samples == opened(tmp_path / "data").samples == 15_000
    assert (len(read), opened(tmp_path / "data").samples_S[0], len(kept(temporary))) == (2, 2, 1)


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "foreign", "link", "directory"])
def test_a_damaged_form_is_written_again(tmp_path, temporary, read, damage):
    declared(tmp_path / "data")
    samples = opened(tmp_path / "data").samples
    (form,) = kept(temporary)
    text = form.read_bytes()
    if damage in ("link", "directory"):
        form.unlink()
    if damage == "link":
        Path(tmp_path / "elsewhere").write_bytes(text)
        form.symlink_to(tmp_path / "elsewhere")
    elif damage == "directory":
        form.mkdir()
    else:
        damaged = {"cut": text[:-9], "changed": text[:-9] + b"?" + text[-8:], "emptied": b"", "foreign": b"\0" * 999}
        form.write_bytes(damaged[damage])
    assert [opened(tmp_path / "data").samples for _ in range(3)] == [samples] * 3
    assert len(read) == (4 if damage == "directory" else 2)
    if damage == "link":
        assert (tmp_path / "elsewhere").read_bytes() == text


def test_a_directory_that_others_can_write_is_not_believed(tmp_path, temporary, read):
    declared(tmp_path / "data")
    opened(tmp_path / "data")
    (private,) = temporary.iterdir()
    private.chmod(0o777)
    opened(tmp_path / "data")
    assert len(read) == 2


def test_a_temporary_directory_that_cannot_be_written_stops_nothing(tmp_path, temporary, read):
    declared(tmp_path / "data")
    temporary.rmdir()
    temporary.write_bytes(b"")
    assert opened(tmp_path / "data").samples == opened(tmp_path / "data").samples == 15_000
    assert len(read) == 2


def test_errors_name_the_entry(tmp_path, temporary):
    declared(tmp_path / "data", samples=lambda i: 10**6 if i == 5000 else 1)
    with pytest.raises(IndexCorruptError, match=r"index\.json: shard 5000 says raw_data takes 5100 bytes"):
        opened(tmp_path / "data")
    assert kept(temporary) == []


def test_an_index_from_a_store_is_read_alike(tmp_path, read):
    data = declared(tmp_path / "data")
    for _ in range(2):
        files = DatasetFiles.locate(remote=str(tmp_path / "data"), local=str(tmp_path / "cache"), split=None)
        domain = Domain.open(name="a", files=files, validate_hash="arrival")
        assert isinstance(domain.shards, ShardList)
        assert domain.shards == parse_index(data, where="index.json").shards
    assert len(read) == 1
