"""Streams of token files: rows and documents against an independent reading, and all that streams of MDS can do."""

from __future__ import annotations

import copy
import os
import pickle
import struct
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from directory_server import directory_server  # pyright: ignore[reportMissingImports] - the path is set by conftest
from harness import drive, joined, write_tokens  # pyright: ignore[reportMissingImports]
from selections import MADE, keep  # pyright: ignore[reportMissingImports]
from token_files import (  # pyright: ignore[reportMissingImports]
    datatrove_files,
    llmc_file,
    megatron_idx,
    megatron_pair,
    olmo_files,
    read_megatron,
    tokens_of,
    write_files,
)
from token_streams import dataset_of, flat, read_rows, samples_of  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    SelectionError,
    ShardCorruptError,
    StateError,
    StoreChangedError,
    StoreError,
)
from mixstream.selection import ShardTable, fingerprint, write_buckets

REAL = Path(__file__).parents[2] / "data/megatron/ag_news_prompt_inputs_document"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into shards of 64 bytes: a dozen of them are enough to have many."""
    monkeypatch.setattr("mixstream.data.token_index.SHARD_BYTES", 64)


def numbered(count: int, first: int = 0) -> list[list[int]]:
    """Return documents of 0 to 12 tokens that count up from `first`, so that every token says where it is from."""
    lengths = np.random.default_rng(count).integers(0, 13, count)
    ends = np.cumsum(lengths) + first
    return [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths.tolist())]


def rows_of(tokens: list[int], seq_len: int, overlap: int = 0) -> list[list[int]]:
    """Return the rows of one file, as a user would cut it."""
    return [
        tokens[i : i + seq_len + overlap]
        for i in range(0, len(tokens), seq_len)
        if i + seq_len + overlap <= len(tokens)
    ]


# --- the two readings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("suffix", [".idx", ".bin", ""])
def test_rows_of_the_real_pair_are_those_of_its_description(suffix, overlap):
    data = Path(f"{REAL}.bin").read_bytes()
    tokens = list(struct.unpack(f"<{len(data) // 4}i", data))
    found = read_rows(ms.Stream(remote=f"{REAL}{suffix}", seq_len=50, overlap=overlap))
    assert found == rows_of(tokens, 50, overlap)
    assert len(found) == (5945 - overlap) // 50


def test_documents_of_the_real_pair_are_those_of_its_description():
    documents = read_megatron(Path(f"{REAL}.idx").read_bytes(), Path(f"{REAL}.bin").read_bytes())
    assert len(documents) == 100
    assert samples_of(ms.Stream(remote=f"{REAL}.idx")) == documents
    assert samples_of(ms.Stream(remote=str(REAL))) == documents, "what the names of both files begin with"
    assert samples_of(ms.Stream(remote=str(REAL.parent))) == documents, "a directory without index.json is looked at"


STORES = {
    "megatron": (lambda documents: megatron_pair(documents, "a") | megatron_pair(documents[:9], "b"), {}),
    "datatrove": (lambda documents: datatrove_files(documents, "a", 4) | datatrove_files(documents[:9], "b"), {}),
    "olmo": (lambda documents: olmo_files(documents, "a") | olmo_files(documents[:9], "b"), {"dtype": "uint16"}),
    "llmc": (lambda documents: {"a.bin": llmc_file(flat(documents)), "b.bin": llmc_file(flat(documents[:9]))}, {}),
    "raw": (
        lambda documents: {"a.bin": tokens_of(documents, "int64"), "b.bin": tokens_of(documents[:9], "int64")},
        {"dtype": np.int64},
    ),
}


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("kind", STORES)
def test_rows_of_a_directory_are_those_of_its_files_in_order(tmp_path, kind, overlap, small_shards):
    write, options = STORES[kind]
    documents = numbered(60)
    write_files(tmp_path, write(documents))
    stream = ms.Stream(remote=str(tmp_path), seq_len=7, overlap=overlap, **options)
    expected = rows_of(flat(documents), 7, overlap) + rows_of(flat(documents[:9]), 7, overlap)
    assert read_rows(stream) == expected
    dataset = dataset_of(stream)
    assert len(dataset.shards) > 5
    assert dataset[len(expected) - 1]["tokens"].tolist() == expected[-1]


@pytest.mark.parametrize("kind", ["megatron", "datatrove", "olmo"])
def test_documents_are_cut_into_shards_and_none_is_lost(tmp_path, kind, small_shards):
    write, options = STORES[kind]
    long = [[], [], list(range(500, 600)), [], [7], *numbered(40), list(range(900, 950)), [], []]
    write_files(tmp_path, write(long))
    assert samples_of(ms.Stream(remote=str(tmp_path), **options)) == long + long[:9]
    shards = dataset_of(ms.Stream(remote=str(tmp_path), **options)).shards
    assert len(shards) > 6
    assert [(shard.samples, shard.raw.bytes) for shard in shards if shard.raw.bytes > 64] == [
        (4, 400 if kind == "datatrove" else 200),  # of 100 tokens, with the empty ones beside it
        (3, 200 if kind == "datatrove" else 100),
        (4, 200),
    ]


def test_documents_of_several_sequences_are_one_sample(tmp_path, small_shards):
    documents = numbered(30)
    idx = megatron_idx([len(each) for each in documents], documents=[0, 1, 1, 17, 30])
    write_files(tmp_path, megatron_pair(documents) | {"web.idx": idx})
    found = samples_of(ms.Stream(remote=str(tmp_path / "web.idx")))
    assert found == [documents[0], [], flat(documents[1:17]), flat(documents[17:])]


def test_wide_tokens_come_as_those_of_mds_do(tmp_path):
    tokens = [[1, 2, 3, 70000]]
    write_files(tmp_path, datatrove_files(tokens, "wide", 4) | {"small.bin": bytes([1, 2, 3, 4])})
    wide, small = (
        ms.Stream(remote=str(tmp_path / "wide.ds"), seq_len=4),
        ms.Stream(remote=str(tmp_path / "small.bin"), seq_len=4, dtype="uint8"),
    )
    with ms.Loader(dataset_of(wide, batch_size=1)) as loader:
        assert str(next(iter(loader))["tokens"].dtype) == "torch.int64"
    with ms.Loader(dataset_of(small, batch_size=1)) as loader:
        assert str(next(iter(loader))["tokens"].dtype) == "torch.uint8"


# --- what users ask for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        pytest.param(lambda at: ms.Stream(remote=f"{at}/mds", seq_len=4), ConfigError, "an MDS dataset", id="MDS"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/a.bin", seq_len=4), ConfigError, "give dtype=", id="no dtype"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/a.bin", dtype="uint16"), ConfigError, "seq_len=", id="no rows"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/b.idx", seq_len=99), ConfigError, "smaller seq_len", id="long"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/b.idx", overlap=1), ConfigError, "give seq_len too", id="over"),
        pytest.param(
            lambda at: ms.Stream(remote=f"{at}/b.idx", split="train", seq_len=4), ConfigError, "names files", id="split"
        ),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/c.idx", seq_len=4), IndexNotFoundError, "c.idx", id="missing"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}/none", seq_len=4), IndexNotFoundError, "none", id="nowhere"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}", seq_len=4), ConfigError, "several kinds", id="kinds"),
        pytest.param(lambda at: ms.Stream(remote=f"{at}"), ConfigError, "several kinds", id="kinds as documents"),
        pytest.param(
            lambda at: ms.Stream(remote=f"{at}/b.idx", seq_len=4, validate_hash="xxh64"), ConfigError, "None", id="hash"
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, make, error, text):
    write_tokens(tmp_path / "mds", range(3))
    write_files(tmp_path, megatron_pair([[1, 2, 3, 4]], "b") | {"a.bin": bytes(8)})
    with pytest.raises(error, match=text):
        dataset_of(make(tmp_path))


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("seq_len", 0, "seq_len"),
        ("seq_len", 2.5, "seq_len"),
        ("overlap", 2, "overlap"),
        ("dtype", "float32", "no dtype of tokens; choose one of uint8"),
        ("eos_id", -1, "eos_id"),
    ],
)
def test_options_out_of_range_are_refused(option, value, text):
    with pytest.raises(ConfigError, match=text):
        ms.Stream(remote="x.idx", **{"seq_len": 4, option: value})


def test_a_stream_shows_its_options_and_copies_keep_them(tmp_path):
    stream = ms.Stream(remote="/data/web.idx", seq_len=4, overlap=1, dtype=np.uint16, eos_id=0)
    shown = "Stream(remote='/data/web.idx', seq_len=4, overlap=1, dtype='uint16', eos_id=0)"
    assert repr(stream) == repr(copy.copy(stream)) == repr(pickle.loads(pickle.dumps(stream))) == shown
    write_files(tmp_path, megatron_pair(numbered(20), "web_text_document"))
    for suffix in (".idx", ".bin", ""):
        dataset = dataset_of(ms.Stream(remote=str(tmp_path / f"web_text_document{suffix}"), seq_len=4))
        assert [each.name for each in dataset.streams] == ["web_text_document"], "however the pair is named"


def test_a_split_is_a_directory_of_token_files(tmp_path):
    documents = numbered(20)
    write_files(tmp_path / "train", megatron_pair(documents))
    assert read_rows(ms.Stream(remote=str(tmp_path), split="train", seq_len=4)) == rows_of(flat(documents), 4)
    with pytest.raises(IndexNotFoundError, match=r"sub-directories \['train'\]"):
        dataset_of(ms.Stream(remote=str(tmp_path), seq_len=4))


def test_local_alone_names_the_files_themselves(tmp_path):
    write_files(tmp_path, megatron_pair(numbered(20)))
    before = sorted(path.name for path in tmp_path.iterdir())
    expected = rows_of(flat(numbered(20)), 4)
    assert read_rows(ms.Stream(local=str(tmp_path / "web.idx"), seq_len=4)) == expected
    assert read_rows(ms.Stream(local=str(tmp_path), seq_len=4)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_is_dropped_is_counted_and_short_files_are_named(tmp_path):
    write_files(tmp_path, megatron_pair([list(range(30))], "a") | megatron_pair([list(range(25))], "b"))
    with ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path), seq_len=8, name="web"))) as loader:
        assert "tails    web: 7 tokens at the ends of its files are in no row" in loader.describe()
    write_files(tmp_path, megatron_pair([[1, 2]], "c"))
    with pytest.warns(UserWarning, match=r"stream 'web': 1 of 3 token files are not read \(c.bin\)"):
        dataset_of(ms.Stream(remote=str(tmp_path), seq_len=8, name="web"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset_of(ms.Stream(remote=str(tmp_path))).size == 3, "as documents nothing is dropped"


def test_truncated_files_are_refused_before_any_batch(tmp_path):
    write_files(tmp_path, megatron_pair(numbered(20)))
    data = (tmp_path / "web.bin").read_bytes()
    (tmp_path / "web.bin").write_bytes(data[:-2])
    with pytest.raises(ShardCorruptError, match=r"web\.bin is truncated"):
        dataset_of(ms.Stream(remote=str(tmp_path), seq_len=4))


def test_documents_of_an_inconsistent_index_are_refused_before_any_batch(tmp_path):
    documents = numbered(20)
    lengths = [len(each) for each in documents]
    write_files(tmp_path, megatron_pair(documents) | {"web.idx": megatron_idx(lengths, documents=[0, 3, 19])})
    with pytest.raises(IndexCorruptError, match="end at 19 instead of 20"):
        dataset_of(ms.Stream(remote=str(tmp_path)))
    assert read_rows(ms.Stream(remote=str(tmp_path), seq_len=4)) == rows_of(flat(documents), 4)


def test_borders_are_known_in_both_readings(tmp_path, small_shards):
    documents = numbered(60)
    write_files(tmp_path, megatron_pair(documents))
    for options in ({}, {"seq_len": 7}):
        domain = ms.Stream(remote=str(tmp_path), **options).open(allow_unsafe_types=False)
        for known in (domain, pickle.loads(pickle.dumps(domain))):
            for number, shard in enumerate(known.shards):
                assert shard.part is not None
                cuts, token = known.cuts(number)
                assert (shard.part.begin, cuts.count) == (2 * token, 60)
                assert cuts.begins(0, 61).tolist() == np.cumsum([0, *map(len, documents)]).tolist()
    assert write_tokens(tmp_path / "mds", range(3))
    assert ms.Stream(remote=str(tmp_path / "mds")).open(allow_unsafe_types=False).cuts(0) is None


# --- runs -----------------------------------------------------------------------------------------------------------


def ids_of(batch) -> list[int]:
    return batch["tokens"][:, 0].tolist()


@pytest.fixture
def mixture(tmp_path, small_shards):
    """Return a function that makes streams of a pair (tokens below 2,000), of a .ds, and of MDS with equal rows."""
    write_files(tmp_path / "web", megatron_pair([list(range(1600))]))
    write_files(tmp_path, datatrove_files([list(range(2000, 2800))], "code", 4))
    write_tokens(tmp_path / "law", range(3000, 3100))

    def streams(**kw):
        return [
            ms.Stream(remote=str(tmp_path / "web"), seq_len=8, **kw),
            ms.Stream(remote=str(tmp_path / "code.ds"), seq_len=8),
            ms.Stream(remote=str(tmp_path / "law")),
        ]

    return streams


def test_a_shuffled_epoch_of_pairs_and_mds_has_every_row_once(mixture):
    dataset = dataset_of(*mixture(), shuffle=True, batch_size=10)
    with ms.Loader(dataset) as loader:
        rows = [row for batch in loader for row in batch["tokens"].tolist()]
    assert len(rows) == 400
    of_tokens = [list(range(i, i + 8)) for i in [*range(0, 1600, 8), *range(2000, 2800, 8)]]
    assert sorted(rows) == of_tokens + [[i] * 8 for i in range(3000, 3100)]
    assert rows != sorted(rows)


def ranks_of(streams, stack, size: int) -> list[ms.Loader]:
    """Return a loader for each of `size` ranks over these streams, with a mixer that learns."""
    return [
        stack.enter_context(
            ms.Loader(
                dataset_of(
                    *streams(),
                    mixer=ms.mixers.ADO(),
                    lag=4,
                    shuffle=True,
                    batch_size=8 // size,
                    num_canonical_nodes=2,
                    rank=rank,
                    world_size=size,
                )
            )
        )
        for rank in range(size)
    ]


def test_a_mixture_under_ado_goes_on_with_another_world_size(mixture):
    with ExitStack() as stack:
        whole = drive(ranks_of(mixture, stack, 2), 40)
        begun = ranks_of(mixture, stack, 2)
        first, state = drive(begun, 15), begun[0].state_dict()
        resumed = ranks_of(mixture, stack, 4)
        for loader in resumed:
            loader.load_state_dict(state)
        rest = drive(resumed, 25)
    assert [sorted(batch) for batch in first + rest] == [sorted(batch) for batch in whole]
    assert {number // 1000 for number in joined(whole)} == {0, 1, 2, 3}


def test_a_run_goes_on_where_files_were_moved_to_and_not_with_other_rows(tmp_path, small_shards):
    write_files(tmp_path / "a/web", megatron_pair([list(range(800))]))
    with ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path / "a/web"), seq_len=8), shuffle=True)) as loader:
        whole = [ids_of(batch) for batch in loader]
    with ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path / "a/web"), seq_len=8), shuffle=True)) as loader:
        batches = iter(loader)
        first, state = [ids_of(next(batches)) for _ in range(7)], loader.state_dict()
    (tmp_path / "a").rename(tmp_path / "b")
    with ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path / "b/web"), seq_len=8), shuffle=True)) as loader:
        loader.load_state_dict(state)
        assert first + [ids_of(batch) for batch in loader] == whole
    for other in ({"seq_len": 4}, {"seq_len": 8, "overlap": 1}):
        changed = dataset_of(ms.Stream(remote=str(tmp_path / "b/web"), **other), shuffle=True)
        with ms.Loader(changed) as loader, pytest.raises(StateError):
            loader.load_state_dict(state)


def test_a_run_does_not_go_on_with_documents_that_begin_elsewhere(tmp_path):
    """As many documents and tokens as before, in another order: no size tells these pairs apart."""
    documents = [[*range(length)] for length in (5, 2, 4, 3)]
    for name, order in (("a", documents), ("b", documents), ("c", documents[::-1])):
        write_files(tmp_path / name, megatron_pair(order))
    saved = ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path / "a"), name="web"), batch_size=1)).state_dict()
    for name in ("b", "c"):
        with ms.Loader(dataset_of(ms.Stream(remote=str(tmp_path / name), name="web"), batch_size=1)) as loader:
            if name == "b":
                loader.load_state_dict(saved)
            else:
                with pytest.raises(StateError, match="has other shards"):
                    loader.load_state_dict(saved)


def test_workers_read_what_the_loader_reads(mixture):
    def rows(loader) -> list[list[int]]:
        return [ids_of(batch) for batch in loader]

    with ms.Loader(dataset_of(*mixture(), shuffle=True)) as loader:
        expected = rows(loader)
    assert rows(ms.StreamingDataLoader(dataset_of(*mixture(), shuffle=True), batch_size=4, num_workers=2)) == expected


def test_other_faces_read_token_files(mixture):
    mosaic = dataset_of(mixture()[0], order="mosaic", num_canonical_nodes=1, shuffle=True)
    rows = [int(sample["tokens"][0]) for sample in mosaic]
    assert sorted(rows) == list(range(0, 1600, 8))
    assert rows != sorted(rows)
    validation = ms.ValidationSet.open(dataset_of(mixture()[0]), streams=[mixture()[0]], rows=200)
    assert sorted(number for batch in validation for number in ids_of(batch)) == list(range(0, 1600, 8))


def test_documents_are_read_with_a_collate_function(tmp_path, small_shards):
    documents = [each for each in numbered(40) if each]
    write_files(tmp_path, megatron_pair(documents))
    dataset = dataset_of(ms.Stream(remote=str(tmp_path)), shuffle=True)
    with ms.Loader(dataset, collate_fn=lambda samples: [each["tokens"].tolist() for each in samples]) as loader:
        found = [row for batch in loader for row in batch]
    assert sorted(found[: len(documents)]) == sorted(documents)
    assert found != documents


def table_of(stream: ms.Stream) -> ShardTable:
    """Return the shards of a stream, with their fingerprints."""
    domain = stream.open(allow_unsafe_types=False)
    prints = {n: fingerprint(domain.container, n, domain.map(n)) for n in range(len(domain.shards))}
    return ShardTable.of(domain.shards).with_fingerprints(prints)


@pytest.mark.parametrize("face", [ms.Loader, ms.StreamingDataLoader])
def test_documents_without_tokens_have_no_segments(tmp_path, face):
    write_files(tmp_path / "web", megatron_pair([[5, 6], [], [7, 8, 9]]))
    loader = face(dataset_of(ms.Stream(remote=str(tmp_path / "web")), batch_size=1), documents=True)
    found = [(batch["cu_seqlens"].tolist(), batch["max_seqlen"], batch["labels"].tolist()) for batch in loader]
    assert found == [([0, 2], 2, [[-100, 6]]), ([0], 0, [[]]), ([0, 3], 3, [[-100, 8, 9]])]


def test_a_selection_keeps_rows_of_token_files(tmp_path, mixture):
    place, kept = str(tmp_path / "web"), np.arange(0, 200, 3)
    keep(tmp_path / "sel", place, kept, table=table_of(ms.Stream(remote=place, seq_len=8)))
    found = read_rows(ms.Stream(remote=place, seq_len=8, selection=tmp_path / "sel"), batch_size=1)
    assert found == [list(range(8 * row, 8 * row + 8)) for row in kept.tolist()]
    for other in ({"seq_len": 4}, {"seq_len": 8, "overlap": 1}, {}):
        with pytest.raises(SelectionError, match="selection"):
            dataset_of(ms.Stream(remote=place, selection=tmp_path / "sel", **other))
    write_files(tmp_path / "web", megatron_pair([list(range(5, 1605))]))  # as many tokens, but others
    with pytest.raises(SelectionError, match="was rewritten"):
        read_rows(ms.Stream(remote=place, seq_len=8, selection=tmp_path / "sel"))


def test_a_selection_of_documents_knows_them_by_their_lengths(tmp_path, small_shards):
    documents = [each for each in numbered(40) if each]
    place, kept = write_files(tmp_path / "web", megatron_pair(documents)), list(range(0, len(documents), 5))
    keep(tmp_path / "sel", place, kept, table=table_of(ms.Stream(remote=str(place))))
    selected = ms.Stream(remote=str(place), selection=tmp_path / "sel")
    assert read_rows(selected, batch_size=1) == [documents[i] for i in kept]


def test_buckets_divide_a_store_of_token_files(tmp_path, mixture):
    place = str(tmp_path / "web")
    write_buckets(
        tmp_path / "buckets",
        domain="web",
        table=table_of(ms.Stream(remote=place, seq_len=8)),
        bucket=np.arange(200) % 2,
        names=["even", "odd"],
        rule={},
        parents={},
        made=MADE,
    )
    dataset = dataset_of(ms.Stream(remote=place, seq_len=8, split_by=str(tmp_path / "buckets")), shuffle=True)
    with ms.Loader(dataset) as loader:
        found = [(number // 8 % 2, k) for batch in loader for number, k in zip(ids_of(batch), batch.domain.tolist())]
    assert set(found) == {(0, 0), (1, 1)}
    assert len(found) == 200


# --- stores and caches ----------------------------------------------------------------------------------------------


def size_of(path: Path) -> int:
    """Return the size of a file of a cache, which may be evicted in this moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def in_store(s3, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        s3.put(name, data)
    return s3.url


@pytest.mark.parametrize("overlap", [0, 1])
def test_a_store_is_read_by_ranges_through_a_tight_cache(s3, tmp_path, overlap, monkeypatch):
    monkeypatch.setattr("mixstream.data.token_index.SHARD_BYTES", 4096)
    tokens = np.random.default_rng(0).integers(0, 60000, 40000).tolist()
    url = in_store(s3, megatron_pair([tokens[:30000], tokens[30000:]], "a") | megatron_pair([tokens[:999]], "b"))
    stream = ms.Stream(remote=url, local=str(tmp_path / "cache"), seq_len=16, overlap=overlap)
    dataset = dataset_of(stream, shuffle=True, cache_limit=20000, shuffle_block_size=300, batch_size=16)
    largest, rows = 0, []
    with ms.Loader(dataset) as loader:
        for batch in loader:
            rows += batch["tokens"].tolist()
            largest = max(largest, sum(map(size_of, tmp_path.rglob("*.part"))))
    expected = rows_of(tokens, 16, overlap) + rows_of(tokens[:999], 16, overlap)
    assert sorted(map(tuple, rows[: dataset.size])) == sorted(map(tuple, expected))
    assert 0 < largest <= 20000
    assert not list(tmp_path.rglob("*.bin")), "no file is fetched as a whole"


def test_documents_in_a_store_need_the_index_once(s3, tmp_path, small_shards):
    documents = numbered(60)
    url = in_store(s3, megatron_pair(documents, "a"))
    stream = ms.Stream(remote=f"{url}/a.idx", local=str(tmp_path / "cache"))
    assert samples_of(stream) == documents
    assert samples_of(stream) == documents


def test_a_file_that_is_replaced_in_its_store_is_not_mixed_with_the_former(s3, tmp_path, small_shards):
    url = in_store(s3, megatron_pair([list(range(400))], "a"))
    dataset = dataset_of(ms.Stream(remote=url, local=str(tmp_path / "cache"), seq_len=8))
    assert dataset[0]["tokens"].tolist() == list(range(8))
    in_store(s3, megatron_pair([list(range(5, 405))], "a"))
    with pytest.raises(StoreChangedError, match=r"a\.bin is not the file that it was"):
        dataset[49]
    again = dataset_of(ms.Stream(remote=url, local=str(tmp_path / "new"), seq_len=8))
    assert again[0]["tokens"].tolist() == list(range(5, 13))


def test_a_pair_on_a_web_server_without_listing_is_read(tmp_path, small_shards):
    documents = numbered(60)
    write_files(tmp_path / "files", megatron_pair(documents))
    with directory_server(tmp_path / "files") as url:
        options = {"remote": f"{url}/web.idx?key=secret", "local": str(tmp_path / "cache")}
        assert read_rows(ms.Stream(**options, seq_len=7)) == rows_of(flat(documents), 7)
        with pytest.raises((ConfigError, StoreError)):
            dataset_of(ms.Stream(remote=url, local=str(tmp_path / "other"), seq_len=7))


def test_a_file_written_over_while_it_is_read_in_place_stops_the_run(tmp_path, small_shards):
    place = write_files(tmp_path, megatron_pair([list(range(400))]))
    dataset = dataset_of(ms.Stream(remote=str(place), seq_len=8))
    dataset[0]
    os.utime(place / "web.bin", ns=(time.time_ns() + 10**9,) * 2)
    with pytest.raises(StoreChangedError, match=r"web\.bin"):
        dataset[49]


def test_a_part_that_cannot_be_fetched_is_set_aside(tmp_path, s3, small_shards):
    url = in_store(s3, megatron_pair([list(range(400))], "a") | megatron_pair([list(range(500, 900))], "b"))
    dataset = dataset_of(
        ms.Stream(remote=url, local=str(tmp_path / "cache"), seq_len=8), on_bad_sample="quarantine", shuffle=True
    )
    s3.remove("b.bin")
    with pytest.warns(UserWarning, match="b.bin"), ms.Loader(dataset) as loader:
        found = [number for batch in loader for number in ids_of(batch)]
    assert len(found) == 100
    assert max(found) < 400
