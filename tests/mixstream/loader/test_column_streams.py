"""Streams of Parquet and Arrow files: rows and documents as pyarrow reads them, and all that other streams can do."""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from column_files import (  # pyright: ignore[reportMissingImports] - the path is set by conftest
    read_lists,
    saved_to_disk,
    token_lists,
    write_table,
)
from harness import drive, write_tokens  # pyright: ignore[reportMissingImports]
from packings import PAD, pack  # pyright: ignore[reportMissingImports]
from selections import keep  # pyright: ignore[reportMissingImports]
from token_streams import dataset_of, flat, read_rows, samples_of  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError, IndexCorruptError, IndexNotFoundError, SelectionError, ShardCorruptError
from mixstream.selection import ShardTable, fingerprint
from mixstream_tools.cli import main

IDS = pa.list_(pa.int32())


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into shards of 256 bytes: some dozens of rows are enough to have many."""
    monkeypatch.setattr("mixstream.data.token_index.SHARD_BYTES", 256)


def table_of(lists: list[Any], kind: pa.DataType = IDS, **others: Any) -> pa.Table:
    return pa.table({"text": ["é"] * len(lists), "input_ids": pa.array(lists, kind), **others})


def rows_of(lists: list[list[int]], seq_len: int, overlap: int = 0) -> list[list[int]]:
    tokens = flat(lists)
    count = max(len(tokens) - overlap, 0) // seq_len
    return [tokens[at * seq_len : (at + 1) * seq_len + overlap] for at in range(count)]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "stream", "file-lz4"])
def test_a_directory_is_read_in_both_ways(tmp_path, small_shards, kind):
    lists = [token_lists(50, 12, seed=1), token_lists(9, 12, seed=2)]
    for name, each in zip("ab", lists):
        write_table(tmp_path / name, table_of(each, pa.large_list(pa.uint16())), kind, rows=7)
    (tmp_path / "_metadata.parquet").write_bytes(b"")
    for overlap in (0, 1):
        expected = [row for each in lists for row in rows_of(each, 8, overlap)]
        assert read_rows(ms.Stream(remote=str(tmp_path), seq_len=8, overlap=overlap)) == expected
    assert samples_of(ms.Stream(remote=str(tmp_path))) == lists[0] + lists[1]
    suffix = "parquet" if kind == "parquet" else "arrow"
    assert read_rows(ms.Stream(remote=f"{tmp_path}/b.{suffix}", seq_len=8)) == rows_of(lists[1], 8)
    pattern = ms.Stream(remote=f"{tmp_path}/b*.{suffix}", seq_len=8)
    assert read_rows(pattern) == rows_of(lists[1], 8)
    assert dataset_of(pattern).streams[0].name == "b"


def test_tails_of_files_are_dropped_and_counted_and_those_of_row_groups_are_not(tmp_path):
    for name, tokens in (("a", 30), ("b", 25), ("c", 2)):
        write_table(tmp_path / name, table_of([[at] for at in range(tokens)]), "parquet", rows=3)
    stream = ms.Stream(remote=str(tmp_path), seq_len=8, name="web", column="input_ids")
    with (
        pytest.warns(UserWarning, match=r"stream 'web': 1 of 3 token files are not read \(c.parquet\)"),
        ms.Loader(dataset_of(stream)) as loader,
    ):
        assert "tails    web: 9 tokens at the ends of its files are in no row" in loader.describe()


def test_a_saved_dataset_has_the_files_that_its_state_lists(tmp_path):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 1000, (60, 8)).tolist()
    tables = [table_of(packed[at : at + 20], token_type_ids=[[0] * 8] * 20) for at in (0, 20, 40)]
    saved = saved_to_disk(tmp_path / "d" / "train", tables, rows=7)
    write_table(saved / "cache-0123456789", table_of([[1, 2]]), "stream")  # what `map` left there
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    state = json.loads((saved / "state.json").read_text())
    for options in ({}, {"seq_len": 8}, {"seq_len": 7, "overlap": 1}):
        assert read_rows(ms.Stream(remote=str(tmp_path / "d"), split="train", **options)) == packed
    assert read_rows(ms.Stream(remote=str(saved), seq_len=16)) == rows_of(packed[:20], 16) + rows_of(
        packed[20:40], 16
    ) + rows_of(packed[40:], 16)
    with pytest.raises(ConfigError, match="has the splits 'train': give the one to be read as `split`"):
        dataset_of(ms.Stream(remote=str(tmp_path / "d")))
    with pytest.raises(ConfigError, match=r"all 60 lists have 8 tokens.*or give seq_len=8"):
        dataset_of(ms.Stream(remote=str(saved), seq_len=5))
    (saved / "state.json").write_text(json.dumps({**state, "_data_files": state["_data_files"][::-1]}))
    assert read_rows(ms.Stream(remote=str(saved))) == packed[40:] + packed[20:40] + packed[:20]
    (saved / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(ConfigError, match="flatten_indices"):
        dataset_of(ms.Stream(remote=str(saved)))
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-9.arrow"}]}))
    with pytest.raises(IndexCorruptError, match=r"data-9\.arrow is listed, and is not there"):
        dataset_of(ms.Stream(remote=str(saved)))
    (saved / "state.json").write_text("[]")
    with pytest.raises(IndexCorruptError, match="lists no `_data_files`"):
        dataset_of(ms.Stream(remote=str(saved)))


def test_a_dataset_that_datasets_saved_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    lists = token_lists(30, 9)
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"input_ids": lists})}).save_to_disk(str(tmp_path / "d"))
    assert samples_of(ms.Stream(remote=str(tmp_path / "d"), split="train")) == lists


def test_packed_parquet_is_read_as_rows_without_seq_len(tmp_path):
    packed = [[at * 4 + n for n in range(4)] for at in range(30)]
    write_table(tmp_path / "a", table_of(packed), "parquet", rows=7)
    assert read_rows(ms.Stream(remote=str(tmp_path))) == packed
    by_chance = [[1, 2, 3], [4, 5, 6, 7, 8]]  # as many tokens as two lists of four
    write_table(tmp_path / "a", table_of(by_chance), "parquet")
    assert samples_of(ms.Stream(remote=str(tmp_path))) == by_chance
    one = [list(range(22))]  # a list alone is a document
    write_table(tmp_path / "a", table_of(one), "parquet")
    assert read_rows(ms.Stream(remote=str(tmp_path), seq_len=5, overlap=1)) == rows_of(one, 5, 1)


@pytest.mark.parametrize("kind", ["parquet", "stream", "file-lz4"])
@pytest.mark.parametrize(
    ("name", "found", "is_refused"),
    [
        ("labels", [[1, 2, 3], [4, 5, 6]], False),
        ("labels", [[2, 3, -100], [5, 6, -100]], False),
        ("labels", [[1, 2, 3], [-100, 5, 6]], True),
        ("labels", [0, 1], False),
        ("loss_mask", [[1, 1, 1], [1, 1, 1]], False),
        ("loss_mask", [[1, 1, 1], [0, 1, 1]], True),
        ("loss_mask", [[True] * 3] * 2, True),
        ("attention_mask", [[1, 1, 1], [1, 1, 1]], False),
        ("attention_mask", [[1, 1, 1], [1, 1, 0]], True),
    ],
)
def test_columns_that_say_more_than_the_ids_are_refused(tmp_path, kind, name, found, is_refused):
    lists = [[1, 2, 3], [4, 5, 6]]
    path = write_table(tmp_path / "a", table_of(lists, **{name: found}), kind)
    if is_refused:
        with pytest.raises(ConfigError, match=f"column '{name}' .*pass column='input_ids'"):
            dataset_of(ms.Stream(remote=str(path), seq_len=3))
    else:
        assert read_rows(ms.Stream(remote=str(path), seq_len=3)) == lists
    assert read_rows(ms.Stream(remote=str(path), seq_len=3, column="input_ids")) == lists


def refused(at: Path, name: str) -> ms.Stream:
    return {
        "mixed dtypes": lambda: ms.Stream(remote=f"{at}/[ab]*.arrow", seq_len=2),
        "mixed kinds": lambda: ms.Stream(remote=f"{at}/kinds", seq_len=2),
        "dtype": lambda: ms.Stream(remote=f"{at}/a.arrow", seq_len=2, dtype="uint16"),
        "long": lambda: ms.Stream(remote=f"{at}/a.arrow", seq_len=99),
        "column": lambda: ms.Stream(remote=f"{at}/a.arrow", seq_len=2, column="ids"),
        "no tokens": lambda: ms.Stream(remote=f"{at}/empty.arrow"),
        "none": lambda: ms.Stream(remote=f"{at}/none-*.parquet", seq_len=2),
        "missing": lambda: ms.Stream(remote=f"{at}/none.parquet", seq_len=2),
        "splits": lambda: ms.Stream(remote=f"{at}/hub", seq_len=2),
        "other splits": lambda: ms.Stream(remote=f"{at}/splits", seq_len=2),
        "both": lambda: ms.Stream(remote=f"{at}/both", seq_len=2),
        "MDS": lambda: ms.Stream(remote=f"{at}/mds", column="tokens"),
        "column of .bin": lambda: ms.Stream(remote=f"{at}/bin", seq_len=2, column="tokens"),
        "below": lambda: ms.Stream(remote=f"{at}/above", seq_len=2),
    }[name]()


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("mixed dtypes", ConfigError, r"token ids of int64 \(b.arrow\) and int32 \(a.arrow\)"),
        ("mixed kinds", ConfigError, r"of the kind parquet \(b.parquet\) and arrow \(a.arrow\)"),
        ("dtype", ConfigError, "has int32: leave dtype out"),
        ("long", ConfigError, "give a smaller seq_len"),
        ("column", ConfigError, "no column 'ids'; name the column .* one of 'input_ids'"),
        ("no tokens", ConfigError, "has no tokens in any of 1 files"),
        ("none", IndexNotFoundError, r"no file is called like 'none-\*.parquet'"),
        ("missing", IndexNotFoundError, "none.parquet"),
        ("other splits", ConfigError, r"several splits, 'train_1.parquet', 'val_1.parquet'"),
        ("splits", ConfigError, r"several splits, 'test-00000.*train-00000.*as .*/hub/test-\*.parquet"),
        ("both", ConfigError, "it is not clear which have the tokens"),
        ("MDS", ConfigError, "is an MDS dataset"),
        ("column of .bin", ConfigError, "there are no Parquet or Arrow files"),
        ("below", IndexNotFoundError, r"sub-directories \['parts'\]"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name, error, text):
    lists = [[1, 2, 3], [4]]
    for directory in ("kinds", "hub", "splits", "both", "bin", "above/parts"):
        (tmp_path / directory).mkdir(parents=True)
    write_table(tmp_path / "a", table_of(lists), "stream")
    write_table(tmp_path / "b", table_of(lists, pa.list_(pa.int64())), "stream")
    write_table(tmp_path / "empty", table_of([[], []]), "stream")
    for path, kind in (
        ("kinds/a", "stream"),
        ("kinds/b", "parquet"),
        ("hub/train-00000-of-00001", "parquet"),
        ("hub/test-00000-of-00001", "parquet"),
        ("both/a", "parquet"),
        ("splits/train_1", "parquet"),
        ("splits/train_2", "parquet"),
        ("splits/val_1", "parquet"),
        ("above/parts/a", "parquet"),
    ):
        write_table(tmp_path / path, table_of(lists), kind)
    (tmp_path / "both/a.bin").write_bytes(bytes(8))
    (tmp_path / "bin/a.bin").write_bytes(bytes(8))
    write_tokens(tmp_path / "mds", range(3))
    with pytest.raises(error, match=text):
        dataset_of(refused(tmp_path, name))


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixture(tmp_path, small_shards):
    """Return a function that makes streams of Parquet, of packed Arrow, and of MDS with equal rows."""
    write_table(tmp_path / "web", table_of([[at, at + 1] for at in range(0, 800, 2)]), "parquet", rows=50)
    packed = [list(range(at, at + 8)) for at in range(2000, 2800, 8)]
    saved_to_disk(tmp_path / "code", [table_of(packed[:60]), table_of(packed[60:])])
    write_tokens(tmp_path / "law", range(3000, 3100))

    def streams(**web: Any) -> list[ms.Stream]:
        return [
            ms.Stream(remote=str(tmp_path / "web.parquet"), seq_len=8, **web),
            ms.Stream(remote=str(tmp_path / "code")),
            ms.Stream(remote=str(tmp_path / "law")),
        ]

    return streams


def test_a_shuffled_epoch_of_columns_and_mds_has_every_row_once(mixture):
    dataset = dataset_of(*mixture(), shuffle=True, batch_size=10)
    assert [stream.name for stream in dataset.streams] == ["web", "code", "law"]
    with ms.Loader(dataset) as loader:
        rows = [row for batch in loader for row in batch["tokens"].tolist()]
    of_tokens = [list(range(i, i + 8)) for i in [*range(0, 800, 8), *range(2000, 2800, 8)]]
    assert sorted(rows) == of_tokens + [[i] * 8 for i in range(3000, 3100)]


def test_a_mixture_goes_on_with_another_world_size(mixture):
    def ranks(stack: ExitStack, size: int) -> list[ms.Loader]:
        options = {"mixer": ms.mixers.ADO(), "lag": 4, "shuffle": True, "num_canonical_nodes": 2}
        return [
            stack.enter_context(
                ms.Loader(dataset_of(*mixture(), batch_size=8 // size, rank=rank, world_size=size, **options))
            )
            for rank in range(size)
        ]

    with ExitStack() as stack:
        whole = drive(ranks(stack, 2), 30)
        begun = ranks(stack, 2)
        first, state = drive(begun, 12), begun[0].state_dict()
        resumed = ranks(stack, 4)
        for loader in resumed:
            loader.load_state_dict(state)
        rest = drive(resumed, 18)
    assert [sorted(batch) for batch in first + rest] == [sorted(batch) for batch in whole]


def test_forked_workers_compute_what_the_loader_reads(mixture, tmp_path):
    def firsts(loader: Any) -> list[list[int]]:
        return [batch["tokens"][:, 0].tolist() for batch in loader]

    with ms.Loader(dataset_of(*mixture(), shuffle=True)) as loader:
        expected = firsts(loader)
    anew = mixture(local=str(tmp_path / "anew"))
    assert firsts(ms.StreamingDataLoader(dataset_of(*anew, shuffle=True), batch_size=4, num_workers=2)) == expected


def table_of_shards(stream: ms.Stream) -> ShardTable:
    domain = stream.open(allow_unsafe_types=False)
    prints = {n: fingerprint(domain.container, n, domain.map(n)) for n in range(len(domain.shards))}
    return ShardTable.of(domain.shards).with_fingerprints(prints)


def test_a_selection_keeps_documents_and_refuses_other_readings(tmp_path, small_shards):
    lists = token_lists(60, 12)
    place = str(write_table(tmp_path / "web", table_of(lists), "parquet", rows=7))
    kept = list(range(0, 60, 7))
    keep(tmp_path / "sel", place, kept, table=table_of_shards(ms.Stream(remote=place, name="web")))
    found = read_rows(ms.Stream(remote=place, name="web", selection=tmp_path / "sel"), batch_size=1)
    assert found == [lists[at] for at in kept]
    with pytest.raises(SelectionError):
        dataset_of(ms.Stream(remote=place, name="web", seq_len=4, selection=tmp_path / "sel"))


def test_borders_are_those_of_the_lists(tmp_path, small_shards):
    lists = token_lists(60, 12)
    path = write_table(tmp_path / "web", table_of(lists), "parquet", rows=7)
    ends = set(np.cumsum([len(each) for each in read_lists(path)]).tolist())
    domain = ms.Stream(remote=str(path), seq_len=8).open(allow_unsafe_types=False)
    token, found = 0, set[int]()
    for number, shard in enumerate(domain.shards):
        cuts, begin = domain.cuts(number)
        assert (begin, cuts.tokens) == (0, 8 * shard.samples)
        found |= {token + end for end in cuts.positions(0, cuts.count).tolist()}
        token += cuts.tokens
    assert found == {end for end in ends if 0 < end <= token}


def test_documents_are_marked_in_rows(tmp_path, small_shards):
    lists = token_lists(80, 12)
    path = write_table(tmp_path / "web", table_of(lists), "parquet", rows=7)
    dataset = dataset_of(ms.Stream(remote=str(path), seq_len=8), shuffle=True)
    starts = {int(at) for at in np.cumsum([0, *map(len, lists)])}
    rows = {tuple(row): at for at, row in enumerate(rows_of(lists, 8))}
    with ms.Loader(dataset, documents=True) as loader:
        for batch in loader:
            for row, positions in zip(batch["tokens"].tolist(), batch["position_ids"].tolist()):
                begins = [n == 0 or 8 * rows[tuple(row)] + n in starts for n in range(8)]
                assert [position == 0 for position in positions] == begins
    packed = write_table(tmp_path / "packed", table_of([[1, 2, 3, 4]] * 4), "stream")
    with pytest.raises(ConfigError, match="eos_id="):
        ms.Loader(dataset_of(ms.Stream(remote=str(packed))), documents=True)


@pytest.mark.filterwarnings("ignore:packed rows of .* have padding")
@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_lists_are_packed(tmp_path, small_shards, kind):
    lists = [list(range(100 * at, 100 * at + length)) for at, length in enumerate([3, 0, 20, 8, 1, 8, 33, 4, 4, 7])]
    path = write_table(tmp_path / "web", table_of(lists, pa.list_(pa.uint32())), kind, rows=2)
    pack(tmp_path / "p", path, seq_len=16)
    found = read_rows(ms.Stream(remote=str(path), packing=tmp_path / "p"), batch_size=1)
    assert sorted(token for row in found for token in row if token != PAD) == flat(lists)
    joined = read_rows(ms.Stream(remote=str(path), packing="concat", seq_len=16), batch_size=1)
    assert joined == rows_of(lists, 16)


@pytest.mark.filterwarnings("ignore:packed rows of .* have padding")
@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_lists_that_are_rows_are_packed_by_the_token_that_ends_documents(tmp_path, kind):
    tokens = np.arange(1, 161)
    tokens[[6, 9, 40, 90, 91, 130]] = 0
    path = write_table(tmp_path / "web", table_of(tokens.reshape(20, 8).tolist(), pa.list_(pa.uint32())), kind, rows=20)
    assert read_rows(ms.Stream(remote=str(path))) == tokens.reshape(20, 8).tolist()
    pack(tmp_path / "p", path, seq_len=16, eos_id=0)
    found = read_rows(ms.Stream(remote=str(path), packing=tmp_path / "p"), batch_size=1)
    assert sorted(token for row in found for token in row if token != PAD) == sorted(tokens.tolist())
    keep(tmp_path / "sel", str(path), [0, 1, 5, 19], table=table_of_shards(ms.Stream(remote=str(path), name="web")))
    pack(tmp_path / "some", path, seq_len=16, eos_id=0, selection=tmp_path / "sel")
    found = read_rows(ms.Stream(remote=str(path), packing=tmp_path / "some", name="web"), batch_size=1)
    kept = tokens.reshape(20, 8)[[0, 1, 5, 19]].ravel().tolist()
    assert sorted(token for row in found for token in row if token != PAD) == sorted(kept)


def test_commands_read_columns(tmp_path, capsys):
    lists = [[1, 2, 3], [4, 5], [6]]
    path = write_table(tmp_path / "web", pa.table({"ids": pa.array(lists, IDS)}), "parquet", compression=None)
    assert main(["inspect", str(tmp_path), "--token-column", "ids", "--samples", "3", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["datasets"]
    assert (found["samples"], found["tokens"], found["formats"], found["files"]) == (3, 6, ["parquet"], 1)
    assert [each["columns"]["tokens"]["shape"] for each in found["samples_shown"]] == [[3], [2], [1]]
    assert main(["verify", str(path), "--token-column", "ids", "--json"]) == 0
    data = bytearray(path.read_bytes())
    data[10:40] = bytes(30)
    path.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(path), "--token-column", "ids", "--json"]) == 1
    assert "web.parquet" in capsys.readouterr().out


# --- stores and caches ----------------------------------------------------------------------------------------------


def bytes_in(directory: Path) -> int:
    """Return the bytes of the shards in a cache, which evicts them meanwhile."""
    total = 0
    for path in directory.rglob("*.part"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_a_store_is_read_by_ranges_through_a_tight_cache(s3, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("mixstream.data.token_index.SHARD_BYTES", 8192)
    lists = token_lists(300, 100)
    path = write_table(tmp_path / "a", table_of(lists, big=["x" * 900] * 300), kind, rows=40)
    s3.put(path.name, path.read_bytes())
    stream = ms.Stream(remote=s3.url, local=str(tmp_path / "cache"), seq_len=16, overlap=1)
    dataset = dataset_of(stream, shuffle=True, cache_limit=40000, shuffle_block_size=300, batch_size=16)
    largest, rows = 0, []
    with ms.Loader(dataset) as loader:
        for batch in loader:
            rows += batch["tokens"].tolist()
            largest = max(largest, bytes_in(tmp_path / "cache"))
    assert sorted(rows[: dataset.size]) == sorted(rows_of(lists, 16, 1))
    assert 0 < largest <= 40000
    assert samples_of(ms.Stream(remote=f"{s3.url}/{path.name}", local=str(tmp_path / "other"))) == lists


def test_few_requests_tell_what_files_have(s3, proxy, tmp_path):
    for name in "abc":
        path = write_table(tmp_path / name, table_of(token_lists(400, 100), big=["x" * 900] * 400), "parquet", rows=20)
        s3.put(path.name, path.read_bytes())
    dataset_of(ms.Stream(remote=s3.url, local=str(tmp_path / "cache"), seq_len=16))
    counts = [proxy.count(f"*/{name}.parquet") for name in "abc"]
    assert max(counts) <= 4


def test_large_row_groups_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream.data.column_index._LARGE", 100)
    path = write_table(tmp_path / "a", table_of([[1] * 30]), "parquet")
    with pytest.warns(RuntimeWarning, match=r"a\.parquet has a row group of 120 bytes"):
        dataset_of(ms.Stream(remote=str(path), seq_len=8))


def test_a_damaged_file_is_refused_when_its_rows_are_needed(tmp_path, small_shards):
    path = write_table(tmp_path / "a", table_of([[n] * 40 for n in range(40)]), "parquet", rows=10, compression=None)
    data = bytearray(path.read_bytes())
    at = data.index(np.full(8, 25, "<i4").tobytes()) if np.full(8, 25, "<i4").tobytes() in data else len(data) // 3
    data[at : at + 200] = bytes(200)
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ShardCorruptError, match=r"a\.parquet"):
            read_rows(ms.Stream(remote=str(path), seq_len=8, column="input_ids"))
