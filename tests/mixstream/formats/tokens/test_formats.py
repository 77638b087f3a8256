"""Every format of token files: what it says of good files, and each of its traps, refused by name."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from token_files import (  # pyright: ignore[reportMissingImports] - the path is set by conftest
    Files,
    datatrove_files,
    kept,
    llmc_file,
    megatron_idx,
    megatron_pair,
    olmo_files,
    tokens_of,
)

from mixstream.errors import ConfigError, IndexCorruptError, IndexNotFoundError, ShardCorruptError
from mixstream.formats import (
    FORMATS,
    Cuts,
    Options,
    TokenFile,
    TokenIndex,
    dump_token_index,
    find_files,
    open_container,
    parse_token_index,
)

DOCUMENTS = [[5, 6, 7], [8, 9], [], [1, 2, 3, 4]]


def described(files: dict[str, bytes], name: str | None = None, **options: object) -> tuple[str, TokenFile]:
    """Return the format of the store, and what is known of its only file."""
    look = Files(files)
    kind, (file,) = find_files(look, name)
    return kind.name, kind.describe(look, file, Options(**options))


def cuts_of(files: dict[str, bytes], name: str | None = None, **options: object) -> Cuts:
    kind, file = described(files, name, **options)
    assert file.borders is not None
    read = FORMATS[kind].cuts
    assert read is not None
    return read(file, np.frombuffer(files[file.borders.name], np.uint8), kept)


def begins_of(documents: list[list[int]]) -> list[int]:
    return np.cumsum([0, *map(len, documents)]).tolist()


# --- Megatron -------------------------------------------------------------------------------------------------------


def test_a_pair_is_what_the_worked_example_of_the_format_says():
    files = megatron_pair([[5, 6, 7], [8, 9]])
    assert files["web.bin"].hex() == "05000600070008000900"
    assert files["web.idx"] == bytes.fromhex(
        "4d4d49444944580000 0100000000000000 08 0200000000000000 0300000000000000"
        "03000000 02000000 0000000000000000 0600000000000000"
        "0000000000000000 0100000000000000 0200000000000000"
    )
    kind, file = described(files, "web.idx")
    assert (kind, file.name, file.dtype, file.begin, file.tokens) == ("megatron", "web.bin", "uint16", 0, 5)
    assert cuts_of(files, "web").begins(0, 3).tolist() == [0, 3, 5]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
@pytest.mark.parametrize("name", ["web.idx", "web.bin", "web", None])
def test_all_files_of_a_pair_name_it(dtype, name):
    files = megatron_pair(DOCUMENTS, dtype=dtype)
    kind, file = described(files, name)
    assert (kind, file.dtype, file.tokens) == ("megatron", dtype, 9)
    cuts = cuts_of(files, name)
    assert cuts.begins(0, cuts.count + 1).tolist() == begins_of(DOCUMENTS)
    assert cuts.data.base is not None, "the pointers are read where they are"
    assert [cuts.find(token) for token in range(9)] == [0, 0, 0, 1, 1, 3, 3, 3, 3]


def test_documents_of_several_sequences_are_whole():
    idx = megatron_idx([3, 2, 0, 4], documents=[0, 2, 2, 4])
    cuts = cuts_of({"web.idx": idx, "web.bin": tokens_of(DOCUMENTS, "uint16")})
    assert (cuts.count, cuts.begins(0, 4).tolist()) == (3, [0, 5, 5, 9])


def test_as_many_documents_as_sequences_need_not_be_one_each():
    """The first has no sequence, and the last has three."""
    cuts = cuts_of({"web.idx": megatron_idx([3, 2, 0, 4], documents=[0, 0, 1, 1, 4]), "web.bin": bytes(18)})
    assert [cuts.begin(document) for document in range(cuts.count + 1)] == [0, 0, 3, 3, 9]


def test_a_pair_without_documents_and_without_tokens_is_one():
    assert described({"web.idx": megatron_idx([]), "web.bin": b""})[1].tokens == 0
    assert described({"web.idx": megatron_idx([0]), "web.bin": b""})[1].tokens == 0


def test_headers_are_all_that_is_read_of_a_pair():
    look = Files(megatron_pair([[1, 2]] * 5000))
    kind, (name,) = find_files(look, "web.idx")
    kind.describe(look, name, Options())
    assert look.read_bytes < 100


BIN = tokens_of(DOCUMENTS, "uint16")
LENGTHS = [3, 2, 0, 4]
MEGATRON_TRAPS: list[tuple[str, bytes, bytes | None, type[Exception], str]] = [
    ("older", b"TNTIDX\0\0" + bytes(90), BIN, IndexCorruptError, "older format TNTIDX"),
    ("magic", megatron_idx(LENGTHS, head=b"XXIDIDX\0\0"), BIN, IndexCorruptError, "no Megatron index"),
    ("empty", b"", BIN, IndexCorruptError, "no Megatron index"),
    ("head", megatron_idx(LENGTHS)[:20], BIN, IndexCorruptError, "truncated: 20 bytes"),
    ("version", megatron_idx(LENGTHS, version=2), BIN, IndexCorruptError, "version 2"),
    ("float32", megatron_idx(LENGTHS, code=7), BIN, IndexCorruptError, "code 7 is float32"),
    ("float64", megatron_idx(LENGTHS, code=6), BIN, IndexCorruptError, "code 6 is float64"),
    ("code", megatron_idx(LENGTHS, code=9), BIN, IndexCorruptError, "code 9 is not known"),
    ("cut", megatron_idx(LENGTHS)[:-3], BIN, IndexCorruptError, "truncated"),
    ("modes", megatron_idx(LENGTHS, modes=bytes(4)), BIN, IndexCorruptError, "multimodal"),
    ("behind", megatron_idx(LENGTHS) + bytes(5), BIN, IndexCorruptError, "damaged"),
    ("short", megatron_idx(LENGTHS), BIN[:-2], ShardCorruptError, "web.bin is truncated: 16 bytes"),
    ("long", megatron_idx(LENGTHS), BIN + b"12", ShardCorruptError, "web.bin is longer than its index says"),
    ("dtype", megatron_idx(LENGTHS, dtype="int32"), BIN, ShardCorruptError, "truncated"),
    ("overflow", megatron_idx(LENGTHS, pointers=[0, 6, 10, -(1 << 31)]), BIN, IndexCorruptError, "overflowed"),
    ("alone", megatron_idx(LENGTHS), None, ShardCorruptError, "there is no web.bin"),
]


@pytest.mark.parametrize(
    ("idx", "bin_", "error", "text"), [pytest.param(*trap[1:], id=trap[0]) for trap in MEGATRON_TRAPS]
)
def test_a_wrong_pair_is_refused_by_name(idx, bin_, error, text):
    with pytest.raises(error, match=text):
        described({"web.idx": idx} | ({} if bin_ is None else {"web.bin": bin_}), "web.idx")


@pytest.mark.parametrize(
    ("idx", "text"),
    [
        pytest.param(megatron_idx(LENGTHS, documents=[0, 1, 2, 3]), "end at 3 instead of 4", id="as many as sequences"),
        pytest.param(megatron_idx(LENGTHS, documents=[0, 1, 2, 0, 4]), "do not go up", id="not merged"),
        pytest.param(megatron_idx(LENGTHS, documents=[0, 2, 1, 3, 4]), "do not go up", id="one back"),
        pytest.param(megatron_idx(LENGTHS, documents=[0, 2]), "end at 2 instead of 4", id="of the first file"),
        pytest.param(megatron_idx(LENGTHS, documents=[1, 2, 3, 4]), "do not go up from 0", id="without the first"),
        pytest.param(megatron_idx(LENGTHS, documents=[]), "there are none", id="none"),
        pytest.param(megatron_idx(LENGTHS, pointers=[0, -6, 10, 10]), "sequence 1 .*overflowed", id="overflow"),
        pytest.param(megatron_idx(LENGTHS, pointers=[0, 4, 10, 10]), "sequence 1 is said to begin at byte 4", id="gap"),
        pytest.param(megatron_idx([3, -2, 4, 4]), "overflowed", id="negative length"),
    ],
)
def test_an_index_with_wrong_documents_serves_for_rows_and_is_refused_for_documents(idx, text):
    files = {"web.idx": idx, "web.bin": BIN}
    assert described(files, "web.idx", seq_len=2)[1].tokens == 9
    with pytest.raises(IndexCorruptError, match=text):
        cuts_of(files, "web.idx")


# --- datatrove and nanotron -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 4])
def test_a_ds_says_its_width_and_its_documents(width):
    files = datatrove_files(DOCUMENTS, width=width)
    for name in ("web.ds", "web.ds.index", "web.ds.metadata", "web", None):
        kind, file = described(files, name)
        assert (kind, file.name, file.dtype, file.tokens) == ("datatrove", "web.ds", f"uint{8 * width}", 9)
    cuts = cuts_of(files)
    assert cuts.begins(0, cuts.count + 1).tolist() == begins_of(DOCUMENTS)
    assert [cuts.find(token) for token in range(9)] == [0, 0, 0, 1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("metadata", ["", "gpt2\n9\n9"])
def test_a_ds_without_a_width_needs_one(metadata):
    files = datatrove_files(DOCUMENTS, metadata=metadata)
    with pytest.raises(ConfigError, match="give dtype='uint16' or 'uint32'"):
        described(files)
    assert described(files, dtype="uint16")[1].tokens == 9


def test_the_width_of_an_unknown_tokenizer_is_written_twice():
    files = datatrove_files(DOCUMENTS, width=4, metadata="Unknown Tokenizer|4|4\n9\n9")
    assert described(files)[1].dtype == "uint32"
    assert described(files, dtype="int32")[1].dtype == "int32", "the width says nothing of the sign"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        pytest.param({"web.ds": BIN[:-2]}, ShardCorruptError, "metadata says 9", id="shorter than metadata says"),
        pytest.param({"web.ds": BIN[:-1]}, ShardCorruptError, "no whole tokens", id="half a token"),
        pytest.param({"web.ds.metadata": b"gpt2|3\n9\n"}, IndexCorruptError, "not what datatrove writes", id="width"),
        pytest.param({"web.ds.metadata": b"gpt2|2\nnine\n"}, IndexCorruptError, "not what datatrove", id="count"),
        pytest.param({"web.ds.metadata": b"gpt2|2"}, IndexCorruptError, "not what datatrove", id="one line"),
        pytest.param({"web.ds.index": bytes(9)}, IndexCorruptError, "no whole numbers", id="half a number"),
        pytest.param({"web.ds.index": b""}, IndexCorruptError, "token 0", id="no ends"),
        pytest.param({"web.ds.index": struct.pack("<2Q", 3, 11)}, IndexCorruptError, "ends at token 11", id="past"),
        pytest.param({"web.ds.index": struct.pack("<2Q", 3, 5)}, IndexCorruptError, "ends at token 5", id="before"),
    ],
)
def test_a_wrong_ds_is_refused_by_name(change, error, text):
    with pytest.raises(error, match=text):
        described(datatrove_files(DOCUMENTS) | change)


def test_ends_that_go_down_are_refused():
    for ends in ((5, 3, 9), (1 << 63, 3, 9)):
        with pytest.raises(IndexCorruptError, match="do not go up"):
            cuts_of(datatrove_files(DOCUMENTS) | {"web.ds.index": struct.pack("<3Q", *ends)})


def test_another_dtype_than_the_file_says_is_refused():
    with pytest.raises(ConfigError, match="a token has 2 bytes"):
        described(datatrove_files(DOCUMENTS), dtype="uint32")
    with pytest.raises(ConfigError, match="its header says uint16"):
        described(megatron_pair(DOCUMENTS), dtype="int32")


def test_a_mask_of_losses_is_said_not_to_be_read():
    with pytest.warns(UserWarning, match=r"web\.ds\.loss .* not read"):
        described(datatrove_files(DOCUMENTS) | {"web.ds.loss": bytes(9)}, "web.ds")


# --- raw ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.bin", "part-0.npy"])
def test_bare_tokens_need_a_dtype(name):
    with pytest.raises(ConfigError, match=r"no header.*give dtype="):
        described({name: BIN})
    kind, file = described({name: BIN}, dtype="uint16")
    assert (kind, file.begin, file.tokens, file.borders) == ("raw", 0, 9, None)
    with pytest.raises(ShardCorruptError, match="no whole tokens"):
        described({name: BIN}, dtype="uint32")


@pytest.mark.parametrize(("stored", "read"), [("<u4", "uint16"), ("<i8", "int32")])
def test_tokens_that_are_read_as_halves_are_warned_of(stored, read):
    data = np.random.default_rng(0).integers(0, 100_000, 2000).astype(stored).tobytes()
    with pytest.warns(UserWarning, match=r"every second token of its beginning is at most \d.* give dtype='uint"):
        described({"x.bin": data}, dtype=read)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described({"x.bin": data}, dtype=np.dtype(stored).name)


def numpy_file(array: np.ndarray, *, save: Callable = np.save) -> bytes:
    stream = io.BytesIO()
    save(stream, array)
    return stream.getvalue()


def test_a_file_of_numpy_says_its_dtype():
    data = numpy_file(np.arange(9, dtype=np.uint32))
    kind, file = described({"part-0.npy": data})
    assert (kind, file.dtype, file.tokens) == ("raw", "uint32", 9)
    assert np.frombuffer(data[file.begin :], np.uint32).tolist() == list(range(9))
    rows = numpy_file(np.arange(12, dtype=np.int64).reshape(3, 4))
    assert described({"rows.npy": rows}, seq_len=4)[1].tokens == 12


@pytest.mark.parametrize(
    ("array", "options", "error", "text"),
    [
        pytest.param(np.zeros(9, np.float32), {}, ConfigError, "array of float32", id="floats"),
        pytest.param(np.zeros(9, ">i4"), {}, ConfigError, "array of >i4", id="big-endian"),
        pytest.param(np.zeros(9, bool), {}, ConfigError, "array of bool", id="a mask"),
        pytest.param(np.zeros((3, 4), "i4"), {"seq_len": 2}, ConfigError, "rows of 4 tokens", id="other rows"),
        pytest.param(np.zeros((3, 4), "i4"), {"seq_len": 4, "overlap": 1}, ConfigError, "overlap=0", id="overlap"),
        pytest.param(np.zeros((3, 4), "i4", order="F"), {"seq_len": 4}, ConfigError, "Fortran", id="columns"),
        pytest.param(np.zeros((3, 4, 2), "i4"), {}, ConfigError, r"shape \[3, 4, 2\]", id="three axes"),
        pytest.param(np.zeros(9, "u2"), {"dtype": "uint32"}, ConfigError, "header says uint16", id="other dtype"),
    ],
)
def test_other_arrays_of_numpy_are_refused(array, options, error, text):
    with pytest.raises(error, match=text):
        described({"x.npy": numpy_file(array)}, **options)


def test_objects_and_broken_headers_are_refused():
    with pytest.raises(ConfigError, match="array of object"):
        described({"x.npy": numpy_file(np.array([[1], [2, 3]], dtype=object))})
    data = numpy_file(np.arange(9, dtype=np.uint16))
    for broken in (data[:-2], data + b"\0\0"):
        with pytest.raises(ShardCorruptError, match="by its header 9 tokens"):
            described({"x.npy": broken})
    for broken in (data[:9], data[:6] + b"\7" + data[7:], data.replace(b"descr", b"dscr")):
        with pytest.raises(ShardCorruptError, match="numpy header is damaged"):
            described({"x.npy": broken})


def test_a_tail_of_zeros_is_said():
    with pytest.warns(UserWarning, match="zeros or more: dolma leaves those"):
        described({"x.npy": BIN + bytes(4096)}, dtype="uint16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described({"x.npy": BIN * 1000 + bytes(64)}, dtype="uint16")


# --- llm.c ----------------------------------------------------------------------------------------------------------


def test_a_file_of_llmc_says_what_it_has():
    file = llmc_file([5, 6, 7, 8, 9])
    assert file[:16].hex() == "88d83401010000000500000000000000"
    kind, made = described({"train.bin": file})
    assert (kind, made.dtype, made.begin, made.tokens, made.borders) == ("llmc", "uint16", 1024, 5, None)
    wide = llmc_file([5, 6, 70000], magic=20240801, version=7)
    assert wide[:8].hex() == "a1d9340107000000"
    assert described({"train.bin": wide}, dtype="uint32")[1].tokens == 3


@pytest.mark.parametrize(
    ("data", "options", "error", "text"),
    [
        pytest.param(llmc_file([1, 2], count=3), {}, ShardCorruptError, "its header says 3 tokens", id="more"),
        pytest.param(llmc_file([1, 2], count=1), {}, ShardCorruptError, "its header says 1 tokens", id="fewer"),
        pytest.param(llmc_file([1, 2], magic=20240522), {}, ConfigError, "multiple-choice questions", id="questions"),
        pytest.param(llmc_file([1, 2]), {"dtype": "uint32"}, ConfigError, "header says uint16", id="dtype"),
        pytest.param(llmc_file([1, 2], version=9), {}, ConfigError, "no header", id="version"),
    ],
)
def test_a_wrong_file_of_llmc_is_refused(data, options, error, text):
    with pytest.raises(error, match=text):
        described({"train.bin": data}, **options)


# --- OLMo -----------------------------------------------------------------------------------------------------------


def test_a_table_of_documents_gives_borders():
    files = olmo_files(DOCUMENTS)
    for name in ("part-0.npy", "part-0.csv.gz", "part-0", None):
        assert described(files, name, dtype="uint16")[0] == "olmo"
    cuts = cuts_of(files, dtype="uint16")
    assert cuts.begins(0, cuts.count + 1).tolist() == begins_of(DOCUMENTS)
    with pytest.raises(ConfigError, match="give dtype="):
        described(files)


def table(*lines: str) -> bytes:
    return gzip.compress("".join(f"{line}\r\n" for line in lines).encode())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(table("0,3,a,b,1", "4,9,c,d,2"), "begins at token 4, and the one before it ends at 3", id="gap"),
        pytest.param(table("0,3,a,b,1", "2,9,c,d,2"), "begins at token 2", id="overlap"),
        pytest.param(table("1,9,a,b,1"), "begins at token 1, and the one before it ends at 0", id="not from 0"),
        pytest.param(table("0,3,a,b,1", "3,11,c,d,2"), "ends at token 11", id="past the file"),
        pytest.param(table("0,3,a,b,1", "3,x,c,d,2"), "damaged, or no table", id="no number"),
        pytest.param(table("text"), "damaged, or no table", id="no table"),
        pytest.param(gzip.compress(b"0,9,a,b,1\r\n")[:-9], "damaged, or no table", id="cut"),
        pytest.param(b"0,9,a,b,1\r\n", "damaged, or no table", id="not packed"),
    ],
)
def test_a_wrong_table_of_documents_is_refused(data, text):
    with pytest.raises(IndexCorruptError, match=text):
        cuts_of(olmo_files(DOCUMENTS) | {"part-0.csv.gz": data}, dtype="uint16")


def test_tokens_behind_the_last_document_are_said():
    files = olmo_files(DOCUMENTS) | {"part-0.npy": BIN + bytes(6)}
    with pytest.warns(UserWarning, match="3 of its 12 tokens are behind the last document"):
        cuts = cuts_of(files, dtype="uint16")
    assert (cuts.count, cuts.begins(3, 5).tolist(), cuts.find(10)) == (4, [5, 9], 4)
    with pytest.warns(UserWarning, match="9 of its 9 tokens"):
        assert cuts_of(olmo_files(DOCUMENTS) | {"part-0.csv.gz": gzip.compress(b"")}, dtype="uint16").count == 0


# --- directories ----------------------------------------------------------------------------------------------------


def test_files_of_a_directory_are_sorted_and_others_ignored():
    files = megatron_pair(DOCUMENTS, "b") | megatron_pair(DOCUMENTS, "a") | {"README.md": b"", "tokenizer.json": b""}
    kind, names = find_files(Files(files), None)
    assert (kind.name, names) == ("megatron", ["a.bin", "b.bin"])


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        pytest.param({}, IndexNotFoundError, "no token files", id="none"),
        pytest.param({"train/a.ds": b""}, IndexNotFoundError, r"sub-directories \['train'\]", id="below"),
        pytest.param({"a.ds": b"", "train/a.ds": b""}, ConfigError, "in its sub-directories", id="here and below"),
        pytest.param(megatron_pair(DOCUMENTS) | {"x.bin": BIN}, ConfigError, "several kinds .*megatron.*raw", id="bin"),
        pytest.param({"a.ds": BIN, "a.npy": BIN}, ConfigError, "several kinds .*datatrove.*raw", id="kinds"),
        pytest.param(olmo_files(DOCUMENTS) | {"x.npy": BIN}, ConfigError, "several kinds .*olmo.*raw", id="one table"),
        pytest.param({"a.bin": llmc_file([1]), "b.bin": BIN}, ConfigError, "several kinds .*llmc.*raw", id="headers"),
        pytest.param({"a.idx": megatron_idx([])}, ConfigError, "a.bin is missing", id="a pair of one"),
    ],
)
def test_an_ambiguous_directory_is_refused(files, error, text):
    with pytest.raises(error, match=text):
        find_files(Files(files), None)


@pytest.mark.parametrize("beside", ["web.idx", "web.ds.index", "web.csv.gz"])
def test_a_named_file_that_is_missing_is_not_read_without(beside):
    tokens = {"web.bin": bytes(8), "web.ds": bytes(8), "web.npy": bytes(8)}
    with pytest.raises(IndexNotFoundError, match=rf"there is no {beside} in .*; web\.\w+ is there: name it to read"):
        described(tokens, beside, dtype="uint16")
    with pytest.raises(IndexNotFoundError, match=rf"there is no {beside} in [^;]*$"):
        described({}, beside, dtype="uint16")


def test_a_beginning_of_several_files_is_refused():
    with pytest.raises(ConfigError, match=r"web\.idx and of web\.ds"):
        find_files(Files(megatron_pair(DOCUMENTS) | datatrove_files(DOCUMENTS)), "web")
    with pytest.raises(IndexNotFoundError, match=r"neither book\.idx"):
        find_files(Files(megatron_pair(DOCUMENTS)), "book")


# --- the index ------------------------------------------------------------------------------------------------------


def test_an_index_is_read_as_it_was_made_and_others_are_refused():
    _, file = described(megatron_pair(DOCUMENTS))
    index = TokenIndex(kind="megatron", seq_len=4, overlap=1, shard_bytes=64, files=(file,))
    data = dump_token_index(index)
    assert data == dump_token_index(parse_token_index(data, where="x"))
    container = open_container(data, where="x")
    assert [(shard.raw.basename, shard.samples) for shard in container.shards] == [("web.bin.00000.part", 2)]
    for broken in (data[:-2], data.replace(b'"seq_len":4', b'"seq_len":"4"'), data.replace(b'"dtype"', b'"type"')):
        with pytest.raises(IndexCorruptError, match="not the index of token files"):
            open_container(broken, where="x")


@pytest.mark.parametrize("overlap", [0, 1])
def test_shards_of_rows_are_exactly_their_rows_and_lie_within_the_file(overlap):
    for tokens in range(4 + overlap, 30):
        file = TokenFile(
            name="a", bytes=6 + 2 * tokens, version="1", dtype="uint16", begin=6, tokens=tokens, borders=None
        )
        index = TokenIndex(kind="raw", seq_len=4, overlap=overlap, shard_bytes=16, files=(file,))
        shards, rows = open_container(dump_token_index(index), where="x").shards, (tokens - overlap) // 4
        assert [shard.samples for shard in shards] == [2] * (rows // 2) + [1] * (rows % 2)
        assert [shard.raw.bytes for shard in shards] == [2 * (4 * shard.samples + overlap) for shard in shards]
        begins = [shard.part.begin for shard in shards if shard.part is not None]
        assert begins == [6 + 16 * i for i in range(len(shards))]
        assert begins[-1] + shards[-1].raw.bytes <= file.bytes


def test_parts_of_files_with_long_names_have_short_ones():
    file = TokenFile(
        name="books/" + "é" * 120 + ".bin", bytes=16, version="1", dtype="uint16", begin=0, tokens=8, borders=None
    )
    index = TokenIndex(kind="raw", seq_len=4, overlap=0, shard_bytes=8, files=(file,))
    names = [shard.raw.basename for shard in open_container(dump_token_index(index), where="x").shards]
    assert len(set(names)) == 2
    assert all(name.startswith("books/é") and len(name.encode()) < 255 for name in names)
